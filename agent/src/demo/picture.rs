//! The timeline of both servers as text. Pure: stories in, lines out.
//!
//! It must never write anything or read a clock; `screen` puts the lines on a terminal. Every mark is told by its shape as
//! well as by its colour.

use std::time::Duration;

use anstyle::Style;

use super::happening::{GuardNote, Happening, Outcome, Side};
use super::kubelet::Verdict;
use super::story::{Condition, Request, Story};
use super::text::{BAD, FAINT, FAIR, GOOD, GUARD, Line, Mark, PLAIN, STRONG, place, runs};
use crate::pipeline::Mono;

/// An answer slower than this is drawn as late.
const LATE: Duration = Duration::from_millis(100);
/// Columns left of the timeline.
const MARGIN: usize = 13;
/// Lengths a cell may stand for.
const CELLS_MS: [u64; 7] = [100, 200, 250, 500, 1000, 2000, 5000];

/// The characters to draw with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glyphs {
    fast: char,
    late: char,
    none: char,
    dead: char,
    passed: char,
    failed: char,
    runs: char,
    waits: char,
    here: char,
    tick: char,
}

impl Glyphs {
    /// For terminals that show UTF-8.
    pub(super) const UNICODE: Self = Self {
        fast: '█',
        late: '▒',
        none: '·',
        dead: '×',
        passed: '✓',
        failed: '✗',
        runs: '─',
        waits: '━',
        here: '▲',
        tick: '╵',
    };
    /// For all others.
    pub(super) const ASCII: Self = Self {
        fast: '#',
        late: '+',
        none: '.',
        dead: 'x',
        passed: 'o',
        failed: 'X',
        runs: '-',
        waits: '=',
        here: '^',
        tick: '|',
    };
}

/// How time maps to columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// The left edge.
    start: Mono,
    cell: Duration,
    cells: usize,
    /// Columns for words, which may go on where the timeline has ended.
    room: usize,
}

impl Scale {
    /// The finest that shows `total` from `start` in `columns`.
    pub(super) fn fit(start: Mono, total: Duration, columns: usize) -> Self {
        let room = columns.saturating_sub(MARGIN + 1).max(10);
        let fits = |ms: &&u64| total.as_millis().div_ceil(u128::from(**ms)) <= room as u128;
        let ms = CELLS_MS
            .iter()
            .find(fits)
            .unwrap_or(&CELLS_MS[CELLS_MS.len() - 1]);
        // No wider than needed, with a second to spare for what takes a little longer.
        let needed = (total + Duration::from_secs(1))
            .as_millis()
            .div_ceil(u128::from(*ms));
        let cells = usize::try_from(needed).map_or(room, |needed| needed.min(room));
        Self {
            start,
            cell: Duration::from_millis(*ms),
            cells,
            room,
        }
    }

    fn column(&self, at: Mono) -> usize {
        usize::try_from(at.since(self.start).as_nanos() / self.cell.as_nanos())
            .unwrap_or(usize::MAX)
    }
}

/// Both stories, as they stand at `now`.
pub(super) fn draw<'a>(
    stories: impl Iterator<Item = &'a Story>,
    scale: &Scale,
    glyphs: &Glyphs,
    now: Mono,
) -> Vec<Line> {
    let mut lines = vec![ruler(scale, glyphs)];
    for story in stories {
        lines.push(Vec::new());
        lines.push(heading(story, now));
        lines.push(row("liveliness", strip(story, scale, glyphs, now)));
        lines.push(row(
            "kubelet",
            place(&kubelet_marks(story, scale, glyphs), scale.cells),
        ));
        lines.push(row("event loop", loop_line(story, scale, glyphs, now)));
        if story.side == Side::Protected {
            lines.push(row(
                "loopwarden",
                place(&guard_marks(story, scale, glyphs), scale.room),
            ));
        }
    }
    lines.push(Vec::new());
    lines.push(legend(glyphs));
    lines
}

