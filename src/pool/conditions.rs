//! What the gate tells the operators: pools that fill, trunks at their limit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rate::{Bucket, RateSettings};
use super::{Ask, Channel, Gate, Pool, PoolId, Refusal, Service, ServiceId, State, Trunk, TrunkId};
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

impl Gate {
    /// [`Gate::admit_or_borrow`] for a call that waits: it was counted as refused when it came.
    pub fn admit_waiting(
        &self,
        now: Instant,
        ask: Ask,
        lenders: &[PoolId],
        events: &mut Vec<Event>,
    ) -> Result<Channel, Refusal> {
        let mut state = self.lock();
        state.choose(ask, lenders).map(|choice| state.take(now, ask, choice, false, events))
    }

    /// How often something was given back, or grew.
    pub fn given_back(&self) -> u64 {
        self.lock().given_back
    }

    /// So many calls of the service wait for a channel.
    pub fn set_waiting(&self, now: Instant, service: ServiceId, waiting: u32, events: &mut Vec<Event>) {
        let State { services, pools, .. } = &mut *self.lock();
        let service = &mut services[usize::from(service.0)];
        let former = std::mem::replace(&mut service.waiting, waiting);
        events.extend(service.look_at_queue(now));
        if let Some(pool) = service.pool.map(|id| &mut pools[usize::from(id.0)]) {
            pool.waiting = (pool.waiting + waiting).saturating_sub(former);
            if pool.waiting == 0 {
                pool.look(now, false, events);
            }
        }
    }

    /// A call of the service found its queue full.
    pub fn queue_refuses(&self, now: Instant, service: ServiceId, length: u32, events: &mut Vec<Event>) {
        events.extend(self.lock().services[usize::from(service.0)].queue_refuses(now, length));
    }

    /// A new call comes by a trunk to a service, perhaps: whether both take calls as fast as they come. It counts in both or in
    /// neither.
    pub fn pace(
        &self,
        now: Instant,
        trunk: TrunkId,
        service: Option<ServiceId>,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let State { trunks, services, .. } = &mut *self.lock();
        let trunk = &mut trunks[usize::from(trunk.0)];
        let (settings, of_trunk) = (&trunk.settings, &mut trunk.pace);
        if let Some(rate) = &settings.rate
            && !of_trunk.fits(now, rate)
        {
            events.extend(of_trunk.refuse(now, "trunk", &settings.name, rate));
            return Err(Refusal::TrunkRate);
        }
        if let Some(service) = service.map(|id| &mut services[usize::from(id.0)])
            && let Some(rate) = &service.settings.rate
        {
            if !service.pace.fits(now, rate) {
                service.refused += 1;
                events.extend(service.pace.refuse(now, "service", &service.settings.name, rate));
                return Err(Refusal::ServiceRate);
            }
            service.pace.take(now, rate);
        }
        if let Some(rate) = &settings.rate {
            of_trunk.take(now, rate);
        }
        Ok(())
    }

    /// An address of the trunk sent calls faster than it may.
    pub fn refuse_source(&self, now: Instant, trunk: TrunkId, rate: &RateSettings, events: &mut Vec<Event>) {
        let trunk = &mut self.lock().trunks[usize::from(trunk.0)];
        events.extend(trunk.pace.refuse(now, "an address of trunk", &trunk.settings.name, rate));
    }

    /// Looks, once a second, whether what was refused for its pace is calm again.
    pub fn look_at_paces(&self, now: Instant, events: &mut Vec<Event>) {
        let State { trunks, services, .. } = &mut *self.lock();
        events.extend(trunks.iter_mut().filter_map(|it| it.pace.calm(now, "trunk", &it.settings.name)));
        events.extend(services.iter_mut().filter_map(|it| it.pace.calm(now, "service", &it.settings.name)));
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

/// Without a refusal for so long, a pace is calm again.
const CALM: Duration = Duration::from_secs(10);

/// New calls a second: where the limit stands, and the condition it is in.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bucket: Bucket,
    at_limit: Option<AtLimit>,
    last: Instant,
}

impl Pace {
    pub(super) fn fits(&mut self, now: Instant, rate: &RateSettings) -> bool {
        self.bucket.fits(now, rate)
    }

    pub(super) fn take(&mut self, now: Instant, rate: &RateSettings) {
        self.bucket.take(now, rate);
    }

    /// A call came too fast.
    pub(super) fn refuse(&mut self, now: Instant, what: &str, name: &str, rate: &RateSettings) -> Option<Event> {
        self.last = now;
        let at_limit = self.at_limit.get_or_insert(AtLimit { since: now, refused: 0 });
        at_limit.refused += 1;
        (at_limit.refused == 1).then(|| Event {
            capacity: rate.rate,
            refused: 1,
            ..Event::about(EventKind::RateLimit, now, &format!("{what} {name}"))
        })
    }

    /// Nobody was refused for a while.
    pub(super) fn calm(&mut self, now: Instant, what: &str, name: &str) -> Option<Event> {
        let last = self.last;
        let AtLimit { since, refused } = self.at_limit.take_if(|_| now - last >= CALM)?;
        Some(Event {
            refused,
            lasted_ms: u64::try_from((last - since).as_millis()).unwrap_or(u64::MAX),
            ..Event::about(EventKind::RateLimitOver, now, &format!("{what} {name}"))
        })
    }
}
