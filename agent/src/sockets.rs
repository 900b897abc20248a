//! The sockets of a process and their other ends, from the tables of its network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::pipeline::Pid;
use crate::pipeline::event::Listener;
use crate::pipeline::evidence::SocketDetail;
use crate::pipeline::liveness::sharing::Hold;
use crate::proc;

/// A node has tens of thousands of sockets, at some 150 bytes a line; more are not read.
const MAX_BYTES: u64 = 16 << 20;
/// A process has one epoll or two; of more, only so many are looked into.
const MOST_EPOLLS: usize = 64;

/// A table of `/proc/PID/net/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// TCP over IPv4.
    Tcp,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp,
    /// UDP over IPv6.
    Udp6,
}

impl Table {
    const ALL: [Table; 4] = [Table::Tcp, Table::Tcp6, Table::Udp, Table::Udp6];

    const fn name(self) -> &'static str {
        match self {
            Table::Tcp => "tcp",
            Table::Tcp6 => "tcp6",
            Table::Udp => "udp",
            Table::Udp6 => "udp6",
        }
    }

    const fn protocol(self) -> &'static str {
        match self {
            Table::Tcp | Table::Tcp6 => "tcp",
            Table::Udp | Table::Udp6 => "udp",
        }
    }
}

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its inode, 0 once no process has it any more.
    pub inode: u64,
    /// The own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// What is told of it.
    pub detail: SocketDetail,
}

/// The socket with this inode, in the network namespace of the process; `None` if no table lists it.
pub fn find(pid: Pid, inode: u64) -> io::Result<Option<SocketDetail>> {
    let mut found = None;
    scan(&format!("/proc/{pid}"), &mut |entry| {
        if entry.inode == inode {
            found = Some(entry.detail);
        }
        found.is_some()
    })?;
    Ok(found)
}

/// The ports on which a process listens for TCP connections.
pub fn listeners(pid: Pid) -> io::Result<Vec<Listener>> {
    let netns = proc::network_namespace(pid)?;
    let (ports, _) = listening(pid, None)?;
    let ports: BTreeSet<u16> = ports.into_iter().map(|(_, port)| port).collect();
    let ports = ports.into_iter();
    Ok(ports.map(|port| Listener { netns, port }).collect())
}

/// The same, and how the process has them; with `port`, only that one, and whoever listens there.
pub fn holdings(pid: Pid, port: Option<u16>) -> io::Result<Vec<(Listener, Hold)>> {
    let netns = proc::network_namespace(pid)?;
    let (listening, of_others) = listening(pid, port)?;
    let named = if of_others {
        Hold::Elsewhere
    } else {
        Hold::Named
    };
    let named = port.map(|port| (port, named));
    let mut holds: BTreeMap<u16, Hold> = named.into_iter().collect();
    let polled = if listening.is_empty() {
        BTreeSet::new()
    } else {
        polled(pid)?
    };
    for (fd, port) in listening {
        let hold = if polled.contains(&fd) {
            Hold::Polls
        } else {
            Hold::Holds
        };
        let known = holds.entry(port).or_insert(hold);
        *known = hold.max(*known);
    }
    let holds = holds.into_iter();
    Ok(holds
        .map(|(port, hold)| (Listener { netns, port }, hold))
        .collect())
}

/// The descriptors on which a process listens, and their ports; and whether others listen on such a port where it does not.
fn listening(pid: Pid, only: Option<u16>) -> io::Result<(Vec<(i32, u16)>, bool)> {
    let mut listening = BTreeMap::new();
    let tables = [Table::Tcp, Table::Tcp6];
    scan_of(&tables, &format!("/proc/{pid}"), &mut |entry| {
        let port = entry.local.port();
        let wanted = only.is_none_or(|only| only == port);
        if wanted && entry.detail.state.as_deref() == Some(LISTEN) {
            listening.insert(format!("socket:[{}]", entry.inode), port);
        }
        false
    })?;
    if listening.is_empty() {
        return Ok((Vec::new(), false));
    }
    let links = links(pid)?;
    let ports = links
        .iter()
        .filter_map(|(fd, link)| Some((*fd, *listening.get(link)?)));
    let own: Vec<(i32, u16)> = ports.collect();
    let of_others = own.is_empty();
    Ok((own, of_others))
}

