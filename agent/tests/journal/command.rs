//! `loopwarden incidents` on a real journal.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use loopwarden::pipeline::IncidentId;

use super::writer::{closed, journal, opened};

/// Lasts 1 s.
const FIRST: IncidentId = IncidentId((0x0190_0000_0000 << 80) + 61_600);
/// Lasts 91 s.
const SECOND: IncidentId = IncidentId((0x0191_0000_0000 << 80) + 31_504);

fn incidents(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loopwarden"))
        .arg("incidents")
        .args(args)
        .output()
        .expect("loopwarden starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn filled(dir: &Path) {
    let (journal, _) = journal(dir, 1 << 20);
    for name in [FIRST, SECOND] {
        journal.sender().notice(&opened(name));
        journal.sender().notice(&closed(name));
    }
    journal.finish();
}

pub fn shows_and_filters() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().to_str().expect("a path");
    filled(home.path());
    let all = incidents(&["--dir", dir]);
    assert!(all.status.success());
    let table = text(&all.stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert!(
        rows.len() == 3 && rows[1].contains(&FIRST.to_string()),
        "{table}"
    );
    for (args, rows) in [
        (&["--min-duration", "2s"][..], 1),
        (&["--target", "web"], 2),
        (&["--target", "api"], 0),
        (&["--cause", "sleep"], 2),
        (&["--cause", "child_wait"], 0),
        (&["--since", "1h"], 2),
        (&["--limit", "1"], 1),
    ] {
        let output = incidents(&[&["--dir", dir, "--json"], args].concat());
        assert!(output.status.success(), "{args:?}");
        assert_eq!(text(&output.stdout).lines().count(), rows, "{args:?}");
    }
    let name = SECOND.to_string();
    let one = incidents(&["--dir", dir, "--json", &name[..8]]);
    let line: serde_json::Value = serde_json::from_slice(&one.stdout).expect("JSON");
    assert_eq!(line["incident"], name);
    assert_eq!(line["unfinished"], false);
    let written = incidents(&["--dir", dir, "--format", "markdown", &name]);
    assert!(text(&written.stdout).starts_with(&format!("# Incident {name}")));
    for (args, status, message) in [
        (
            &["--dir", dir, "01"][..],
            1,
            "2 incidents have ids that begin with",
        ),
        (&["--dir", dir, "7Z"], 1, "no incident's id begins with"),
        (
            &["--dir", "/nonexistent/journal"],
            1,
            "there is no journal in",
        ),
        (&["--config", "/nonexistent.yaml"], 2, "/nonexistent.yaml"),
        (&["--dir", dir, "--cause", "bad"], 2, "allowed: child_wait"),
    ] {
        let output = incidents(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        assert!(
            text(&output.stderr).contains(message),
            "{}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty());
    }
}

pub fn what_cannot_be_read_is_told() {
    let home = tempfile::tempdir().expect("a folder");
    filled(home.path());
    let entries = std::fs::read_dir(home.path()).expect("a folder");
    let file = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some())
        .expect("a file");
    let end = std::fs::metadata(&file).expect("a file").len();
    let mut damaged = std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .expect("a file");
    damaged
        .write_all(b"{\"type\":\"incident\",\"v\":9}\n\x1b[2J\0\0\n{\"type\":\"inc")
        .expect("written");
    let output = incidents(&["--dir", home.path().to_str().expect("a path")]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout).lines().count(), 3);
    let told = text(&output.stderr);
    let lines: Vec<&str> = told.lines().collect();
    let name = file.display();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(
        lines[0].starts_with(&format!(
            "loopwarden: {name}, byte {end}: a record of version 9"
        )),
        "{told}"
    );
    assert!(
        lines[1].contains("zero bytes") && lines[2].contains("half a line"),
        "{told}"
    );
    assert!(!told.contains('\u{1b}'));
}
