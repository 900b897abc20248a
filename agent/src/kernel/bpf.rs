//! The sensor on top of the loaded programs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use aya::maps::{HashMap as BpfMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::Iter;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya_log::EbpfLogger;
use loopwarden_abi::{
    BUCKETS, Counter, Event, KEYS, KeyCount, LoopRecord, MAX_CONNECTS, MAX_LOOPS, NO_DEADLINE,
    PollKey, SLOT_IGNORED, STATE_BUSY, STATE_POLLING, STATE_UNKNOWN, TASK_DESCENDANT, TASK_WATCHED,
    TaskEntry, TaskListing, ThreadEntry, names,
};

use rustix::event::{PollFd, PollFlags, poll};

use super::board::Board;
use super::convert;
use super::error::KernelError;
use super::load::{self, Loaded};
use super::plain::{ConnectName, ConnectValue, TaskValue, ThreadValue, read_plain};
use super::plan::Plan;
use super::registers::RegisterReader;
use super::sensor::{Adoption, Listed, Sensor, Totals};
use crate::pipeline::event::{Beat, Connects, KernelEvent, Listener, Poller, Reading};
use crate::pipeline::{LoopTotals, Pid, Tid};

/// Maps, ring and mapped records of the kernel half.
pub struct BpfSensor {
    tasks: BpfMap<MapData, u32, TaskValue>,
    threads: BpfMap<MapData, u32, ThreadValue>,
    counters: PerCpuArray<MapData, u64>,
    ring: RingBuf<MapData>,
    board: Arc<Board>,
    ports: BpfMap<MapData, u32, u32>,
    listeners: BpfMap<MapData, [u32; 2], u32>,
    /// Those that are watched now.
    watched_ports: HashSet<Listener>,
    /// What sees connections, while there is a port to watch.
    connections: Option<RawTracePointLink>,
    /// It is there for engines too, and stays.
    engines: bool,
    /// What sees the first bytes that are taken out of a connection, while somebody is to take some.
    reads: Option<RawTracePointLink>,
    connects: BpfMap<MapData, ConnectName, ConnectValue>,
    slots: HashMap<Tid, u32>,
    free: VecDeque<u32>,
    refused_slots: u64,
    bad_events: u64,
    loaded: Loaded,
}

impl fmt::Debug for BpfSensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BpfSensor")
            .field("plan", &self.loaded.plan.way)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl BpfSensor {
    /// Takes over the maps of the loaded object.
    pub fn new(mut loaded: Loaded) -> Result<Self, KernelError> {
        let tasks = take(&mut loaded, names::TASKS)?;
        let threads = take(&mut loaded, names::THREADS)?;
        let loops = loaded.ebpf.take_map(names::LOOPS);
        let ports = take(&mut loaded, names::PORTS)?;
        let listeners = take(&mut loaded, names::LISTENERS)?;
        let connects = take(&mut loaded, names::CONNECTS)?;
        let counters = take(&mut loaded, names::COUNTERS)?;
        let ring = take(&mut loaded, names::EVENTS)?;
        let Some(Map::Array(loops)) = loops else {
            let error = "the object has no array of that name".to_owned();
            return Err(KernelError::Map {
                step: "open",
                map: names::LOOPS.to_owned(),
                error,
            });
        };
        let board = Arc::new(Board::map(loops.fd())?);
        // The kernel's types and the object's sections are 30 MiB that nothing needs from here on.
        super::spawn::trim_memory();
        let free = (0..MAX_LOOPS).collect();
        Ok(Self {
            tasks,
            threads,
            counters,
            ring,
            board,
            ports,
            listeners,
            watched_ports: HashSet::new(),
            connections: None,
            engines: false,
            reads: None,
            connects,
            slots: HashMap::new(),
            free,
            refused_slots: 0,
            bad_events: 0,
            loaded,
        })
    }

    /// Starts a thread that passes the kernel half's own debug lines on to the log, if anybody wants them.
    pub fn pass_on_logs(&mut self) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let mut logger = match EbpfLogger::init(&mut self.loaded.ebpf) {
            Ok(logger) => logger,
            Err(error) => {
                log::warn!("the kernel half's debug lines cannot be read: {error}");
                return;
            }
        };
        let read = move || {
            loop {
                match poll(&mut [PollFd::new(&logger, PollFlags::IN)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => logger.flush(),
                    Err(error) => {
                        return log::warn!("the kernel half's debug lines end here: {error}");
                    }
                }
            }
        };
        if let Err(error) = std::thread::Builder::new()
            .name("ebpf-log".into())
            .spawn(read)
        {
            log::warn!("the kernel half's debug lines cannot be read: {error}");
        }
    }

    fn slot(&self, tid: Tid) -> Option<u32> {
        self.slots.get(&tid).copied()
    }
}

