//! When what happened, for who checks it: a line of JSON in the file that `STANDIN_MOMENTS` names, by the wall clock.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

/// Adds this moment; without the variable there is nobody to tell.
pub fn note(event: &str) {
    note_ago(event, Duration::ZERO);
}

/// Adds when this process was started, as the kernel's procfs has it, to some hundredths of a second: before its program ran it was
/// its parent's copy, which takes a while to make.
pub fn note_start() {
    if let Some(age) = age() {
        note_ago("started", age);
    }
}

fn age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    // Field 22, in ticks of what every Linux calls a hundredth of a second here.
    let begun: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(now - begun / 100.0).ok()
}

fn note_ago(event: &str, ago: Duration) {
    let Some(path) = std::env::var_os("STANDIN_MOMENTS") else {
        return;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the test reads its moments on the wall clock"
    )]
    let wall = SystemTime::now();
    let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = now.saturating_sub(ago);
    let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
    let line = json!({ "pid": std::process::id(), "event": event, "unix_us": micros });
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("stand-in engine: {}: {error}", path.display());
    }
}
