//! Calls that wait at the gate for a channel: the overflow plan's step `wait`.
//!
//! Whoever waits hears 182 (RFC 3261 §21.1.4) with his position and, once it is known, the expected wait; there is no media and
//! no channel is used. Queues are kept by service, in order of turn; when something is given back, the gate is asked for the
//! first of each.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::health::NO_PEER;
use super::session::lists;
use super::{Plan, Proxy, env};
use crate::config::{Step, Wait};
use crate::metrics::WaitEnd;
use crate::pool::{Ask, Refusal, ServiceId};
use crate::route::Router;
use crate::sip::{HeaderName, Message, Text, build};
use crate::store::{Key, Timer};
use crate::time::Instant;
use crate::transaction::{Due, Event};

/// Calls let in by one look; if there is room for more, the next look comes at once, after what else is due.
const LET_IN_MAX: usize = 64;

/// Whose turn it is: the smallest first. A call with priority stands where it would had it come that much earlier, so that
/// nobody's turn changes while he waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Turn {
    micros: i64,
    number: u64,
}

/// What the plan of a call that waits knows of it.
pub(super) struct Waiter {
    turn: Turn,
    until: Instant,
    timer: Timer,
}

#[derive(Default)]
struct Queue {
    /// In order of turn.
    calls: Vec<(Turn, Key)>,
    /// Since when the first one waits for its turn: the last one went in then, or there was nobody.
    mark: Instant,
    /// Between two that were let in, lately; an exponential mean.
    interval: Option<Duration>,
}

impl Queue {
    fn at(&self, turn: Turn) -> usize {
        self.calls.partition_point(|(other, _)| *other < turn)
    }

    /// How long whoever has `ahead` before him is likely to wait.
    fn expected(&self, now: Instant, ahead: usize) -> Option<Duration> {
        // Who has stood still for longer than usual is not told the usual.
        let interval = self.interval?.max(now - self.mark);
        Some(interval.saturating_mul(u32::try_from(ahead + 1).unwrap_or(u32::MAX)))
    }

    fn let_in(&mut self, now: Instant) {
        let sample = now - self.mark;
        self.interval = Some(self.interval.map_or(sample, |mean| (mean + sample) / 2));
        self.mark = now;
    }
}

/// All queues of a shard.
#[derive(Default)]
pub(super) struct Waiting {
    queues: BTreeMap<ServiceId, Queue>,
    len: usize,
    /// Turns given so far.
    turns: u64,
    /// The gate's count of things given back when it was last asked.
    seen: u64,
    /// Whether to ask it whatever that count says.
    is_stirred: bool,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Something other than a channel given back may let somebody in.
    pub(super) fn stir(&mut self) {
        self.is_stirred = true;
    }
}

