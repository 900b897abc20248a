//! What replay takes of a record.

use super::Incident;
use crate::pipeline::CauseKind;
use crate::pipeline::ids::Mono;
use crate::pipeline::notice::EndedBy;
use crate::pipeline::record::{IncidentRecord, State};

impl From<&IncidentRecord> for Incident {
    fn from(record: &IncidentRecord) -> Self {
        let outcome = record.outcome;
        let since = record.began_mono_ns;
        Self {
            id: record.incident.to_string(),
            began: record.began,
            pid: record.who.pid,
            target: record.who.target.clone(),
            exe: record.who.exe.clone(),
            cause: record.cause.kind,
            since,
            end: since.plus(record.busy()),
            ended_by: outcome.map_or(EndedBy::Detached, |end| end.ended_by),
            is_lower_bound: record.began_earlier,
            settings: record.settings,
            episodes: record.episodes.clone(),
            unreplayable: unreplayable(record),
        }
        .exact()
    }
}

impl Incident {
    /// Spans of a record are whole microseconds, moments of its stories are exact: an end must not lie before what it ends.
    fn exact(mut self) -> Self {
        let last = self.episodes.iter().filter_map(|story| story.over).max();
        if let Some(last) = last
            && last > self.end
            && last.since(self.end).as_micros() < 2
        {
            self.end = Mono(last.0);
        }
        self
    }
}

fn unreplayable(record: &IncidentRecord) -> Option<String> {
    if record.state == State::Open || record.outcome.is_none() {
        return Some(
            "not finished when it was recorded: it lasted still, or the agent ended first".into(),
        );
    }
    // Without a story nothing is known but what was done.
    let about_a_child = record.cause.kind == CauseKind::ChildWait || !record.actions.is_empty();
    if about_a_child && record.episodes.is_empty() {
        return Some(
            "recorded without what the policy saw of the wait, as versions before `replay` did"
                .into(),
        );
    }
    None
}
