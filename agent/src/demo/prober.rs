//! The clients of the demo: liveliness requests ten times a second, and the kubelet's probes, on a thread of their own.
//!
//! Open loop: a request is sent when its time has come, whether or not earlier ones were answered, each on a connection of
//! its own. It decides nothing: the kubelet's model says when to probe and what it means. It must never wait for one
//! server, or the other's figures would suffer. Outcomes go to the show.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::clock;
use super::happening::{Happening, Outcome, Side};
use super::kubelet::{ProbeSpec, Worker};
use crate::pipeline::Mono;

/// How often a liveliness request is sent.
pub(super) const EVERY: Duration = Duration::from_millis(100);
/// How long its sender waits, as in the incident report.
const LIVELINESS_TIMEOUT: Duration = Duration::from_secs(10);
/// At the end, how long the last requests may take.
const DRAIN: Duration = Duration::from_secs(2);

const WAKER: Token = Token(0);
const FIRST_REQUEST: usize = 1;

const REQUEST: &[u8] =
    b"GET /health/liveliness HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";

/// What the prober tells: what happened to whom when, or why it cannot go on.
pub(super) type Told = Result<(Side, Mono, Happening)>;

/// The thread, as the show holds it.
#[derive(Debug)]
pub(super) struct Prober {
    orders: Option<Sender<Side>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts probing the `servers` at `start`.
    pub(super) fn start(
        servers: &[(Side, u16)],
        spec: ProbeSpec,
        start: Mono,
        tell: impl Fn(Told) + Send + 'static,
    ) -> Result<Self> {
        let poll = Poll::new().context("creating the prober's epoll")?;
        let waker =
            Arc::new(Waker::new(poll.registry(), WAKER).context("creating the prober's wake-up")?);
        let (orders, inbox) = channel();
        let lanes = servers
            .iter()
            .map(|&(side, port)| Lane::new(side, port, spec, start))
            .collect();
        let clients = Clients {
            poll,
            lanes,
            spec,
            in_flight: HashMap::new(),
            next_token: FIRST_REQUEST,
        };
        let thread = std::thread::Builder::new()
            .name("prober".into())
            .spawn(move || {
                if let Err(why) = clients.run(&inbox, &tell) {
                    tell(Err(why));
                }
            })
            .context("starting the prober's thread")?;
        Ok(Self {
            orders: Some(orders),
            waker,
            thread: Some(thread),
        })
    }

    /// A new container of this side runs: the kubelet probes again.
    pub(super) fn restarted(&self, side: Side) {
        // If the thread is gone it has said why.
        let _ = self.orders.as_ref().map(|orders| orders.send(side));
        let _ = self.waker.wake();
    }

    /// Sends nothing more, gives the last requests a moment, and returns when all that is known has been told.
    pub(super) fn finish(&mut self) {
        self.orders = None;
        let _ = self.waker.wake();
        // A panic there has been printed by the runtime; what it told before stands.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.waker.wake();
    }
}

#[derive(Debug)]
struct Lane {
    side: Side,
    address: SocketAddr,
    next: Mono,
    sent: usize,
    kubelet: Worker,
}

impl Lane {
    fn new(side: Side, port: u16, spec: ProbeSpec, start: Mono) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            side,
            address,
            next: start,
            sent: 0,
            kubelet: Worker::new(spec, start),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    Liveliness { number: usize },
    Kubelet,
}

#[derive(Debug)]
struct InFlight {
    lane: usize,
    purpose: Purpose,
    stream: TcpStream,
    deadline: Mono,
    asked: bool,
    answer: Vec<u8>,
}

#[derive(Debug)]
struct Clients {
    poll: Poll,
    lanes: Vec<Lane>,
    spec: ProbeSpec,
    in_flight: HashMap<Token, InFlight>,
    next_token: usize,
}

impl Clients {
    fn run(mut self, inbox: &Receiver<Side>, tell: &impl Fn(Told)) -> Result<()> {
        let mut events = Events::with_capacity(256);
        let mut last_call: Option<Mono> = None;
        loop {
            let now = clock::now();
            match inbox.try_recv() {
                Ok(side) => {
                    for lane in self.lanes.iter_mut().filter(|lane| lane.side == side) {
                        lane.kubelet.restarted(now);
                    }
                    continue;
                }
                Err(TryRecvError::Empty) => self.send_due(now, tell)?,
                Err(TryRecvError::Disconnected) => {
                    last_call.get_or_insert(now.plus(DRAIN));
                }
            }
            self.expire(now, tell);
            if last_call.is_some_and(|end| now >= end || self.in_flight.is_empty()) {
                return Ok(());
            }
            let wake = self.next_wake(last_call);
            match self.poll.poll(&mut events, Some(wake.since(clock::now()))) {
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                other => other.context("waiting in the prober's epoll")?,
            }
            for event in &events {
                if let Some(outcome) = self
                    .in_flight
                    .get_mut(&event.token())
                    .and_then(InFlight::advance)
                {
                    self.end(event.token(), outcome, clock::now(), tell);
                }
            }
        }
    }

