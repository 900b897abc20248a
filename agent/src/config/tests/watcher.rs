//! Changes of a file as editors, scripts and the kubelet make them.

use super::*;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const STALL_50: &str = "targets: [ { preset: litellm, stall_after: 50ms } ]";
const STALL_70: &str = "targets: [ { preset: litellm, stall_after: 70ms } ]";
const BAD: &str = "mode: kill";

/// Generous: a busy machine may take its time, a lost event never comes.
const PATIENCE: Duration = Duration::from_secs(30);

fn watch(path: &Path) -> (ConfigWatcher, Receiver<Reload>) {
    let mut source = Source::new(Some(path.to_owned()), None);
    let current = source
        .load()
        .unwrap_or_else(|_| Config::built_in(None).unwrap());
    let (sender, receiver) = channel();
    let watcher = ConfigWatcher::start(source, current, move |reload| {
        let _ = sender.send(reload);
    });
    (watcher.unwrap(), receiver)
}

#[track_caller]
fn expect_stall_after(receiver: &Receiver<Reload>, text: &str) {
    match receiver.recv_timeout(PATIENCE).unwrap() {
        Reload::Changed { config, changes } => {
            assert!(
                config.to_yaml().contains(&format!("stall_after: {text}")),
                "{changes:?}"
            );
            assert!(
                changes
                    .iter()
                    .any(|line| line.ends_with(&format!("-> {text}"))),
                "{changes:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_written_in_place_and_one_renamed_over_it_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "{}").unwrap();
    let (_watcher, receiver) = watch(&file);
    // Another file of the directory changes nothing: the first message is about ours.
    std::fs::write(dir.path().join("other"), BAD).unwrap();
    std::fs::write(&file, STALL_50).unwrap();
    expect_stall_after(&receiver, "50ms");
    std::fs::write(dir.path().join(".tmp"), STALL_70).unwrap();
    std::fs::rename(dir.path().join(".tmp"), &file).unwrap();
    expect_stall_after(&receiver, "70ms");
}

#[test]
fn the_swap_of_a_configmap_is_noticed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let generation = |name: &str, text: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("c.yaml"), text).unwrap();
        symlink(name, dir.path().join("..data_tmp")).unwrap();
        std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    generation("..1", "{}");
    symlink("..data/c.yaml", dir.path().join("c.yaml")).unwrap();
    let (_watcher, receiver) = watch(&dir.path().join("c.yaml"));
    generation("..2", STALL_50);
    std::fs::remove_dir_all(dir.path().join("..1")).unwrap();
    expect_stall_after(&receiver, "50ms");
    generation("..3", STALL_70);
    std::fs::remove_dir_all(dir.path().join("..2")).unwrap();
    expect_stall_after(&receiver, "70ms");
}

#[test]
fn a_bad_file_is_told_and_its_mending_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "{}").unwrap();
    let (watcher, receiver) = watch(&file);
    std::fs::write(&file, BAD).unwrap();
    match receiver.recv_timeout(PATIENCE).unwrap() {
        Reload::Rejected(error) => {
            assert!(error.to_string().contains("c.yaml:1:7: mode"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(&file, "{}").unwrap();
    assert!(matches!(
        receiver.recv_timeout(PATIENCE),
        Ok(Reload::Unchanged)
    ));
    watcher.reload_now();
    assert!(matches!(
        receiver.recv_timeout(PATIENCE),
        Ok(Reload::Unchanged)
    ));
    drop(watcher);
    assert!(
        receiver.recv().is_err(),
        "the thread has ended and told nothing more"
    );
}

#[test]
fn a_file_whose_folder_comes_later_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a/b/c.yaml");
    let (_watcher, receiver) = watch(&file);
    assert!(matches!(
        receiver.recv_timeout(PATIENCE),
        Ok(Reload::Rejected(ConfigError::Unreadable { .. }))
    ));
    std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
    std::fs::write(&file, STALL_50).unwrap();
    expect_stall_after(&receiver, "50ms");
}

#[test]
fn a_change_before_the_start_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, STALL_50).unwrap();
    let (sender, receiver) = channel();
    let source = Source::new(Some(file), None);
    let _watcher = ConfigWatcher::start(source, Config::built_in(None).unwrap(), move |reload| {
        let _ = sender.send(reload);
    });
    expect_stall_after(&receiver, "50ms");
}

#[test]
fn the_same_bad_file_is_told_once_unless_somebody_asks() {
    let bad = || Config::parse(BAD, "f", None);
    let good = || Config::built_in(None);
    let mut judge = Judge {
        current: good().unwrap(),
        rejected: None,
    };
    assert!(judge.judge(good(), false).is_none());
    assert!(matches!(
        judge.judge(bad(), false),
        Some(Reload::Rejected(_))
    ));
    assert!(judge.judge(bad(), false).is_none());
    assert!(matches!(
        judge.judge(bad(), true),
        Some(Reload::Rejected(_))
    ));
    assert!(matches!(
        judge.judge(good(), false),
        Some(Reload::Unchanged)
    ));
    assert!(judge.judge(good(), false).is_none());
}

#[test]
fn it_can_be_dropped_at_any_moment_of_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "{}").unwrap();
    let (sender, dropped) = channel();
    std::thread::spawn(move || {
        // A change takes it 100 ms, and its beginning counts as one.
        for wait_ms in (0..150).step_by(10) {
            let (watcher, _receiver) = watch(&file);
            std::thread::sleep(Duration::from_millis(wait_ms));
            drop(watcher);
            let _ = sender.send(wait_ms);
        }
    });
    for wait_ms in (0..150).step_by(10) {
        assert_eq!(dropped.recv_timeout(PATIENCE), Ok(wait_ms));
    }
}
