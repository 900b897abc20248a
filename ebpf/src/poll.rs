//! Entry and exit of the poll calls: the beat of a loop.

use loopwarden_abi::{
    CLASS_EPOLL, CLASS_POLL, CLASS_SELECT, Counter, EventKind, KEYS, LoopRecord, NO_DEADLINE,
    PollKey, STATE_BUSY, STATE_POLLING, WAIT_END_POLLED, bucket_of,
};

use crate::kernel::{deadline_at, deadline_ms, user};
use crate::maps::{Caller, count, event, now, send};
use crate::wait;

/// Which call it is, as far as its arguments differ.
#[derive(Clone, Copy)]
pub enum Call {
    /// `epoll_wait` and `epoll_pwait`: descriptor, events, count, milliseconds.
    Epoll,
    /// `epoll_pwait2`: the same with a timespec.
    EpollTimespec,
    /// `poll`: descriptors, count, milliseconds.
    Poll,
    /// `ppoll`: the same with a timespec.
    PollTimespec,
    /// `select`: count, three sets, timeval.
    Select,
    /// `pselect6`: the same with a timespec.
    SelectTimespec,
}

/// What is polled, how many descriptors, and until when.
struct Poll {
    key: PollKey,
    descriptors: u64,
    deadline: u64,
}

impl Poll {
    #[inline(always)]
    fn read(call: Call, args: [u64; 5], now: u64) -> Self {
        match call {
            Call::Epoll => Self::of_epoll(args, deadline_ms(now, args[3] as i32)),
            Call::EpollTimespec => Self::of_epoll(args, deadline_at(now, args[3], 1)),
            Call::Poll => Self::of_poll(args, deadline_ms(now, args[2] as i32)),
            Call::PollTimespec => Self::of_poll(args, deadline_at(now, args[2], 1)),
            Call::Select => Self::of_select(args, deadline_at(now, args[4], 1000)),
            Call::SelectTimespec => Self::of_select(args, deadline_at(now, args[4], 1)),
        }
    }

    #[inline(always)]
    fn of_epoll(args: [u64; 5], deadline: u64) -> Self {
        // An epoll descriptor stands for any number of descriptors; 2 keeps it from being taken for a single one.
        Self {
            key: PollKey {
                class: CLASS_EPOLL,
                fd: args[0] as i32,
            },
            descriptors: 2,
            deadline,
        }
    }

    #[inline(always)]
    fn of_poll(args: [u64; 5], deadline: u64) -> Self {
        let fd = if args[1] == 0 {
            -1
        } else {
            user::<i32>(args[0]).unwrap_or(-1)
        };
        Self {
            key: PollKey {
                class: CLASS_POLL,
                fd,
            },
            descriptors: args[1],
            deadline,
        }
    }

    #[inline(always)]
    fn of_select(args: [u64; 5], deadline: u64) -> Self {
        let sets = [args[1], args[2], args[3]];
        let mut lowest = -1;
        let mut set = 0;
        while set < 3 && lowest < 0 {
            lowest = lowest_bit(sets[set], args[0]);
            set += 1;
        }
        // How many bits are set would cost a loop over all of them; what matters is one or more than one descriptor,
        // and a call whose highest descriptor is its lowest has one.
        let descriptors = if lowest < 0 {
            0
        } else {
            args[0].saturating_sub(lowest as u64)
        };
        Self {
            key: PollKey {
                class: CLASS_SELECT,
                fd: lowest,
            },
            descriptors,
            deadline,
        }
    }
}

/// Words of a set that are searched: a loop's lowest descriptor is its listener or wake-up pipe, opened early. Each word
/// more costs the verifier of older kernels dearly.
const SET_WORDS: u64 = 4;

/// Lowest descriptor in the first words of a set, -1 if there is none.
#[inline(always)]
fn lowest_bit(set: u64, descriptors: u64) -> i32 {
    if set == 0 {
        return -1;
    }
    let mut word = 0u64;
    while word < SET_WORDS {
        if word * 64 >= descriptors {
            return -1;
        }
        let Some(bits) = user::<u64>(set + word * 8) else {
            return -1;
        };
        if bits != 0 {
            return (word * 64) as i32 + bits.trailing_zeros() as i32;
        }
        word += 1;
    }
    -1
}

#[inline(always)]
pub fn enter(caller: Caller, call: Call, syscall: u32, args: [u64; 5]) {
    let now = now();
    match caller.record() {
        Some((slot, record)) => {
            let poll = Poll::read(call, args, now);
            // SAFETY: the record belongs to this thread, so nothing else in the kernel writes it meanwhile.
            begin(caller, slot, unsafe { &mut *record }, &poll, syscall, now);
        }
        None => {
            if caller.mark_pending() {
                let poll = Poll::read(call, args, now);
                let mut seen = event(EventKind::PollerSeen, 0, caller);
                seen.key = poll.key;
                seen.extra = syscall;
                seen.since = poll.deadline;
                send(&seen);
            }
        }
    }
}

