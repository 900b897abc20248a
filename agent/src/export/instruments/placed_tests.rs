//! A pod that is known a moment later.

use super::tests::{at, info, instruments, shown, totals};
use super::*;
use crate::export::text::{Format, encode};
use crate::pipeline::pod::PodName;

#[test]
fn a_process_whose_pod_is_learnt_goes_on_under_its_name() {
    let mut subject = instruments();
    let unplaced = info(7, 7);
    let told = |info: &Arc<LoopInfo>| Notice::Loop {
        at: at(0).mono,
        info: info.clone(),
    };
    subject.notice(&told(&unplaced), at(0));
    subject.collect(&[(unplaced.clone(), totals(10, 1000))], at(1000));
    let placed = Arc::new(LoopInfo {
        pod: Some(PodName {
            uid: "u1".into(),
            namespace: "shop".into(),
            name: "a".into(),
            container: Some("proxy".into()),
        }),
        ..LoopInfo::clone(&unplaced)
    });
    let notice = Notice::Placed {
        at: at(1500).mono,
        info: placed.clone(),
    };
    subject.notice(&notice, at(1500));
    subject.collect(&[(placed, totals(20, 2000))], at(2000));
    let named = "loopwarden_loop_time_seconds_total{k8s_namespace_name=\"shop\",k8s_pod_name=\"a\",k8s_container_name=\"proxy\",state=\"active\"}";
    assert_eq!(shown(&mut subject, at(2000), named), Some(2.0));
    // A gauge of the old name would be a second loop to every query.
    let lines = encode(&subject.registry().page(at(2000)), Format::Prometheus);
    let gauges = lines
        .lines()
        .filter(|line| line.starts_with("loopwarden_loop_stalled_seconds{"));
    assert_eq!(gauges.count(), 1, "{lines}");
}
