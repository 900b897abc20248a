//! Facts of procfs that name what a thread waits for. Each reader is bounded, and none of them can block on the watched
//! process's memory or file systems.

pub(super) mod child;
mod holders;
mod locks;
mod unix;

use std::io;

use self::holders::{End, Search};
use super::Request;
use crate::pipeline::Pid;
use crate::pipeline::classify::{Descriptor, Doing};
use crate::pipeline::evidence::{Details, Missing, SocketDetail};
use crate::proc;
use crate::sockets::find;

/// What the thread waits for, as far as procfs shows it.
pub(super) fn details(request: &Request, missing: &mut Vec<Missing>) -> Details {
    let mut details = Details::default();
    let Doing::Call {
        name,
        descriptor: Some(kind),
        fd: Some(fd),
        ..
    } = &request.facts.doing
    else {
        return details;
    };
    let pid = request.id.process.pid;
    let link = match proc::descriptor(pid, *fd) {
        Ok(link) => link,
        Err(error) => {
            lack(
                missing,
                "descriptor",
                format!("descriptor {fd} could not be read: {error}"),
            );
            return details;
        }
    };
    match kind {
        Descriptor::Socket => of_socket(pid, &link, &mut details, missing),
        Descriptor::Pipe => of_pipe(pid, &link, name, &mut details, missing),
        Descriptor::File | Descriptor::Device => {
            of_file(pid, &link, name, request, &mut details, missing);
        }
        Descriptor::Other => {}
    }
    details
}

fn lack(missing: &mut Vec<Missing>, what: &str, why: String) {
    missing.push(Missing {
        what: what.to_owned(),
        why,
    });
}

fn of_socket(pid: Pid, link: &str, details: &mut Details, missing: &mut Vec<Missing>) {
    let Some(inode) = inode(link) else {
        return;
    };
    match find(pid, inode) {
        Ok(Some(socket)) => details.socket = Some(socket),
        Ok(None) => match unix_socket(pid, inode, details) {
            Ok(socket) => details.socket = socket,
            Err(error) => lack(missing, "peer", error.to_string()),
        },
        Err(error) => lack(missing, "peer", error.to_string()),
    }
}

/// A unix socket: the path of the other end, and the process that has it.
fn unix_socket(pid: Pid, inode: u64, details: &mut Details) -> io::Result<Option<SocketDetail>> {
    let Some((peer, path)) = unix::peer(pid, inode)? else {
        return Ok(None);
    };
    if let Search::Found(holder) = holders::search(pid, &format!("socket:[{peer}]"), End::Any) {
        details.holder = Some(holder);
    }
    Ok(Some(SocketDetail {
        protocol: "unix".to_owned(),
        peer: path,
        ..SocketDetail::default()
    }))
}

fn of_pipe(pid: Pid, link: &str, call: &str, details: &mut Details, missing: &mut Vec<Missing>) {
    match holders::search(pid, link, End::opposite(call)) {
        Search::Found(holder) => details.holder = Some(holder),
        Search::Nobody => {}
        Search::GaveUp => lack(
            missing,
            "holder",
            "too many open descriptors on this machine to look at all of them".to_owned(),
        ),
    }
}

fn of_file(
    pid: Pid,
    link: &str,
    call: &str,
    request: &Request,
    details: &mut Details,
    missing: &mut Vec<Missing>,
) {
    details.file = Some(link.to_owned());
    let function = request.facts.kernel_function.as_deref().unwrap_or_default();
    if function.contains("pipe") {
        // A named pipe: the same path may be another file elsewhere, so only children are asked for it.
        if let Search::Found(holder) = holders::search_below(pid, link, End::opposite(call)) {
            details.holder = Some(holder);
        }
    } else if matches!(call, "flock" | "fcntl") {
        match locks::holder(pid, call) {
            Ok(holder) => details.holder = holder.map(holders::holder),
            Err(error) => lack(
                missing,
                "holder",
                format!("/proc/locks could not be read: {error}"),
            ),
        }
    }
}

/// The number in `socket:[N]` or `pipe:[N]`.
fn inode(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}