/// The descriptors on which the epolls of a process wait.
fn polled(pid: Pid) -> io::Result<BTreeSet<i32>> {
    let mut polled = BTreeSet::new();
    let links = links(pid)?;
    let epolls = links
        .iter()
        .filter(|(_, link)| link == "anon_inode:[eventpoll]");
    for (fd, _) in epolls.take(MOST_EPOLLS) {
        // One that is closed meanwhile waits on nothing.
        let Ok(file) = File::open(format!("/proc/{pid}/fdinfo/{fd}")) else {
            continue;
        };
        for line in BufReader::new(file.take(MAX_BYTES)).lines() {
            let line = line?;
            let of = line.strip_prefix("tfd:").map(str::trim_start);
            let fd = of.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<i32>().ok());
            polled.extend(fd);
        }
    }
    Ok(polled)
}

/// The descriptors of a process, and what they are.
fn links(pid: Pid) -> io::Result<Vec<(i32, String)>> {
    let mut links = Vec::new();
    for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let descriptor = descriptor?;
        let fd = descriptor
            .file_name()
            .to_str()
            .and_then(|fd| fd.parse().ok());
        // One that is closed meanwhile is nobody's.
        let link = std::fs::read_link(descriptor.path()).ok();
        let link = link.and_then(|link| link.into_os_string().into_string().ok());
        links.extend(fd.zip(link));
    }
    Ok(links)
}

/// Where a process listens, as far as procfs shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Doors {
    /// The ports.
    pub ports: Vec<Listener>,
    /// Somebody has a connection to one of them, and it was accepted: in the queue a connection belongs to nobody.
    pub accepted: bool,
}

/// The ports on which a process listens, and whether it has accepted a connection there that is still open.
pub fn doors(pid: Pid) -> io::Result<Doors> {
    let ports = listeners(pid)?;
    if ports.is_empty() {
        return Ok(Doors::default());
    }
    let mut accepted = false;
    let tables = [Table::Tcp, Table::Tcp6];
    scan_of(&tables, &format!("/proc/{pid}"), &mut |entry| {
        let is_open = entry.remote.port() != 0 && entry.inode != 0;
        accepted = is_open && ports.iter().any(|own| own.port == entry.local.port());
        accepted
    })?;
    Ok(Doors { ports, accepted })
}

/// Goes through the tables of a network namespace, of the process or thread at `place`, until `take` has enough.
pub fn scan(place: &str, take: &mut dyn FnMut(Entry) -> bool) -> io::Result<()> {
    scan_of(&Table::ALL, place, take)
}

fn scan_of(tables: &[Table], place: &str, take: &mut dyn FnMut(Entry) -> bool) -> io::Result<()> {
    for table in tables.iter().copied() {
        let path = format!("{place}/net/{}", table.name());
        let file = match File::open(&path) {
            Ok(file) => file,
            // A kernel without IPv6 has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{path} could not be read: {error}"),
                ));
            }
        };
        for line in BufReader::new(file.take(MAX_BYTES)).lines() {
            if let Some(entry) = parse(&line?, table)
                && take(entry)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn parse(line: &str, table: Table) -> Option<Entry> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = state(u8::from_str_radix(fields.next()?, 16).ok()?);
    let (sent, _) = fields.next()?.split_once(':')?;
    let unacknowledged_bytes = u64::from_str_radix(sent, 16).ok();
    let inode = fields.nth(4)?.parse().ok()?;
    Some(Entry {
        inode,
        local,
        remote,
        detail: SocketDetail {
            protocol: table.protocol().to_owned(),
            peer: (remote.port() != 0).then(|| remote.to_string()),
            state: (table.protocol() == "tcp").then(|| state.to_owned()),
            unacknowledged_bytes,
        },
    })
}