impl Proxy {
    /// The INVITE waits for a channel, unless it must not or cannot; says whether it does.
    pub(super) fn wait(
        &mut self,
        now: Instant,
        server: Key,
        wait: &Wait,
        plan: &mut Plan,
        invite: &Message<'_>,
    ) -> bool {
        if !matches!(plan.refusal, Some(Refusal::PoolFull | Refusal::ServiceFull)) {
            return false;
        }
        let service = plan.router.service_id(plan.service);
        // RFC 3841 §9.1; RFC 3262 §3: a 182 of ours could not be acknowledged.
        if wants_no_queue(invite) || lists(invite, HeaderName::Require, b"100rel") {
            self.counters.wait_ended(service, WaitEnd::Declined);
            return false;
        }
        let rules = plan.router.config.waiting;
        let weight = i64::try_from(rules.ageing.as_micros()).unwrap_or(i64::MAX);
        let arrived = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let micros = arrived.saturating_sub(weight.saturating_mul(i64::from(wait.priority)));
        self.waiting.turns += 1;
        let turn = Turn { micros, number: self.waiting.turns };
        let queue = self.waiting.queues.entry(service).or_default();
        let at = queue.at(turn);
        if queue.calls.is_empty() {
            queue.mark = now;
        }
        let is_full = queue.calls.len() >= wait.length as usize;
        // Where nobody stands, how long others stood says nothing: what is known would never be learnt anew.
        let is_longer = |most| queue.expected(now, at).is_some_and(|expected| expected > most);
        if is_full || (!queue.calls.is_empty() && wait.expected.is_some_and(is_longer)) {
            self.counters.wait_ended(service, if is_full { WaitEnd::QueueFull } else { WaitEnd::TooLong });
            if is_full {
                self.gate.queue_refuses(now, service, wait.length, &mut self.events);
            }
            return false;
        }
        queue.calls.insert(at, (turn, server));
        self.waiting.len += 1;
        self.told_gate(now, service);
        let until = now + wait.longest;
        let timer = self.wheel.arm(until.min(now + rules.repeat), Due::Waiting(server));
        // What was tried before is not tried again afterwards, and has the call no more.
        plan.tried = u64::MAX;
        if let Some(key) = self.transactions.server(server).map(|server| server.context.call)
            && let Some(call) = self.calls.get_mut(key)
        {
            self.health.moved(std::mem::replace(&mut call.peer, NO_PEER), NO_PEER);
        }
        plan.waiting = Some(Box::new(Waiter { turn, until, timer }));
        true
    }

    fn told_gate(&mut self, now: Instant, service: ServiceId) {
        let waiting = self.waiting.queues.get(&service).map_or(0, |queue| queue.calls.len());
        self.gate.set_waiting(now, service, waiting as u32, &mut self.events);
    }

    /// Tells a caller where he stands.
    pub(super) fn say_queued(&mut self, now: Instant, server: Key) {
        let Some(transaction) = self.transactions.server(server) else { return };
        let (request, source, call) = (transaction.request.clone(), transaction.source, transaction.context.call);
        let Some(plan) = &transaction.context.plan else { return };
        let Some(waiter) = &plan.waiting else { return };
        let Some(queue) = self.waiting.queues.get(&plan.router.service_id(plan.service)) else { return };
        let at = queue.at(waiter.turn);
        let mut phrase = Text::<80>::default();
        phrase.push(format_args!("Queued; position {}", at + 1));
        if let Some(expected) = queue.expected(now, at) {
            phrase.push(format_args!("; expected wait {} s", expected.as_secs() + 1));
        }
        if let Some(call) = self.calls.get(call) {
            self.slots.update(call.slot, |slot| slot.waiting = true);
        }
        if let Ok(message) = Message::parse(&request) {
            let tag = self.local_tag(&message);
            self.transactions.server_event(env!(self, now), server, Event::Provisional, |out| {
                build::response_saying(out, &message, source, (182, phrase.as_bytes()), tag.as_bytes(), b"");
            });
        }
    }

    /// The timer of a call that waits.
    pub(super) fn waiting_due(&mut self, now: Instant, server: Key) {
        if server.is_none() {
            return self.waiting.stir();
        }
        let Some(transaction) = self.transactions.server_mut(server) else { return };
        let Some(plan) = &mut transaction.context.plan else { return };
        renew(plan, &self.router);
        let repeat = plan.router.config.waiting.repeat;
        let Some(waiter) = &mut plan.waiting else { return };
        if now >= waiter.until {
            waiter.timer = Timer::NONE;
            self.stop_waiting(now, server, WaitEnd::TimedOut);
            return self.advance(now, server);
        }
        waiter.timer = self.wheel.arm(waiter.until.min(now + repeat), Due::Waiting(server));
        self.say_queued(now, server);
    }

