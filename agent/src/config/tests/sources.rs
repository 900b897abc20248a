//! Where a configuration comes from, and files that are none.

use std::path::PathBuf;

use crate::config::{Config, Source};

/// The message for `file`, without the temporary directory.
fn refused(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, bytes).unwrap();
    let error = Source::new(Some(file), None)
        .load()
        .unwrap_err()
        .to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn files_that_are_no_configuration_are_refused_without_being_swallowed() {
    for (bytes, message) in [
        (
            b"mode: x\n# \xff\n".to_vec(),
            "DIR/c.yaml: is not UTF-8 (line 2, byte 10 of the file); save it as UTF-8",
        ),
        (
            vec![b'#'; 10 << 20],
            "DIR/c.yaml: is larger than 1 MiB; is it a configuration file?",
        ),
        (
            Vec::new(),
            "DIR/c.yaml: the file is empty; write {} for the defaults",
        ),
        (
            b"mode: kill".to_vec(),
            "DIR/c.yaml:1:7: mode: \"kill\" is none of these; allowed: observe or enforce",
        ),
    ] {
        assert_eq!(refused(&bytes), message);
    }
    assert!(
        refused(&[0; 4096]).starts_with("DIR/c.yaml:1:1:"),
        "{}",
        refused(&[0; 4096])
    );
    assert!(
        refused(b"\xef\xbb\xbfmode: kill").starts_with("DIR/c.yaml:1:"),
        "a byte-order mark is no mistake"
    );
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for path in [dir.path().to_owned(), PathBuf::from("/dev/zero"), pipe] {
        let error = Source::new(Some(path), None)
            .load()
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("is no regular file; give the path of a YAML file"),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let error = Source::new(Some("/nonexistent/c.yaml".into()), None)
        .load()
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "/nonexistent/c.yaml: cannot be opened: No such file or directory (os error 2)"
    );
}

#[test]
fn the_default_file_counts_from_the_moment_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let mut source = Source::at(file.clone(), None);
    assert_eq!(source.load(), Config::built_in(None));
    assert!(
        source.describe().starts_with("built-in configuration"),
        "{}",
        source.describe()
    );
    std::fs::write(&file, "mode: enforce").unwrap();
    assert_eq!(source.load().unwrap().mode.name(), "enforce");
    assert_eq!(source.describe(), file.display().to_string());
    std::fs::remove_file(&file).unwrap();
    assert!(
        source.load().is_err(),
        "a file that vanishes must not mean the defaults"
    );
}
