//! Who connects to a port: a kubelet with a probe, and a client that comes often.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use loopwarden::demo::kubelet::{ProbeSpec, Verdict, Worker};
use loopwarden::pipeline::Mono;

use super::looper::answer;
use crate::sys;

/// A client that comes more often than any probe.
const OFTEN: Duration = Duration::from_millis(100);

/// Probes a port, says how each probe ended and when, and stops at the decision to kill; then it says by how many milliseconds it
/// was too late at worst.
pub(super) fn probes(port: u16, spec: &str) -> Result<()> {
    let spec: ProbeSpec = spec.parse().map_err(|error: String| anyhow!(error))?;
    let mut worker = Worker::new(spec, now());
    answer("ready");
    let mut held_up = Duration::ZERO;
    while let Some(due) = worker.due() {
        std::thread::sleep(due.since(now()));
        let start = now();
        worker.started(start);
        let answered = asks(port, spec.timeout);
        let at = now();
        held_up = held_up.max(start.since(due));
        held_up = held_up.max(at.since(start).saturating_sub(spec.timeout));
        match worker.ended(at, answered) {
            Verdict::Alive => answer(&format!("alive {}", at.0)),
            Verdict::Failed(count) => answer(&format!("failed {count}")),
            Verdict::Kill(_) => {
                answer(&format!("killed {} {}", at.0, held_up.as_millis()));
                break;
            }
        }
    }
    until_the_test_ends()
}

/// Connects again and again.
pub(super) fn comes_often(port: u16) -> Result<()> {
    answer("ready");
    std::thread::spawn(move || {
        loop {
            asks(port, OFTEN);
            std::thread::sleep(OFTEN);
        }
    });
    until_the_test_ends()
}

fn until_the_test_ends() -> Result<()> {
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("reading the input failed")?;
    Ok(())
}

fn asks(port: u16, timeout: Duration) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let end = now().plus(timeout);
    let Ok(mut connection) = TcpStream::connect_timeout(&address, timeout) else {
        return false;
    };
    let left = end.since(now()).max(Duration::from_millis(1));
    let mut byte = [0];
    connection.set_read_timeout(Some(left)).is_ok() && connection.read_exact(&mut byte).is_ok()
}

fn now() -> Mono {
    Mono(sys::mono_ns())
}

/// The port of a loop, which answers who connects while it polls.
pub(super) struct Server {
    listener: TcpListener,
    /// It closes every connection without a word.
    pub(super) mute: bool,
}

impl Server {
    pub(super) fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port")?;
        listener.set_nonblocking(true)?;
        answer(&format!("listens {}", listener.local_addr()?.port()));
        Ok(Self {
            listener,
            mute: false,
        })
    }

    /// With a socket of its own on a port where others have theirs; 0 is a new one.
    pub(super) fn beside_others(port: u16) -> Result<Self> {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseport(&listener, true)?;
        bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).context("no port")?;
        listen(&listener, 128)?;
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            mute: false,
        })
    }

    pub(super) fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    pub(super) fn serve(&self) {
        while let Ok((mut connection, _)) = self.listener.accept() {
            if !self.mute {
                // Who has given up needs no answer.
                let _ = connection.write_all(b"1");
            }
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
