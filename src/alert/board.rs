//! Conditions that hold, and what the sinks are told of them: raised once, held for a while, resolved with what happened
//! meanwhile. Never a storm: however often something happens, a condition is one notice.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind, Severity};
use crate::time::Instant;

/// Conditions at a time; there are as many as pools, services and licences, and this bounds even those.
const CONDITIONS_MAX: usize = 10_000;

/// What a notice says of its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It began.
    Raised,
    /// It is over.
    Resolved,
    /// It happened; there is nothing to resolve.
    Once,
}

impl Status {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Resolved => "resolved",
            Self::Once => "once",
        }
    }
}

/// One thing a sink is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// What about: of a resolved condition, the event that raised it.
    pub kind: EventKind,
    /// The pool, service, licence or whatever else it is about.
    pub subject: Box<str>,
    /// What it says of the condition.
    pub status: Status,
    /// When the condition began.
    pub since: Instant,
    /// When this was decided.
    pub at: Instant,
    /// For people.
    pub message: String,
    /// Calls refused since it began.
    pub refused: u64,
}

struct Condition {
    since: Instant,
    message: String,
    told: bool,
}

/// The conditions of a node.
#[derive(Default)]
pub struct Board {
    conditions: BTreeMap<(u8, Box<str>), Condition>,
    hold: Duration,
}

impl Board {
    /// A condition must hold for so long before anybody is told; one that is over sooner was none.
    pub fn new(hold: Duration) -> Self {
        Self { conditions: BTreeMap::new(), hold }
    }

    /// Another time to hold, for conditions not told of yet.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// An event: notices that follow from it at once.
    pub fn take(&mut self, event: &Event) -> Vec<Notice> {
        let at = event.at;
        let resolves = event.kind.resolves();
        if !resolves.is_empty() {
            let over = resolves.iter().filter_map(|kind| {
                let condition = self.conditions.remove(&(*kind as u8, event.subject.clone()))?;
                condition.told.then(|| Notice {
                    kind: *kind,
                    subject: event.subject.clone(),
                    status: Status::Resolved,
                    since: condition.since,
                    at,
                    message: event.to_string(),
                    refused: event.refused,
                })
            });
            return over.collect();
        }
        if !event.kind.is_condition() {
            return vec![Notice {
                kind: event.kind,
                subject: event.subject.clone(),
                status: Status::Once,
                since: at,
                at,
                message: event.to_string(),
                refused: event.refused,
            }];
        }
        let key = (event.kind as u8, event.subject.clone());
        if self.conditions.len() < CONDITIONS_MAX || self.conditions.contains_key(&key) {
            let new = || Condition { since: at, message: event.to_string(), told: false };
            self.conditions.entry(key).or_insert_with(new);
        }
        self.due(at)
    }

    /// Conditions that have held long enough and nobody was told of.
    pub fn due(&mut self, now: Instant) -> Vec<Notice> {
        let hold = self.hold;
        let due = self.conditions.iter_mut().filter(|(_, condition)| !condition.told && now - condition.since >= hold);
        due.map(|((kind, subject), condition)| {
            condition.told = true;
            raised(*kind, subject, condition, now)
        })
        .collect()
    }

    /// When [`Board::due`] has something next.
    pub fn next(&self) -> Option<Instant> {
        self.conditions.values().filter(|condition| !condition.told).map(|condition| condition.since + self.hold).min()
    }

    /// Every condition that was told of and holds.
    pub fn active(&self, now: Instant) -> Vec<Notice> {
        let told = self.conditions.iter().filter(|(_, condition)| condition.told);
        told.map(|((kind, subject), condition)| raised(*kind, subject, condition, now)).collect()
    }
}

fn raised(kind: u8, subject: &str, condition: &Condition, at: Instant) -> Notice {
    Notice {
        kind: EventKind::ALL[usize::from(kind)],
        subject: subject.into(),
        status: Status::Raised,
        since: condition.since,
        at,
        message: condition.message.clone(),
        refused: 0,
    }
}

