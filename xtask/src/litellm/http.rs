//! One HTTP request on a connection of its own, with one deadline for all of it, as a kubelet's probe does it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cmd;

/// The key of the run's proxies: they listen on loopback only and know no other secret.
pub(crate) const MASTER_KEY: &str = "sk-loopwarden-test";

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Asks without credentials.
pub(crate) fn get(address: SocketAddr, path: &str, limit: Duration) -> std::io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(address, &request, limit)
}

/// A port of this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Asks with the master key.
pub(crate) fn get_with_key(port: u16, path: &str, limit: Duration) -> std::io::Result<Answer> {
    get_with_key_from(local(port), path, limit)
}

/// Asks another address with the master key.
pub(crate) fn get_with_key_from(
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> std::io::Result<Answer> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {MASTER_KEY}\r\nConnection: close\r\n\r\n"
    );
    exchange(address, &request, limit)
}

/// Posts JSON with the master key.
pub(crate) fn post(port: u16, path: &str, json: &str, limit: Duration) -> std::io::Result<Answer> {
    let key = format!("Authorization: Bearer {MASTER_KEY}\r\n");
    post_with(local(port), path, &key, json, limit)
}

/// Posts JSON without credentials.
pub(crate) fn post_to(
    address: SocketAddr,
    path: &str,
    json: &str,
    limit: Duration,
) -> std::io::Result<Answer> {
    post_with(address, path, "", json, limit)
}

fn post_with(
    address: SocketAddr,
    path: &str,
    headers: &str,
    json: &str,
    limit: Duration,
) -> std::io::Result<Answer> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{json}",
        json.len()
    );
    exchange(address, &request, limit)
}

fn exchange(address: SocketAddr, request: &str, limit: Duration) -> std::io::Result<Answer> {
    let end = cmd::now() + limit;
    let mut stream = TcpStream::connect_timeout(&address, left(end)?)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left(end)?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        wait_readable(&stream, left(end)?)?;
        match stream.read(&mut chunk)? {
            0 => break,
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
    parse(&String::from_utf8_lossy(&answer))
}

/// By poll, which keeps time to the microsecond; a read time-out of the socket is rounded up, at 10 s by a quarter of a second.
fn wait_readable(stream: &TcpStream, limit: Duration) -> std::io::Result<()> {
    let limit = Timespec::try_from(limit).map_err(std::io::Error::other)?;
    let ready = poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit))?;
    if ready == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(())
}

fn left(end: Instant) -> std::io::Result<Duration> {
    let left = end.saturating_duration_since(cmd::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn parse(answer: &str) -> std::io::Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| {
            std::io::Error::new(ErrorKind::InvalidData, "no HTTP status line came back")
        })?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_and_an_empty_one_is_an_error() {
        let answer = parse("HTTP/1.1 200 OK\r\nserver: x\r\n\r\n\"I'm alive!\"").unwrap();
        assert!(answer.is_success());
        assert_eq!(answer.body, "\"I'm alive!\"");
        assert!(parse("").is_err());
    }
}