    fn next_wake(&self, last_call: Option<Mono>) -> Mono {
        let deadlines = self.in_flight.values().map(|request| request.deadline);
        let sending = self
            .lanes
            .iter()
            .flat_map(|lane| [Some(lane.next), lane.kubelet.due()])
            .flatten();
        match last_call {
            Some(end) => deadlines.chain([end]).min(),
            None => deadlines.chain(sending).min(),
        }
        .unwrap_or_default()
    }

    fn send_due(&mut self, now: Mono, tell: &impl Fn(Told)) -> Result<()> {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if lane.kubelet.due().is_some_and(|due| due <= now) {
                lane.kubelet.started(now);
                self.send(index, Purpose::Kubelet, now.plus(self.spec.timeout), tell)?;
            }
            let lane = &mut self.lanes[index];
            if lane.next <= now {
                let number = lane.sent;
                lane.sent += 1;
                lane.next = lane.next.plus(EVERY);
                tell(Ok((lane.side, now, Happening::Sent)));
                self.send(
                    index,
                    Purpose::Liveliness { number },
                    now.plus(LIVELINESS_TIMEOUT),
                    tell,
                )?;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        lane: usize,
        purpose: Purpose,
        deadline: Mono,
        tell: &impl Fn(Told),
    ) -> Result<()> {
        let address = self.lanes[lane].address;
        let mut stream = match TcpStream::connect(address) {
            Ok(stream) => stream,
            Err(why) if why.kind() == ErrorKind::ConnectionRefused => {
                self.settle(lane, purpose, Outcome::Refused, clock::now(), tell);
                return Ok(());
            }
            // Out of descriptors or ports: our fault, not the server's, so it must not count against it.
            Err(why) => {
                return Err(why)
                    .with_context(|| format!("connecting to the demo's server at {address}"));
            }
        };
        let token = Token(self.next_token);
        self.next_token += 1;
        self.poll.registry().register(
            &mut stream,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let request = InFlight {
            lane,
            purpose,
            stream,
            deadline,
            asked: false,
            answer: Vec::new(),
        };
        self.in_flight.insert(token, request);
        Ok(())
    }

    fn expire(&mut self, now: Mono, tell: &impl Fn(Told)) {
        let late =
            |(token, request): (&Token, &InFlight)| (request.deadline <= now).then_some(*token);
        for token in self.in_flight.iter().filter_map(late).collect::<Vec<_>>() {
            self.end(token, Outcome::NoAnswer, now, tell);
        }
    }

    fn end(&mut self, token: Token, outcome: Outcome, now: Mono, tell: &impl Fn(Told)) {
        if let Some(request) = self.in_flight.remove(&token) {
            self.settle(request.lane, request.purpose, outcome, now, tell);
        }
    }

    fn settle(
        &mut self,
        lane: usize,
        purpose: Purpose,
        outcome: Outcome,
        now: Mono,
        tell: &impl Fn(Told),
    ) {
        let lane = &mut self.lanes[lane];
        let what = match purpose {
            Purpose::Liveliness { number } => Happening::Ended(number, outcome),
            Purpose::Kubelet => {
                Happening::Probed(lane.kubelet.ended(now, outcome == Outcome::Answered))
            }
        };
        tell(Ok((lane.side, now, what)));
    }
}

impl InFlight {
    /// Goes on as far as it can without waiting.
    fn advance(&mut self) -> Option<Outcome> {
        if !self.asked {
            if let Ok(Some(why)) | Err(why) = self.stream.take_error() {
                return Some(failure(&why));
            }
            if self
                .stream
                .peer_addr()
                .is_err_and(|why| why.kind() == ErrorKind::NotConnected)
            {
                return None;
            }
            match self.stream.write_all(REQUEST) {
                Err(why) if why.kind() == ErrorKind::WouldBlock => return None,
                Err(why) => return Some(failure(&why)),
                Ok(()) => self.asked = true,
            }
        }
        let mut buffer = [0u8; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                // The server closes when it has said all.
                Ok(0) if self.answer.starts_with(b"HTTP/1.1 2") => return Some(Outcome::Answered),
                Ok(0) => return Some(Outcome::NoAnswer),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => return None,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Some(failure(&why)),
            }
        }
    }
}

fn failure(why: &std::io::Error) -> Outcome {
    match why.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        _ => Outcome::NoAnswer,
    }
}
