//! Connections to the ports of watched processes, made on this machine: the kubelet's probes are among them.
//!
//! Both ends are seen. The one that asks changes its state in the context of the process that connects, which so is known; the
//! one that is asked says in which network namespace the port is. They are joined by addresses and ports when the handshake is
//! complete. What comes from other machines has no asking end here and is no probe. What watched processes themselves do is the
//! affair of `engine`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::debug;
use loopwarden_abi::{
    EventKind, MAX_CONNECTIONS, MAX_PORTS, PROBE_ANSWERED, PROBE_GIVEN_UP, PROBE_REFUSED,
    SLOT_PENDING, SocketFacts, TASK_WATCHED,
};

use crate::engine;
use crate::global;
use crate::kernel::field;
use crate::maps::{Caller, SETTINGS, TASKS, event, now, send};

/// `include/net/tcp_states.h`.
pub const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
pub const CLOSE: i32 = 7;
const CLOSE_WAIT: i32 = 8;
const LISTEN: i32 = 10;

const AF_INET6: u16 = 10;

/// A process that connects to one port more often than this within a window is a client, and nothing is told of it before it has
/// come less often for a whole one: the kubelet has at most three probes a container, each once a second at most.
const MOST_IN_WINDOW: u32 = 16;
const WINDOW_NS: u64 = 4_000_000_000;

#[map]
static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_PORTS, 0);
#[map]
static LISTENERS: HashMap<[u32; 2], u32> = HashMap::with_max_entries(MAX_PORTS, 0);
/// By the address of the asking end.
#[map]
static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);
/// The asking end of a connection whose other end is not complete yet.
#[map]
static ASKING: LruHashMap<Ends, u64> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);
/// How often a process came to a port of a network namespace.
#[map]
static VISITS: LruHashMap<[u32; 3], Visits> = LruHashMap::with_max_entries(MAX_CONNECTIONS, 0);

#[unsafe(no_mangle)]
pub static SOCKET_FACTS: SocketFacts = SocketFacts {
    family: 0,
    num: 0,
    dport: 0,
    saddr: 0,
    daddr: 0,
    v6_saddr: 0,
    v6_daddr: 0,
    net: 0,
    net_inum: 0,
    bytes_received: 0,
    err: 0,
};

#[derive(Clone, Copy)]
#[repr(C)]
struct Connection {
    /// When it was asked for.
    start: u64,
    tgid: u32,
    /// Network namespace of who asked.
    netns: u32,
    /// Network namespace of the port; 0 until the connection is complete and was told.
    listener: u32,
    port: u32,
}

/// Ports and the last words of the addresses: together as good as unique.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ends {
    asking: u32,
    asked: u32,
    ports: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Visits {
    since: u64,
    count: u32,
    /// In the window before it came too often.
    was_busy: u32,
}

/// `inet_sock_set_state(sk, oldstate, newstate)`.
#[inline(always)]
pub fn changed(ctx: &RawTracePointContext) {
    let socket: *const u8 = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if new == SYN_SENT {
        asked_for(socket);
    } else if new == LISTEN {
        engine::listens(socket);
    } else if old == LISTEN && new == CLOSE {
        engine::listens_no_more(socket);
    } else if old == SYN_RECV && new == ESTABLISHED {
        arrived(ctx, socket);
    } else if old == SYN_SENT && engine::answered(socket, new) {
        // No probe.
    } else if old == SYN_SENT && new == ESTABLISHED {
        accepted(socket);
    } else if old == SYN_SENT || old == ESTABLISHED {
        left(socket, new);
    }
}

/// In the context of who connects; it has no port of its own yet.
#[inline(always)]
fn asked_for(socket: *const u8) {
    let caller = Caller::current();
    // What a watched process or its child asks of itself is no probe.
    if let Some(entry) = TASKS.get_ptr(caller.tgid) {
        // SAFETY: the pointer comes from the map and is checked.
        if unsafe { (*entry).flags } & TASK_WATCHED != 0 {
            engine::asked_for(socket, caller);
        }
        return;
    }
    let port = far_port(socket);
    if PORTS.get_ptr(port).is_none() {
        return;
    }
    let connection = Connection {
        start: now(),
        tgid: caller.tgid,
        netns: netns(socket),
        listener: 0,
        port,
    };
    // The oldest gives way; only a lack of memory can fail, and then a probe is not seen.
    let _ = CONNECTIONS.insert(socket as u64, connection, 0);
}

/// The other side has a place for it: now it has both ports.
#[inline(always)]
fn accepted(socket: *const u8) {
    let address = socket as u64;
    if CONNECTIONS.get_ptr(address).is_none() {
        return;
    }
    let _ = ASKING.insert(ends_of_asking(socket), address, 0);
}

#[inline(always)]
fn ends_of_asking(socket: *const u8) -> Ends {
    let (own, far) = addresses(socket);
    Ends {
        asking: own,
        asked: far,
        ports: near_port(socket) << 16 | far_port(socket),
    }
}