#[inline(always)]
fn begin(caller: Caller, slot: u32, record: &mut LoopRecord, poll: &Poll, syscall: u32, now: u64) {
    record.seq = record.seq.wrapping_add(1);
    count_key(record, poll.key);
    let own = record.own;
    if own.class == 0 || (own.class == poll.key.class && own.fd == poll.key.fd) {
        if record.wait_start != 0 {
            wait::end_episode(caller, slot, record, WAIT_END_POLLED, 0);
        }
        if record.state == STATE_BUSY {
            end_iteration(caller, slot, record, now);
        }
        record.state = STATE_POLLING;
        record.since = now;
        record.deadline = poll.deadline;
        record.syscall = syscall;
        record.nested_since = 0;
        record.nested_first = 0;
    } else {
        begin_nested(caller, slot, record, poll, syscall, now);
    }
    record.seq = record.seq.wrapping_add(1);
}

/// A thread that does something else is not in its poll: the exit was not seen. With fexit, the kernel passes over it for every
/// thread that sleeps in the call while somebody else attaches to the same function or detaches from it.
#[inline(always)]
pub fn must_have_left(record: &mut LoopRecord, now: u64) {
    if record.state == STATE_POLLING {
        record.state = STATE_BUSY;
        record.since = now;
    }
}

#[inline(always)]
fn end_iteration(caller: Caller, slot: u32, record: &mut LoopRecord, now: u64) {
    if now < record.since {
        count(Counter::Backwards);
        return;
    }
    let busy = now - record.since;
    record.iterations = record.iterations.wrapping_add(1);
    record.busy_ns = record.busy_ns.wrapping_add(busy);
    if busy > record.max_ns {
        record.max_ns = busy;
    }
    let bucket = bucket_of(busy);
    if bucket < record.hist.len() {
        record.hist[bucket] = record.hist[bucket].wrapping_add(1);
    }
    if record.own.class != 0 && (busy >= record.stall_after_ns || record.notify != 0) {
        record.notify = 0;
        let mut polled = event(EventKind::LoopPolled, slot, caller);
        polled.since = record.since;
        send(&polled);
    }
}

#[inline(always)]
fn begin_nested(
    caller: Caller,
    slot: u32,
    record: &mut LoopRecord,
    poll: &Poll,
    syscall: u32,
    now: u64,
) {
    must_have_left(record, now);
    record.nested = record.nested.wrapping_add(1);
    let again = record.nested_first != 0
        && record.nested_key.class == poll.key.class
        && record.nested_key.fd == poll.key.fd;
    if !again {
        record.nested_first = now;
    }
    record.nested_key = poll.key;
    record.nested_since = now;
    record.nested_deadline = poll.deadline;
    if !again && poll.descriptors == 1 && poll.deadline > now {
        let mut nested = event(EventKind::NestedPoll, slot, caller);
        nested.key = poll.key;
        nested.since = record.nested_first;
        nested.extra = syscall;
        send(&nested);
    }
}

/// Which pollers a thread uses: the first few, each with its count.
#[inline(always)]
fn count_key(record: &mut LoopRecord, key: PollKey) {
    let mut place = 0;
    while place < KEYS {
        let entry = &mut record.keys[place];
        if entry.key.class == 0 {
            entry.key = key;
        }
        if entry.key.class == key.class && entry.key.fd == key.fd {
            entry.count = entry.count.wrapping_add(1);
            return;
        }
        place += 1;
    }
}

#[inline(always)]
pub fn exit() {
    let Some(caller) = Caller::watched() else {
        return;
    };
    let Some((slot, record)) = caller.record() else {
        return;
    };
    // SAFETY: the record belongs to this thread, so nothing else in the kernel writes it meanwhile.
    let record = unsafe { &mut *record };
    let now = now();
    record.seq = record.seq.wrapping_add(1);
    if record.nested_since != 0 {
        record.nested_since = 0;
    } else if record.state == STATE_POLLING {
        if now >= record.since {
            record.idle_ns = record.idle_ns.wrapping_add(now - record.since);
        } else {
            count(Counter::Backwards);
        }
        let late = record.deadline != NO_DEADLINE
            && now > record.deadline.saturating_add(record.stall_after_ns);
        if record.own.class != 0 && late {
            let mut overran = event(EventKind::PollOverran, slot, caller);
            overran.since = record.deadline;
            send(&overran);
        }
        record.state = STATE_BUSY;
        record.since = now;
    }
    record.seq = record.seq.wrapping_add(1);
}
