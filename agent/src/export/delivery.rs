//! What became of the events that tell the end of incidents: so that the journal can send again what never arrived.

use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::pipeline::IncidentId;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The collector has it.
    Taken,
    /// It was dropped here, for lack of room.
    GivenUp,
    /// The collector does not want it, now or later.
    Refused,
}

/// Is told what became of the ends of these incidents. Called by exporters and by who hands in notices: must not wait.
pub type Deliveries = Arc<dyn Fn(Delivery, &[IncidentId]) + Send + Sync>;

/// Takes events to be sent, without waiting.
pub type EventSink = Arc<dyn Fn(Vec<Event>) + Send + Sync>;

/// An event on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// As the collector gets it.
    pub record: LogRecord,
    /// The incident whose end it tells.
    pub ends: Option<IncidentId>,
}

impl From<LogRecord> for Event {
    fn from(record: LogRecord) -> Self {
        Self { record, ends: None }
    }
}