/// Which notices a sink wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// The least severity.
    pub severity: Severity,
    /// Names, or beginnings of names that end with `*`; empty: all.
    pub events: Vec<Box<str>>,
}

impl Filter {
    /// Whether the sink wants this. What resolves a condition is wanted where the condition was.
    pub fn wants(&self, kind: EventKind) -> bool {
        let is_named = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => kind.label().starts_with(start),
            None => kind.label() == pattern,
        };
        kind.severity() >= self.severity && (self.events.is_empty() || self.events.iter().any(|name| is_named(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Instant {
        Instant::from_micros(second * 1_000_000)
    }

    fn event(kind: EventKind, second: u64) -> Event {
        Event { refused: 7, ..Event::about(kind, at(second), "ivr") }
    }

    fn told(notices: &[Notice]) -> Vec<(EventKind, Status)> {
        notices.iter().map(|notice| (notice.kind, notice.status)).collect()
    }

    #[test]
    fn every_number_is_its_kinds_place() {
        for (place, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert!(kind.resolves().iter().all(|raised| raised.is_condition() && raised.resolves().is_empty()));
        }
    }

    #[test]
    fn a_condition_is_told_once_and_its_end_with_what_happened() {
        use EventKind::{PoolExhausted, PoolNearFull, PoolRecovered};
        let mut board = Board::default();
        assert_eq!(told(&board.take(&event(PoolNearFull, 1))), [(PoolNearFull, Status::Raised)]);
        assert_eq!(told(&board.take(&event(PoolExhausted, 2))), [(PoolExhausted, Status::Raised)]);
        for second in 3..1000 {
            assert!(board.take(&event(PoolExhausted, second)).is_empty());
        }
        assert_eq!(board.active(at(1000)).len(), 2);
        let over = board.take(&event(PoolRecovered, 1000));
        assert_eq!(told(&over), [(PoolNearFull, Status::Resolved), (PoolExhausted, Status::Resolved)]);
        assert_eq!((over[1].since, over[1].refused), (at(2), 7));
        assert!(board.active(at(1001)).is_empty() && board.take(&event(PoolRecovered, 1001)).is_empty());
    }

    #[test]
    fn what_is_over_before_it_was_held_is_not_worth_a_word() {
        use EventKind::{PoolExhausted, PoolRecovered};
        let mut board = Board::new(Duration::from_secs(10));
        assert!(board.take(&event(PoolExhausted, 1)).is_empty());
        assert_eq!(board.next(), Some(at(11)));
        assert!(board.due(at(10)).is_empty());
        assert!(board.take(&event(PoolRecovered, 10)).is_empty());
        board.take(&event(PoolExhausted, 20));
        assert_eq!(told(&board.due(at(30))), [(PoolExhausted, Status::Raised)]);
        assert_eq!(board.next(), None);
        assert_eq!(told(&board.take(&event(PoolRecovered, 31))), [(PoolExhausted, Status::Resolved)]);
    }

    #[test]
    fn what_just_happens_is_told_each_time() {
        let mut board = Board::new(Duration::from_secs(10));
        for second in 0..3 {
            let notices = board.take(&event(EventKind::LicenceRefused, second));
            assert_eq!(told(&notices), [(EventKind::LicenceRefused, Status::Once)]);
        }
    }

    #[test]
    fn a_filter_goes_by_severity_and_name() {
        let filter =
            |severity, events: &[&str]| Filter { severity, events: events.iter().map(|name| (*name).into()).collect() };
        assert!(filter(Severity::Info, &[]).wants(EventKind::ConfigReloaded));
        assert!(!filter(Severity::Warning, &[]).wants(EventKind::ConfigReloaded));
        assert!(filter(Severity::Info, &["pool_*"]).wants(EventKind::PoolExhausted));
        assert!(!filter(Severity::Info, &["pool_*"]).wants(EventKind::Overload));
        assert!(filter(Severity::Info, &["x", "overload"]).wants(EventKind::Overload));
        assert!(!filter(Severity::Info, &["overload"]).wants(EventKind::OverloadOver));
    }
}