fn take<M>(loaded: &mut Loaded, name: &str) -> Result<M, KernelError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let wrong = |error: String| KernelError::Map {
        step: "open",
        map: name.to_owned(),
        error,
    };
    let map = loaded
        .ebpf
        .take_map(name)
        .ok_or_else(|| wrong("the object has none of that name".into()))?;
    M::try_from(map).map_err(|error| wrong(error.to_string()))
}

impl Totals for Board {
    fn totals(&self, slot: u32) -> Option<LoopTotals> {
        self.read(slot).map(|record| convert::totals(&record))
    }
}

impl Sensor for BpfSensor {
    fn plan(&self) -> &Plan {
        &self.loaded.plan
    }

    fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn drain(&mut self, take: &mut dyn FnMut(KernelEvent)) {
        while let Some(item) = self.ring.next() {
            let event = read_plain::<Event>(&item).and_then(|event| convert::event(&event));
            drop(item);
            match event {
                Some(event) => {
                    take(event);
                }
                None => self.bad_events += 1,
            }
        }
    }

    fn know(
        &mut self,
        pid: Pid,
        start_ns: u64,
        parent: Pid,
        watched: bool,
    ) -> Result<(), KernelError> {
        let flags = if watched {
            TASK_WATCHED | TASK_DESCENDANT
        } else {
            TASK_DESCENDANT
        };
        let entry = TaskEntry {
            start_ns,
            parent: parent.0,
            flags,
        };
        self.tasks
            .insert(pid.0, TaskValue(entry), 0)
            .map_err(|error| KernelError::Map {
                step: "insert into",
                map: names::TASKS.to_owned(),
                error: error.to_string(),
            })
    }

    fn forget(&mut self, pid: Pid) {
        // Already gone is what was wanted.
        let _ = self.tasks.remove(&pid.0);
    }

    fn alive(&self, pid: Pid) -> Option<u64> {
        self.tasks.get(&pid.0, 0).ok().map(|entry| entry.0.start_ns)
    }

    fn adopt(&mut self, adoption: Adoption) -> Option<u32> {
        self.release(adoption.tid, false);
        let Some(slot) = self.free.pop_front() else {
            self.refused_slots += 1;
            return None;
        };
        self.board.reset(slot, &initial_record(&adoption));
        let entry = ThreadValue(ThreadEntry { slot, pad: 0 });
        if self.threads.insert(adoption.tid.0, entry, 0).is_err() {
            self.free.push_back(slot);
            self.refused_slots += 1;
            return None;
        }
        self.slots.insert(adoption.tid, slot);
        Some(slot)
    }

    fn release(&mut self, tid: Tid, ignore: bool) {
        if ignore {
            let entry = ThreadValue(ThreadEntry {
                slot: SLOT_IGNORED,
                pad: 0,
            });
            let _ = self.threads.insert(tid.0, entry, 0);
        } else {
            let _ = self.threads.remove(&tid.0);
        }
        if let Some(slot) = self.slots.remove(&tid) {
            // To the other end: readers of the old counts get a while before the slot has a new owner.
            self.free.push_back(slot);
        }
    }

    fn set_stall_after(&mut self, tid: Tid, nanoseconds: u64) {
        if let Some(slot) = self.slot(tid) {
            self.board.set_stall_after(slot, nanoseconds);
        }
    }

    fn set_own(&mut self, tid: Tid, own: Poller) {
        if let Some(slot) = self.slot(tid) {
            self.board.set_own(slot, convert::poll_key(Some(own)));
        }
    }

    fn notify(&mut self, tid: Tid) {
        if let Some(slot) = self.slot(tid) {
            self.board.notify(slot);
        }
    }

    fn read(&mut self, tid: Tid) -> Option<Reading> {
        let record = self.board.read(self.slot(tid)?)?;
        Some(convert::reading(&record))
    }

    fn watch_port(&mut self, listener: Listener) -> Result<(), KernelError> {
        if self.connections.is_none() {
            self.connections = Some(load::attach_connections(&mut self.loaded.ebpf)?);
        }
        let failed = |map: &str, error: &dyn fmt::Display| KernelError::Map {
            step: "insert into",
            map: map.to_owned(),
            error: error.to_string(),
        };
        let port = u32::from(listener.port);
        self.listeners
            .insert([listener.netns, port], 0, 0)
            .map_err(|error| failed(names::LISTENERS, &error))?;
        if let Err(error) = self.ports.insert(port, 0, 0) {
            self.forget_port(listener);
            return Err(failed(names::PORTS, &error));
        }
        self.watched_ports.insert(listener);
        Ok(())
    }

    fn forget_port(&mut self, listener: Listener) {
        let port = u32::from(listener.port);
        self.watched_ports.remove(&listener);
        // Already gone is what was wanted.
        let _ = self.listeners.remove(&[listener.netns, port]);
        if !self
            .watched_ports
            .iter()
            .any(|other| other.port == listener.port)
        {
            let _ = self.ports.remove(&port);
        }
        if self.watched_ports.is_empty() && !self.engines {
            self.connections = None;
        }
    }

