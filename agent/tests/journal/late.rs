//! A collector that is away, comes back or refuses, and agents that end meanwhile: every end of an incident is told once.

use std::collections::BTreeMap;
use std::path::Path;

use loopwarden::export::journal::read::read;
use loopwarden::pipeline::record::State;

use super::agent::Agent;
use super::collector::{Collector, End, Mood};
use super::export_support::{eventually, get, value};

/// The uids that the journal's records ask for, each once.
fn of_journal(dir: &Path) -> BTreeMap<String, usize> {
    let contents = read(dir).expect("a journal");
    let closed = contents
        .incidents
        .values()
        .filter(|record| record.state == State::Closed);
    closed
        .map(|record| (End::uid_of(record.incident), 1))
        .collect()
}

fn counted(ends: &[End]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for end in ends {
        *counts.entry(end.uid.clone()).or_default() += 1;
    }
    counts
}

fn late(ends: &[End]) -> usize {
    ends.iter().filter(|end| end.late).count()
}

/// The agent stays: what waited in its memory follows.
pub fn after_an_outage() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("journal");
    let mut collector = Collector::reserve();
    collector.listen(Mood::Away);
    let mut agent = Agent::start(&dir, &collector.url(), true);
    agent.tell("stall 5");
    collector.wait("it is tried again", |seen| seen.broken >= 2);
    collector.mood(Mood::Take);
    collector.wait("they follow", |seen| seen.ends.len() >= 5);
    agent.quit();
    let ends = nothing_but_one_more(&dir, &collector);
    assert_eq!((counted(&ends), late(&ends)), (of_journal(&dir), 0));
}

/// An agent that is started now has nothing to send but its own.
fn nothing_but_one_more(dir: &Path, collector: &Collector) -> Vec<End> {
    let before = collector.wait("anything", |_| true).len();
    let mut agent = Agent::start(dir, &collector.url(), true);
    agent.tell("stall 1");
    let more = |seen: &super::collector::Seen| seen.ends.len() > before;
    collector.wait("the next one", more);
    agent.quit();
    let ends = collector.wait("the next one", more);
    assert_eq!(ends.len(), before + 1);
    ends
}

/// The agent does not stay, nor does the next: what they did not get rid of comes from the journal.
pub fn after_a_restart() {
    for end in [Agent::kill, Agent::quit] {
        let home = tempfile::tempdir().expect("a folder");
        let dir = home.path().join("journal");
        let mut collector = Collector::reserve();
        for _ in 0..2 {
            let mut agent = Agent::start(&dir, &collector.url(), false);
            agent.tell("stall 70");
            end(agent);
        }
        collector.listen(Mood::Take);
        let agent = Agent::start(&dir, &collector.url(), true);
        collector.wait("they follow", |seen| seen.ends.len() >= 140);
        agent.quit();
        let ends = nothing_but_one_more(&dir, &collector);
        assert_eq!((counted(&ends), late(&ends)), (of_journal(&dir), 140));
    }
}

/// What it does not want is given up, counted, and never sent again.
pub fn a_collector_that_refuses() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("journal");
    let mut collector = Collector::reserve();
    let mut agent = Agent::start(&dir, &collector.url(), false);
    agent.tell("stall 5");
    agent.kill();
    collector.listen(Mood::Refuse);
    let agent = Agent::start(&dir, &collector.url(), true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let dropped = "loopwarden_agent_export_dropped_total{exporter=\"otlp_logs\"}";
    let shown = async || value(&get(&agent.page, "*/*").await.ok()?.1, dropped);
    runtime.block_on(eventually("given up", shown, |dropped| {
        dropped.is_some_and(|dropped| (dropped - 5.0).abs() < 0.5)
    }));
    collector.mood(Mood::Take);
    agent.quit();
    let ends = nothing_but_one_more(&dir, &collector);
    assert_eq!((ends.len(), late(&ends), collector.refused()), (1, 0, 1));
}

/// What does not fit into the exporters' memory takes the way over the journal.
pub fn more_than_the_exporters_hold() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("journal");
    let mut collector = Collector::reserve();
    collector.listen(Mood::Take);
    let mut agent = Agent::start(&dir, &collector.url(), true);
    agent.tell("burst 3000");
    collector.wait("all of them", |seen| seen.ends.len() >= 3000);
    agent.quit();
    let ends = nothing_but_one_more(&dir, &collector);
    assert_eq!(counted(&ends), of_journal(&dir));
    // The exporters hold 4096 notices, two of an incident.
    assert!(late(&ends) >= 3000 - 2048, "{}", late(&ends));
}
