//! What is told on the pods themselves: Events, and whether their engines accept.

use crate::export::pod_event;
use crate::kube::{EventSender, GateSender, Kube};
use crate::pipeline::Notice;
use crate::pipeline::engines::EngineNews;

/// Both ways. Neither waits.
#[derive(Debug)]
pub(super) struct ToPods {
    events: EventSender,
    gates: Option<GateSender>,
}

impl ToPods {
    pub(super) fn new(kube: &Kube) -> Self {
        Self {
            events: kube.events(),
            gates: kube.gates(),
        }
    }

    pub(super) fn tell(&self, notice: &Notice) {
        if let Some(event) = pod_event(notice) {
            self.events.send(event);
        }
        let Some(gates) = &self.gates else { return };
        match notice {
            Notice::Engine { info, news } => {
                if let EngineNews::Ready(ready) = &news.what {
                    let pod = info.pod.as_ref().map(|pod| pod.uid.as_str());
                    gates.ready(info.id.process, pod, *ready);
                }
            }
            Notice::Placed { info, .. } => {
                if let Some(pod) = &info.pod {
                    gates.placed(info.id.process, &pod.uid);
                }
            }
            Notice::Loop { info, .. } => gates.began(info.id),
            Notice::LoopEnded { info, .. } => gates.ended(info.id),
            _ => {}
        }
    }
}
