//! Engines, from the first word about them.

use std::sync::Arc;

use super::{at, info, instruments, shown};
use crate::pipeline::engines::{EngineNews, EngineReady, News};
use crate::pipeline::{LoopInfo, Mono, Notice};

fn told(at_ms: u64, what: EngineNews) -> Notice {
    Notice::Engine {
        info: info(7, 7),
        news: News {
            at: at(at_ms).mono,
            what,
        },
    }
}

#[test]
fn series_of_engines_begin_at_zero_with_the_first_word_about_them() {
    let mut subject = instruments();
    let recognised = Notice::Loop {
        at: at(0).mono,
        info: info(7, 7),
    };
    subject.notice(&recognised, at(0));
    let refused = "loopwarden_engine_connects_total{outcome=\"refused\"}";
    assert_eq!(shown(&mut subject, at(0), refused), None);
    let starting = EngineReady::Starting {
        since: Mono(0),
        refused: Some(0),
    };
    subject.notice(&told(1, EngineNews::Ready(starting)), at(1));
    let zero = [
        refused,
        "loopwarden_engine_connects_total{outcome=\"ok\"}",
        "loopwarden_engine_generations_total{reason=\"planned\"}",
        "loopwarden_engine_generations_total{reason=\"killed\"}",
        "loopwarden_engine_generations_total{reason=\"crashed\"}",
        "loopwarden_engine_startup_duration_seconds_count{stage=\"listening\"}",
        "loopwarden_engine_startup_duration_seconds_count{stage=\"accepting\"}",
        "loopwarden_rescue_recovery_duration_seconds_count",
        "loopwarden_engine_zombies",
        "loopwarden_engine_ready{state=\"accepts\"}",
    ];
    for series in zero {
        assert_eq!(shown(&mut subject, at(1), series), Some(0.0), "{series}");
    }
    subject.notice(&told(2, EngineNews::Connects { ok: 2, refused: 3 }), at(2));
    assert_eq!(shown(&mut subject, at(2), refused), Some(3.0));
    subject.notice(&told(3, EngineNews::Ready(EngineReady::Accepts)), at(3));
    assert_eq!(shown(&mut subject, at(3), refused), Some(3.0));
    let ready = "loopwarden_engine_ready{state=\"accepts\"}";
    assert_eq!(shown(&mut subject, at(3), ready), Some(1.0));
}

#[test]
fn where_connections_are_not_seen_there_is_no_number_of_them() {
    let mut subject = instruments();
    let sampled = Arc::new(LoopInfo {
        plan: "sampling",
        ..LoopInfo::clone(&info(7, 7))
    });
    let recognised = Notice::Loop {
        at: at(0).mono,
        info: sampled.clone(),
    };
    subject.notice(&recognised, at(0));
    let ready = Notice::Engine {
        info: sampled,
        news: News {
            at: at(1).mono,
            what: EngineNews::Ready(EngineReady::Unknown),
        },
    };
    subject.notice(&ready, at(1));
    let refused = "loopwarden_engine_connects_total{outcome=\"refused\"}";
    assert_eq!(shown(&mut subject, at(1), refused), None);
    let planned = "loopwarden_engine_generations_total{reason=\"planned\"}";
    assert_eq!(shown(&mut subject, at(1), planned), Some(0.0));
}

#[test]
fn news_of_a_process_that_is_over_begin_nothing() {
    let mut subject = instruments();
    subject.notice(&told(1, EngineNews::Ready(EngineReady::Accepts)), at(1));
    let ready = "loopwarden_engine_ready{state=\"accepts\"}";
    assert_eq!(shown(&mut subject, at(1), ready), None);
}

#[test]
fn a_process_that_gets_its_pods_name_keeps_its_engines() {
    let mut subject = instruments();
    let recognised = Notice::Loop {
        at: at(0).mono,
        info: info(7, 7),
    };
    subject.notice(&recognised, at(0));
    subject.notice(&told(1, EngineNews::Ready(EngineReady::Accepts)), at(1));
    let placed = Notice::Placed {
        at: at(2).mono,
        info: info(7, 7),
    };
    subject.notice(&placed, at(2));
    let ready = "loopwarden_engine_ready{state=\"accepts\"}";
    assert_eq!(shown(&mut subject, at(2), ready), Some(1.0));
    let refused = "loopwarden_engine_connects_total{outcome=\"refused\"}";
    assert_eq!(shown(&mut subject, at(2), refused), Some(0.0));
}
