//! The end of the demo: the table of the incident report, one sentence, and whether a rescue was shown. Pure.

use super::happening::{GuardNote, Side};
use super::story::{Figures, Story};
use super::text::{BAD, FAINT, GOOD, Line, PLAIN, STRONG};
use crate::pipeline::Mono;

/// A figure no worse than this is shown as good: the kubelet's usual time-out.
const GOOD_MS: f64 = 1000.0;

/// The last line of `--json`.
#[derive(Debug, serde::Serialize)]
pub(super) struct Results {
    unprotected: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    protected: Option<Figures>,
}

/// What came out, as it stands at `now`.
pub(super) fn result(unprotected: &Story, protected: Option<&Story>, now: Mono) -> Results {
    let figures = |story: &Story| story.figures(now);
    Results {
        unprotected: figures(unprotected),
        protected: protected.map(figures),
    }
}

/// The first line of `--json`: where the servers are, so that others can watch and probe them too.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "type", rename = "demo")]
pub(super) struct Announcement {
    unprotected: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protected: Option<Place>,
}

#[derive(Debug, serde::Serialize)]
struct Place {
    pid: u32,
    port: u16,
}

/// Where the servers are.
pub(super) fn announcement<'a>(stories: impl Iterator<Item = &'a Story>) -> Announcement {
    let mut announcement = Announcement {
        unprotected: None,
        protected: None,
    };
    for Story {
        side, pid, port, ..
    } in stories
    {
        let place = Some(Place {
            pid: *pid,
            port: *port,
        });
        match side {
            Side::Unprotected => announcement.unprotected = place,
            Side::Protected => announcement.protected = place,
        }
    }
    announcement
}

/// The table: a column for each server.
pub(super) fn table(results: &Results) -> Vec<Line> {
    type Cell = fn(&Figures) -> (String, bool);
    const ROWS: [(&str, Cell); 4] = [
        ("longest wait for a liveliness answer", |figures| {
            milliseconds(figures.max_liveliness_ms)
        }),
        ("liveliness requests answered", |figures| {
            (
                format!("{:.1} %", figures.ok_percent),
                figures.ok_percent >= 100.0,
            )
        }),
        ("event loop blocked", |figures| {
            milliseconds(figures.blocked_ms)
        }),
        ("killed by the kubelet", |figures| {
            (
                if figures.kubelet_killed { "yes" } else { "no" }.to_owned(),
                !figures.kubelet_killed,
            )
        }),
    ];
    let columns = [
        (Side::Unprotected, Some(&results.unprotected)),
        (Side::Protected, results.protected.as_ref()),
    ];
    let columns: Vec<_> = columns
        .into_iter()
        .filter_map(|(side, figures)| Some((side.name(), figures?)))
        .collect();
    let mut head: Line = vec![(PLAIN, " ".repeat(39))];
    head.extend(
        columns
            .iter()
            .map(|(name, _)| (STRONG, format!("{name:>14}"))),
    );
    let mut lines = vec![head];
    for (name, cell) in ROWS {
        let mut line: Line = vec![(FAINT, format!(" {name:<38}"))];
        line.extend(columns.iter().map(|(_, figures)| {
            let (text, good) = cell(figures);
            (if good { GOOD } else { BAD }, format!("{text:>14}"))
        }));
        lines.push(line);
    }
    lines
}

/// Without decimals, the thousands apart.
fn milliseconds(value: f64) -> (String, bool) {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    (text + " ms", value <= GOOD_MS)
}

/// Whether the demo showed what it is for; if not, why not, in plain words.
pub(super) fn verdict(
    unprotected: &Story,
    protected: Option<&Story>,
    now: Mono,
) -> Result<String, String> {
    let alone = unprotected.figures(now);
    let (seconds, lost) = (alone.blocked_ms / 1000.0, 100.0 - alone.ok_percent);
    if !alone.kubelet_killed {
        return Err(format!(
            "The unprotected server was blocked for {seconds:.1} s and the kubelet did not kill it: \
             there was nothing to be rescued from."
        ));
    }
    let Some(protected) = protected else {
        return Ok(format!(
            "Nobody freed the loop: it was blocked for {seconds:.1} s, {lost:.0} % of the liveliness \
             requests went unanswered, and the kubelet killed the server."
        ));
    };
    let guarded = protected.figures(now);
    let rescued = protected.guard_note(|note| match note {
        GuardNote::Closed { rescued, .. } => Some(*rescued),
        _ => None,
    });
    if guarded.kubelet_killed || rescued != Some(true) {
        return Err(no_rescue(protected, &guarded, rescued));
    }
    let answered = if guarded.ok_percent >= 100.0 {
        "every request was answered".to_owned()
    } else {
        format!("{:.1} % of the requests were answered", guarded.ok_percent)
    };
    let (blocked, _) = milliseconds(guarded.blocked_ms);
    Ok(format!(
        "Loopwarden freed the loop after {blocked}, and {answered}. Without it the same loop was blocked \
         for {seconds:.1} s, {lost:.0} % of the requests went unanswered, and the kubelet killed the server."
    ))
}

fn no_rescue(protected: &Story, guarded: &Figures, rescued: Option<bool>) -> String {
    let action = protected.guard_note(|note| match note {
        GuardNote::Action {
            signal,
            outcome,
            refused_by,
            ..
        } => {
            let why = refused_by
                .as_ref()
                .map(|why| format!(" ({why})"))
                .unwrap_or_default();
            Some(format!("its last action was {signal}, {outcome}{why}"))
        }
        _ => None,
    });
    let action = action.unwrap_or_else(|| "it took no action".to_owned());
    let fate = if guarded.kubelet_killed {
        "was killed by the kubelet too"
    } else {
        "was not killed"
    };
    let credit = match rescued {
        Some(true) => "the guard says it freed the loop",
        Some(false) => "the guard says it did not free the loop",
        None => "the guard did not report the end of the stall",
    };
    let (blocked, _) = milliseconds(guarded.blocked_ms);
    format!(
        "No rescue: the protected server was blocked for {blocked} and {fate}; {credit}; {action}."
    )
}

