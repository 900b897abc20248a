//! News of engines as the lines tell them: JSON for programs, words for people.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::pipeline::engines::{EngineNews, EngineReady, EngineView, StartupRace};
use crate::pipeline::stamp::millis;

/// Type and fields of its line, if it has one.
pub(super) fn line(news: &EngineNews) -> Option<(&'static str, Map<String, Value>)> {
    let mut fields = Map::new();
    let kind = match news {
        EngineNews::Spawned(engine) => about(&mut fields, "spawned", engine),
        EngineNews::Found(engine) => about(&mut fields, "found", engine),
        EngineNews::Listening {
            engine,
            port,
            after,
            refused,
        } => {
            fields.insert("port".into(), json!(port));
            insert(&mut fields, "after_ms", after.map(millis::of));
            insert(&mut fields, "refused", *refused);
            about(&mut fields, "listening", engine)
        }
        EngineNews::Accepting { engine, after } => {
            insert(&mut fields, "after_ms", after.map(millis::of));
            about(&mut fields, "accepting", engine)
        }
        EngineNews::Ended {
            engine,
            why,
            status,
            lived,
        } => {
            fields.insert("reason".into(), json!(why));
            insert(&mut fields, "status", *status);
            insert(&mut fields, "after_ms", lived.map(millis::of));
            about(&mut fields, "ended", engine)
        }
        EngineNews::Zombies { count, oldest } => {
            fields.insert("event".into(), json!("zombies"));
            fields.insert("zombies".into(), json!(count));
            insert(&mut fields, "engine", oldest.map(|(engine, _)| engine));
            insert(&mut fields, "parent", oldest.map(|(_, parent)| parent));
            "engine"
        }
        EngineNews::Ready(ready) => {
            fields.insert("ready".into(), json!(ready.name()));
            if let EngineReady::Starting { refused, .. } = ready {
                insert(&mut fields, "refused", *refused);
            }
            "engine_ready"
        }
        EngineNews::Recovered { after } => {
            fields.insert("after_ms".into(), json!(millis::of(*after)));
            "recovery"
        }
        EngineNews::StartupRace(race) => {
            fields.insert("incident".into(), json!(race.incident));
            fields.insert("refused".into(), json!(race.refused));
            fields.insert("lasted_ms".into(), json!(millis::of(race.lasted)));
            insert(&mut fields, "port", race.port);
            insert(&mut fields, "startup_ms", race.startup.map(millis::of));
            name(&mut fields, &race.engine);
            "startup_race"
        }
        EngineNews::Connects { .. } => return None,
    };
    Some((kind, fields))
}

fn about(fields: &mut Map<String, Value>, event: &str, engine: &EngineView) -> &'static str {
    fields.insert("event".into(), json!(event));
    name(fields, engine);
    "engine"
}

fn name(fields: &mut Map<String, Value>, engine: &EngineView) {
    fields.insert("engine".into(), json!(engine.pid));
    fields.insert("exe".into(), json!(engine.exe));
    fields.insert("generation".into(), json!(engine.generation));
}

fn insert(fields: &mut Map<String, Value>, name: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value {
        fields.insert(name.into(), json!(value));
    }
}

/// In words, after the name of the loop; nothing where people need not read it.
pub(super) fn text(news: &EngineNews) -> Option<String> {
    Some(match news {
        EngineNews::Spawned(engine) => format!("started {}", who(engine)),
        EngineNews::Found(engine) => format!("has {}, which was there before", who(engine)),
        EngineNews::Listening {
            engine,
            port,
            after,
            refused,
        } => {
            let refused = refused.filter(|refused| *refused > 0);
            let refused = refused.map_or_else(String::new, |refused| {
                format!("; {} refused before", connections(refused))
            });
            format!(
                "has {} listening on port {port}{}{refused}",
                who(engine),
                since(*after)
            )
        }
        EngineNews::Accepting { engine, after } => {
            format!("has {} accepting connections{}", who(engine), since(*after))
        }
        EngineNews::Ended {
            engine, why, lived, ..
        } => {
            let lived = lived.map_or_else(String::new, |lived| format!(" after {}", span(lived)));
            format!("lost {}{lived}: {}", who(engine), why.name())
        }
        EngineNews::Zombies { count: 0, .. } => "has no engines left that are not reaped".into(),
        EngineNews::Zombies { count, oldest } => {
            let oldest = oldest.map_or_else(String::new, |(engine, parent)| {
                format!(", {engine} for longest, which process {parent} should reap")
            });
            let plural = if *count == 1 {
                "engine that has"
            } else {
                "engines that have"
            };
            format!("has {count} {plural} ended and not been reaped{oldest}")
        }
        EngineNews::Ready(EngineReady::Starting { refused, .. }) => {
            let refused = refused.filter(|refused| *refused > 0);
            let refused = refused.map_or_else(String::new, |refused| {
                format!("; {} refused so far", connections(refused))
            });
            format!("has no engine that accepts yet{refused}")
        }
        EngineNews::Ready(EngineReady::Unknown) => {
            "may have an engine that accepts: nothing tells".into()
        }
        EngineNews::Recovered { after } => {
            format!(
                "RECOVERED: a new engine accepts {} after the rescue",
                span(*after)
            )
        }
        EngineNews::StartupRace(race) => race_text(race),
        // What an engine does is told by itself.
        EngineNews::Ready(EngineReady::Accepts) | EngineNews::Connects { .. } => return None,
    })
}

/// The incident in a sentence, without the loop's name.
pub(super) fn race_text(race: &StartupRace) -> String {
    let end = match race.port {
        Some(_) => "before the engine listened",
        None => "until the engine ended, which never listened",
    };
    format!(
        "STARTUP RACE: {} refused in {} {end}: what ran then has lost its data",
        connections(race.refused),
        span(race.lasted)
    )
}

fn connections(count: u64) -> String {
    if count == 1 {
        "1 connection".to_owned()
    } else {
        format!("{count} connections")
    }
}

fn who(engine: &EngineView) -> String {
    format!(
        "engine {}[{}] (generation {})",
        engine.exe, engine.pid, engine.generation
    )
}

fn since(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |after| {
        format!(" {} after its start", span(after))
    })
}

/// A span as a person says it.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{:.1} ms", span.as_secs_f64() * 1000.0),
        1..60 => format!("{:.2} s", span.as_secs_f64()),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{IncidentId, Mono, Pid};

    #[test]
    fn the_incident_says_how_many_and_how_long() {
        let mut race = StartupRace {
            incident: IncidentId(1),
            engine: EngineView {
                pid: Pid(9),
                exe: "query-engine".into(),
                generation: 1,
            },
            began: Mono(1),
            lasted: Duration::from_secs(312),
            refused: 312,
            port: Some(4466),
            startup: Some(Duration::from_secs(313)),
        };
        assert_eq!(
            race_text(&race),
            "STARTUP RACE: 312 connections refused in 5 min 12 s before the engine listened: what ran then has lost its data"
        );
        race.port = None;
        race.refused = 1;
        assert!(
            race_text(&race).contains("1 connection refused in 5 min 12 s until the engine ended")
        );
        let (kind, fields) = line(&EngineNews::StartupRace(Box::new(race))).unwrap();
        assert_eq!(kind, "startup_race");
        assert_eq!(fields["lasted_ms"], json!(312_000.0));
        assert!(!fields.contains_key("port"));
    }
}