    /// The call is taken off the queue. Says whether it was on one.
    pub(super) fn stop_waiting(&mut self, now: Instant, server: Key, end: WaitEnd) -> bool {
        let Some(transaction) = self.transactions.server_mut(server) else { return false };
        let call = transaction.context.call;
        let Some(plan) = &mut transaction.context.plan else { return false };
        let service = plan.router.service_id(plan.service);
        let Some(waiter) = plan.waiting.take() else { return false };
        if let Some((step, since)) = plan.step.take() {
            self.counters.step_took(step, now - since);
        }
        self.forget_waiting(now, service, &waiter, end);
        if let Some(call) = self.calls.get(call) {
            self.slots.update(call.slot, |slot| slot.waiting = false);
        }
        true
    }

    pub(super) fn forget_waiting(&mut self, now: Instant, service: ServiceId, waiter: &Waiter, end: WaitEnd) {
        self.wheel.stop(waiter.timer);
        if let Some(queue) = self.waiting.queues.get_mut(&service) {
            let at = queue.at(waiter.turn);
            if queue.calls.get(at).is_some_and(|(turn, _)| *turn == waiter.turn) {
                queue.calls.remove(at);
                self.waiting.len -= 1;
            }
            if end == WaitEnd::Admitted {
                queue.let_in(now);
            }
        }
        self.told_gate(now, service);
        self.counters.wait_ended(service, end);
    }

    /// The service whose queue the call's INVITE waits in.
    pub(super) fn waits_for(&self, key: Key) -> Option<ServiceId> {
        let server = self.calls.get(key).and_then(|call| self.transactions.server(call.server))?;
        let plan = server.context.plan.as_ref().filter(|plan| plan.waiting.is_some())?;
        Some(plan.router.service_id(plan.service))
    }

    /// The position of a call that waits, and how long it does at most.
    pub(super) fn place_of(&self, now: Instant, key: Key) -> Option<(usize, Duration)> {
        let queue = self.waiting.queues.get(&self.waits_for(key)?)?;
        let server = self.transactions.server(self.calls.get(key)?.server)?;
        let waiter = server.context.plan.as_ref()?.waiting.as_ref()?;
        Some((queue.at(waiter.turn) + 1, waiter.until.max(now) - now))
    }

    /// Once a second: what nothing else would bring about. Another hand may have made room (a licence that came into force), and
    /// calls that came too fast may come no more.
    pub fn tick(&mut self, now: Instant) {
        self.gate.look_at_paces(now, &mut self.events);
        self.audit(now);
        // A target may be there again.
        self.waiting.stir();
        self.wake(now);
    }

    /// Lets in those who wait, as far as there is room. It happens by itself after every input and timer.
    pub(super) fn wake(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let mut let_in = 0;
        loop {
            let given_back = self.gate.given_back();
            if given_back == self.waiting.seen && !self.waiting.is_stirred {
                return;
            }
            (self.waiting.seen, self.waiting.is_stirred) = (given_back, false);
            let heads = self.waiting.queues.iter().filter_map(|(service, queue)| {
                let (turn, server) = queue.calls.first()?;
                Some(std::cmp::Reverse((*turn, *service, *server)))
            });
            let mut heads: BinaryHeap<_> = heads.collect();
            while let Some(std::cmp::Reverse((_, service, server))) = heads.pop() {
                if !self.let_in(now, server) {
                    continue;
                }
                if let Some((turn, next)) = self.waiting.queues.get(&service).and_then(|queue| queue.calls.first()) {
                    heads.push(std::cmp::Reverse((*turn, service, *next)));
                }
                let_in += 1;
                if let_in == LET_IN_MAX {
                    self.waiting.stir();
                    self.wheel.arm(now, Due::Waiting(Key::NONE));
                    return;
                }
            }
        }
    }

