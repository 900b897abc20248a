use std::fs;
use std::time::Duration;

use proptest::prelude::*;

use super::super::line;
use super::super::samples::{RUN, open, record};
use super::super::writer::Writer;
use super::*;

const MIB: u64 = 1 << 20;

fn lines_of(count: u128) -> Vec<Vec<u8>> {
    let line = |n| line::incident(&record(n, Duration::from_secs(1), 3), 1 << 16).unwrap();
    (1..=count).map(line).collect()
}

fn names(contents: &Contents) -> Vec<u128> {
    contents.incidents.keys().map(|name| name.0).collect()
}

fn read_bytes(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    lines(io::Cursor::new(bytes), 0, false, &mut |offset, line| {
        contents.take(Path::new("journal.jsonl"), offset, line);
        true
    })
    .unwrap();
    contents
}

#[test]
fn a_file_cut_at_any_byte_gives_all_whole_lines_and_at_most_one_problem() {
    let lines = lines_of(3);
    let whole = lines.concat();
    let ends: Vec<usize> = lines
        .iter()
        .scan(0, |end, line| {
            *end += line.len();
            Some(*end)
        })
        .collect();
    for cut in 0..=whole.len() {
        let contents = read_bytes(&whole[..cut]);
        // A line whose end alone is missing is whole.
        let expected = ends.iter().filter(|end| **end <= cut + 1).count();
        assert_eq!(contents.incidents.len(), expected, "cut at {cut}");
        let begins_line = cut == 0 || ends.iter().any(|end| *end == cut || *end == cut + 1);
        assert_eq!(contents.problems.is_empty(), begins_line, "cut at {cut}");
        if let Some(problem) = contents.problems.first() {
            assert_eq!(
                problem.offset,
                ends[..expected].last().map_or(0, |end| *end as u64)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to some bytes, lines without such a byte are read, and nothing is read that was not written.
    #[test]
    fn damage_costs_the_damaged_lines_only(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
    ) {
        let lines = lines_of(6);
        let mut bytes = lines.concat();
        for (place, byte) in &damage {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        let contents = read_bytes(&bytes);
        let mut start = 0;
        for (number, line) in lines.iter().enumerate() {
            let end = start + line.len();
            let before = start == 0 || bytes[start - 1] == b'\n';
            if before && bytes[start..end] == line[..] {
                let name = IncidentId(number as u128 + 1);
                prop_assert!(contents.incidents.contains_key(&name), "{number}");
            }
            start = end;
        }
        for problem in &contents.problems {
            prop_assert!(problem.offset < bytes.len() as u64);
        }
    }

    #[test]
    fn garbage_is_never_read_as_a_record(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(read_bytes(&bytes).incidents.is_empty());
    }
}

#[test]
fn zero_blocks_and_endless_lines_are_passed_over_with_their_place() {
    let lines = lines_of(3);
    let mut bytes = lines[0].clone();
    bytes.extend(vec![0; 8192]);
    bytes.push(b'\n');
    bytes.extend(&lines[1]);
    let endless = bytes.len() as u64;
    bytes.extend(vec![b'x'; 5 << 20]);
    bytes.push(b'\n');
    bytes.extend(&lines[2]);
    let contents = read_bytes(&bytes);
    assert_eq!(names(&contents), [1, 2, 3]);
    let places: Vec<u64> = contents
        .problems
        .iter()
        .map(|problem| problem.offset)
        .collect();
    assert_eq!(places, [lines[0].len() as u64, endless]);
}

#[test]
fn the_last_word_counts_and_a_second_end_is_a_problem() {
    let encode = |record| line::incident(&record, 1 << 16).unwrap();
    let finished = encode(record(1, Duration::from_secs(1), 3));
    let whole = [
        encode(open(1)),
        finished.clone(),
        encode(open(1)),
        finished,
        encode(open(2)),
    ]
    .concat();
    let contents = read_bytes(&whole);
    let states: Vec<State> = contents.incidents.values().map(|kept| kept.state).collect();
    assert_eq!(states, [State::Closed, State::Open]);
    assert_eq!(contents.problems.len(), 1);
    assert!(contents.problems[0].what.contains("twice"));
    assert!(contents.unfinished(&contents.incidents[&IncidentId(2)]));
    assert!(!contents.unfinished(&contents.incidents[&IncidentId(1)]));
}

#[test]
fn a_damaged_file_of_an_earlier_run_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("j");
    let lines = lines_of(3);
    let mut writer = Writer::open(&path, RUN, MIB).unwrap();
    writer.append(&lines[0]).unwrap();
    drop(writer);
    let file = path.join(file_name(1));
    let mut damaged = fs::read(&file).unwrap();
    damaged.extend(b"{\"type\":\"inci");
    fs::write(&file, &damaged).unwrap();

    // A test beside this one may be between fork and exec, with a copy of the lock until the exec.
    let mut writer = loop {
        if let Ok(writer) = Writer::open(&path, IncidentId(8), MIB) {
            break writer;
        }
        std::thread::yield_now();
    };
    writer.append(&lines[1]).unwrap();
    writer
        .append(
            &line::incident(
                &IncidentRecord {
                    run: IncidentId(8),
                    ..open(3)
                },
                1 << 16,
            )
            .unwrap(),
        )
        .unwrap();
    assert_eq!(fs::read(&file).unwrap(), damaged);
    let contents = read(&path).unwrap();
    assert_eq!(names(&contents), [1, 2, 3]);
    assert_eq!(
        (
            contents.problems[0].file.clone(),
            contents.problems[0].offset
        ),
        (file, lines[0].len() as u64)
    );
    assert_eq!(contents.running, Some(IncidentId(8)));
    assert!(!contents.unfinished(&contents.incidents[&IncidentId(3)]));
    let mut seen = Vec::new();
    from(writer.dir(), Position { file: 2, offset: 0 }, |at, _| {
        seen.push(at);
        true
    })
    .unwrap();
    assert_eq!(
        seen[1],
        Position {
            file: 2,
            offset: lines[1].len() as u64
        }
    );
}
