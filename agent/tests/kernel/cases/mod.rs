//! The tests, by subject.

use anyhow::Result;
use libtest_mimic::Trial;

mod causes;
mod command;
mod containers;
mod deadline;
mod engines;
mod given_up;
mod guards;
mod held;
mod identity;
mod javascript;
mod late;
mod liveness;
mod machine;
mod ready;
mod recognition;
mod refusals;
mod reload;
mod replay;
mod rescue;
mod stacks;
mod workers;

/// A test.
pub(crate) struct Case {
    pub(crate) name: String,
    run: Box<dyn FnOnce() -> Result<()> + Send>,
}

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    pub(crate) fn trial(self) -> Trial {
        let Self { name, run } = self;
        Trial::test(name, move || {
            run().map_err(|error| format!("{error:#}").into())
        })
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let subjects = [
        causes::cases(),
        command::cases(),
        containers::cases(),
        deadline::cases(),
        engines::cases(),
        given_up::cases(),
        guards::cases(),
        held::cases(),
        identity::cases(),
        javascript::cases(),
        late::cases(),
        liveness::cases(),
        machine::cases(),
        ready::cases(),
        recognition::cases(),
        refusals::cases(),
        reload::cases(),
        replay::cases(),
        rescue::cases(),
        stacks::cases(),
        workers::cases(),
    ];
    subjects.into_iter().flatten().collect()
}
