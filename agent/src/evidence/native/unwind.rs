//! Walking a stack outwards: by the unwinding tables of the mapped files, by frame pointers where code has none.

use std::collections::BTreeMap;
use std::rc::Rc;

use framehop::{
    CacheNative, FrameAddress, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder as _,
    UnwinderNative,
};

use super::image::{Image, Images, Section};
use super::maps::{Mapping, Maps};
use super::memory::Memory;
use crate::pipeline::Pid;
use crate::pipeline::registers::Registers;

/// Files of one process that are opened; frames in further ones have no names. Each takes two descriptors, and all that are
/// kept have to fit into what the helper process may have open.
const FILES: usize = 24;

/// Without BPF.
const NO_FRAME_POINTER: &str =
    "the frame pointer is not known without BPF: outer frames may be missing";

/// What is kept of a process: its modules with their tables, and rules for addresses seen before.
pub(super) struct Unwinding {
    unwinder: UnwinderNative<Section, MayAllocateDuringUnwind>,
    rules: CacheNative<MayAllocateDuringUnwind>,
    known: BTreeMap<u64, Known>,
}

struct Known {
    mapping: Mapping,
    image: Option<Rc<Image>>,
}

/// A stack as addresses.
pub(super) struct Walk {
    /// Where each frame is, innermost first: the instruction itself, or the call that has not returned.
    pub(super) places: Vec<u64>,
    /// Why it ended early.
    pub(super) cut: Option<String>,
}

impl Default for Unwinding {
    fn default() -> Self {
        Self {
            unwinder: UnwinderNative::new(),
            rules: CacheNative::new_in(),
            known: BTreeMap::new(),
        }
    }
}

impl std::fmt::Debug for Unwinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unwinding")
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}

impl Unwinding {
    /// The file at an address, if one was opened.
    pub(super) fn image_at(&self, address: u64) -> Option<&Rc<Image>> {
        let (_, known) = self.known.range(..=address).next_back()?;
        known.image.as_ref().filter(|_| known.mapping.has(address))
    }

    /// Starts again if anything lies where something else was: a library that was replaced, or another process.
    pub(super) fn check(&mut self, maps: &Maps) {
        let same = |known: &Known| maps.at(known.mapping.start) == Some(&known.mapping);
        if !self.known.values().all(same) {
            *self = Self::default();
        }
    }

    /// Takes in what lies at a mapping.
    pub(super) fn learn(&mut self, pid: Pid, maps: &Maps, mapping: &Mapping, images: &mut Images) {
        // Code made at run time comes and goes, and has no tables.
        let is_file = mapping.inode != 0 || mapping.path == "[vdso]";
        if !is_file || self.known.contains_key(&mapping.start) || self.known.len() >= FILES {
            return;
        }
        let image = images
            .of(pid, maps, mapping)
            .map_err(|error| log::debug!("{} of process {pid}: {error}", mapping.path))
            .ok();
        if let Some(image) = &image
            && let Some(bias) = image.bias(mapping)
        {
            self.unwinder.add_module(Module::new(
                mapping.basename().to_owned(),
                mapping.start..mapping.end,
                bias,
                image.sections(),
            ));
        }
        let mapping = mapping.clone();
        self.known.insert(mapping.start, Known { mapping, image });
    }

    /// Walks from the registers outwards.
    pub(super) fn walk(
        &mut self,
        pid: Pid,
        registers: &Registers,
        frames: usize,
        maps: &Maps,
        images: &mut Images,
        memory: &mut Memory<'_>,
    ) -> Walk {
        let mut walk = Walk {
            places: Vec::new(),
            cut: None,
        };
        let mut now = native(registers);
        let mut address = FrameAddress::from_instruction_pointer(registers.ip);
        while walk.places.len() < frames {
            let place = address.address_for_lookup();
            let Some(mapping) = maps.at(place).filter(|mapping| mapping.executable) else {
                walk.cut = Some("a frame does not lead to code".into());
                // The innermost place is shown in any case: it is where the thread is.
                if walk.places.is_empty() {
                    walk.places.push(place);
                }
                return walk;
            };
            self.learn(pid, maps, mapping, images);
            walk.places.push(place);
            let mut read = |address| memory.word(address).ok_or(());
            let next = self
                .unwinder
                .unwind_frame(address, &mut now, &mut self.rules, &mut read);
            match next.map(|next| next.and_then(FrameAddress::from_return_address)) {
                Ok(Some(next)) => address = next,
                Ok(None) => {
                    // Where a rule needs the frame pointer, not knowing it looks like the end.
                    if registers.fp.is_none() {
                        walk.cut = Some(NO_FRAME_POINTER.into());
                    }
                    return walk;
                }
                Err(error) => {
                    walk.cut = Some(format!("unwinding ended: {error}"));
                    return walk;
                }
            }
        }
        walk.cut = Some(format!("more than {frames} frames"));
        walk
    }
}

#[cfg(target_arch = "x86_64")]
fn native(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.ip, registers.sp, registers.fp.unwrap_or(0))
}

#[cfg(target_arch = "aarch64")]
fn native(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(
        registers.lr.unwrap_or(0),
        registers.sp,
        registers.fp.unwrap_or(0),
    )
}
