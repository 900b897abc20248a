//! What engines are known by: where the children of watched processes listen, when they first take a connection, and how often
//! a watched process connected to a port of its own machine, or was refused there.
//!
//! Connections are counted here and not reported one by one: a process that is refused may try again at once. A socket that is
//! refused changes its state in whatever context takes the answer in, so who asked is remembered by the socket's address.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use loopwarden_abi::{
    ConnectCount, ConnectKey, Counter, EventKind, FAMILY_V4, FAMILY_V6, MAX_CONNECTS, SLOT_PENDING,
};

use crate::connection::{CLOSE, ESTABLISHED, SOCKET_FACTS, far_port, is_v6, near_port, netns};
use crate::global;
use crate::kernel::field;
use crate::maps::{Caller, TASKS, count, event, now, send};

/// `include/uapi/asm-generic/errno.h`.
const ECONNREFUSED: i32 = 111;
/// Third word of an IPv6 address that holds an IPv4 one.
const MAPPED: u32 = 0xffff_u32.to_be();

/// Connections of watched processes that have no answer yet, by the address of the socket.
#[map]
static ATTEMPTS: HashMap<u64, ConnectKey> = HashMap::with_max_entries(MAX_CONNECTS, 0);
#[map]
static CONNECTS: HashMap<ConnectKey, ConnectCount> = HashMap::with_max_entries(MAX_CONNECTS, 0);
/// Ports, by network namespace, on which a known process listens that has not yet been seen to take a connection.
#[map]
static AWAITED: HashMap<[u32; 2], u32> = HashMap::with_max_entries(MAX_CONNECTS, 0);

/// A watched process connects; in its own context.
#[inline(always)]
pub fn asked_for(socket: *const u8, caller: Caller) {
    let (own, far) = (Address::near(socket), Address::far(socket));
    if !far.is_of_this_machine(own) {
        return;
    }
    let key = ConnectKey {
        tgid: caller.tgid,
        netns: netns(socket),
        port: far_port(socket) as u16,
        family: far.family,
        address: far.last,
    };
    if ATTEMPTS.insert(socket as u64, key, 0).is_err() {
        count(Counter::ConnectsFull);
    }
}

/// A connection that was asked for is complete, or over; false if it was none of a watched process.
#[inline(always)]
pub fn answered(socket: *const u8, new: i32) -> bool {
    let address = socket as u64;
    let Some(key) = ATTEMPTS.get_ptr(address) else {
        return false;
    };
    // SAFETY: the pointer comes from the map and is checked.
    let key = unsafe { *key };
    let _ = ATTEMPTS.remove(address);
    if new == ESTABLISHED {
        add(&key, false);
    } else if new == CLOSE {
        // Who gives up, or hears nothing for long, is not refused.
        let error: i32 = field(socket, global!(SOCKET_FACTS.err)).unwrap_or(0);
        if error == ECONNREFUSED {
            add(&key, true);
        }
    }
    true
}

#[inline(always)]
fn add(key: &ConnectKey, refused: bool) {
    let now = now();
    if CONNECTS.get_ptr(key).is_none() {
        let first = ConnectCount {
            ok: 0,
            refused: 0,
            first_refused: 0,
            answered: 0,
            last: now,
        };
        // Another one may have just done so.
        if let Err(code) = CONNECTS.insert(key, first, BPF_NOEXIST as u64)
            && code != -17
        {
            count(Counter::ConnectsFull);
            return;
        }
    }
    let Some(counts) = CONNECTS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: the pointer comes from the map and is checked; the counts are added to in one step, and of two times that are
    // written at once either is right.
    unsafe {
        if refused {
            if (*counts).first_refused == 0 || (*counts).answered != 0 {
                (*counts).first_refused = now;
                (*counts).answered = 0;
            }
            increment(&raw mut (*counts).refused);
        } else {
            (*counts).answered = 1;
            increment(&raw mut (*counts).ok);
        }
        (*counts).last = now;
    }
}

/// Adds one, whoever else does so at the same time.
///
/// # Safety
/// The pointer is to a value of a map.
#[inline(always)]
unsafe fn increment(place: *mut u64) {
    // SAFETY: see above. The one atomic operation that every BPF kernel has; Rust has no name for it here.
    unsafe {
        asm!("lock *(u64 *)({place} + 0) += {one}", place = in(reg) place, one = in(reg) 1u64);
    }
}

/// A socket begins to listen; in the context of who made it do so.
#[inline(always)]
pub fn listens(socket: *const u8) {
    let caller = Caller::current();
    if TASKS.get_ptr(caller.tgid).is_none() {
        return;
    }
    let port = near_port(socket);
    let netns = netns(socket);
    // If there is no room, its first connection is not seen, as on a kernel that cannot show it.
    let _ = AWAITED.insert([netns, port], caller.tgid, 0);
    let own = Address::near(socket);
    let mut began = event(EventKind::Listening, SLOT_PENDING, caller);
    began.arg = netns;
    began.id = port as i32;
    began.extra = own.last;
    began.flags = own.family.into();
    send(&began);
}

/// A socket that listened is closed.
#[inline(always)]
pub fn listens_no_more(socket: *const u8) {
    let place = [netns(socket), near_port(socket)];
    if AWAITED.get_ptr(place).is_some() {
        let _ = AWAITED.remove(place);
    }
}

/// A process takes bytes out of a connection: if that came to a port on which it listens, it has accepted it.
#[inline(always)]
pub fn reads(socket: *const u8) {
    let caller = Caller::current();
    if TASKS.get_ptr(caller.tgid).is_none() {
        return;
    }
    let port = near_port(socket);
    let place = [netns(socket), port];
    if AWAITED.get_ptr(place).is_none() {
        return;
    }
    let _ = AWAITED.remove(place);
    let mut took = event(EventKind::Accepted, SLOT_PENDING, caller);
    took.arg = place[0];
    took.id = port as i32;
    send(&took);
}

/// As much of an address as tells addresses of one machine apart.
#[derive(Clone, Copy)]
struct Address {
    /// `FAMILY_*`: an IPv4 address in an IPv6 socket is an IPv4 address.
    family: u16,
    /// Its last word.
    last: u32,
}

impl Address {
    #[inline(always)]
    fn near(socket: *const u8) -> Self {
        Self::at(
            socket,
            global!(SOCKET_FACTS.saddr),
            global!(SOCKET_FACTS.v6_saddr),
        )
    }

    #[inline(always)]
    fn far(socket: *const u8) -> Self {
        Self::at(
            socket,
            global!(SOCKET_FACTS.daddr),
            global!(SOCKET_FACTS.v6_daddr),
        )
    }

    #[inline(always)]
    fn at(socket: *const u8, v4: u32, v6: u32) -> Self {
        if is_v6(socket) {
            let last: u32 = field(socket, v6).unwrap_or(0);
            let before: u32 = field(socket, v6.wrapping_sub(4)).unwrap_or(0);
            let family = if before == MAPPED {
                FAMILY_V4
            } else {
                FAMILY_V6
            };
            return Self { family, last };
        }
        Self {
            family: FAMILY_V4,
            last: field(socket, v4).unwrap_or(0),
        }
    }

    /// What is asked of the own address stays on the machine, and so does what goes to 127.0.0.0/8.
    #[inline(always)]
    fn is_of_this_machine(self, own: Self) -> bool {
        let loopback = self.family == FAMILY_V4 && self.last.to_ne_bytes()[0] == 127;
        loopback || (self.family == own.family && self.last == own.last)
    }
}
