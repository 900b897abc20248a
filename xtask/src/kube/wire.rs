//! A wire between a client and the API server that can be disturbed: connections are passed on, held, delayed or cut.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of what is sent, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passed on.
    Pass,
    /// Each piece is passed on so much later.
    Delay(Duration),
    /// Connections are accepted, and nothing is passed on; what was sent meanwhile arrives when it passes again.
    Hold,
    /// Connections that are open are closed, and new ones at once.
    Cut,
}

/// A wire; cut when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// The wire is gone.
    over: bool,
    /// Both ends of what is open.
    open: Vec<TcpStream>,
    accepted: usize,
}

impl Wire {
    /// Listens on loopback and leads to `target`.
    pub(crate) fn to(target: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: Mode::Pass,
                over: false,
                open: Vec::new(),
                accepted: 0,
            }),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || accept(&listener, target, &accepting));
        Ok(Self { address, shared })
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub(crate) fn set(&self, mode: Mode) {
        let mut state = self.shared.lock();
        state.mode = mode;
        if mode == Mode::Cut {
            close(&mut state);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// How many connections clients have made.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        close(&mut state);
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something may be passed on; false if it may never be.
    fn may_pass(&self) -> bool {
        let mut state = self.lock();
        while state.mode == Mode::Hold && !state.over {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let (mode, over) = (state.mode, state.over);
        drop(state);
        if let Mode::Delay(delay) = mode {
            std::thread::sleep(delay);
        }
        !over && mode != Mode::Cut
    }
}

fn close(state: &mut State) {
    for stream in state.open.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut state = shared.lock();
        if state.over {
            return;
        }
        state.accepted += 1;
        if state.mode == Mode::Cut {
            continue;
        }
        drop(state);
        let shared = shared.clone();
        std::thread::spawn(move || {
            let _ = connect(client, target, &shared);
        });
    }
}

fn connect(client: TcpStream, target: SocketAddr, shared: &Arc<Shared>) -> std::io::Result<()> {
    if !shared.may_pass() {
        return Ok(());
    }
    let server = TcpStream::connect_timeout(&target, CONNECT_LIMIT)?;
    let (to_client, to_server) = (client.try_clone()?, server.try_clone()?);
    {
        let mut state = shared.lock();
        state
            .open
            .extend([client.try_clone()?, server.try_clone()?]);
        if state.over || state.mode == Mode::Cut {
            close(&mut state);
        }
    }
    let upward = shared.clone();
    std::thread::spawn(move || pump(client, to_server, &upward));
    pump(server, to_client, shared);
    Ok(())
}

/// Until either end closes.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length) = from.read(&mut piece) {
        if length == 0 || !shared.may_pass() || to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Answers each byte with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, limit: Duration) -> std::io::Result<u8> {
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"x")?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    #[test]
    fn a_wire_passes_holds_and_is_cut() {
        let wire = Wire::to(echo()).unwrap();
        let mut stream = TcpStream::connect(wire.address()).unwrap();
        assert_eq!(ask(&mut stream, LONG).unwrap(), b'x');
        wire.set(Mode::Hold);
        assert!(ask(&mut stream, Duration::from_millis(200)).is_err());
        // What was held comes when it passes again.
        wire.set(Mode::Pass);
        assert_eq!(ask(&mut stream, LONG).unwrap(), b'x');
        wire.set(Mode::Cut);
        let mut held = Vec::new();
        assert!(stream.read_to_end(&mut held).is_ok() && held.len() <= 1);
        let mut refused = TcpStream::connect(wire.address()).unwrap();
        assert!(ask(&mut refused, LONG).is_err());
        wire.set(Mode::Delay(Duration::from_millis(1)));
        let mut stream = TcpStream::connect(wire.address()).unwrap();
        assert_eq!(ask(&mut stream, LONG).unwrap(), b'x');
        assert_eq!(wire.accepted(), 3);
    }
}
