//! When a pool is near full, exhausted and recovered.
//!
//! Each condition is raised once and cleared once. Marks for raising and clearing differ (hysteresis), so a pool that
//! hovers at a mark says so once.

use super::{Event, EventKind};
use crate::time::Instant;

/// The marks, in percent of capacity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Near full at this much or more.
    pub near_full_percent: u8,
    /// Recovered below this much.
    pub recovered_percent: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { near_full_percent: 80, recovered_percent: 70 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Level {
    #[default]
    Normal,
    NearFull,
    Exhausted,
}

/// One pool's conditions.
#[derive(Clone, Debug, Default)]
pub struct PoolWatch {
    level: Level,
    since: Instant,
    refused: u64,
}

impl PoolWatch {
    /// Looks at the pool after a change; `refused` when a call just found no channel. Gives at most one event.
    pub fn look(
        &mut self,
        now: Instant,
        name: &str,
        (in_use, capacity): (u32, u32),
        refused: bool,
        thresholds: Thresholds,
    ) -> Option<Event> {
        self.refused += u64::from(refused);
        let percent = |mark: u8| u64::from(capacity) * u64::from(mark);
        let used = u64::from(in_use) * 100;
        let event = |kind, watch: &Self| {
            let lasted_ms = if kind == EventKind::PoolRecovered { (now - watch.since).as_millis() as u64 } else { 0 };
            Some(Event { in_use, capacity, refused: watch.refused, lasted_ms, ..Event::about(kind, now, name) })
        };
        // A refusal with channels free (they are reserved for others) is counted, and no condition of the pool.
        let level = if in_use >= capacity && (capacity > 0 || refused) {
            Level::Exhausted
        } else if capacity > 0 && used >= percent(thresholds.near_full_percent) {
            Level::NearFull
        } else {
            Level::Normal
        };
        if level > self.level {
            if self.level == Level::Normal {
                (self.since, self.refused) = (now, u64::from(refused));
            }
            self.level = level;
            let kind = if level == Level::Exhausted { EventKind::PoolExhausted } else { EventKind::PoolNearFull };
            return event(kind, self);
        }
        // A pool of one or two channels recovers when it is empty: below 70 % of one there is only zero.
        if self.level != Level::Normal && capacity > 0 && used < percent(thresholds.recovered_percent).max(1) {
            self.level = Level::Normal;
            return event(EventKind::PoolRecovered, self);
        }
        None
    }

    /// The pool is no more, or has no channel any more: what was said of it is over.
    pub fn clear(&mut self, now: Instant, name: &str) -> Option<Event> {
        let was = std::mem::take(self);
        (was.level != Level::Normal).then(|| Event {
            refused: was.refused,
            lasted_ms: u64::try_from((now - was.since).as_millis()).unwrap_or(u64::MAX),
            ..Event::about(EventKind::PoolRecovered, now, name)
        })
    }

    /// The condition that holds, and the calls refused since it began.
    pub fn condition(&self) -> (&'static str, u64) {
        match self.level {
            Level::Normal => ("normal", 0),
            Level::NearFull => ("near_full", self.refused),
            Level::Exhausted => ("exhausted", self.refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(steps: &[(u32, bool)], capacity: u32) -> Vec<(EventKind, u64)> {
        let mut watch = PoolWatch::default();
        steps
            .iter()
            .enumerate()
            .filter_map(|(second, (in_use, refused))| {
                let now = Instant::from_micros(second as u64 * 1_000_000);
                watch.look(now, "p", (*in_use, capacity), *refused, Thresholds::default())
            })
            .map(|event| (event.kind, event.refused))
            .collect()
    }

    #[test]
    fn each_condition_is_raised_once_and_cleared_once_with_the_refused_calls() {
        use EventKind::{PoolExhausted, PoolNearFull, PoolRecovered};
        let steps = [
            (7, false),
            (8, false),
            (9, false),
            (8, false),
            (10, false),
            (10, true),
            (10, true),
            (9, false),
            (7, false),
            (6, false),
            (5, false),
        ];
        assert_eq!(kinds(&steps, 10), [(PoolNearFull, 0), (PoolExhausted, 0), (PoolRecovered, 2)]);
    }

    #[test]
    fn hovering_at_the_limit_says_so_once() {
        let steps: Vec<(u32, bool)> = (0..1000).map(|n| (9 + n % 2, n % 2 == 1)).collect();
        assert_eq!(kinds(&steps, 10).len(), 2);
    }

    #[test]
    fn a_pool_of_one_and_a_pool_of_none() {
        use EventKind::{PoolExhausted, PoolRecovered};
        assert_eq!(kinds(&[(1, false), (1, true), (0, false)], 1), [(PoolExhausted, 0), (PoolRecovered, 1)]);
        assert_eq!(kinds(&[(0, true), (0, true), (0, false)], 0), [(PoolExhausted, 1)]);
    }

    #[test]
    fn refused_calls_are_counted_afresh_for_each_condition() {
        let steps = [(1, true), (0, false), (1, true), (1, true), (0, false), (0, true)];
        let counts: Vec<u64> = kinds(&steps, 1).into_iter().map(|(_, refused)| refused).collect();
        assert_eq!(counts, [1, 1, 1, 2]);
    }
}
