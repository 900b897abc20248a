//! Stacks of real Python processes, asked for through the real helper.

#[path = "evidence_support/mod.rs"]
mod support;

use support::{Script, ask_stack, helper};

#[test]
fn a_sleep_in_a_coroutine_is_named_with_its_line() {
    let script = Script::start(
        "import asyncio, time
async def inner():
    ready(os.getpid())
    time.sleep(1000)  # here
async def outer():
    await inner()
asyncio.run(outer())
",
    );
    assert_eq!(script.words, [script.pid().to_string()]);
    let mut helper = helper();
    let found = ask_stack(&mut helper, script.pid(), script.pid());
    script.assert_innermost(&found, "inner");
    let functions: Vec<_> = found
        .stack
        .frames
        .iter()
        .map(|f| f.function.as_str())
        .collect();
    assert_eq!(functions[..2], ["inner", "outer"], "{functions:?}");
    assert!(functions.contains(&"<module>"), "{functions:?}");
}
