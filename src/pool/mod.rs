//! Pools of channels, and the one decision that admits a call.
//!
//! The invariants of counting:
//!
//! - **I1** an admission leaves the channels in use at most the capacity. When capacity shrinks, calls in progress stay
//!   and nothing new enters until they fit.
//! - **I2** a channel is released exactly once: [`Channel`] is moved into [`Gate::release`], never copied, and the
//!   count is the number of channels out.
//! - **I3** a call holds one channel of a pool, whatever its forks, copies and attempts; `proxy::call` sees to it.
//! - **I4** an expired lease is not used again until its margin has passed (for leases, when pools are shared).
//!
//! A call that needs several things (a place in its trunk, in its service, a channel) gets all or none: the [`Gate`]
//! takes the decision under one lock, held for a few dozen instructions, once per call. All shards of a node share it.

pub mod channel;
mod conditions;
mod emergency;
mod licensed;
pub mod rate;
pub mod refusal;
pub mod slot;
mod view;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use channel::Channel;
pub use refusal::Refusal;
pub use slot::{Caption, Slot, SlotId, Slots};
pub use view::{PoolView, ServiceView, TrunkView, View};

use crate::alert::{Event, PoolWatch, Thresholds};
use crate::licence::{Standing, Wanted};
use crate::time::Instant;
use rate::RateSettings;

/// A pool's place in the gate; stays the same over reloads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PoolId(pub u16);
/// A service's place in the gate; stays the same over reloads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServiceId(pub u16);
/// A trunk's place in the gate; stays the same over reloads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TrunkId(pub u16);

/// What the configuration says of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSettings {
    /// Its name.
    pub name: Box<str>,
    /// Its channels.
    pub capacity: u32,
    /// When it is near full and recovered.
    pub thresholds: Thresholds,
}

/// What the configuration says of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSettings {
    /// Its name.
    pub name: Box<str>,
    /// The pool it takes channels from; `None` for calls that need none.
    pub pool: Option<Box<str>>,
    /// Most calls at a time.
    pub limit: Option<u32>,
    /// Channels of the pool kept for it.
    pub reserve: u32,
    /// New calls a second.
    pub rate: Option<RateSettings>,
}

/// What the configuration says of a trunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrunkSettings {
    /// Its name.
    pub name: Box<str>,
    /// Most calls at a time.
    pub max_calls: Option<u32>,
    /// New calls a second.
    pub rate: Option<RateSettings>,
}

/// Everything the gate is told by a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The pools.
    pub pools: Vec<PoolSettings>,
    /// The services.
    pub services: Vec<ServiceSettings>,
    /// The trunks.
    pub trunks: Vec<TrunkSettings>,
    /// Most calls on this node.
    pub calls_max: u32,
    /// What pools and services ask of licences.
    pub wanted: Wanted,
}

#[derive(Debug)]
struct Pool {
    settings: PoolSettings,
    reserved: u32,
    held: u32,
    /// Channels kept for services that do not use them now: the sum of `reserve - in use` where positive.
    set_aside: u32,
    admitted: u64,
    peak: u32,
    /// Channels in use by services of other pools.
    lent: u32,
    /// Calls of its services that wait for a channel.
    waiting: u32,
    watch: PoolWatch,
    /// Calls refused while its condition lasts.
    refused: conditions::Refused,
}

impl Pool {
    fn in_use(&self) -> u32 {
        self.reserved + self.held
    }

    fn free(&self) -> u32 {
        self.settings.capacity.saturating_sub(self.in_use())
    }
}

#[derive(Debug)]
struct Service {
    settings: ServiceSettings,
    pool: Option<PoolId>,
    calls: u32,
    /// Calls that hold a channel of `pool`: after a reload to another pool, not all of `calls`.
    channels: u32,
    admitted: u64,
    refused: u64,
    unlicensed: Option<licensed::Unlicensed>,
    /// Calls of it that wait for a channel.
    waiting: u32,
    queue_full: Option<conditions::QueueFull>,
    pace: conditions::Pace,
    /// Emergency calls, and those of them let in beyond a limit.
    emergencies: u64,
    beyond: u64,
}

