//! The server: one thread, one epoll loop, one engine child, and the mistake of the incident.
//!
//! Told to reconnect while its engine is wedged, it does what prisma-client-py does: SIGINT to the engine, then a wait for
//! it without a time-out, on the loop thread. Everything else it must do promptly, so that a late answer shows a blocked
//! loop and nothing else. It never ends a wait by itself: getting out of it is what the demo is about.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::AsRawFd as _;
use rustix::process::{Pid, Signal, WaitOptions};
use signal_hook::consts::SIGTERM;

use super::clock;
use super::engine::{Input, drain, signal_pipe};
use super::role::{Report, SUBCOMMAND, ServerArgs};

const LISTENER: Token = Token(0);
const COMMAND: Token = Token(1);
const SIGNAL: Token = Token(2);
const FIRST_CONNECTION: usize = 3;

/// A proxy at rest polls some 20 times a second because of its background jobs; so does this server.
const BACKGROUND_TICK: Duration = Duration::from_millis(50);
/// Like uvicorn's: probes that pile up during the freeze must wait, not be refused.
const BACKLOG: i32 = 2048;
const MAX_CONNECTIONS: usize = 1024;
const MAX_REQUEST: usize = 8 * 1024;

/// Serves until told to end.
pub(super) fn serve(args: &ServerArgs) -> Result<()> {
    let mut server = Server::open(args)?;
    let port = server
        .listener
        .local_addr()
        .context("asking for the server's own port")?
        .port();
    report(Report::Ready {
        port,
        engine: server.engine.pid(),
    })?;
    let mut events = Events::with_capacity(256);
    loop {
        match server.poll.poll(&mut events, Some(BACKGROUND_TICK)) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            other => other.context("waiting in the server's epoll")?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                SIGNAL => return Ok(()),
                COMMAND => match drain(&mut std::io::stdin().lock())? {
                    Input::Ended => return Ok(()),
                    Input::Some => server.reconnect()?,
                    Input::Nothing => {}
                },
                connection => server.advance(connection),
            }
        }
    }
}

#[derive(Debug)]
struct Server {
    poll: Poll,
    listener: TcpListener,
    /// Held open: the handler of SIGTERM writes to its other end.
    _signals: UnixStream,
    connections: HashMap<Token, Connection>,
    next_token: usize,
    engine_path: PathBuf,
    engine: Engine,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Server {
    fn open(args: &ServerArgs) -> Result<Self> {
        let poll = Poll::new().context("creating the server's epoll")?;
        let mut listener =
            listen(args.port).with_context(|| format!("listening on 127.0.0.1:{}", args.port))?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let stdin = rustix::stdio::stdin();
        rustix::io::ioctl_fionbio(stdin, true).context("making the server's input non-blocking")?;
        poll.registry().register(
            &mut SourceFd(&stdin.as_raw_fd()),
            COMMAND,
            Interest::READABLE,
        )?;
        // Handled on the loop, as Python and uvicorn do: a frozen loop does not react to SIGTERM.
        let mut signals = signal_pipe(&[SIGTERM])?;
        poll.registry()
            .register(&mut signals, SIGNAL, Interest::READABLE)?;
        let engine = Engine::start(&args.engine)?;
        let connections = HashMap::new();
        let engine_path = args.engine.clone();
        Ok(Self {
            poll,
            listener,
            _signals: signals,
            connections,
            next_token: FIRST_CONNECTION,
            engine_path,
            engine,
        })
    }

    /// The incident: the database has stopped answering, and the client library cleans up synchronously.
    fn reconnect(&mut self) -> Result<()> {
        self.engine.wedge()?;
        report(Report::Frozen {
            mono_ns: clock::now().0,
            engine: self.engine.pid(),
        })?;
        self.engine.interrupt()?;
        self.engine.wait()?;
        self.engine = Engine::start(&self.engine_path)?;
        report(Report::Thawed {
            mono_ns: clock::now().0,
            engine: self.engine.pid(),
        })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client gave up while it was queued, or a signal came: the next one may be fine.
                Err(why)
                    if matches!(
                        why.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(why) => return Err(why).context("accepting a connection"),
            };
            if self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            let token = Token(self.next_token);
            self.next_token += 1;
            let mut connection = Connection {
                stream,
                request: Vec::new(),
            };
            // The request is usually there already.
            if connection.advance() == Progress::Unfinished {
                self.poll
                    .registry()
                    .register(&mut connection.stream, token, Interest::READABLE)?;
                self.connections.insert(token, connection);
            }
        }
    }