/// Text in lines of at most `width` characters, broken between words, each after a blank.
pub(super) fn wrapped(text: &str, width: usize) -> impl Iterator<Item = String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!(" {word}")),
        }
    }
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::super::happening::{Happening, Outcome};
    use super::super::text::plain;
    use super::*;

    const END: Mono = Mono(20_000_000_000);

    /// A server that was frozen for `blocked` ms while `lost` of 10 requests found no answer.
    fn story(side: Side, blocked: u64, lost: usize, killed: bool, rescued: Option<bool>) -> Story {
        let mut story = Story::new(side, 1, 80);
        let ms = |ms: u64| Mono(ms * 1_000_000);
        for number in 0..10 {
            story.tell(ms(0), Happening::Sent);
            let lost = number < lost;
            let outcome = if lost {
                Outcome::NoAnswer
            } else {
                Outcome::Answered
            };
            story.tell(
                ms(if lost { blocked } else { 1 }),
                Happening::Ended(number, outcome),
            );
        }
        story.tell(ms(0), Happening::Frozen { engine: 2 });
        if killed {
            story.tell(ms(blocked), Happening::Killed);
        }
        let end = if killed {
            Happening::Gone
        } else {
            Happening::Thawed
        };
        story.tell(ms(blocked), end);
        if let Some(rescued) = rescued {
            let note = GuardNote::Closed {
                busy_ms: 1.0,
                rescued,
            };
            story.tell(ms(blocked), Happening::Guard(note));
        }
        story
    }

    fn alone() -> Story {
        story(Side::Unprotected, 9004, 6, true, None)
    }

    #[test]
    fn the_table_shows_both_columns() {
        let guarded = story(Side::Protected, 503, 0, false, Some(true));
        let table = table(&result(&alone(), Some(&guarded), END));
        let text: Vec<_> = table.iter().map(|line| plain(line)).collect();
        let expected = [
            "                                          unprotected     protected",
            " longest wait for a liveliness answer        9,004 ms          1 ms",
            " liveliness requests answered                  40.0 %       100.0 %",
            " event loop blocked                          9,004 ms        503 ms",
            " killed by the kubelet                            yes            no",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn the_verdict_follows_from_the_figures() {
        for (guarded, shown, words) in [
            (
                story(Side::Protected, 503, 0, false, Some(true)),
                true,
                "after 503 ms, and every request was answered",
            ),
            (
                story(Side::Protected, 503, 1, false, Some(true)),
                true,
                "90.0 % of the requests were answered",
            ),
            (
                story(Side::Protected, 503, 0, false, Some(false)),
                false,
                "it did not free the loop; it took no action",
            ),
            (
                story(Side::Protected, 503, 0, false, None),
                false,
                "did not report the end of the stall",
            ),
            (
                story(Side::Protected, 9000, 6, true, Some(true)),
                false,
                "was killed by the kubelet too",
            ),
        ] {
            let verdict = verdict(&alone(), Some(&guarded), END);
            assert_eq!(verdict.is_ok(), shown, "{verdict:?}");
            let (Ok(text) | Err(text)) = verdict;
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_refusal_is_named() {
        let mut guarded = story(Side::Protected, 9000, 6, true, None);
        let note = GuardNote::Action {
            signal: "SIGKILL".into(),
            outcome: "refused".into(),
            refused_by: Some("not_told_to_end".into()),
            busy_ms: 500.0,
        };
        guarded.tell(END, Happening::Guard(note));
        let text = verdict(&alone(), Some(&guarded), END).expect_err("nothing was rescued");
        assert!(
            text.contains("SIGKILL, refused (not_told_to_end)"),
            "{text}"
        );
    }

    #[test]
    fn without_a_kill_there_is_nothing_to_show() {
        let alone = story(Side::Unprotected, 400, 0, false, None);
        let text = verdict(&alone, None, END).expect_err("the kubelet did nothing");
        assert!(text.contains("did not kill it"), "{text}");
        assert!(verdict(&self::alone(), None, END).is_ok());
    }

    #[test]
    fn json_lines_have_the_contract_s_names() {
        let guarded = story(Side::Protected, 503, 0, false, Some(true));
        let announcement = announcement([&alone(), &guarded].into_iter());
        assert_eq!(
            serde_json::to_string(&announcement).expect("JSON"),
            r#"{"type":"demo","unprotected":{"pid":1,"port":80},"protected":{"pid":1,"port":80}}"#
        );
        assert_eq!(
            serde_json::to_string(&result(&alone(), Some(&guarded), END)).expect("JSON"),
            concat!(
                r#"{"unprotected":{"max_liveliness_ms":9004.0,"ok_percent":40.0,"blocked_ms":9004.0,"kubelet_killed":true,"requests":10},"#,
                r#""protected":{"max_liveliness_ms":1.0,"ok_percent":100.0,"blocked_ms":503.0,"kubelet_killed":false,"requests":10}}"#
            )
        );
    }

    #[test]
    fn text_is_broken_between_words() {
        let lines: Vec<_> = wrapped("one two three", 9).collect();
        assert_eq!(lines, [" one two", " three"]);
    }
}
