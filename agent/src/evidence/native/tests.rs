//! What is refused. Stacks of real programs are in `agent/tests/native.rs` and in the kernel tests.

use super::*;

fn own() -> (Pid, Tid) {
    let tid = rustix::thread::gettid().as_raw_nonzero().get();
    (Pid(std::process::id()), Tid(tid.cast_unsigned()))
}

#[test]
fn a_stack_that_changed_while_it_was_read_is_refused() {
    let (pid, tid) = own();
    let registers = Registers {
        ip: own as *const () as usize as u64,
        sp: 0,
        fp: None,
        lr: None,
        switches: Some(u64::MAX),
        stack: Some(crate::pipeline::registers::StackCopy {
            address: 0,
            bytes: Vec::new(),
        }),
    };
    let result = Stacks::new().read(pid, tid, &registers, Limits::default());
    assert!(
        matches!(result, Err(NativeError::Moved { .. })),
        "{result:?}"
    );
}

#[test]
fn registers_that_lead_nowhere_give_one_frame_and_the_reason() {
    let (pid, tid) = own();
    let nowhere = Registers {
        ip: 8,
        sp: 8,
        fp: Some(8),
        lr: None,
        switches: None,
        stack: None,
    };
    let stack = Stacks::new()
        .read(pid, tid, &nowhere, Limits::default())
        .unwrap();
    assert_eq!(stack.frames.len(), 1);
    assert!(stack.cut.is_some());
}

#[test]
fn context_switches_are_summed() {
    let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
    assert_eq!(switches_in(status), Some(10));
    assert_eq!(switches_in("voluntary_ctxt_switches:\t7\n"), None);
}
