//! `loopwarden incidents`: reads the journal and shows it.
//!
//! Reads only, and may run beside the agent. `select` chooses, `list` makes the table, `report` turns one record into paragraphs
//! and tables, which `render` writes as text or Markdown. Names in a record come from processes that may be hostile: everything
//! that is shown goes through `words`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::config::{Source, duration};
use crate::export::journal::Aggregate;
use crate::export::journal::read::{Contents, read};
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::record::IncidentRecord;
use crate::pipeline::stamp::Stamp;

mod list;
mod questions;
mod race;
mod render;
mod report;
mod select;
mod why;
mod words;

use select::Select;
use words::Style;

/// Show the incidents of the journal, or one of them in full.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show this one in full; the beginning of its id is enough if only one begins so
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// One JSON object a line (the same as --format json)
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to show: a table or the whole story, JSON lines, or a post-mortem
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Only those noticed within this time
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    since: Option<Duration>,
    /// Only those of this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only those of this pod: NAMESPACE/NAME, or its name alone
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only those with this cause, such as `child_wait`
    #[arg(long, value_name = "KIND", value_parser = select::kind)]
    cause: Option<crate::pipeline::CauseKind>,
    /// Only those in which the loop was away for so long
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    min_duration: Option<Duration>,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Folder of the journal, or one file of it; without it the one of the configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// Configuration file that names the journal
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a person
    Text,
    /// For a program
    Json,
    /// For a post-mortem
    Markdown,
}

/// Runs the command; the value is the exit status.
pub fn run(args: Args) -> Result<u8> {
    let dir = match args.dir {
        Some(dir) => dir,
        None => match Source::new(args.config, None).load() {
            Ok(config) => config.journal.dir,
            Err(error) => {
                eprintln!("loopwarden: {error}");
                return Ok(2);
            }
        },
    };
    if let Err(error) = std::fs::metadata(&dir)
        && error.kind() == io::ErrorKind::NotFound
    {
        bail!(
            "there is no journal in {}: `loopwarden run` keeps one in the folder that `journal.dir` names; give that folder with \
             --dir, or its configuration with --config",
            dir.display()
        );
    }
    let contents = read(&dir).with_context(|| {
        format!(
            "cannot read the journal in {}; only root may, unless it was kept by somebody else",
            dir.display()
        )
    })?;
    for problem in &contents.problems {
        eprintln!(
            "loopwarden: {}, byte {}: {}; passed over",
            words::clean(&problem.file.to_string_lossy()),
            problem.offset,
            words::clean(&problem.what)
        );
    }
    let format = if args.json { Format::Json } else { args.format };
    let select = Select {
        after: args.since.map(|span| now().minus(span)),
        target: args.target,
        pod: args.pod,
        cause: args.cause,
        min_duration: args.min_duration,
        limit: args.limit,
    };
    let text = match &args.id {
        Some(id) => match select::race(&contents, id) {
            Some(race) => one_race(race, format)?,
            None => one(&contents, select::by_id(&contents.incidents, id)?, format)?,
        },
        None => all(&contents, &select, format)?,
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        written => written.map(|()| 0).context("cannot write to stdout"),
    }
}

fn one(contents: &Contents, record: &IncidentRecord, format: Format) -> Result<String> {
    let unfinished = contents.unfinished(record);
    Ok(match format {
        Format::Json => json_line(record, unfinished)?,
        Format::Text => render::text(&report::report(record, unfinished, Style::Text)),
        Format::Markdown => render::markdown(&report::report(record, unfinished, Style::Markdown)),
    })
}

fn one_race(record: &RaceRecord, format: Format) -> Result<String> {
    Ok(match format {
        Format::Json => race_line(record)?,
        Format::Text => render::text(&race::report(record, Style::Text)),
        Format::Markdown => render::markdown(&race::report(record, Style::Markdown)),
    })
}

fn race_line(record: &RaceRecord) -> Result<String> {
    let mut line = serde_json::to_value(record).context("cannot write the record as JSON")?;
    line["type"] = "startup_race".into();
    Ok(format!("{line}\n"))
}

fn all(contents: &Contents, select: &Select, format: Format) -> Result<String> {
    let records = select.records(&contents.incidents);
    let races = select.races(&contents.races);
    let counts: Vec<&Aggregate> = select.counts(&contents.aggregates);
    let mut text = String::new();
    match format {
        Format::Json => {
            for record in records {
                text += &json_line(record, contents.unfinished(record))?;
            }
            for race in races {
                text += &race_line(race)?;
            }
            for sum in counts {
                let mut line = json!(sum);
                line["type"] = "aggregate".into();
                let _ = writeln!(text, "{line}");
            }
        }
        Format::Text => text = list::list(contents, &records, &races, &counts),
        Format::Markdown => {
            for record in records {
                let unfinished = contents.unfinished(record);
                text += &render::markdown(&report::report(record, unfinished, Style::Markdown));
                text += "\n";
            }
            for race in races {
                text += &render::markdown(&race::report(race, Style::Markdown));
                text += "\n";
            }
        }
    }
    Ok(text)
}

fn json_line(record: &IncidentRecord, unfinished: bool) -> Result<String> {
    let mut line = serde_json::to_value(record).context("cannot write the record as JSON")?;
    line["type"] = "incident".into();
    line["unfinished"] = unfinished.into();
    Ok(format!("{line}\n"))
}

fn now() -> Stamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "`--since` counts from now; nothing is decided by it"
    )]
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Stamp(u64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(u64::MAX))
}