#[derive(Debug)]
struct Trunk {
    settings: TrunkSettings,
    calls: u32,
    at_limit: Option<conditions::AtLimit>,
    pace: conditions::Pace,
}

#[derive(Debug, Default)]
struct State {
    pools: Vec<Pool>,
    services: Vec<Service>,
    trunks: Vec<Trunk>,
    calls: u32,
    calls_max: u32,
    standing: Standing,
    wanted: Wanted,
    /// Times something was given back or grew: who waits asks again when it changes.
    given_back: u64,
}

/// What an INVITE asks the gate for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The trunk it came by.
    pub trunk: TrunkId,
    /// The service it calls.
    pub service: ServiceId,
    /// Whether the call is in its trunk's count already.
    pub is_known: bool,
}

/// The gate of a node: what is free, what is taken, who may have more.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

impl Gate {
    /// A gate with nothing taken.
    pub fn new(settings: &Settings) -> Self {
        Self::licensed(settings, Standing::default())
    }

    /// The same, with licences.
    pub fn licensed(settings: &Settings, standing: Standing) -> Self {
        let gate = Self::default();
        gate.lock().standing = standing;
        gate.configure(settings, Instant::ZERO, &mut Vec::new());
        gate
    }

    /// Takes over a configuration. Pools, services and trunks keep their places by name; those no longer named keep
    /// their calls in progress and admit no new ones. Never ends a call.
    pub fn configure(&self, settings: &Settings, now: Instant, events: &mut Vec<Event>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        (state.calls_max, state.wanted) = (settings.calls_max, settings.wanted.clone());
        for pool in &mut state.pools {
            pool.settings.capacity = 0;
            pool.set_aside = 0;
            if !settings.pools.iter().any(|new| new.name == pool.settings.name) {
                events.extend(pool.watch.clear(now, &pool.settings.name));
            }
        }
        for new in &settings.pools {
            match state.pools.iter_mut().find(|pool| pool.settings.name == new.name) {
                Some(pool) => pool.settings = new.clone(),
                None => state.pools.push(Pool {
                    settings: new.clone(),
                    reserved: 0,
                    held: 0,
                    set_aside: 0,
                    admitted: 0,
                    peak: 0,
                    lent: 0,
                    waiting: 0,
                    watch: PoolWatch::default(),
                    refused: conditions::Refused::default(),
                }),
            }
        }
        for service in &mut state.services {
            (service.settings.limit, service.settings.reserve) = (Some(0), 0);
        }
        for new in &settings.services {
            let pool = new.pool.as_ref().and_then(|name| {
                state.pools.iter().position(|pool| pool.settings.name == *name).map(|at| PoolId(at as u16))
            });
            match state.services.iter_mut().find(|service| service.settings.name == new.name) {
                Some(service) => {
                    if service.pool != pool {
                        // Channels of the old pool are counted there and no longer against this service's reserve.
                        (service.pool, service.channels) = (pool, 0);
                    }
                    service.settings = new.clone();
                }
                None => state.services.push(Service {
                    settings: new.clone(),
                    pool,
                    calls: 0,
                    channels: 0,
                    admitted: 0,
                    refused: 0,
                    unlicensed: None,
                    waiting: 0,
                    queue_full: None,
                    emergencies: 0,
                    beyond: 0,
                    pace: conditions::Pace::default(),
                }),
            }
        }
        for pool in &mut state.pools {
            pool.waiting = 0;
        }
        for service in &state.services {
            if let Some(pool) = service.pool {
                state.pools[usize::from(pool.0)].waiting += service.waiting;
                state.pools[usize::from(pool.0)].set_aside += service.settings.reserve.saturating_sub(service.channels);
            }
        }
        for trunk in &mut state.trunks {
            trunk.settings.max_calls = Some(0);
        }
        for new in &settings.trunks {
            match state.trunks.iter_mut().find(|trunk| trunk.settings.name == new.name) {
                Some(trunk) => trunk.settings = new.clone(),
                None => state.trunks.push(Trunk {
                    settings: new.clone(),
                    calls: 0,
                    at_limit: None,
                    pace: conditions::Pace::default(),
                }),
            }
        }
        events.extend(state.trunks.iter_mut().filter_map(|trunk| trunk.look(now)));
        state.apply_licences(now, events);
        for pool in &mut state.pools {
            pool.look(now, false, events);
        }
        state.given_back += 1;
    }

