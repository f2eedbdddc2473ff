//! What the operators are told of the shell: certificates that end, connections that are refused, calls nobody hears of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Published;
use crate::alert::{Event, EventKind};
use crate::licence::Wall;
use crate::time::Instant;

const DAY: i64 = 86_400;
/// Days before its end at which a certificate is spoken of; 0 when it has ended.
const WARNINGS: [i64; 5] = [30, 14, 7, 1, 0];
/// So long without a refusal, and connections are accepted again.
const CALM: Duration = Duration::from_secs(60);

/// A condition: since when, and the count it began with.
#[derive(Clone, Copy)]
struct Since {
    began: Instant,
    count: u64,
}

/// What was told so far.
#[derive(Default)]
pub(crate) struct Watch {
    /// The end of each certificate, and the warning it had.
    warned: BTreeMap<Arc<str>, (i64, i64)>,
    /// Refusals counted, and when that changed last.
    refused: u64,
    last_refusal: Instant,
    refusing: Option<Since>,
    suspect: Option<Instant>,
}

impl Watch {
    /// Looks at what the worker published.
    pub(crate) fn look(&mut self, now: Instant, wall: Wall, published: &Published) -> Vec<Event> {
        let mut events = Vec::new();
        self.look_at_certificates(now, wall, &published.certificates, &mut events);
        self.look_at_connections(now, published, &mut events);
        let suspects = published.load.suspects;
        let about = |kind| Event { in_use: suspects.min(u32::MAX as usize) as u32, ..Event::about(kind, now, "node") };
        match (self.suspect, suspects) {
            (None, 1..) => {
                self.suspect = Some(now);
                events.push(about(EventKind::CallsSuspect));
            }
            (Some(since), 0) => {
                self.suspect = None;
                events.push(Event { lasted_ms: millis(now - since), ..about(EventKind::CallsAlive) });
            }
            (None, 0) | (Some(_), 1..) => {}
        }
        events
    }

    fn look_at_certificates(&mut self, now: Instant, wall: Wall, ends: &[(Arc<str>, i64)], events: &mut Vec<Event>) {
        self.warned.retain(|file, (end, _)| ends.iter().any(|(known, at)| known == file && at == end));
        for (file, end) in ends {
            let left = (end - wall.0).div_euclid(DAY);
            let Some(warning) = WARNINGS.into_iter().filter(|days| left < *days).min() else {
                continue;
            };
            if self.warned.get(file).is_some_and(|(_, said)| *said <= warning) {
                continue;
            }
            self.warned.insert(Arc::clone(file), (*end, warning));
            let detail = match left {
                ..0 => "has ended: no call goes over TLS".into(),
                0 => "ends today".into(),
                1 => "1 day is left".into(),
                left => format!("{left} days are left"),
            };
            events.push(Event { detail: detail.into(), ..Event::about(EventKind::CertificateExpiring, now, file) });
        }
    }

    fn look_at_connections(&mut self, now: Instant, published: &Published, events: &mut Vec<Event>) {
        let streams = &published.streams;
        let refused = streams.refused + streams.accept_errors;
        let about = |kind| Event { in_use: streams.open as u32, ..Event::about(kind, now, "node") };
        if refused > self.refused {
            self.last_refusal = now;
            if self.refusing.is_none() {
                self.refusing = Some(Since { began: now, count: self.refused });
                events.push(about(EventKind::ConnectionsRefused));
            }
        } else if let Some(since) = self.refusing.take_if(|_| now - self.last_refusal >= CALM) {
            events.push(Event {
                refused: refused - since.count,
                lasted_ms: millis(now - since.began),
                ..about(EventKind::ConnectionsAccepted)
            });
        }
        self.refused = refused;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counters;
    use crate::proxy::Load;
    use crate::transport::stream::Counts;

    fn published(refused: u64, suspects: usize, ends: &[(&str, i64)]) -> Published {
        Published {
            counters: Counters::default(),
            load: Load { suspects, ..Load::default() },
            streams: Counts { refused, open: 7, ..Counts::default() },
            peers: Vec::new(),
            certificates: ends.iter().map(|(file, end)| (Arc::from(*file), *end)).collect(),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn said(events: &[Event]) -> Vec<String> {
        events.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_certificate_is_spoken_of_once_for_each_warning_and_anew_when_it_was_renewed() {
        let mut watch = Watch::default();
        let end = 100 * DAY;
        let mut look =
            |day: i64, end| said(&watch.look(at(0), Wall(day * DAY), &published(0, 0, &[("gate.pem", end)])));
        assert!(look(60, end).is_empty());
        assert_eq!(look(71, end), ["certificate gate.pem: 29 days are left"]);
        assert!(look(72, end).is_empty());
        assert_eq!(look(95, end), ["certificate gate.pem: 5 days are left"]);
        assert_eq!(look(100, end), ["certificate gate.pem: ends today"]);
        assert_eq!(look(101, end), ["certificate gate.pem: has ended: no call goes over TLS"]);
        assert!(look(102, end).is_empty());
        assert!(look(102, 200 * DAY).is_empty());
        assert_eq!(look(190, 200 * DAY), ["certificate gate.pem: 10 days are left"]);
    }

    #[test]
    fn refused_connections_are_told_once_and_once_when_it_is_over() {
        let mut watch = Watch::default();
        let mut look = |seconds, refused| {
            let events = watch.look(at(seconds), Wall(0), &published(refused, 0, &[]));
            events.iter().map(|event| (event.kind.label(), event.refused)).collect::<Vec<_>>()
        };
        assert!(look(1, 0).is_empty());
        assert_eq!(look(2, 3), [("connections_refused", 0)]);
        assert!(look(50, 9).is_empty() && look(100, 9).is_empty());
        assert_eq!(look(110, 9), [("connections_accepted", 9)]);
        assert!(look(200, 9).is_empty());
    }

    #[test]
    fn suspect_calls_are_told_once_and_once_when_none_is_left() {
        let mut watch = Watch::default();
        let mut look = |seconds, suspects| {
            let events = watch.look(at(seconds), Wall(0), &published(0, suspects, &[]));
            events.iter().map(|event| (event.kind.label(), event.in_use, event.lasted_ms)).collect::<Vec<_>>()
        };
        assert_eq!(look(1, 2), [("calls_suspect", 2, 0)]);
        assert!(look(2, 5).is_empty());
        assert_eq!(look(9, 0), [("calls_alive", 0, 8_000)]);
    }
}
