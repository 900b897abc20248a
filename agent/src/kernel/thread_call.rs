//! What a thread is in, as `/proc/PID/task/TID/syscall` shows it: where loops were found when the agent came, and all there
//! is to go by when BPF is refused.

use std::io;

use super::syscalls;
use crate::pipeline::event::{Awaited, PollClass, Poller, WaitOptions};
use crate::pipeline::{Pid, Tid};

/// What a thread does in the kernel, as `/proc/PID/task/TID/syscall` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadCall {
    /// On a CPU or waiting for one.
    Running,
    /// Asleep, and not in a system call (a fault).
    Elsewhere,
    /// Asleep in a system call.
    In {
        /// Its number.
        number: i64,
        /// Its arguments.
        args: [u64; 6],
    },
}

/// Reads what a thread does.
pub fn thread_call(pid: Pid, tid: Tid) -> io::Result<ThreadCall> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"))?;
    parse_call(&text).ok_or_else(|| {
        io::Error::other(format!(
            "/proc/{pid}/task/{tid}/syscall has an unexpected form: `{}`",
            text.trim()
        ))
    })
}

/// Stack pointer and instruction of a thread that is not running; `None` if it is.
pub fn thread_place(pid: Pid, tid: Tid) -> io::Result<Option<(u64, u64)>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"))?;
    if text.trim() == "running" {
        return Ok(None);
    }
    parse_place(&text)
        .map(Some)
        .ok_or_else(|| io::Error::other(format!("an unexpected form: `{}`", text.trim())))
}

/// Both are the last two words of every form but `running`.
fn parse_place(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace().rev();
    let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let (ip, sp) = (number()?, number()?);
    Some((sp, ip))
}

fn parse_call(text: &str) -> Option<ThreadCall> {
    let mut words = text.split_whitespace();
    let first = words.next()?;
    if first == "running" {
        return Some(ThreadCall::Running);
    }
    let number: i64 = first.parse().ok()?;
    if number < 0 {
        return Some(ThreadCall::Elsewhere);
    }
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some(ThreadCall::In { number, args })
}

/// What a thread was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A poll, with its timeout in nanoseconds if it has one that could be read.
    Polling(Poller, Option<u64>),
    /// A wait for children.
    Waiting(Awaited, WaitOptions),
    /// Something else, or running.
    Else,
}

/// What a thread is in.
#[must_use]
pub fn found(pid: Pid, tid: Tid) -> Found {
    match thread_call(pid, tid) {
        Ok(ThreadCall::In { number, args }) => decode(number, args),
        _ => Found::Else,
    }
}

/// The call's arguments as what they mean. Sets of descriptors lie in the process's memory and are not read.
#[must_use]
pub fn decode(number: i64, args: [u64; 6]) -> Found {
    let bits = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    let signed = |value: u64| bits(value).cast_signed();
    match syscalls::known(number) {
        Some("epoll_wait" | "epoll_pwait") => {
            let timeout = u64::try_from(signed(args[3])).ok().map(|ms| ms * 1_000_000);
            Found::Polling(
                Poller {
                    class: PollClass::Epoll,
                    fd: signed(args[0]),
                },
                timeout,
            )
        }
        Some("epoll_pwait2") => Found::Polling(
            Poller {
                class: PollClass::Epoll,
                fd: signed(args[0]),
            },
            None,
        ),
        Some("wait4") => {
            let options = WaitOptions {
                bits: bits(args[2]),
                waitid: false,
            };
            let awaited = match signed(args[0]) {
                -1 => Awaited::Any,
                pid if pid > 0 => Awaited::Process(pid),
                group => Awaited::Group(group.wrapping_neg()),
            };
            Found::Waiting(awaited, options)
        }
        Some("waitid") => {
            let options = WaitOptions {
                bits: bits(args[3]),
                waitid: true,
            };
            let id = signed(args[1]);
            match args[0] {
                0 => Found::Waiting(Awaited::Any, options),
                1 => Found::Waiting(Awaited::Process(id), options),
                2 => Found::Waiting(Awaited::Group(id), options),
                3 => Found::Waiting(Awaited::PidFd(id), options),
                _ => Found::Else,
            }
        }
        _ => Found::Else,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_parsed() {
        let blocked = "61 0x1a2b 0x0 0x0 0x0 0x7f 0x1 0x7ffd 0x7f1\n";
        let expected = ThreadCall::In {
            number: 61,
            args: [0x1a2b, 0, 0, 0, 0x7f, 1],
        };
        let table = [
            (blocked, Some(expected)),
            ("running\n", Some(ThreadCall::Running)),
            ("-1 0x7ffd 0x7f1\n", Some(ThreadCall::Elsewhere)),
            ("", None),
            ("61 0x1", None),
            ("sixty", None),
        ];
        for (text, call) in table {
            assert_eq!(parse_call(text), call, "{text}");
        }
    }

    #[test]
    fn stack_and_instruction_are_the_last_two() {
        let table = [
            (
                "61 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd 0x7f1\n",
                Some((0x7ffd, 0x7f1)),
            ),
            ("-1 0x7ffd 0x7f1\n", Some((0x7ffd, 0x7f1))),
            ("running\n", None),
            ("", None),
            ("61", None),
            ("0 0 0", None),
        ];
        for (text, place) in table {
            assert_eq!(parse_place(text), place, "{text}");
        }
    }

    #[test]
    fn arguments_are_decoded() {
        let epoll = Poller {
            class: PollClass::Epoll,
            fd: 5,
        };
        let minus_one = u64::from(u32::MAX);
        let wait = WaitOptions {
            bits: 0,
            waitid: false,
        };
        let table = [
            (
                libc::SYS_epoll_pwait,
                [5, 0, 64, 250, 0, 0],
                Found::Polling(epoll, Some(250_000_000)),
            ),
            (
                libc::SYS_epoll_pwait,
                [5, 0, 64, minus_one, 0, 0],
                Found::Polling(epoll, None),
            ),
            (
                libc::SYS_wait4,
                [77, 0, 0, 0, 0, 0],
                Found::Waiting(Awaited::Process(77), wait),
            ),
            (
                libc::SYS_wait4,
                [minus_one, 0, 0, 0, 0, 0],
                Found::Waiting(Awaited::Any, wait),
            ),
            (
                libc::SYS_wait4,
                [0, 0, 0, 0, 0, 0],
                Found::Waiting(Awaited::Group(0), wait),
            ),
            (
                libc::SYS_wait4,
                [minus_one - 8, 0, 0, 0, 0, 0],
                Found::Waiting(Awaited::Group(9), wait),
            ),
            (
                libc::SYS_waitid,
                [3, 12, 0, 4, 0, 0],
                Found::Waiting(
                    Awaited::PidFd(12),
                    WaitOptions {
                        bits: 4,
                        waitid: true,
                    },
                ),
            ),
            (libc::SYS_futex, [0; 6], Found::Else),
        ];
        for (number, args, expected) in table {
            assert_eq!(decode(number, args), expected, "{number} {args:?}");
        }
    }
}
