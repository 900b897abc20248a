//! A node agent that knows one pod, and what that asks for, without an API to tell of it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use loopwarden::config::Config;
use loopwarden::kernel;
use loopwarden::pipeline::pod::{Pod, PodContainer, Pods};
use loopwarden::pipeline::{Notice, Pid};
use loopwarden::rescue;
use loopwarden::wiring::Rules;

use super::looper::answer;

/// Of the pod, by the ids in its cgroups' paths.
pub(super) struct Known<'a> {
    pub(super) uid: &'a str,
    pub(super) container: &'a str,
    /// What it calls its engine; the configuration calls another so.
    pub(super) engine: &'a str,
}

impl Known<'_> {
    fn pods(&self) -> Pods {
        let pod = Pod {
            uid: self.uid.to_owned(),
            cgroup_uid: self.uid.to_owned(),
            namespace: "shop".to_owned(),
            name: "checkout".to_owned(),
            annotations: [("engine".to_owned(), self.engine.to_owned())].into(),
            containers: vec![PodContainer {
                name: "main".to_owned(),
                id: Some(self.container.to_owned()),
                ..PodContainer::default()
            }],
            ..Pod::default()
        };
        Pods::new([Arc::new(pod)])
    }

    fn rules(&self, pause: &str) -> Result<Arc<Rules>> {
        let yaml = format!(
            "mode: enforce\nannotations: {{ allow: [ engine ] }}\nlimits: {{ pause: {pause} }}\n\
             targets:\n  - name: watch\n    match: {{ exe: \"*\" }}\n    engine: {{ match: [ {{ exe: other }} ], grace: 500ms }}\n"
        );
        let config = Config::parse(&yaml, "of the test", None).map_err(anyhow::Error::msg)?;
        Ok(Arc::new(Rules::new(config, Arc::new(self.pods()))))
    }
}

/// Watches a loop of that pod, and takes other limits whenever it is told to, until its input ends.
pub(super) fn run(pid: &str, known: &Known<'_>) -> Result<()> {
    let run_dir = tempfile::tempdir().context("no folder for locks and budgets")?;
    // SAFETY: this process has one thread yet.
    unsafe { std::env::set_var("LOOPWARDEN_RUN_DIR", run_dir.path()) };
    let tell = |notice: Notice| match notice {
        // Whichever comes first: that it is a loop, or in which pod.
        Notice::Loop { info, .. } | Notice::Placed { info, .. } if info.pod.is_some() => {
            answer("ready");
        }
        Notice::Action { action, .. } => {
            answer(&format!("action {} {:?}", action.child, action.outcome));
        }
        Notice::StallClosed { rescued, .. } => answer(&format!("closed {rescued}")),
        _ => {}
    };
    let rules = known.rules("1s")?;
    let sensor = kernel::sensor(loopwarden_abi::Settings::default());
    let settings = rules.settings(false);
    let handle = rescue::start(sensor, settings, rules, Arc::default(), tell)?;
    handle.remote().watch(vec![(Pid(pid.parse()?), 0)]);
    let mut times = 1;
    for line in std::io::stdin().lines() {
        if line? == "quit" {
            break;
        }
        times += 1;
        let rules = known.rules(&format!("{times}s"))?;
        handle.remote().reload(rules.settings(false), rules);
        answer("reloaded");
    }
    // Whatever is told, it is to end.
    let _ = handle.stop();
    Ok(())
}
