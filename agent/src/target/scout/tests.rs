use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};

use super::*;
use crate::kernel::clock;
use crate::pipeline::place::{Place, Seat};
use crate::pipeline::pod::Found;
use crate::proc::Stat;

const PATIENCE: Duration = Duration::from_mins(1);
/// Its first read hangs.
const BAD: Pid = Pid(66);

/// Reads of command lines that hang until they are let go.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

struct Fake {
    gate: Arc<Gate>,
    hangs: Sender<Pid>,
    /// From this id on every read hangs.
    from: u32,
}

impl Reader for Fake {
    fn processes(&self) -> io::Result<Vec<Pid>> {
        Ok(vec![Pid(1), BAD, Pid(2)])
    }

    fn stat(&self, pid: Pid) -> io::Result<Stat> {
        Ok(Stat {
            state: 'S',
            parent: Pid(0),
            start_ticks: u64::from(pid.0),
            major_faults: 0,
            ending: false,
        })
    }

    fn exe_name(&self, _: Pid) -> io::Result<String> {
        Ok("exe".into())
    }

    fn command_line(&self, pid: Pid) -> io::Result<String> {
        if pid.0 < self.from || *self.gate.open.lock().unwrap() {
            return Ok("new".into());
        }
        self.hangs.send(pid).unwrap();
        self.gate.wait();
        Ok("old".into())
    }

    fn place(&self, _: Pid) -> io::Result<Place> {
        Ok(Place::default())
    }

    fn look(&self, _: Pid, _: bool, _: &dyn Fn(Reading)) -> io::Result<Sighting> {
        Err(io::Error::other("not looked at here"))
    }

    fn cpu_stat(&self, _: Pid) -> Option<CpuStat> {
        None
    }

    fn listeners(&self, _: Pid, _: Option<u16>) -> io::Result<Vec<Listener>> {
        Ok(Vec::new())
    }

    fn doors(&self, _: Pid) -> io::Result<Doors> {
        Ok(Doors::default())
    }
}

#[derive(Debug)]
struct ByAge;

const OLD: usize = 1;
const NEW: usize = 2;

impl Matching for ByAge {
    fn version(&self) -> u64 {
        0
    }

    fn target(&self, candidate: &Candidate<'_>) -> Option<usize> {
        let is_old = candidate.command_line == "old";
        Some(if is_old { OLD } else { NEW })
    }

    fn number(&self, _: &str, _: Option<&Seat>) -> Option<usize> {
        None
    }

    fn pod(&self, _: &Seat) -> Option<Found> {
        None
    }

    fn is_engine(&self, _: usize, _: &str, _: &str) -> bool {
        false
    }
}

struct Stage {
    scout: Scout,
    gate: Arc<Gate>,
    hanging: Receiver<Pid>,
    answers: Receiver<Answer>,
}

fn stage(from: u32) -> Stage {
    let gate = Arc::new(Gate::default());
    let (hangs, hanging) = channel();
    let (tell, answers) = channel();
    let reader = Fake {
        gate: gate.clone(),
        hangs,
        from,
    };
    // Who does not listen any more needs no answer.
    let answer = move |answer| drop(tell.send(answer));
    Stage {
        scout: Scout::with_reader(Box::new(reader), Arc::new(ByAge), answer).unwrap(),
        gate,
        hanging,
        answers,
    }
}

impl Stage {
    fn ask(&self, question: Question) {
        assert!(self.scout.ask(question));
    }

    fn hangs(&self) -> Pid {
        self.hanging.recv_timeout(PATIENCE).unwrap()
    }

    /// The next process that was matched, and as what.
    fn matched(&self) -> (Pid, usize) {
        match self.answers.recv_timeout(PATIENCE).unwrap() {
            Answer::Matched { pid, target, .. } => (pid, target),
            other => panic!("{other:?}"),
        }
    }
}

fn later() -> Mono {
    clock::now().plus(HANGS * 2)
}

#[test]
fn a_read_that_hangs_is_told_once_and_another_thread_reads_on() {
    let mut stage = stage(BAD.0);
    stage.ask(Question::Appraise(BAD));
    assert_eq!(stage.hangs(), BAD);
    stage.ask(Question::Appraise(Pid(3)));
    // It may still come back.
    let soon = stage.scout.thread.as_ref().unwrap().doing().unwrap().since;
    assert_eq!(stage.scout.check(soon), None);
    let stuck = stage.scout.check(later()).unwrap();
    assert_eq!(
        (stuck.pid, stuck.reading),
        (Some(BAD), Reading::CommandLine)
    );
    assert!(stuck.replaced && stuck.lasts >= HANGS, "{stuck:?}");
    // What waited is answered, and a scan gets past the process.
    assert_eq!(stage.matched(), (Pid(3), NEW));
    stage.ask(Question::Scan { appraise: true });
    assert_eq!(stage.matched(), (Pid(1), NEW));
    assert_eq!(stage.matched(), (Pid(2), NEW));
    match stage.answers.recv_timeout(PATIENCE).unwrap() {
        Answer::Unreaped(zombies) => assert_eq!(zombies, []),
        other => panic!("{other:?}"),
    }
    match stage.answers.recv_timeout(PATIENCE).unwrap() {
        Answer::Scanned(all) => assert_eq!(all.len(), 3),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.scout.check(clock::now()), None);
    // What was read so late is not told; the process is asked about anew.
    stage.gate.open();
    let answer = (0..6000).find_map(|_| {
        assert_eq!(stage.scout.check(clock::now()), None);
        stage.answers.recv_timeout(Duration::from_millis(10)).ok()
    });
    match answer.unwrap() {
        Answer::Matched { pid, target, .. } => assert_eq!((pid, target), (BAD, NEW)),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.scout.shared.hanging.load(Ordering::Relaxed), 0);
    // And is read like any other again.
    stage.ask(Question::Appraise(BAD));
    assert_eq!(stage.matched(), (BAD, NEW));
    stage.scout.stop();
}

#[test]
fn only_so_many_threads_hang_and_one_that_comes_back_makes_room() {
    let mut stage = stage(1000);
    for n in 1..=MOST_HANGING {
        stage.ask(Question::Appraise(Pid(1000 + u32::try_from(n).unwrap())));
        stage.hangs();
        let stuck = stage.scout.check(later()).unwrap();
        assert_eq!(stuck.replaced, n < MOST_HANGING, "{n}");
    }
    stage.ask(Question::Appraise(Pid(1)));
    assert_eq!(stage.scout.check(later()), None);
    assert!(stage.scout.thread.is_none());
    stage.gate.open();
    let mut left = MOST_HANGING + 1;
    for _ in 0..6000 {
        assert_eq!(stage.scout.check(clock::now()), None);
        while let Ok(answer) = stage.answers.recv_timeout(Duration::from_millis(10)) {
            let new = matches!(answer, Answer::Matched { target: NEW, .. });
            assert!(new, "{answer:?}");
            left -= 1;
        }
        if left == 0 {
            return stage.scout.stop();
        }
    }
    panic!("{left} answers are missing");
}

#[test]
fn stopping_does_not_wait_for_a_read_that_hangs() {
    let stage = stage(BAD.0);
    stage.ask(Question::Appraise(BAD));
    stage.hangs();
    let (done, stopped) = channel();
    let scout = stage.scout;
    std::thread::spawn(move || {
        scout.stop();
        done.send(()).unwrap();
    });
    stopped.recv_timeout(PATIENCE).unwrap();
    stage.gate.open();
}
