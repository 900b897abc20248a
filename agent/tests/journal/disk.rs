//! A disk that is full, and a folder that is another's.

use std::time::Duration;

use loopwarden::export::journal::read::read;
use loopwarden::pipeline::IncidentId;

use super::writer::{closed, journal, opened};

/// Waits, generously, until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within a minute");
}

/// Takes the mount away, also when the test fails.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = std::process::Command::new("umount").arg(&self.0).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.0.display());
        }
    }
}

/// A file system of a few pages: what does not fit waits, and what was written before stays whole.
pub fn a_full_disk() {
    let home = tempfile::tempdir().expect("a folder");
    let mount = home.path().join("small");
    std::fs::create_dir(&mount).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "none"])
        .arg(&mount)
        .status()
        .expect("mount starts");
    if !mounted.success() {
        // Without the right to mount, RLIMIT_FSIZE or quotas would be other errors than a full disk.
        assert!(
            !rustix::process::geteuid().is_root() || std::env::var_os("LOOPWARDEN_CI").is_none()
        );
        println!("left out: a tmpfs cannot be mounted here");
        return;
    }
    let _mounted = Mounted(mount.clone());
    let (journal, state) = journal(&mount.join("journal"), 1 << 30);
    let sender = journal.sender();
    for name in 1..400u128 {
        sender.notice(&opened(IncidentId(name)));
        sender.notice(&closed(IncidentId(name)));
    }
    until("the disk is full", || state.broken().is_some());
    let told = state.broken().expect("an error");
    assert!(told.contains("No space left"), "{told}");
    let contents = read(&mount.join("journal")).expect("a journal");
    assert_eq!(contents.problems, []);
    assert!(contents.incidents.len() > 10);
    journal.finish();
    assert!(state.lost() > 0);
}

/// The second agent says so and waits; when the first has ended, what waited follows.
pub fn two_agents() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("journal");
    let (first, first_state) = journal(&dir, 1 << 20);
    first.sender().notice(&opened(IncidentId(1)));
    first.sender().notice(&closed(IncidentId(1)));
    until("the first writes", || first_state.written() == 1);
    let (second, second_state) = journal(&dir, 1 << 20);
    until("the second is refused", || second_state.broken().is_some());
    let told = second_state.broken().expect("an error");
    assert!(told.contains("another agent (pid"), "{told}");
    second.sender().notice(&opened(IncidentId(2)));
    second.sender().notice(&closed(IncidentId(2)));
    first.finish();
    until("the second writes", || second_state.written() == 1);
    until("the second is well", || second_state.broken().is_none());
    second.finish();
    let contents = read(&dir).expect("a journal");
    assert_eq!(contents.incidents.len(), 2);
    assert_eq!(contents.problems, []);
}
