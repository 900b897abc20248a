//! Startup races: in the table, and each as a document.

use super::render::Block;
use super::words::{Style, process, span};
use crate::pipeline::engines::record::RaceRecord;

/// In the column of outcomes.
pub(super) fn outcome(race: &RaceRecord) -> &'static str {
    match race.port {
        Some(_) => "engine listens",
        None => "engine ended",
    }
}

/// In the column of causes.
pub(super) fn cause(race: &RaceRecord) -> String {
    format!("startup_race, {} refused", race.refused)
}

/// The document of a record.
pub(super) fn report(race: &RaceRecord, style: Style) -> Vec<Block> {
    let who = &race.who;
    let engine = process(style, &race.exe, race.engine);
    let (time, over) = (race.began.to_string(), race.ended.to_string());
    let end = match race.port {
        Some(port) => format!("{engine} listened on port {port}"),
        None => format!("{engine} ended, which had never listened"),
    };
    let mut facts = vec![
        format!("{} connections were refused", race.refused),
        format!("from {} to {} UTC", &time[11..23], &over[11..23]),
        format!("generation {} of its engines", race.generation),
    ];
    if let Some(startup) = race.startup {
        facts.push(format!("it listened {} after its start", span(startup)));
    }
    vec![
        Block::Title(format!(
            "Incident {}: {} was refused for {} before its engine listened",
            race.incident,
            style.name(&who.exe),
            span(race.lasted)
        )),
        Block::Text(format!(
            "On {} at {} UTC connections of {} of the target {} to its engine began to be refused: {} in {}, until {end}. What ran \
             then and needed the engine has failed, and may have lost its data.",
            &time[..10],
            &time[11..23],
            process(style, &who.exe, who.pid),
            style.name(&who.target),
            race.refused,
            span(race.lasted)
        )),
        Block::List(facts),
    ]
}
