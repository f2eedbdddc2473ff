//! What the gate tells the operators: pools that fill, trunks at their limit.

use std::collections::BTreeMap;

use super::{Pool, Service, Trunk};
use crate::alert::{Event, EventKind};
use crate::time::Instant;

/// Services named when a pool has recovered.
const TOP: usize = 3;
/// A trunk is well again when its calls are below this part of its limit, in percent.
const RECOVERED: u64 = 70;

/// Calls refused while a condition lasts, by service.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<Box<str>, u64>);

impl Refused {
    /// One more call of a service found no channel.
    pub(super) fn count(&mut self, service: &str) {
        match self.0.get_mut(service) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(service.into(), 1)),
        }
    }

    /// `sales 12, menu 3`: those with the most, and forgets.
    fn take_top(&mut self) -> Box<str> {
        let mut counts: Vec<(Box<str>, u64)> = std::mem::take(&mut self.0).into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let top: Vec<String> = counts.iter().take(TOP).map(|(service, count)| format!("{service} {count}")).collect();
        top.join(", ").into()
    }
}

impl Pool {
    /// After a change; `refused` when a call just found no channel.
    pub(super) fn look(&mut self, now: Instant, refused: bool, events: &mut Vec<Event>) {
        let (name, counts) = (&self.settings.name, (self.reserved + self.held, self.settings.capacity));
        let event = self.watch.look(now, name, counts, refused, self.settings.thresholds);
        if let Some(event) = event {
            events.push(self.about_refused(event));
        }
    }

    /// Not inlined: it happens when a condition begins or ends, and every call looks.
    #[inline(never)]
    fn about_refused(&mut self, mut event: Event) -> Event {
        if event.kind == EventKind::PoolRecovered {
            event.detail = self.refused.take_top();
        } else if event.refused <= 1 {
            // A condition begins: what was refused before is not its doing.
            self.refused = Refused::default();
        }
        event
    }
}

/// A trunk that refused calls: since when, and how many.
#[derive(Debug)]
pub(super) struct AtLimit {
    since: Instant,
    refused: u64,
}

impl Trunk {
    /// A call came that was one too many.
    pub(super) fn refuse(&mut self, now: Instant) -> Option<Event> {
        let at_limit = self.at_limit.get_or_insert(AtLimit { since: now, refused: 0 });
        at_limit.refused += 1;
        (at_limit.refused == 1).then(|| Event {
            in_use: self.calls,
            capacity: self.settings.max_calls.unwrap_or(0),
            refused: 1,
            ..Event::about(EventKind::TrunkLimit, now, &self.settings.name)
        })
    }

    /// After a call ended, or the limit changed.
    pub(super) fn look(&mut self, now: Instant) -> Option<Event> {
        let limit = self.settings.max_calls;
        let is_well = limit.is_none_or(|limit| u64::from(self.calls) * 100 < u64::from(limit) * RECOVERED)
            || (self.calls == 0 && limit != Some(0));
        let AtLimit { since, refused } = self.at_limit.take_if(|_| is_well)?;
        Some(Event {
            in_use: self.calls,
            capacity: limit.unwrap_or(0),
            refused,
            lasted_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
            ..Event::about(EventKind::TrunkLimitOver, now, &self.settings.name)
        })
    }
}

/// A queue of calls that wait that was full: since when, how many it did not take, how many it takes.
#[derive(Debug)]
pub(super) struct QueueFull {
    at_limit: AtLimit,
    length: u32,
}

impl Service {
    /// A call came that found the queue full.
    pub(super) fn queue_refuses(&mut self, now: Instant, length: u32) -> Option<Event> {
        let full = self.queue_full.get_or_insert(QueueFull { at_limit: AtLimit { since: now, refused: 0 }, length });
        (full.at_limit.refused, full.length) = (full.at_limit.refused + 1, length);
        (full.at_limit.refused == 1).then(|| Event {
            in_use: self.waiting,
            capacity: length,
            refused: 1,
            ..Event::about(EventKind::QueueFull, now, &self.settings.name)
        })
    }

    /// After the queue changed.
    pub(super) fn look_at_queue(&mut self, now: Instant) -> Option<Event> {
        let waiting = self.waiting;
        let is_well =
            |full: &mut QueueFull| waiting == 0 || u64::from(waiting) * 100 < u64::from(full.length) * RECOVERED;
        let QueueFull { at_limit: AtLimit { since, refused }, length } = self.queue_full.take_if(is_well)?;
        Some(Event {
            in_use: waiting,
            capacity: length,
            refused,
            lasted_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
            ..Event::about(EventKind::QueueRecovered, now, &self.settings.name)
        })
    }
}
