//! JavaScript on native stacks: Node with a perf map names the functions of its compiled code.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use loopwarden::evidence::native::NativeStack;
use tempfile::TempDir;

use super::Case;
use super::stacks::read_until;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("javascript::computing", computing),
        Case::new("javascript::waiting_for_a_child", waiting_for_a_child),
    ]
}

/// A script that calls outer → middle → inner from a timer, as a server would from an event.
fn script(work: &str) -> String {
    format!(
        "const {{ execSync }} = require('child_process')\n\
         function inner() {{\n  {work}\n}}\n\
         function middle() {{ inner() }}\n\
         function outer() {{ middle() }}\n\
         setTimeout(outer, 1)\n"
    )
}

/// Where `inner` begins in it.
const INNER_LINE: u32 = 2;

/// A running Node; it ends with the test.
struct Node {
    child: Child,
    /// Node writes its own logs where it runs.
    folder: TempDir,
}

impl Node {
    fn start(options: &[&str], work: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("server.js");
        std::fs::write(&path, script(work))?;
        let child = Command::new("node")
            .args(options)
            .arg(&path)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start node")?;
        Ok(Self { child, folder })
    }

    /// The line of the innermost frame of a function, and that it is in the script.
    fn line_of(&self, function: &str, stack: &NativeStack) -> Result<Option<u32>> {
        let frame = stack.frames.iter().find(|frame| frame.function == function);
        let frame = frame.with_context(|| format!("no {function}: {stack:?}"))?;
        let path = self.folder.path().join("server.js");
        ensure!(
            frame.file.as_deref() == path.to_str(),
            "another file: {frame:?}"
        );
        Ok(frame.line)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let map = PathBuf::from(format!("/tmp/perf-{}.map", self.child.id()));
        let _ = std::fs::remove_file(map);
    }
}

/// Whether the functions follow each other, nothing between them.
fn has(stack: &NativeStack, functions: &[&str]) -> bool {
    let named: Vec<&str> = stack
        .frames
        .iter()
        .map(|frame| frame.function.as_str())
        .collect();
    named
        .windows(functions.len())
        .any(|window| window == functions)
}

fn computing() -> Result<()> {
    let node = Node::start(
        &["--perf-basic-prof"],
        "for (let i = 0; ; i = (i + 1) % 1000) {}",
    )?;
    // Until it is compiled, it runs in the interpreter, which has one name for all functions.
    let stack = read_until(
        node.child.id(),
        |_| Ok(true),
        |stack| has(stack, &["inner"]),
    )?;
    ensure!(
        node.line_of("inner", &stack)? == Some(INNER_LINE),
        "{stack:?}"
    );
    ensure!(has(&stack, &["node::Start(int, char**)"]), "{stack:?}");
    Ok(())
}

fn waiting_for_a_child() -> Result<()> {
    // The second option gives each interpreted function a copy of the interpreter's entry, and so a name.
    let options = ["--perf-basic-prof", "--interpreted-frames-native-stack"];
    // It reads Node's input, and so ends with it.
    let work = "execSync('cat', { stdio: ['inherit', 'pipe', 'pipe'] })";
    let node = Node::start(&options, work)?;
    let blocked = |stack: &NativeStack| has(stack, &["execSync", "inner"]);
    let stack = read_until(node.child.id(), |_| Ok(true), blocked)?;
    ensure!(has(&stack, &["inner", "middle", "outer"]), "{stack:?}");
    ensure!(
        node.line_of("inner", &stack)? == Some(INNER_LINE),
        "{stack:?}"
    );
    Ok(())
}
