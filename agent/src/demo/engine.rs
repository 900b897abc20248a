//! The engine child: does nothing, ends on SIGINT and SIGTERM, and is deaf to both once wedged.
//!
//! It stands for a query engine whose database has stopped answering. One byte on its standard input wedges it; the end of
//! its input ends it in any case, so that none is left behind.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::AsRawFd as _;
use signal_hook::consts::{SIGINT, SIGTERM};

const COMMAND: Token = Token(0);
const SIGNAL: Token = Token(1);

/// Runs until its input ends or, while not wedged, until SIGINT or SIGTERM.
pub(super) fn run() -> Result<()> {
    let mut poll = Poll::new().context("creating the engine's epoll")?;
    let stdin = rustix::stdio::stdin();
    rustix::io::ioctl_fionbio(stdin, true).context("making the engine's input non-blocking")?;
    poll.registry().register(
        &mut SourceFd(&stdin.as_raw_fd()),
        COMMAND,
        Interest::READABLE,
    )?;
    let mut signals = signal_pipe(&[SIGINT, SIGTERM])?;
    poll.registry()
        .register(&mut signals, SIGNAL, Interest::READABLE)?;
    let mut events = Events::with_capacity(8);
    let mut wedged = false;
    loop {
        match poll.poll(&mut events, None) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            other => other.context("waiting in the engine's epoll")?,
        }
        // The server wedges the engine before it signals it: reading in that order leaves no race.
        match drain(&mut std::io::stdin().lock())? {
            Input::Ended => return Ok(()),
            Input::Some => wedged = true,
            Input::Nothing => {}
        }
        if drain(&mut signals)? == Input::Some && !wedged {
            return Ok(());
        }
    }
}

/// A socket that becomes readable when one of `signals` arrives.
pub(super) fn signal_pipe(signals: &[i32]) -> Result<mio::net::UnixStream> {
    let (read, write) = UnixStream::pair().context("creating a pipe for signals")?;
    read.set_nonblocking(true)
        .context("making the signal pipe non-blocking")?;
    for &signal in signals {
        let write = write.try_clone().context("copying the signal pipe")?;
        signal_hook::low_level::pipe::register(signal, write)
            .with_context(|| format!("handling signal {signal}"))?;
    }
    Ok(mio::net::UnixStream::from_std(read))
}

/// What there was to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing now.
    Nothing,
    /// Something.
    Some,
    /// The other end is closed.
    Ended,
}

/// Reads and drops all there is, without waiting.
pub(super) fn drain(source: &mut impl std::io::Read) -> Result<Input> {
    let mut seen = Input::Nothing;
    let mut buffer = [0u8; 64];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(Input::Ended),
            Ok(_) => seen = Input::Some,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(seen),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(why).context("reading a pipe of the demo"),
        }
    }
}
