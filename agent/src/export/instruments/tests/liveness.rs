//! The countdown to the kubelet's kill.

use std::time::Duration;

use super::{at, info, instruments, shown, totals};
use crate::export::instruments::Instruments;
use crate::export::registry::{Extent, Reading};
use crate::pipeline::Notice;
use crate::pipeline::liveness::{Level, Outlook, RiskView};

fn at_risk(ms: u64, level: Level, left: Option<u64>) -> Notice {
    let risk = RiskView {
        at: at(ms).mono,
        level,
        changed: true,
        outlook: Outlook {
            failed_probes: 2,
            to_decision: left.map(Duration::from_secs),
            to_sigkill: left.map(|left| Duration::from_secs(left + 30)),
            uncertainty: None,
            sigterm_uncertainty: None,
            sigkill_uncertainty: None,
            probes_seen: false,
        },
    };
    Notice::Risk {
        info: info(7, 7),
        risk,
    }
}

#[test]
fn the_countdown_counts_down_and_is_absent_while_the_loop_runs() {
    const SIGTERM: &str = "loopwarden_liveness_time_to_sigterm_seconds";
    const SIGKILL: &str = "loopwarden_liveness_time_to_sigkill_seconds";
    const IMMINENT: &str = "loopwarden_liveness_risk{level=\"imminent\"}";
    const ELEVATED: &str = "loopwarden_liveness_risk{level=\"elevated\"}";
    let mut subject = instruments();
    let loop_there = Notice::Loop {
        at: at(0).mono,
        info: info(7, 7),
    };
    subject.notice(&loop_there, at(0));
    assert_eq!(
        shown(&mut subject, at(0), IMMINENT),
        None,
        "no probe is known"
    );

    assert!(subject.notice(&at_risk(1000, Level::Imminent, Some(10)), at(1000)));
    assert_eq!(shown(&mut subject, at(1000), IMMINENT), Some(1.0));
    assert_eq!(shown(&mut subject, at(1000), ELEVATED), Some(0.0));
    let failed = shown(&mut subject, at(1000), "loopwarden_liveness_failed_probes");
    assert_eq!(failed, Some(2.0));
    subject.collect(&[(info(7, 7), totals(1, 1))], at(5000));
    assert_eq!(shown(&mut subject, at(5000), SIGTERM), Some(6.0));
    assert_eq!(shown(&mut subject, at(5000), SIGKILL), Some(36.0));
    let _ = subject.registry().push(Extent::All, at(5000));

    subject.notice(&at_risk(6000, Level::Elevated, None), at(6000));
    assert_eq!(shown(&mut subject, at(6000), IMMINENT), Some(0.0));
    assert_eq!(shown(&mut subject, at(6000), SIGTERM), None);
    let ends = |subject: &mut Instruments, ms| {
        let pushed = subject.registry().push(Extent::Changed, at(ms));
        let points = pushed.into_iter().flat_map(|family| family.points);
        points
            .filter(|point| point.reading == Reading::Gone)
            .count()
    };
    assert_eq!(ends(&mut subject, 6000), 2, "told once over OTLP");
    assert_eq!(ends(&mut subject, 7000), 0);
    subject.notice(&at_risk(8000, Level::Imminent, Some(3)), at(8000));
    assert_eq!(
        shown(&mut subject, at(8000), SIGTERM),
        Some(3.0),
        "there again"
    );
}
