//! The other end of a unix socket: only the kernel's socket diagnostics know it, and only within the network namespace of
//! the socket.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::pipeline::Pid;

/// `SOCK_DIAG_BY_FAMILY`, `NLMSG_ERROR`, `AF_UNIX`.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const UNIX: u8 = 1;
const REQUEST: u16 = 1;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER`.
const SHOW: u32 = 1 | 4;
/// `UNIX_DIAG_NAME`, `UNIX_DIAG_PEER`.
const NAME: u16 = 0;
const PEER: u16 = 2;
/// `struct nlmsghdr`, and `struct unix_diag_msg` behind it.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// Bytes of `/proc/net/unix` that are looked at: some 40,000 sockets.
const LONGEST_LIST: u64 = 4 << 20;

/// One unix socket.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unix {
    name: Option<String>,
    peer: Option<u32>,
}

/// The other end of a connected unix socket: its inode, and the path it is bound to if it has one. `None` if it is no unix
/// socket or has no other end.
pub(super) fn peer(pid: Pid, inode: u64) -> io::Result<Option<(u64, Option<String>)>> {
    let Ok(inode) = u32::try_from(inode) else {
        return Ok(None);
    };
    let diagnostics = open(pid)?;
    let Some(Unix { peer, .. }) = ask(&diagnostics, inode)? else {
        // "No such socket" is also what a kernel says that cannot be asked about unix sockets.
        if is_listed(pid, inode) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no diagnostics of unix sockets; load its module unix_diag",
            ));
        }
        return Ok(None);
    };
    let Some(peer) = peer else {
        return Ok(None);
    };
    let name = ask(&diagnostics, peer)?.and_then(|other| other.name);
    Ok(Some((u64::from(peer), name)))
}

/// Whether the process's network namespace has a unix socket of this inode. Of a very long list the beginning is read.
fn is_listed(pid: Pid, inode: u32) -> bool {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/net/unix")) else {
        return false;
    };
    BufReader::new(file.take(LONGEST_LIST))
        .lines()
        .map_while(Result::ok)
        .any(|line| {
            let column = line.split_ascii_whitespace().nth(6);
            column.and_then(|text| text.parse().ok()) == Some(inode)
        })
}

/// A socket for questions about the process's network namespace. A thread of its own goes there to make it, and ends.
fn open(pid: Pid) -> io::Result<OwnedFd> {
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net"));
    let there = if namespace(&pid.to_string())? == namespace("thread-self")? {
        make()
    } else {
        let file = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
        std::thread::Builder::new()
            .name("evidence-netns".into())
            .spawn(move || {
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(LinkNameSpaceType::Network),
                )?;
                make()
            })?
            .join()
            .unwrap_or_else(|_| {
                Err(io::Error::other(
                    "the thread that asks for sockets panicked",
                ))
            })
    };
    there.map_err(|error| {
        let what = format!("no socket diagnostics in the network namespace of {pid}: {error}");
        io::Error::new(error.kind(), what)
    })
}

fn make() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // The kernel answers within the call that asks; this only bounds the impossible.
    let limit = Some(std::time::Duration::from_millis(200));
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, limit)?;
    Ok(socket)
}

fn ask(diagnostics: &OwnedFd, inode: u32) -> io::Result<Option<Unix>> {
    send(diagnostics, &request(inode), SendFlags::empty())?;
    let mut bytes = [0u8; 4096];
    let (length, _) = recv(diagnostics, &mut bytes[..], RecvFlags::empty())?;
    Ok(parse(bytes.get(..length).unwrap_or_default(), inode))
}

/// `struct nlmsghdr` and `struct unix_diag_req`.
fn request(inode: u32) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[0..4].copy_from_slice(&40u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    bytes[16] = UNIX;
    bytes[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes[24..28].copy_from_slice(&inode.to_ne_bytes());
    bytes[28..32].copy_from_slice(&SHOW.to_ne_bytes());
    // No cookie: whichever socket has the inode.
    bytes[32..40].copy_from_slice(&[0xff; 8]);
    bytes
}

fn parse(bytes: &[u8], inode: u32) -> Option<Unix> {
    let short = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let kind = short(4)?;
    if kind == ERROR || kind != BY_FAMILY || word(HEADER + 4)? != inode {
        return None;
    }
    let mut socket = Unix::default();
    let mut at = HEADER + MESSAGE;
    while let (Some(length), Some(kind)) = (short(at), short(at + 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(at + 4..at + length).filter(|_| length >= 4) else {
            break;
        };
        match kind {
            NAME => socket.name = name(value),
            PEER => socket.peer = word(at + 4),
            _ => {}
        }
        at += length.next_multiple_of(4);
    }
    Some(socket)
}

/// A path, or an abstract name as people write it.
fn name(bytes: &[u8]) -> Option<String> {
    let path = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let text = match path.split_first()? {
        (0, rest) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => String::from_utf8_lossy(path).into_owned(),
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::proc;

    fn inode(pid: Pid, fd: i32) -> u64 {
        let link = proc::descriptor(pid, fd).unwrap();
        super::super::inode(&link).unwrap()
    }

    #[test]
    fn the_other_end_is_found_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let own = Pid(std::process::id());
        let found = peer(own, inode(own, client.as_raw_fd())).unwrap();
        let expected = inode(own, server.as_raw_fd());
        assert_eq!(
            found,
            Some((expected, Some(path.to_string_lossy().into_owned())))
        );
        assert_eq!(peer(own, inode(own, listener.as_raw_fd())).unwrap(), None);
        assert_eq!(peer(own, 1).unwrap(), None);
    }

    #[test]
    fn a_cut_or_hostile_answer_is_no_answer() {
        assert_eq!(parse(&[], 1), None);
        assert_eq!(parse(&request(7), 7), None);
        let mut answer = vec![0; HEADER + MESSAGE];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer[HEADER + 4..HEADER + 8].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(parse(&answer, 7), Some(Unix::default()));
        // An attribute that claims to be longer than the answer, and one shorter than its own head.
        for length in [0xffffu16, 0, 3] {
            let mut cut = answer.clone();
            cut.extend(length.to_ne_bytes());
            cut.extend([0, 0, 1, 2]);
            assert_eq!(parse(&cut, 7), Some(Unix::default()), "{length}");
        }
    }
}