/// `0100007F:1538`: the address in the machine's byte order, word by word, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|i| {
            let word = address.get(i * 8..i * 8 + 8)?;
            Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
        })
        .collect();
    let ip = match words?.as_slice() {
        [v4] => IpAddr::V4(Ipv4Addr::from(*v4)),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (i, word) in [a, b, c, d].into_iter().enumerate() {
                bytes[i * 4..i * 4 + 4].copy_from_slice(word);
            }
            // What a person knows it by, not its form inside an IPv6 socket.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

const LISTEN: &str = "LISTEN";

/// `include/net/tcp_states.h`.
const fn state(number: u8) -> &'static str {
    match number {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => LISTEN,
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_a_socket() {
        let line = "   1: 0100007F:A1B2 0500000A:1538 04 0000002A:00000000 01:00000014 00000000     0        0 4242 1 0000000000000000 20 4 30 10 -1";
        let entry = parse(line, Table::Tcp).unwrap();
        assert_eq!(entry.inode, 4242);
        assert_eq!(entry.local.to_string(), "127.0.0.1:41394");
        assert_eq!(entry.detail.peer.as_deref(), Some("10.0.0.5:5432"));
        assert_eq!(entry.detail.state.as_deref(), Some("FIN_WAIT1"));
        assert_eq!(entry.detail.unacknowledged_bytes, Some(42));
        let mapped = "0000000000000000FFFF00000100007F:0050";
        assert_eq!(address(mapped).unwrap().to_string(), "127.0.0.1:80");
        for bad in [
            "",
            "x",
            "  1: zz:1 0:0 01 0:0 0 0 0 0 4242",
            "sl local_address",
        ] {
            assert_eq!(parse(bad, Table::Tcp), None, "{bad}");
        }
    }

    #[test]
    fn a_connection_counts_when_it_was_accepted() {
        let own = Pid(std::process::id());
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        // Other tests of this process listen too.
        let accepted = || {
            let netns = proc::network_namespace(own).unwrap();
            let mut found = false;
            scan_of(&[Table::Tcp], "/proc/self", &mut |entry| {
                found |= entry.local.port() == port && entry.remote.port() != 0 && entry.inode != 0;
                false
            })
            .unwrap();
            let doors = doors(own).unwrap();
            assert!(doors.ports.contains(&Listener { netns, port }));
            assert!(doors.accepted || !found);
            found
        };
        assert!(!accepted());
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(!accepted(), "it waits in the queue");
        let _server = socket.accept().unwrap();
        assert!(accepted());
    }

    #[test]
    fn the_ports_of_this_process_are_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let own = Pid(std::process::id());
        let netns = proc::network_namespace(own).unwrap();
        let here = Listener { netns, port };
        let hold = || {
            let all = holdings(own, None).unwrap();
            let own = all.into_iter().find(|(listener, _)| *listener == here);
            own.map(|(_, hold)| hold)
        };
        assert!(listeners(own).unwrap().contains(&here));
        assert_eq!(hold(), Some(Hold::Holds));
        let epoll =
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        let data = rustix::event::epoll::EventData::new_u64(0);
        let events = rustix::event::epoll::EventFlags::IN;
        rustix::event::epoll::add(&epoll, &socket, data, events).unwrap();
        assert_eq!(hold(), Some(Hold::Polls));
        let nobodys = Listener { netns, port: 1 };
        assert_eq!(holdings(own, Some(1)).unwrap(), [(nobodys, Hold::Named)]);
        assert_eq!(holdings(own, Some(port)).unwrap(), [(here, Hold::Polls)]);
        // Another container of the pod may listen where this one is probed.
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let theirs = holdings(Pid(other.id()), Some(port));
        let _ = (other.kill(), other.wait());
        assert_eq!(theirs.unwrap(), [(here, Hold::Elsewhere)]);
        drop(socket);
        assert_eq!(hold(), None);
    }
}
