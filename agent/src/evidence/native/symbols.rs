//! Names for the places of a stack: function, file and line where debug information has them, else the nearest thing that
//! is sure.

use std::collections::BTreeMap;

use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized};

use super::maps::Maps;
use super::unwind::Unwinding;
use super::{Limits, perf_map, text};
use crate::pipeline::{Frame, Pid};

/// The frames of these places, innermost first; a place in inlined code has several.
pub(super) fn name(
    pid: Pid,
    places: &[u64],
    maps: &Maps,
    unwinding: &Unwinding,
    limits: Limits,
) -> Vec<Frame> {
    let made_while_running: Vec<u64> = places
        .iter()
        .copied()
        .filter(|place| maps.at(*place).is_none_or(|mapping| mapping.inode == 0))
        .filter(|place| unwinding.image_at(*place).is_none())
        .collect();
    let scripts = perf_map::look_up(pid, &made_while_running);
    let mut frames = Vec::new();
    for place in places {
        add(&mut frames, *place, maps, unwinding, &scripts, limits);
    }
    frames
}

fn add(
    frames: &mut Vec<Frame>,
    place: u64,
    maps: &Maps,
    unwinding: &Unwinding,
    scripts: &BTreeMap<u64, Frame>,
    limits: Limits,
) {
    if let Some(script) = scripts.get(&place) {
        frames.push(script.clone());
        return;
    }
    let Some(mapping) = maps.at(place) else {
        frames.push(unnamed("[unmapped]"));
        return;
    };
    let offset = mapping.file_offset(place);
    if let Some(image) = unwinding.image_at(place) {
        let source = image.source(limits.debug_bytes);
        match image
            .symbols
            .symbolize_single(&source, Input::FileOffset(offset))
        {
            Ok(Symbolized::Sym(symbol)) => return add_symbol(frames, &symbol),
            Ok(Symbolized::Unknown(_)) => {}
            Err(error) => log::debug!("no symbols of {}: {error}", mapping.path),
        }
    }
    frames.push(unnamed(&match mapping.basename() {
        "" => "[code made at run time]".to_owned(),
        name => format!("{name}+{offset:#x}"),
    }));
}

/// A function and what was inlined into it at this place: innermost first.
fn add_symbol(frames: &mut Vec<Frame>, symbol: &Sym<'_>) {
    for inlined in symbol.inlined.iter().rev() {
        frames.push(frame(&inlined.name, inlined.code_info.as_ref()));
    }
    frames.push(frame(&symbol.name, symbol.code_info.as_deref()));
}

fn frame(name: &str, code: Option<&CodeInfo<'_>>) -> Frame {
    Frame {
        function: text::name(name),
        file: code.map(|code| text::path(&code.to_path().to_string_lossy())),
        line: code.and_then(|code| code.line).filter(|line| *line != 0),
    }
}

fn unnamed(function: &str) -> Frame {
    Frame {
        function: text::name(function),
        file: None,
        line: None,
    }
}
