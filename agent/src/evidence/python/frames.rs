//! A thread's chain of frames, innermost first, read until two readings agree.

use super::code::Place;
use super::error::{Error, implausible};
use super::memory::Struct;
use super::object::Objects;
use super::threads::ThreadState;
use crate::pipeline::Frame;

/// Frames of a stack; what lies further out is cut.
pub const FRAMES: usize = 128;
/// Readings until two agree. A thread that computes in deep recursion may never hold still.
const ATTEMPTS: usize = 12;
/// Frames owned by this or more are the interpreter's own, between calls from C.
const OWNED_BY_C: u8 = 3;

/// A stack as far as it could be shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// There were more frames further out.
    pub is_cut: bool,
    /// The thread ran on: calls inside the innermost frame came and went while it was read.
    pub is_moving: bool,
}

#[derive(Debug, Default)]
struct Chain {
    places: Vec<Place>,
    is_cut: bool,
}

impl Objects<'_> {
    /// The stack of a thread. `state` finds the thread's state anew for each reading.
    pub(super) fn stack(
        &self,
        state: impl Fn() -> Result<ThreadState, Error>,
    ) -> Result<Stack, Error> {
        let mut best: Option<Stack> = None;
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match self.attempt(&state) {
                Ok(stack) if !stack.is_moving => return Ok(stack),
                Ok(stack) => {
                    let more = best
                        .as_ref()
                        .is_none_or(|best| stack.frames.len() > best.frames.len());
                    if more {
                        best = Some(stack);
                    }
                }
                Err(error @ (Error::Implausible { .. } | Error::Memory { .. })) => {
                    failure = Some(error);
                }
                // No more may be read: what was found before is what there is.
                Err(Error::Allowance(_)) if best.is_some() || failure.is_some() => break,
                Err(error) => return Err(error),
            }
        }
        match (best, failure) {
            (Some(stack), _) if !stack.frames.is_empty() => Ok(stack),
            (_, Some(error)) => Err(error),
            _ => implausible("chain of frames that holds still", state()?.at),
        }
    }

    /// Reads the chain, then the names, then the chain again: names are right for the frames that are in both.
    fn attempt(&self, state: impl Fn() -> Result<ThreadState, Error>) -> Result<Stack, Error> {
        let before = self.chain(state()?)?;
        let frames: Vec<_> = before
            .places
            .iter()
            .map(|place| self.frame(*place))
            .collect();
        let after = self.chain(state()?)?;
        let stays = stays(&before.places, &after.places);
        let is_moving = stays < before.places.len() || stays < after.places.len();
        let frames: Result<Vec<_>, _> = frames
            .into_iter()
            .skip(before.places.len() - stays)
            .collect();
        Ok(Stack {
            frames: frames?,
            is_cut: before.is_cut,
            is_moving,
        })
    }

    /// Where a thread is in its innermost frame.
    pub(super) fn innermost(&self, state: ThreadState) -> Result<Option<Place>, Error> {
        Ok(self.chain(state)?.places.into_iter().next())
    }

    fn chain(&self, state: ThreadState) -> Result<Chain, Error> {
        let layout = &self.python.layout;
        let mut chain = Chain::default();
        let mut at = match layout.frame_indirect {
            Some(offset) if state.frame != 0 => {
                self.memory.word(state.frame.wrapping_add(offset))?
            }
            _ => state.frame,
        };
        // Frames of the interpreter's own are at most as many as others.
        for _ in 0..2 * FRAMES {
            if at == 0 {
                return Ok(chain);
            }
            if chain.places.len() == FRAMES {
                break;
            }
            let frame = Struct(self.memory.bytes(at, layout.frame_size())?);
            let owner = layout.frame_owner.map_or(0, |offset| frame.byte(offset));
            if owner < OWNED_BY_C {
                chain.places.push(Place {
                    // Since 3.14 the lowest bits of references say who owns them.
                    code: frame.word(layout.frame_code) & !7,
                    instruction: frame.word(layout.frame_instruction),
                    frame: at,
                });
            }
            at = frame.word(layout.frame_back);
        }
        chain.is_cut = true;
        Ok(chain)
    }
}

/// How many frames, counted from the outermost, are the same in both chains. Only the innermost of these may have gone on to another
/// instruction: if an outer one did, what it calls has been left and entered again.
fn stays(before: &[Place], after: &[Place]) -> usize {
    let mut count = 0;
    for (one, other) in before.iter().rev().zip(after.iter().rev()) {
        if (one.code, one.frame) != (other.code, other.frame) {
            break;
        }
        count += 1;
        if one.instruction != other.instruction {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(places: &[(u64, u64)]) -> Vec<Place> {
        let place = |&(frame, instruction): &(u64, u64)| Place {
            code: frame + 1000,
            instruction,
            frame,
        };
        places.iter().map(place).collect()
    }

    #[test]
    fn what_two_readings_share_counts() {
        let table = [
            (
                vec![(3, 1), (2, 5), (1, 7)],
                vec![(3, 1), (2, 5), (1, 7)],
                3,
            ),
            // The innermost went on.
            (
                vec![(3, 1), (2, 5), (1, 7)],
                vec![(3, 2), (2, 5), (1, 7)],
                3,
            ),
            // It returned, or called.
            (vec![(3, 1), (2, 5), (1, 7)], vec![(2, 6), (1, 7)], 2),
            (vec![(2, 5), (1, 7)], vec![(3, 1), (2, 5), (1, 7)], 2),
            // The same frame in another call: what is inside is another stack.
            (
                vec![(3, 1), (2, 5), (1, 7)],
                vec![(3, 1), (2, 9), (1, 7)],
                2,
            ),
            (vec![(3, 1)], vec![(4, 1)], 0),
            (vec![], vec![(4, 1)], 0),
        ];
        for (before, after, expected) in table {
            assert_eq!(stays(&chain(&before), &chain(&after)), expected);
        }
    }
}
