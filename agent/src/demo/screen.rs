//! Where the text for people goes: a picture redrawn in place on a terminal, else one plain line for each thing that
//! happens. Always standard error, so that standard output stays pure JSON.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use rustix::termios::tcgetwinsize;

use super::picture::Glyphs;
use super::text::{FAINT, Line, Span, coloured, plain};

/// Sentences shown below the picture.
const LOG_LINES: usize = 5;
/// Lines that the picture takes at most, with its title and the sentences.
const PICTURE_LINES: usize = 23;
/// Seconds for which a printed line waits for others that happened before it and are told later.
const SETTLING: f64 = 0.3;
/// Wider is no clearer.
const MAX_COLUMNS: usize = 140;

/// The text for people.
#[derive(Debug)]
pub(super) struct Screen {
    /// Lines of the frame that stands on the terminal; none if frames are not drawn.
    drawn: Option<usize>,
    colours: bool,
    columns: usize,
    /// What was told, by time. On a terminal all of it; else only what has not been printed yet.
    log: Vec<(f64, Span)>,
    glyphs: Glyphs,
}

impl Screen {
    /// Looks at what standard error is. `shared`: JSON lines may go to the same terminal, so nothing can be redrawn.
    pub(super) fn open(shared: bool) -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let terminal =
            std::io::stderr().is_terminal() && variable("TERM").is_some_and(|term| term != "dumb");
        let size = tcgetwinsize(rustix::stdio::stderr())
            .ok()
            .filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (columns, rows) = size.map_or((80, 24), |size| {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        });
        let room = rows > PICTURE_LINES && columns >= 60;
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(variable);
        let unicode = locale.is_none_or(|name| {
            let name = name.to_string_lossy().to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        Self {
            drawn: (terminal && room && !shared).then_some(0),
            colours: terminal && variable("NO_COLOR").is_none(),
            columns: columns.min(MAX_COLUMNS),
            log: Vec::new(),
            glyphs: if unicode {
                Glyphs::UNICODE
            } else {
                Glyphs::ASCII
            },
        }
    }

    /// Width to draw for.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Tells of one thing, `seconds` into the show. It may come a moment late: other things of that time are put in order.
    pub(super) fn note(&mut self, seconds: f64, sentence: Span) {
        let place = self.log.partition_point(|(before, _)| *before <= seconds);
        self.log.insert(place, (seconds, sentence));
    }

    /// Shows what there is to show, `seconds` into the show. The picture is made only if it is wanted.
    pub(super) fn refresh(&mut self, seconds: f64, picture: impl FnOnce(&Glyphs) -> Vec<Line>) {
        if let Some(before) = self.drawn {
            let picture = picture(&self.glyphs);
            self.frame(before, &picture);
        } else {
            self.print_log(seconds - SETTLING);
        }
    }

    /// Shows these lines for good, below all else.
    pub(super) fn print(&mut self, lines: &[Line]) {
        if self.drawn.is_none() {
            self.print_log(f64::INFINITY);
        }
        self.write(lines);
    }

    /// Prints what has been told of the time up to then.
    fn print_log(&mut self, until: f64) {
        let due = self.log.partition_point(|(at, _)| *at <= until);
        let lines: Vec<Line> = self.log.drain(..due).map(told).collect();
        self.write(&lines);
    }

    fn write(&self, lines: &[Line]) {
        let mut text = String::new();
        for line in lines {
            text.push_str(&self.render(line));
            text.push('\n');
        }
        // People may close their terminal; the result does not depend on it.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Replaces the picture, which had so many lines before.
    fn frame(&mut self, before: usize, picture: &[Line]) {
        let first = self.log.len().saturating_sub(LOG_LINES);
        let log: Vec<Line> = self.log[first..].iter().cloned().map(told).collect();
        let mut text = String::new();
        if before > 0 {
            let _ = write!(text, "\x1b[{before}A");
        }
        for line in picture.iter().chain(&log) {
            let _ = writeln!(
                text,
                "\r{}\x1b[K",
                self.render(&cut(line, self.columns - 1))
            );
        }
        text.push_str("\x1b[J");
        self.drawn = Some(picture.len() + log.len());
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn render(&self, line: &[Span]) -> String {
        if self.colours {
            coloured(line)
        } else {
            plain(line)
        }
    }
}

/// A sentence after its time.
fn told((seconds, sentence): (f64, Span)) -> Line {
    vec![(FAINT, format!(" {seconds:>5.1} s  ")), sentence]
}

/// A line cut to a width, so that the terminal never wraps it.
fn cut(line: &[Span], width: usize) -> Line {
    let mut left = width;
    line.iter()
        .map(|(style, text)| {
            let text: String = text.chars().take(left).collect();
            left -= text.chars().count();
            (*style, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::text::{BAD, PLAIN};
    use super::*;

    #[test]
    fn lines_are_cut_across_their_pieces() {
        let line = vec![(PLAIN, "──".to_owned()), (BAD, "frozen".to_owned())];
        for (width, expected) in [(20, "──frozen"), (4, "──fr"), (2, "──"), (1, "─"), (0, "")]
        {
            assert_eq!(plain(&cut(&line, width)), expected);
        }
    }
}
