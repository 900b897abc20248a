//! A known chain of calls that ends in the call or the work that its part names.

use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};

use super::looper::answer;

/// Says that it is ready, and is never seen again.
pub(super) fn run(way: &str) -> Result<()> {
    let lock = Arc::new(Mutex::new(()));
    if way == "lock" {
        hold(&lock);
    }
    answer(&format!("ready {}", std::process::id()));
    outer(way, &lock)
}

/// Gives a lock to a thread that keeps it.
fn hold(lock: &Arc<Mutex<()>>) {
    let held = Arc::new(Barrier::new(2));
    let (lock, holds) = (lock.clone(), held.clone());
    std::thread::spawn(move || {
        let _guard = lock.lock();
        holds.wait();
        loop {
            std::thread::park();
        }
    });
    held.wait();
}

#[inline(never)]
fn outer(way: &str, lock: &Mutex<()>) -> Result<()> {
    black_box(middle(black_box(way), lock))
}

#[inline(never)]
fn middle(way: &str, lock: &Mutex<()>) -> Result<()> {
    black_box(inner(black_box(way), lock))
}

#[inline(never)]
fn inner(way: &str, lock: &Mutex<()>) -> Result<()> {
    match way {
        "sleep" => std::thread::sleep(Duration::from_hours(1)),
        "read" => {
            let (reader, _writer) = rustix::pipe::pipe()?;
            rustix::io::read(&reader, &mut [0; 1])?;
        }
        "lock" => drop(lock.lock()),
        "spin" => {
            let mut number = 1u64;
            loop {
                number = black_box(number.wrapping_mul(3));
            }
        }
        _ => bail!("no such way: {way}"),
    }
    bail!("{way} came back")
}