    fn follow_engines(&mut self) -> Result<(), KernelError> {
        if self.connections.is_none() {
            self.connections = Some(load::attach_connections(&mut self.loaded.ebpf)?);
        }
        self.engines = true;
        Ok(())
    }

    fn follow_reads(&mut self, wanted: bool) -> Result<(), KernelError> {
        if !wanted {
            self.reads = None;
        } else if self.reads.is_none() {
            self.reads = Some(load::attach_reads(&mut self.loaded.ebpf)?);
        }
        Ok(())
    }

    fn connects(&mut self) -> Vec<Connects> {
        let listed = self.connects.iter().take(MAX_CONNECTS as usize);
        // One that is forgotten meanwhile ends the list; the next look has the rest.
        let listed = listed.filter_map(Result::ok);
        listed
            .map(|(key, count)| convert::connects(&key.0, &count.0))
            .collect()
    }

    fn forget_connects(&mut self, connects: &Connects) {
        // Already gone is what was wanted.
        let _ = self
            .connects
            .remove(&ConnectName(convert::connect_key(connects)));
    }

    fn totals(&self) -> Arc<dyn Totals> {
        self.board.clone()
    }

    fn list(&mut self) -> Vec<Listed> {
        list_tasks(&mut self.loaded.ebpf).unwrap_or_else(|error| {
            log::debug!("listing tasks through the kernel failed: {error}");
            Vec::new()
        })
    }

    fn take_registers(&mut self) -> RegisterReader {
        let taken = self.loaded.registers.take();
        taken.unwrap_or_else(RegisterReader::without_bpf)
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        let mut lost: Vec<_> = Counter::ALL
            .into_iter()
            .map(|counter| {
                let per_cpu = self.counters.get(&(counter as u32), 0);
                let sum = per_cpu.map_or(0, |values| {
                    values
                        .iter()
                        .fold(0, |sum: u64, value| sum.wrapping_add(*value))
                });
                let own = if counter == Counter::SlotsFull {
                    self.refused_slots
                } else {
                    0
                };
                (counter.name(), sum + own)
            })
            .collect();
        lost.push(("bad_event", self.bad_events));
        lost
    }
}

fn initial_record(adoption: &Adoption) -> LoopRecord {
    let none = PollKey { class: 0, fd: -1 };
    let (state, since, deadline) = match adoption.beat {
        Beat::Unknown => (STATE_UNKNOWN, 0, NO_DEADLINE),
        Beat::Polling { since, deadline } => (
            STATE_POLLING,
            since.0,
            deadline.map_or(NO_DEADLINE, |at| at.0),
        ),
        Beat::Busy { since } => (STATE_BUSY, since.0, NO_DEADLINE),
    };
    let mut record = LoopRecord {
        seq: 0,
        state,
        syscall: 0,
        since,
        deadline,
        iterations: 0,
        idle_ns: 0,
        busy_ns: 0,
        max_ns: 0,
        nested: 0,
        nested_key: none,
        nested_since: 0,
        nested_deadline: 0,
        nested_first: 0,
        wait_start: 0,
        wait_call: 0,
        wait_last: 0,
        wait_gap: 0,
        wait_calls: 0,
        wait_which: 0,
        wait_id: 0,
        wait_options: 0,
        wait_info: 0,
        wait_announced: 0,
        wait_waitid: 0,
        keys: [KeyCount {
            key: none,
            count: 0,
        }; KEYS],
        hist: [0; BUCKETS],
        own: convert::poll_key(adoption.own),
        stall_after_ns: adoption.stall_after_ns,
        notify: 0,
        tid: adoption.tid.0,
    };
    if let Some(wait) = adoption.wait {
        let (which, id) = convert::wait_key(wait.awaited);
        record.wait_start = wait.start.0;
        record.wait_call = wait.call.map_or(0, |at| at.0);
        record.wait_last = wait.last.0;
        record.wait_calls = wait.calls;
        record.wait_which = which;
        record.wait_id = id;
        record.wait_options = wait.options.bits;
        record.wait_waitid = u32::from(wait.options.waitid);
        record.wait_announced = 1;
    }
    record
}

fn list_tasks(ebpf: &mut aya::Ebpf) -> Result<Vec<Listed>, String> {
    let program = ebpf
        .program_mut("list_tasks")
        .ok_or("the object has no task iterator")?;
    let program: &mut Iter = program
        .try_into()
        .map_err(|error: aya::programs::ProgramError| error.to_string())?;
    let id = program.attach().map_err(|error| error.to_string())?;
    let link = program.take_link(id).map_err(|error| error.to_string())?;
    let mut file = link.into_file().map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    let listed = bytes
        .chunks_exact(size_of::<TaskListing>())
        .filter_map(read_plain::<TaskListing>);
    Ok(listed
        .map(|task| Listed {
            pid: Pid(task.tgid),
            parent: Pid(task.parent),
            start_ns: task.start_ns,
        })
        .collect())
}