fn row(name: &str, mut content: Line) -> Line {
    content.insert(0, (FAINT, format!(" {name:<width$}", width = MARGIN - 1)));
    content
}

fn ruler(scale: &Scale, glyphs: &Glyphs) -> Line {
    let seconds = |every: u64| Duration::from_secs(every).as_millis() / scale.cell.as_millis();
    let every = [1, 2, 5, 10, 20, 60]
        .into_iter()
        .find(|&every| seconds(every) >= 6)
        .unwrap_or(60);
    let marks = (0..)
        .step_by(usize::try_from(every).unwrap_or(1))
        .map_while(|second| {
            let column = scale.column(scale.start.plus(Duration::from_secs(second)));
            let unit = if second == 0 { " s" } else { "" };
            let text = format!("{}{second}{unit}", glyphs.tick);
            (column + text.chars().count() <= scale.cells).then_some((column, (FAINT, text)))
        });
    row("", place(&marks.collect::<Vec<_>>(), scale.cells))
}

fn heading(story: &Story, now: Mono) -> Line {
    let (name, style) = match story.side {
        Side::Unprotected => ("UNPROTECTED", STRONG),
        Side::Protected => ("PROTECTED", GUARD),
    };
    let place = format!("pid {}, 127.0.0.1:{}   ", story.pid, story.port);
    let condition = match story.condition() {
        Condition::Answering => (GOOD, "answering".to_owned()),
        Condition::Frozen { engine } => {
            let seconds = story.blocked_now(now).as_secs_f64();
            (
                BAD.bold(),
                format!("FROZEN for {seconds:.1} s in wait4({engine})"),
            )
        }
        Condition::Down => (BAD, "killed; the container is being restarted".to_owned()),
    };
    vec![
        (style, format!(" {name:<width$}", width = MARGIN - 1)),
        (FAINT, place),
        condition,
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Fast,
    Late,
    None,
    Dead,
}

/// What a request says about the moment at which it was sent; nothing yet if it may still be answered in time.
fn judge(request: &Request, now: Mono) -> Option<Cell> {
    match request.end {
        Some((end, Outcome::Answered)) if end.since(request.sent) > LATE => Some(Cell::Late),
        Some((_, Outcome::Answered)) => Some(Cell::Fast),
        Some((_, Outcome::Refused)) => Some(Cell::Dead),
        Some((_, Outcome::NoAnswer)) => Some(Cell::None),
        None => (now.since(request.sent) > LATE).then_some(Cell::None),
    }
}

fn strip(story: &Story, scale: &Scale, glyphs: &Glyphs, now: Mono) -> Line {
    let mut cells: Vec<Option<Cell>> = vec![None; scale.cells];
    for request in &story.requests {
        if let Some(cell) = cells.get_mut(scale.column(request.sent)) {
            *cell = (*cell).max(judge(request, now));
        }
    }
    runs(cells.into_iter().map(|cell| match cell {
        None => (PLAIN, ' '),
        Some(Cell::Fast) => (GOOD, glyphs.fast),
        Some(Cell::Late) => (FAIR, glyphs.late),
        Some(Cell::None) => (BAD, glyphs.none),
        Some(Cell::Dead) => (BAD, glyphs.dead),
    }))
}

fn kubelet_marks(story: &Story, scale: &Scale, glyphs: &Glyphs) -> Vec<Mark> {
    let mark = |(at, what): &(Mono, Happening)| {
        let span = match what {
            Happening::Probed(Verdict::Alive) => (GOOD, glyphs.passed.to_string()),
            Happening::Probed(Verdict::Failed(_) | Verdict::Kill(_)) => {
                (BAD, glyphs.failed.to_string())
            }
            Happening::Terminated => (BAD.bold(), "SIGTERM".to_owned()),
            Happening::Killed => (BAD.bold(), "SIGKILL".to_owned()),
            _ => return None,
        };
        Some((scale.column(*at), span))
    };
    story.happenings.iter().filter_map(mark).collect()
}

/// The loop as a line: thin while it runs, thick while it waits, none while there is no process.
fn loop_line(story: &Story, scale: &Scale, glyphs: &Glyphs, now: Mono) -> Line {
    let mut cells = vec![(GOOD, glyphs.runs); scale.cells.min(scale.column(now) + 1)];
    for (from, to, condition) in story.phases(now) {
        let cell = match condition {
            // The rest of the cell in which a freeze ends belongs to the freeze.
            Condition::Answering => continue,
            Condition::Frozen { .. } => (BAD, glyphs.waits),
            Condition::Down => (PLAIN, ' '),
        };
        let length = scale.column(to).saturating_sub(scale.column(from)) + 1;
        let mut room: Vec<_> = cells
            .iter_mut()
            .skip(scale.column(from))
            .take(length)
            .collect();
        for spot in &mut room {
            **spot = cell;
        }
        // Words go only where the line is long enough to be seen on both sides.
        let words = [" frozen: waits for its engine ", " frozen "];
        let fits = |words: &&str| cell.1 == glyphs.waits && room.len() >= words.chars().count() + 4;
        if let Some(words) = words.into_iter().find(fits) {
            for (spot, letter) in room.iter_mut().skip(2).zip(words.chars()) {
                **spot = (BAD, letter);
            }
        }
    }
    runs(cells)
}

fn guard_marks(story: &Story, scale: &Scale, glyphs: &Glyphs) -> Vec<Mark> {
    let here = glyphs.here;
    let mark = |(at, what): &(Mono, Happening)| {
        let Happening::Guard(GuardNote::Action {
            signal,
            outcome,
            refused_by,
            busy_ms,
            ..
        }) = what
        else {
            return None;
        };
        let span = match (outcome.as_str(), refused_by) {
            ("sent", _) => (
                GUARD,
                format!("{here} {signal} to the engine after {busy_ms:.0} ms"),
            ),
            (_, Some(why)) => (FAIR, format!("{here} refused: {why}")),
            (other, None) => (FAIR, format!("{here} {signal} {other}")),
        };
        Some((scale.column(*at), span))
    };
    story.happenings.iter().filter_map(mark).collect()
}

fn legend(glyphs: &Glyphs) -> Line {
    let sign = |style: Style, glyph: char| (style, format!("{glyph}{glyph}"));
    vec![
        (PLAIN, " ".repeat(MARGIN)),
        sign(GOOD, glyphs.fast),
        (FAINT, " answered   ".into()),
        sign(FAIR, glyphs.late),
        (FAINT, " late   ".into()),
        sign(BAD, glyphs.none),
        (FAINT, " no answer   ".into()),
        sign(BAD, glyphs.dead),
        (FAINT, " connection refused".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::text::plain;
    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    /// A server that is asked every 100 ms up to `end` and answers as `outcome` says, after so many milliseconds.
    fn asked(side: Side, end: u64, outcome: impl Fn(u64) -> (u64, Outcome)) -> Story {
        let mut story = Story::new(side, 41, 8041);
        for (number, sent) in (0..end).step_by(100).enumerate() {
            let (after, outcome) = outcome(sent);
            story.tell(ms(sent), Happening::Sent);
            if sent + after <= end {
                story.tell(ms(sent + after), Happening::Ended(number, outcome));
            }
        }
        story
    }

    fn alone() -> Story {
        let mut story = asked(Side::Unprotected, 8000, |sent| match sent {
            2000..6000 => (6000 - sent, Outcome::NoAnswer),
            6000..7000 => (0, Outcome::Refused),
            _ => (1, Outcome::Answered),
        });
        for (at, what) in [
            (1, Happening::Probed(Verdict::Alive)),
            (2000, Happening::Frozen { engine: 42 }),
            (3000, Happening::Probed(Verdict::Failed(1))),
            (4000, Happening::Probed(Verdict::Kill(2))),
            (4000, Happening::Terminated),
            (6000, Happening::Killed),
            (6000, Happening::Gone),
            (7000, Happening::Restarted { pid: 43 }),
        ] {
            story.tell(ms(at), what);
        }
        story
    }

    fn guarded() -> Story {
        let mut story = asked(Side::Protected, 8000, |sent| match sent {
            2000..2500 => (2500 - sent, Outcome::Answered),
            _ => (1, Outcome::Answered),
        });
        let action = GuardNote::Action {
            signal: "SIGKILL".into(),
            outcome: "sent".into(),
            refused_by: None,
            busy_ms: 500.4,
        };
        story.tell(ms(2000), Happening::Frozen { engine: 52 });
        story.tell(ms(2500), Happening::Guard(action));
        story.tell(ms(2503), Happening::Thawed);
        story
    }

    fn text(stories: &[Story], columns: usize, glyphs: &Glyphs, now: u64) -> String {
        let scale = Scale::fit(ms(0), Duration::from_secs(8), columns);
        let lines = draw(stories.iter(), &scale, glyphs, ms(now));
        lines.iter().map(|line| plain(line) + "\n").collect()
    }

    #[test]
    fn both_stories_are_told() {
        let expected = "             ╵0 s      ╵2        ╵4        ╵6        ╵8
|
 UNPROTECTED pid 43, 127.0.0.1:8041   answering
 liveliness  ██████████····················×××××█████
 kubelet     ✓              ✗    ✗ SIGTERM SIGKILL
 event loop  ──────────━━ frozen ━━━━━━━━━━      ─────
|
 PROTECTED   pid 41, 127.0.0.1:8041   answering
 liveliness  ██████████▒▒████████████████████████████
 kubelet
 event loop  ──────────━━━────────────────────────────
 loopwarden              ▲ SIGKILL to the engine after 500 ms
|
             ██ answered   ▒▒ late   ·· no answer   ×× connection refused
"
        .replace('|', "");
        assert_eq!(
            text(&[alone(), guarded()], 66, &Glyphs::UNICODE, 8000),
            expected
        );
    }

    #[test]
    fn a_terminal_without_unicode_gets_ascii() {
        let text = text(&[alone(), guarded()], 80, &Glyphs::ASCII, 8000);
        assert!(text.is_ascii(), "{text}");
        assert!(
            text.contains("xxxx") && text.contains("....") && text.contains("####"),
            "{text}"
        );
    }

    #[test]
    fn the_future_is_blank_and_a_freeze_grows() {
        let mut story = asked(Side::Unprotected, 3000, |sent| match sent {
            2000.. => (9000, Outcome::NoAnswer),
            _ => (1, Outcome::Answered),
        });
        story.tell(ms(2000), Happening::Frozen { engine: 42 });
        let text = text(&[story], 60, &Glyphs::UNICODE, 3000);
        assert!(text.contains("FROZEN for 1.0 s in wait4(42)"), "{text}");
        // Five cells since the freeze; the youngest request may still be answered in time.
        assert!(text.contains(" liveliness  ██████████·····\n"), "{text}");
        assert!(text.contains(" event loop  ──────────━━━━━━\n"), "{text}");
    }

    #[test]
    fn the_scale_is_the_finest_that_fits() {
        for (columns, seconds, cell_ms) in [
            (80, 16, 250),
            (120, 16, 200),
            (200, 16, 100),
            (80, 60, 1000),
            (20, 3600, 5000),
        ] {
            let scale = Scale::fit(ms(0), Duration::from_secs(seconds), columns);
            assert_eq!(
                scale.cell.as_millis(),
                cell_ms,
                "{columns} columns, {seconds} s"
            );
            assert!(
                scale.cells + MARGIN < columns.max(24),
                "{columns} columns, {seconds} s: {}",
                scale.cells
            );
        }
    }
}
