//! Facts of procfs that name what a thread waits for. Each reader is bounded, and none of them can block on the watched
//! process's memory or file systems.

mod sockets;

pub use sockets::{Table, find};

use super::Request;
use crate::pipeline::classify::{Descriptor, Doing};
use crate::pipeline::evidence::{Details, Missing};
use crate::proc;

/// What the thread waits for, as far as procfs shows it.
pub(super) fn details(request: &Request, missing: &mut Vec<Missing>) -> Details {
    let mut details = Details::default();
    let Doing::Call {
        descriptor: Some(kind),
        fd: Some(fd),
        ..
    } = &request.facts.doing
    else {
        return details;
    };
    let pid = request.id.process.pid;
    let link = proc::descriptor(pid, *fd);
    let mut lacks = |what: &str, why: String| {
        missing.push(Missing {
            what: what.to_owned(),
            why,
        });
    };
    match (kind, link) {
        (Descriptor::Socket, Ok(link)) => match inode(&link).map(|inode| find(pid, inode)) {
            Some(Ok(socket)) => details.socket = socket,
            Some(Err(error)) => lacks("peer", error.to_string()),
            None => {}
        },
        (Descriptor::File, Ok(link)) => details.file = Some(link),
        (_, Ok(_)) => {}
        (_, Err(error)) => lacks(
            "descriptor",
            format!("descriptor {fd} could not be read: {error}"),
        ),
    }
    details
}

/// The number in `socket:[N]` or `pipe:[N]`.
fn inode(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}