    /// The first of a queue goes in, or on to the plan's next step when it has nothing to wait for any more. Says whether it
    /// left the queue.
    fn let_in(&mut self, now: Instant, server: Key) -> bool {
        let Some(transaction) = self.transactions.server_mut(server) else { return false };
        let key = transaction.context.call;
        let Some(plan) = &mut transaction.context.plan else { return false };
        renew(plan, &self.router);
        let router = std::sync::Arc::clone(&plan.router);
        let (service, target) = (router.service_id(plan.service), router.config.services[plan.service].target);
        let (lenders, own_pool) = (router.lenders(plan.service), router.pool_id(plan.service));
        // Who is let in to a PBX that is down has waited for nothing.
        if !self.health.is_any_open(now, router.places(target)) {
            return false;
        }
        let Some(call) = self.calls.get_mut(key) else { return false };
        // I3: another copy of the INVITE may have a channel already.
        let has = own_pool.into_iter().chain(lenders.iter().copied()).find(|pool| call.holds(*pool));
        let Some(trunk) = call.channels().next().map(|channel| channel.trunk()) else { return false };
        let ask = Ask { trunk, service, is_known: true };
        let mut decision = match has {
            Some(_) => Ok(None),
            None => self.gate.admit_waiting(now, ask, lenders, &mut self.events).map(Some),
        };
        if let (Err(Refusal::PoolFull), Some(pool)) = (&decision, own_pool)
            && self.reclaim(now, pool, service)
        {
            decision = self.gate.admit_waiting(now, ask, lenders, &mut self.events).map(Some);
        }
        let (channel, refusal) = match decision {
            Ok(channel) => (channel, None),
            Err(Refusal::PoolFull | Refusal::ServiceFull) => return false,
            Err(other) => (None, Some(other)),
        };
        self.stop_waiting(now, server, if refusal.is_none() { WaitEnd::Admitted } else { WaitEnd::Refused });
        let uses = has.or_else(|| channel.as_ref().and_then(|channel| channel.pool()));
        if let Some(call) = self.calls.get_mut(key).filter(|_| refusal.is_none()) {
            call.users += u32::from(uses.is_some());
            self.slots.update(call.slot, |slot| (slot.pool, slot.target) = (slot.pool.or(uses), target as u16));
            if let Some(channel) = channel {
                call.rare_mut().more.push(channel);
            }
        }
        if let Some(plan) = self.transactions.server_mut(server).and_then(|server| server.context.plan.as_mut()) {
            match refusal {
                None => {
                    (plan.uses, plan.target, plan.user) = (uses, target, None);
                    (plan.tried, plan.again, plan.refusal) = (0, None, None);
                }
                Some(Refusal::Unlicensed) if router.config.services[plan.service].unlicensed.is_some() => {
                    (plan.refusal, plan.next_step) = (refusal, 0);
                }
                Some(_) => plan.refusal = refusal,
            }
        }
        self.advance(now, server);
        true
    }
}

/// The configuration, or what is known of names, may have changed since the call came: it goes where its service leads now, and on
/// along the plan in force. A service that is no more keeps what there was.
fn renew(plan: &mut Plan, router: &std::sync::Arc<Router>) {
    if std::sync::Arc::ptr_eq(&plan.router, router) {
        return;
    }
    let services = &router.config.services;
    let name = &plan.router.config.services[plan.service].name;
    let Some(at) = services.iter().position(|service| service.name == *name) else { return };
    if !std::sync::Arc::ptr_eq(&plan.router.config, &router.config) {
        let after = services[at].overflow.iter().position(|step| matches!(step, Step::Wait(_)));
        plan.next_step = after.map_or(0, |wait| wait + 1);
    }
    (plan.service, plan.target) = (at, services[at].target);
    plan.router = std::sync::Arc::clone(router);
}

/// RFC 3841 §9.1: "no-queue" among the values of Request-Disposition, `d` for short.
fn wants_no_queue(invite: &Message<'_>) -> bool {
    let values = ["Request-Disposition", "d"].into_iter().flat_map(|name| invite.named_all(name));
    values
        .flat_map(|value| value.split(|octet| *octet == b','))
        .any(|value| value.trim_ascii().eq_ignore_ascii_case(b"no-queue"))
}