/// The asked end is complete.
#[inline(always)]
fn arrived(ctx: &RawTracePointContext, socket: *const u8) {
    let port = near_port(socket);
    if PORTS.get_ptr(port).is_none() {
        return;
    }
    let (own, far) = addresses(socket);
    let ends = Ends {
        asking: far,
        asked: own,
        ports: far_port(socket) << 16 | port,
    };
    let Some(asking) = ASKING.get_ptr(ends) else {
        return;
    };
    // SAFETY: the pointer comes from the map and is checked.
    let asking = unsafe { *asking };
    let _ = ASKING.remove(ends);
    let Some(connection) = CONNECTIONS.get_ptr_mut(asking) else {
        return;
    };
    // SAFETY: the pointer comes from the map and is checked; the two ends of a handshake do not change at once.
    let connection = unsafe { &mut *connection };
    // The asking end may be gone, and its address another connection's: then the other end has waited to be accepted.
    if connection.port != port || connection.listener != 0 {
        return;
    }
    let listener = netns(socket);
    if LISTENERS.get_ptr([listener, port]).is_none() || is_busy([connection.tgid, listener, port]) {
        return;
    }
    // All other pods together count as one: none of them is a kubelet, and a new process is made quickly.
    let is_of_node = connection.netns == global!(SETTINGS.node_netns);
    if !is_of_node && is_busy([0, listener, port]) {
        return;
    }
    connection.listener = listener;
    debug!(ctx, "connection from {} to port {}", connection.tgid, port);
    tell(EventKind::ProbeBegan, connection, 0);
}

/// The asking end goes on from a connection that was complete, or never came to be.
#[inline(always)]
fn left(socket: *const u8, new: i32) {
    let address = socket as u64;
    let Some(connection) = CONNECTIONS.get_ptr(address) else {
        return;
    };
    // SAFETY: the pointer comes from the map and is checked.
    let connection = unsafe { &*connection };
    if connection.listener != 0 {
        let received: u64 = field(socket, global!(SOCKET_FACTS.bytes_received)).unwrap_or(0);
        // The end of the other side's bytes counts as one.
        let end = u64::from(new == CLOSE_WAIT);
        let how = if received > end {
            PROBE_ANSWERED
        } else if new == CLOSE_WAIT || new == CLOSE {
            PROBE_REFUSED
        } else {
            PROBE_GIVEN_UP
        };
        tell(EventKind::ProbeEnded, connection, how);
    }
    let untold = connection.listener == 0;
    let _ = CONNECTIONS.remove(address);
    if untold {
        let _ = ASKING.remove(ends_of_asking(socket));
    }
}

#[inline(always)]
fn tell(kind: EventKind, connection: &Connection, how: u32) {
    let asker = Caller {
        tgid: connection.tgid,
        tid: connection.tgid,
    };
    let mut told = event(kind, SLOT_PENDING, asker);
    told.since = connection.start;
    told.arg = connection.listener;
    told.id = connection.port as i32;
    told.extra = connection.netns;
    told.flags = how;
    send(&told);
}

/// Whether a process comes too often for a probe.
#[inline(always)]
fn is_busy(visitor: [u32; 3]) -> bool {
    let now = now();
    if let Some(visits) = VISITS.get_ptr_mut(visitor) {
        // SAFETY: the pointer comes from the map and is checked; a race miscounts by one.
        let visits = unsafe { &mut *visits };
        let passed = now.wrapping_sub(visits.since);
        if passed >= WINDOW_NS {
            let goes_on = passed < 2 * WINDOW_NS && visits.count > MOST_IN_WINDOW;
            visits.was_busy = u32::from(goes_on);
            visits.since = now;
            visits.count = 0;
        }
        visits.count = visits.count.wrapping_add(1);
        return visits.was_busy != 0 || visits.count > MOST_IN_WINDOW;
    }
    let first = Visits {
        since: now,
        count: 1,
        was_busy: 0,
    };
    let _ = VISITS.insert(visitor, first, 0);
    false
}

#[inline(always)]
pub fn near_port(socket: *const u8) -> u32 {
    u32::from(field::<u16>(socket, global!(SOCKET_FACTS.num)).unwrap_or(0))
}

#[inline(always)]
pub fn far_port(socket: *const u8) -> u32 {
    u32::from(u16::from_be(
        field::<u16>(socket, global!(SOCKET_FACTS.dport)).unwrap_or(0),
    ))
}

#[inline(always)]
pub fn netns(socket: *const u8) -> u32 {
    let net: *const u8 =
        field(socket, global!(SOCKET_FACTS.net)).unwrap_or(core::ptr::null::<u8>());
    field(net, global!(SOCKET_FACTS.net_inum)).unwrap_or(0)
}

#[inline(always)]
pub fn is_v6(socket: *const u8) -> bool {
    field::<u16>(socket, global!(SOCKET_FACTS.family)) == Some(AF_INET6)
}

/// The own address and the other's. A socket for IPv6 has an IPv4 address as the last word of a mapped one.
#[inline(always)]
fn addresses(socket: *const u8) -> (u32, u32) {
    let (own, far) = if is_v6(socket) {
        (
            global!(SOCKET_FACTS.v6_saddr),
            global!(SOCKET_FACTS.v6_daddr),
        )
    } else {
        (global!(SOCKET_FACTS.saddr), global!(SOCKET_FACTS.daddr))
    };
    (
        field(socket, own).unwrap_or(0),
        field(socket, far).unwrap_or(0),
    )
}
