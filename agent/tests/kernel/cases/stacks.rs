//! Where a thread is: its registers as the kernel saved them, and the native stack from there.
//!
//! These ask the agent's own parts directly, because what they show is about single readings.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use loopwarden::evidence::native::{Limits, NativeStack, Stacks};
use loopwarden::kernel::registers::{RegisterReader, RegistersError};
use loopwarden::pipeline::registers::Registers;
use loopwarden::pipeline::{Pid, Tid};

use super::Case;
use crate::harness::limit;
use crate::harness::victim::Victim;
use crate::sys;

pub(super) fn cases() -> Vec<Case> {
    let blocked = ["sleep", "read", "lock"].into_iter().map(|way| {
        Case::new(format!("stacks::blocked_in_{way}"), move || {
            let victim = Victim::start(&["calls", way])?;
            chain(victim.pid, |registers| {
                ensure!(
                    registers.fp.is_some() && registers.switches.is_some(),
                    "not read through BPF: {registers:x?}"
                );
                Ok(registers.stack.is_none())
            })
        })
    });
    let others = [
        Case::new("stacks::running", running),
        Case::new("stacks::in_another_pid_namespace", nested),
        Case::new("stacks::gone", gone),
    ];
    blocked.chain(others).collect()
}

/// One that all tests of this kind share: loading the programs takes a while.
fn reader() -> MutexGuard<'static, RegisterReader> {
    static READER: OnceLock<Mutex<RegisterReader>> = OnceLock::new();
    READER
        .get_or_init(|| {
            let settings = loopwarden_abi::Settings::default();
            Mutex::new(loopwarden::kernel::sensor(settings).take_registers())
        })
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// A thread on a CPU is sampled, and shows the same chain.
fn running() -> Result<()> {
    let victim = Victim::start(&["calls", "spin"])?;
    // Where it is not given a CPU for long enough, what it saved counts, as for a blocked one.
    chain(victim.pid, |registers| Ok(registers.stack.is_some()))
}

/// Reads until the registers are of the wanted kind and the chain of calls is whole.
fn chain(pid: u32, wanted: impl Fn(&Registers) -> Result<bool>) -> Result<()> {
    const CHAIN: [&str; 3] = ["calls::inner", "calls::middle", "calls::outer"];
    let stack = read_until(pid, wanted, |stack| position(stack, CHAIN[2]).is_some())?;
    let innermost = position(&stack, CHAIN[0]).with_context(|| format!("{stack:?}"))?;
    for (place, name) in CHAIN.iter().enumerate() {
        ensure!(
            position(&stack, name) == Some(innermost + place),
            "{name} is not at its place: {stack:?}"
        );
    }
    ensure!(
        stack.cut.is_none(),
        "it does not end at the start: {stack:?}"
    );
    Ok(())
}

fn position(stack: &NativeStack, name: &str) -> Option<usize> {
    let mut frames = stack.frames.iter();
    frames.position(|frame| frame.function.ends_with(name))
}

/// The victim has answered, and goes on from there: it is read until it has arrived.
pub(super) fn read_until(
    pid: u32,
    wanted: impl Fn(&Registers) -> Result<bool>,
    enough: impl Fn(&NativeStack) -> bool,
) -> Result<NativeStack> {
    let end = sys::mono_ns() + u64::try_from(limit().as_nanos())?;
    let mut stacks = Stacks::new();
    let mut last = String::new();
    while sys::mono_ns() < end {
        let all = reader().read(Pid(pid), Tid(pid));
        let registers = match all.map(|mut all| all.pop()) {
            Ok(Some(registers)) => registers,
            other => {
                last = format!("{other:?}");
                continue;
            }
        };
        if !wanted(&registers)? {
            last = format!("{registers:x?}");
            continue;
        }
        match stacks.read(Pid(pid), Tid(pid), &registers, Limits::default()) {
            Ok(stack) if enough(&stack) => return Ok(stack),
            other => last = format!("{other:?}"),
        }
    }
    bail!("its stack was never seen: {last}")
}

/// Ids are the host's, whatever the process calls itself.
fn nested() -> Result<()> {
    let mut victim = Victim::start_nested("epoll_wait")?;
    // Longer than any test: between two polls its stack might never hold still.
    victim.tell("nap 3600000")?;
    let wanted = |registers: &Registers| Ok(registers.fp.is_some());
    read_until(victim.pid, wanted, |stack| {
        position(stack, "kernel::main").is_some()
    })?;
    Ok(())
}

fn gone() -> Result<()> {
    let victim = Victim::start(&["calls", "sleep"])?;
    let pid = victim.pid;
    // Another process's thread is not this one's either.
    let result = reader().read(Pid(std::process::id()), Tid(pid));
    ensure!(
        matches!(result, Err(RegistersError::Gone { .. })),
        "{result:?}"
    );
    drop(victim);
    let result = reader().read(Pid(pid), Tid(pid));
    ensure!(
        matches!(result, Err(RegistersError::Gone { .. })),
        "{result:?}"
    );
    Ok(())
}
