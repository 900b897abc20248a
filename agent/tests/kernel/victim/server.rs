//! An engine that listens, late or not, and its loop's side of that.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::looper::answer;
use crate::sys;

/// More tries than any test waits for.
const MOST_TRIES: u64 = 100_000;

/// Listens after so many milliseconds, or `woken` by [`sys::WAKE`]. Each client gets three moments for a byte: before and after it
/// began to listen, and when it accepted first.
pub(super) fn listens(port: u16, after: &str) -> Result<()> {
    if after == "woken" {
        sys::be_wakeable()?;
        answer("ready");
        sys::nap()?;
    } else {
        let after = Duration::from_millis(after.parse()?);
        answer("ready");
        std::thread::sleep(after);
    }
    let before = sys::mono_ns();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("the port is taken")?;
    let listened = sys::mono_ns();
    let mut accepted = None;
    loop {
        let (mut client, _) = listener.accept()?;
        let accepted = *accepted.get_or_insert_with(sys::mono_ns);
        std::thread::spawn(move || {
            let mut byte = [0];
            while client.read_exact(&mut byte).is_ok() {
                let moments = [before, listened, accepted].map(u64::to_ne_bytes).concat();
                if client.write_all(&moments).is_err() {
                    return;
                }
            }
        });
    }
}

/// What a loop is told to do about its engine's port.
pub(super) fn obey(words: &[&str]) -> Result<()> {
    match words {
        ["port"] => {
            // Nobody listens there afterwards.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            answer(&format!("port {}", listener.local_addr()?.port()));
        }
        ["knock", port, every, how] => knock(port.parse()?, every.parse()?, *how == "hold"),
        _ => bail!("no such command"),
    }
    Ok(())
}

/// Connects again and again until somebody answers, as a client of an engine does; then says how often it was refused, the
/// engine's moments, and when it had them. With `hold` the connection stays.
fn knock(port: u16, every_ms: u64, hold: bool) {
    std::thread::spawn(move || {
        let mut refused: u64 = 0;
        while refused < MOST_TRIES {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(mut engine) => {
                    let mut moments = [0; 24];
                    let asked = engine
                        .write_all(b"1")
                        .and_then(|()| engine.read_exact(&mut moments));
                    let moment =
                        |at: usize| moments[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
                    let answered = sys::mono_ns();
                    if let Err(error) = asked {
                        return answer(&format!("knocked in vain: {error}"));
                    }
                    if hold {
                        std::mem::forget(engine);
                    }
                    let (before, listened, accepted) = (moment(0), moment(8), moment(16));
                    return answer(&format!(
                        "knocked {refused} {before} {listened} {accepted} {answered}"
                    ));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
                Err(error) => return answer(&format!("knocked in vain: {error}")),
            }
            std::thread::sleep(Duration::from_millis(every_ms));
        }
    });
}