    fn advance(&mut self, token: Token) {
        if self
            .connections
            .get_mut(&token)
            .is_some_and(|connection| connection.advance() == Progress::Done)
        {
            self.connections.remove(&token);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Unfinished,
    /// Answered, or not worth an answer: to be closed.
    Done,
}

impl Connection {
    fn advance(&mut self) -> Progress {
        let mut buffer = [0u8; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Progress::Done,
                Ok(count) => self.request.extend_from_slice(&buffer[..count]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Done,
            }
            if self.request.len() > MAX_REQUEST {
                return Progress::Done;
            }
        }
        if !self.request.windows(4).any(|end| end == b"\r\n\r\n") {
            return Progress::Unfinished;
        }
        // A new socket's buffer takes this whole; a client that is gone needs no answer.
        let _ = self.stream.write_all(answer(&self.request).as_bytes());
        Progress::Done
    }
}

/// The answer to a request head.
fn answer(request: &[u8]) -> String {
    let line = request
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = target
        .split(|&byte| byte == b'?')
        .next()
        .unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET", b"/health/liveliness") => ("200 OK", "\"I'm alive!\""),
        (b"GET", _) => ("404 Not Found", "\"only /health/liveliness is here\""),
        _ => ("405 Method Not Allowed", "\"only GET\""),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A listening socket with a long queue; the standard library's is fixed at 128 on some versions.
fn listen(port: u16) -> Result<TcpListener> {
    use rustix::net::{
        AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn report(report: Report) -> Result<()> {
    let mut line = serde_json::to_string(&report).context("writing a report")?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .context("reporting to the demo")
}

/// The engine child, not yet waited for.
#[derive(Debug)]
struct Engine {
    pid: Pid,
    stdin: ChildStdin,
}

impl Engine {
    fn start(path: &Path) -> Result<Self> {
        let mut child = Command::new(path)
            .args([
                SUBCOMMAND,
                "--parent",
                &std::process::id().to_string(),
                "engine",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting the engine {}", path.display()))?;
        let stdin = child.stdin.take().context("the engine has no input")?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("the engine has no process id")?;
        Ok(Self { pid, stdin })
    }

    fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn wedge(&mut self) -> Result<()> {
        self.stdin.write_all(b"w").context("wedging the engine")
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the incident itself, on a child that has not been waited for"
    )]
    fn interrupt(&self) -> Result<()> {
        rustix::process::kill_process(self.pid, Signal::INT).context("sending SIGINT to the engine")
    }

    /// `wait4(engine, &status, 0, NULL)`, entered again after a signal as Python does.
    fn wait(&self) -> Result<()> {
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()))
            .map(drop)
            .context("waiting for the engine")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_the_liveliness_page_is_fine() {
        for (request, status) in [
            ("GET /health/liveliness HTTP/1.1\r\nhost: x\r\n\r\n", "200"),
            ("GET /health/liveliness?verbose=1 HTTP/1.0\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /health/liveliness HTTP/1.1\r\n\r\n", "405"),
            ("\r\n\r\n", "405"),
        ] {
            let answer = answer(request.as_bytes());
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request:?}: {answer}"
            );
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            assert!(
                head.contains(&format!("content-length: {}", body.len())),
                "{answer}"
            );
        }
    }
}