    /// The place of a pool.
    pub fn pool(&self, name: &str) -> Option<PoolId> {
        self.lock().pools.iter().position(|pool| &*pool.settings.name == name).map(|at| PoolId(at as u16))
    }

    /// The place of a service.
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        self.lock().services.iter().position(|service| &*service.settings.name == name).map(|at| ServiceId(at as u16))
    }

    /// The place of a trunk.
    pub fn trunk(&self, name: &str) -> Option<TrunkId> {
        self.lock().trunks.iter().position(|trunk| &*trunk.settings.name == name).map(|at| TrunkId(at as u16))
    }

    /// The decision: all a call needs, or the first rung of the ladder that refuses it.
    pub fn admit(&self, now: Instant, ask: Ask, events: &mut Vec<Event>) -> Result<Channel, Refusal> {
        self.admit_or_borrow(now, ask, &[], events)
    }

    /// The same; a service whose pool is full takes a channel of the first of `lenders` that has one nobody of it has set aside.
    /// It is given back where it came from.
    pub fn admit_or_borrow(
        &self,
        now: Instant,
        ask: Ask,
        lenders: &[PoolId],
        events: &mut Vec<Event>,
    ) -> Result<Channel, Refusal> {
        let mut state = self.lock();
        match state.choose(ask, lenders) {
            Ok(choice) => Ok(state.take(now, ask, choice, false, events)),
            Err(refusal) => {
                state.refuse(now, ask, refusal, events);
                Err(refusal)
            }
        }
    }

    /// Takes a place in the trunk alone: for a call that overflows, or a spiral that holds its channel already.
    pub fn admit_to_trunk(&self, trunk: TrunkId, is_known: bool) -> Result<Channel, Refusal> {
        let mut state = self.lock();
        state.check_trunk(trunk, is_known)?;
        Ok(state.enter_trunk(trunk, !is_known))
    }

    /// What [`Gate::admit_or_borrow`] would say now, changing nothing: the pool, and whether that lends the channel.
    pub fn would_admit(&self, ask: Ask, lenders: &[PoolId]) -> Result<(Option<PoolId>, bool), Refusal> {
        self.lock().choose(ask, lenders)
    }

    /// The call was answered: its channel is held.
    pub fn confirm(&self, channel: &mut Channel) {
        if !std::mem::replace(&mut channel.held, true)
            && let Some(pool) = channel.pool
        {
            let mut state = self.lock();
            let pool = &mut state.pools[usize::from(pool.0)];
            pool.reserved -= 1;
            pool.held += 1;
        }
    }

    /// Gives back the channel and the place in the service, and keeps the place in the trunk: the call goes another
    /// way.
    pub fn release_channel(&self, now: Instant, channel: &mut Channel, events: &mut Vec<Event>) {
        self.lock().leave_pool(now, channel, events);
    }

    /// Whether a channel of the pool that is given back could let somebody in; then, whether only one of its own service.
    pub(crate) fn is_reclaimable(&self, pool: PoolId) -> Option<bool> {
        let state = self.lock();
        let pool_state = state.pools.get(usize::from(pool.0))?;
        let reserves = state.services.iter().any(|service| service.pool == Some(pool) && service.settings.reserve > 0);
        (pool_state.reserved + pool_state.held <= pool_state.settings.capacity).then_some(reserves)
    }

    /// Gives back everything.
    pub fn release(&self, now: Instant, mut channel: Channel, events: &mut Vec<Event>) {
        let mut state = self.lock();
        state.leave_pool(now, &mut channel, events);
        if channel.in_trunk {
            let trunk = &mut state.trunks[usize::from(channel.trunk.0)];
            assert!(trunk.calls > 0, "I2: a call left its trunk twice");
            trunk.calls -= 1;
            if trunk.at_limit.is_some() {
                events.extend(trunk.look(now));
            }
            state.calls -= 1;
        }
        channel.armed = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the next thing that can panic, so the books are right even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The ladder from the trunk on. `Ok` names the pool a channel is taken from.
    #[inline]
    fn check(&self, ask: Ask) -> Result<Option<PoolId>, Refusal> {
        self.check_service(ask)?;
        let service = &self.services[usize::from(ask.service.0)];
        let Some(id) = service.pool else { return Ok(None) };
        let pool = &self.pools[usize::from(id.0)];
        let needed = if service.channels < service.settings.reserve { 1 } else { 1 + pool.set_aside };
        if pool.free() < needed { Err(Refusal::PoolFull) } else { Ok(Some(id)) }
    }

    /// The pool a channel is taken from, if the service has one, and whether that lends it.
    #[inline]
    fn choose(&self, ask: Ask, lenders: &[PoolId]) -> Result<(Option<PoolId>, bool), Refusal> {
        match self.check(ask) {
            Err(Refusal::PoolFull) => self.lender(lenders).map(|id| (Some(id), true)).ok_or(Refusal::PoolFull),
            checked => checked.map(|pool| (pool, false)),
        }
    }

    /// Takes all a call needs, at once.
    #[inline(always)]
    fn take(
        &mut self,
        now: Instant,
        ask: Ask,
        (pool_id, is_lent): (Option<PoolId>, bool),
        is_beyond: bool,
        events: &mut Vec<Event>,
    ) -> Channel {
        let mut channel = self.enter_trunk(ask.trunk, !ask.is_known);
        let service = &mut self.services[usize::from(ask.service.0)];
        service.calls += 1;
        service.admitted += 1;
        channel.service = Some(ask.service);
        if let Some(id) = pool_id {
            let was_set_aside = !is_lent && service.channels < service.settings.reserve;
            service.channels += u32::from(!is_lent);
            (channel.pool, channel.is_lent) = (Some(id), is_lent);
            let pool = &mut self.pools[usize::from(id.0)];
            pool.set_aside -= u32::from(was_set_aside);
            pool.lent += u32::from(is_lent);
            pool.reserved += 1;
            pool.admitted += 1;
            pool.peak = pool.peak.max(pool.in_use());
            assert!(is_beyond || pool.in_use() <= pool.settings.capacity, "I1: more channels in use than there are");
            pool.look(now, false, events);
        }
        channel
    }

    /// A call was refused: who wants to know of it is told.
    #[inline(never)]
    fn refuse(&mut self, now: Instant, ask: Ask, refusal: Refusal, events: &mut Vec<Event>) {
        let Self { pools, services, trunks, .. } = self;
        let service = &mut services[usize::from(ask.service.0)];
        if refusal.takes_plan() {
            service.refused += 1;
        }
        if refusal == Refusal::TrunkFull {
            events.extend(trunks[usize::from(ask.trunk.0)].refuse(now));
        }
        if refusal == Refusal::Unlicensed {
            events.extend(service.refuse_unlicensed(now));
        }
        if refusal == Refusal::PoolFull
            && let Some(pool) = service.pool
        {
            let pool = &mut pools[usize::from(pool.0)];
            pool.look(now, true, events);
            pool.refused.count(&service.settings.name);
        }
    }

    /// The first of these pools that has a channel nobody of it has set aside.
    fn lender(&self, lenders: &[PoolId]) -> Option<PoolId> {
        let has_one = |id: &PoolId| {
            let pool = &self.pools[usize::from(id.0)];
            pool.free() > pool.set_aside
        };
        lenders.iter().copied().find(has_one)
    }

    /// The part of it that has nothing to do with a pool.
    #[inline]
    fn check_service(&self, ask: Ask) -> Result<(), Refusal> {
        self.check_trunk(ask.trunk, ask.is_known)?;
        let service = &self.services[usize::from(ask.service.0)];
        if service.unlicensed.is_some() {
            return Err(Refusal::Unlicensed);
        }
        if service.settings.limit.is_some_and(|limit| service.calls >= limit) {
            return Err(Refusal::ServiceFull);
        }
        Ok(())
    }

    fn check_trunk(&self, trunk: TrunkId, is_known: bool) -> Result<(), Refusal> {
        if is_known {
            return Ok(());
        }
        if self.calls >= self.calls_max {
            return Err(Refusal::NodeFull);
        }
        let trunk = &self.trunks[usize::from(trunk.0)];
        if trunk.settings.max_calls.is_some_and(|max| trunk.calls >= max) {
            return Err(Refusal::TrunkFull);
        }
        Ok(())
    }

    fn enter_trunk(&mut self, trunk: TrunkId, in_trunk: bool) -> Channel {
        self.calls += u32::from(in_trunk);
        self.trunks[usize::from(trunk.0)].calls += u32::from(in_trunk);
        Channel { trunk, service: None, pool: None, in_trunk, held: false, is_lent: false, armed: true }
    }

    fn leave_pool(&mut self, now: Instant, channel: &mut Channel, events: &mut Vec<Event>) {
        let Some(service_id) = channel.service.take() else { return };
        self.given_back += 1;
        let pool_id = channel.pool.take();
        let service = &mut self.services[usize::from(service_id.0)];
        assert!(service.calls > 0, "I2: a call left its service twice");
        service.calls -= 1;
        let Some(pool_id) = pool_id else { return };
        // After a reload to another pool the service no longer counts the channels of the old one. What it borrowed it never
        // counted.
        let is_lent = std::mem::take(&mut channel.is_lent);
        let counted = service.pool == Some(pool_id) && service.channels > 0 && !is_lent;
        let mut set_aside = 0;
        if counted {
            service.channels -= 1;
            set_aside = u32::from(service.channels < service.settings.reserve);
        }
        let pool = &mut self.pools[usize::from(pool_id.0)];
        let count = if channel.held { &mut pool.held } else { &mut pool.reserved };
        assert!(*count > 0, "I2: a channel was released twice");
        *count -= 1;
        pool.lent -= u32::from(is_lent);
        pool.set_aside += set_aside;
        channel.held = false;
        // Who waits for it takes it at once: that is no recovery.
        if pool.waiting == 0 {
            pool.look(now, false, events);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(capacity: u32, services: &[(&str, Option<u32>, u32)]) -> Settings {
        Settings {
            pools: vec![PoolSettings { name: "p".into(), capacity, thresholds: Thresholds::default() }],
            services: services
                .iter()
                .map(|(name, limit, reserve)| ServiceSettings {
                    name: (*name).into(),
                    pool: Some("p".into()),
                    limit: *limit,
                    reserve: *reserve,
                    rate: None,
                })
                .collect(),
            trunks: vec![TrunkSettings { name: "t".into(), max_calls: None, rate: None }],
            calls_max: 1000,
            wanted: Wanted::default(),
        }
    }

    fn ask(gate: &Gate, service: &str) -> Result<Channel, Refusal> {
        let ask = Ask { trunk: TrunkId(0), service: gate.service(service).expect("configured"), is_known: false };
        gate.admit(Instant::ZERO, ask, &mut Vec::new())
    }

    fn admitted(gate: &Gate, service: &str, times: usize) -> Vec<Channel> {
        (0..times).map_while(|_| ask(gate, service).ok()).collect()
    }

    fn give_back(gate: &Gate, channels: impl IntoIterator<Item = Channel>) {
        for channel in channels {
            gate.release(Instant::ZERO, channel, &mut Vec::new());
        }
    }

    #[test]
    fn a_capacity_of_zero_refuses_all() {
        let gate = Gate::new(&settings(0, &[("a", None, 0)]));
        assert_eq!(ask(&gate, "a").map(drop).expect_err("no channel"), Refusal::PoolFull);
    }

    #[test]
    fn a_limit_of_zero_refuses_all_and_exactly_the_limit_is_admitted() {
        for limit in [0, 1, 3] {
            let gate = Gate::new(&settings(10, &[("a", Some(limit), 0)]));
            let channels = admitted(&gate, "a", 10);
            assert_eq!(channels.len(), limit as usize);
            assert_eq!(ask(&gate, "a").map(drop).expect_err("full"), Refusal::ServiceFull);
            give_back(&gate, channels);
        }
    }

    #[test]
    fn reserved_channels_wait_for_their_service_and_the_rest_is_shared() {
        let gate = Gate::new(&settings(10, &[("a", None, 3), ("b", None, 2), ("c", None, 0)]));
        let greedy = admitted(&gate, "c", 10);
        assert_eq!(greedy.len(), 5, "three and two are kept");
        let (a, b) = (admitted(&gate, "a", 10), admitted(&gate, "b", 10));
        assert_eq!((a.len(), b.len()), (3, 2));
        assert_eq!(gate.view().pools[0].in_use(), 10);
        assert_eq!(gate.view().pools[0].set_aside, 0);
        give_back(&gate, a);
        assert_eq!(gate.view().pools[0].set_aside, 3, "given back channels are kept again");
        assert!(ask(&gate, "c").is_err());
        give_back(&gate, greedy.into_iter().chain(b));
        assert_eq!(gate.view().pools[0].set_aside, 5);
    }

    #[test]
    fn lowering_the_capacity_cuts_nobody_and_admits_nobody_until_they_fit() {
        let gate = Gate::new(&settings(5, &[("a", None, 0)]));
        let mut channels = admitted(&gate, "a", 5);
        gate.configure(&settings(2, &[("a", None, 0)]), Instant::ZERO, &mut Vec::new());
        assert_eq!(gate.view().pools[0].in_use(), 5);
        while channels.len() > 2 {
            assert!(ask(&gate, "a").is_err());
            give_back(&gate, channels.pop());
        }
        assert!(ask(&gate, "a").is_err(), "two of two are taken");
        give_back(&gate, channels.pop());
        give_back(&gate, [ask(&gate, "a").expect("one is free")]);
        give_back(&gate, channels);
    }

    #[test]
    fn a_service_moved_to_another_pool_gives_its_channels_back_where_they_came_from() {
        let mut settings = settings(5, &[("a", None, 2)]);
        let gate = Gate::new(&settings);
        let mut old = admitted(&gate, "a", 2);
        settings.pools.push(PoolSettings { name: "q".into(), capacity: 4, thresholds: Thresholds::default() });
        settings.services[0].pool = Some("q".into());
        gate.configure(&settings, Instant::ZERO, &mut Vec::new());
        let new = admitted(&gate, "a", 1);
        give_back(&gate, old.drain(..));
        let view = gate.view();
        assert_eq!((view.pools[0].in_use(), view.pools[1].in_use(), view.pools[1].set_aside), (0, 1, 1));
        give_back(&gate, new);
        assert_eq!(gate.view().pools[1].set_aside, 2);
    }

    #[test]
    fn all_or_none_is_taken() {
        let mut settings = settings(1, &[("a", None, 0)]);
        settings.trunks[0].max_calls = Some(1);
        let gate = Gate::new(&settings);
        let first = ask(&gate, "a").expect("room");
        assert_eq!(ask(&gate, "a").map(drop).expect_err("trunk first"), Refusal::TrunkFull);
        give_back(&gate, [first]);
        let view = gate.view();
        assert_eq!((view.calls, view.trunks[0].calls, view.services[0].calls, view.pools[0].in_use()), (0, 0, 0, 0));
    }

    #[test]
    fn overflowing_keeps_the_trunk_and_frees_the_channel_once() {
        let gate = Gate::new(&settings(1, &[("a", None, 0)]));
        let mut channel = ask(&gate, "a").expect("room");
        gate.confirm(&mut channel);
        gate.confirm(&mut channel);
        assert_eq!((gate.view().pools[0].reserved, gate.view().pools[0].held), (0, 1));
        gate.release_channel(Instant::ZERO, &mut channel, &mut Vec::new());
        gate.release_channel(Instant::ZERO, &mut channel, &mut Vec::new());
        assert_eq!((gate.view().pools[0].in_use(), gate.view().trunks[0].calls), (0, 1));
        give_back(&gate, [channel]);
        assert_eq!(gate.view().trunks[0].calls, 0);
    }

    #[test]
    fn five_hundred_at_once_from_many_threads_on_ten_channels_admit_ten() {
        let gate = Gate::new(&settings(10, &[("a", None, 0)]));
        let channels: Vec<Channel> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..5)
                .map(|_| scope.spawn(|| (0..100).filter_map(|_| ask(&gate, "a").ok()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(channels.len(), 10);
        give_back(&gate, channels);
    }

    #[test]
    fn refusals_are_ordered_and_named_apart() {
        assert!(Refusal::ALL.is_sorted());
        let mut labels: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
