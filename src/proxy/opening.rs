//! An INVITE that opens a call: the ladder, the attempts, the overflow plan.

use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, Early};
use super::forward::Changes;
use super::health::NO_PEER;
use super::large::{Large, is_large};
use super::request::{Incoming, refusal_lines};
use super::response::Failed;
use super::session::lists;
use super::urgent::is_emergency;
use super::{Attempt, Contact, Plan, Proxy, Role, env};
use crate::config::{Pattern, Service, Step};
use crate::outbox::{Hop, ListenerId};
use crate::pool::{Ask, Channel, PoolId, Refusal, ServiceId, Slot};
use crate::route::{Place, Question, Router};
use crate::sip::message::Essentials;
use crate::sip::uri::{is_sips, is_sos, parameter_end, split_parameter};
use crate::sip::{HeaderName, Message, NameAddr, Scheme, Uri};
use crate::store::Key;
use crate::time::Instant;
use crate::transaction::Due;
use crate::transaction::key::Cookie;

/// INVITEs of one call under way at a time.
const COPIES_MAX: u32 = 16;

impl Proxy {
    /// The ladder. All a call needs is taken in one decision; what it is refused for decides what follows.
    pub(super) fn open_call(
        &mut self,
        now: Instant,
        router: &Arc<Router>,
        incoming: &Incoming<'_>,
        (trunk, service): (usize, usize),
        number: &[u8],
    ) {
        let found = incoming.found;
        let (id, from_tag) = (incoming.call_id, incoming.from_tag);
        // I3: another copy of an INVITE that is in progress (merged upstream, or spiralled through the PBX) belongs to
        // the same call. A new CSeq (after a challenge, or a caller that uses a Call-ID twice) is a call of its own.
        // Once it is up, what looks like a copy is a call too: nobody gets two calls out of one channel.
        let is_copy =
            |call: &Call| call.from_tag == from_tag && call.cseq == found.cseq.number && !call.dialogs.is_up();
        let known = self.find_call(id, is_copy);
        let has_many = |key| self.calls.get(key).is_some_and(|call| call.pending >= COPIES_MAX);
        // Of a call that waits there is one place in the queue (§8.2.2.2: merged requests).
        let waits = |key| self.waits_for(key) == Some(router.service_id(service));
        if known.is_some_and(|key| has_many(key) || waits(key)) {
            let server = self.open(incoming, Role::Other, Key::NONE, 0);
            return self.answer(now, server, 482, b"");
        }
        let pool = router.pool_id(service);
        let holds = |proxy: &Self, pool: PoolId| {
            known.and_then(|key| proxy.calls.get(key)).is_some_and(|call| call.holds(pool))
        };
        // A copy of a call that borrowed has its channel, too.
        let lenders = router.lenders(service);
        let has = pool.into_iter().chain(lenders.iter().copied()).find(|pool| holds(self, *pool));
        let settings = &router.config.services[service];
        let mut plan = Box::new(Plan {
            router: Arc::clone(router),
            service,
            target: settings.target,
            tried: 0,
            again: None,
            contacts: Vec::new(),
            followed: 0,
            is_parked: false,
            next_step: 0,
            step: None,
            waiting: None,
            refusal: None,
            user: None,
            uses: has,
            best: None,
            early: wants_199(incoming.message).then(Vec::new),
        });
        let (mut channel, mut replaces) = (None, None);
        // Who waits comes first.
        self.wake(now);
        let urgent = is_emergency(&router.config, incoming.message, &incoming.uri, (trunk, Some(service)));
        if has.is_none() {
            let ask =
                Ask { trunk: router.trunk_id(trunk), service: router.service_id(service), is_known: known.is_some() };
            // A call that replaces one on this pool takes over its channel: none is needed.
            let pools = pool.into_iter().chain(lenders.iter().copied());
            replaces =
                pools.filter(|_| known.is_none() && !urgent).find_map(|pool| self.replaced(incoming.message, pool));
            let pace = if known.is_none() && !urgent {
                self.pace(now, router, incoming.origin.0, trunk, Some(service))
            } else {
                Ok(())
            };
            let mut decision = match (pace, replaces) {
                _ if urgent => {
                    let (admitted, beyond) = self.gate.admit_emergency(now, ask, lenders, &mut self.events);
                    self.tell_of_emergency(now, (&router.config.trunks[trunk].name, &settings.name), beyond);
                    Ok(admitted)
                }
                (Err(refusal), _) => Err(refusal),
                (Ok(()), Some(_)) => self.gate.admit_to_trunk(ask.trunk, false),
                (Ok(()), None) => self.gate.admit_or_borrow(now, ask, lenders, &mut self.events),
            };
            // A call that gives no sign of life gives way to one that does.
            if let (Err(Refusal::PoolFull), Some(pool)) = (&decision, pool)
                && self.reclaim(now, pool, ask.service)
            {
                decision = self.gate.admit_or_borrow(now, ask, lenders, &mut self.events);
            }
            if decision.is_err() {
                // Who was refused inherits nothing.
                replaces = None;
            }
            match decision {
                Ok(admitted) => {
                    plan.uses = admitted.pool();
                    if let Some(step) = settings.overflow.first().filter(|_| admitted.is_lent()) {
                        self.overflow_count(ask.service, step);
                    }
                    channel = Some(admitted);
                }
                Err(refusal) => {
                    self.refuse_count(refusal);
                    tracing::debug!(refusal = refusal.label(), service = &*settings.name, "call refused");
                    if !refusal.takes_plan() {
                        let server = self.open(incoming, Role::Other, Key::NONE, 0);
                        return self.answer(now, server, refusal.status(), refusal_lines(refusal).as_bytes());
                    }
                    plan.refusal = Some(refusal);
                    plan.tried = u64::MAX;
                    // A call that overflows still takes a place in its trunk, if it goes anywhere at all.
                    let mut steps = settings.plan(Some(refusal)).iter();
                    let first = steps.find(|step| !matches!(step, Step::Borrow { .. }));
                    let goes_on = matches!(first, Some(Step::Route { .. } | Step::Wait(_)));
                    if goes_on && known.is_none() {
                        match self.gate.admit_to_trunk(ask.trunk, false) {
                            Ok(admitted) => channel = Some(admitted),
                            Err(refusal) => {
                                self.refuse_count(refusal);
                                let server = self.open(incoming, Role::Other, Key::NONE, 0);
                                return self.answer(now, server, refusal.status(), refusal_lines(refusal).as_bytes());
                            }
                        }
                    }
                }
            }
        }
        let key = match known {
            Some(key) => {
                if let Some(call) = self.calls.get_mut(key) {
                    call.pending += 1;
                    call.users += u32::from(plan.uses.is_some());
                    if let Some(pool) = channel.as_ref().and_then(Channel::pool) {
                        self.slots.update(call.slot, |slot| slot.pool = slot.pool.or(Some(pool)));
                    }
                    if let Some(channel) = channel {
                        call.rare_mut().more.push(channel);
                    }
                }
                key
            }
            None if channel.is_some() => {
                let called = Some(router.service_id(service));
                self.begin_call(
                    now,
                    incoming,
                    (channel, called),
                    plan.target as u16,
                    (settings.longest_call, settings.ask_s),
                    number,
                )
            }
            None => Key::NONE,
        };
        if urgent && let Some(call) = self.calls.get(key) {
            self.slots.update(call.slot, |slot| slot.emergency = true);
        }
        let server = self.open(incoming, Role::Opening, key, 0);
        let goes_on = plan.refusal.is_none() || !key.is_none();
        if let Some(transaction) = self.transactions.server_mut(server) {
            transaction.context.plan = Some(plan);
        }
        if let Some(call) = self.calls.get_mut(key) {
            call.server = server;
        }
        if let Some(replaces) = replaces
            && let Some(call) = self.calls.get_mut(replaces)
        {
            call.rare_mut().heir = key;
            if let Some(transaction) = self.transactions.server_mut(server) {
                transaction.context.replaces = replaces;
            }
        }
        if goes_on {
            self.trying(now, server);
        }
        self.advance_with(now, server, incoming.message, found, incoming.path.popped);
    }

    pub(super) fn begin_call(
        &mut self,
        now: Instant,
        incoming: &Incoming<'_>,
        (channel, service): (Option<Channel>, Option<ServiceId>),
        target: u16,
        (longest, ask_s): (Duration, u32),
        number: &[u8],
    ) -> Key {
        let Incoming { message, found, origin, .. } = incoming;
        let id = incoming.call_id;
        let from = message.value(HeaderName::From).and_then(NameAddr::parse);
        let caller = from.as_ref().map(NameAddr::uri_bytes).unwrap_or_default();
        let holds = channel.as_ref().map(|channel| (channel.trunk(), service, channel.pool()));
        let contact = message.value(HeaderName::Contact).and_then(NameAddr::parse);
        let contact = contact.as_ref().map(NameAddr::uri_bytes).unwrap_or_default();
        let early = Early::new(&mut self.scratch, found.call_id, caller, number, contact);
        let caption = early.caption();
        let reply = self.reply_to(*origin, &found.via);
        let names = (id, incoming.from_tag, found.cseq.number);
        let call = Call::new(names, channel, now, (longest, ask_s), early, reply);
        let key = self.calls.insert(call);
        self.by_call_id.insert(id.hash, key);
        // A net under every other way a call can end.
        let timer = self.wheel.arm(now + longest, Due::Call(key));
        let slot = holds.map_or(0, |holds| self.slots.enter(Slot::new(caption, holds, target, (now, key))));
        if let Some(call) = self.calls.get_mut(key) {
            (call.timer, call.slot) = (timer, slot);
        }
        tracing::debug!(slot, "call begins");
        key
    }

    pub(super) fn call_goes_to(&mut self, key: Key, hop: Hop, peer: u16) {
        if let Some(call) = self.calls.get_mut(key) {
            call.callee = hop;
            self.health.moved(std::mem::replace(&mut call.peer, peer), peer);
        }
    }

    /// Tries the next address of the plan, or takes its next step.
    pub(super) fn advance(&mut self, now: Instant, server: Key) {
        let Some(request) = self.transactions.server(server).map(|server| server.request.clone()) else { return };
        let Ok(message) = Message::parse(&request) else { return };
        let Ok(found) = message.check() else { return };
        // What was popped the first time is popped again.
        let popped = Uri::parse(message.request_uri())
            .map_or(0, |uri| self.path(&Arc::clone(&self.router), &message, &uri).popped);
        self.advance_with(now, server, &message, &found, popped);
    }

    fn advance_with(
        &mut self,
        now: Instant,
        server: Key,
        message: &Message<'_>,
        found: &Essentials<'_>,
        popped: usize,
    ) {
        loop {
            let Some(transaction) = self.transactions.server_mut(server) else { return };
            let (listener, call) = (transaction.reply.listener, transaction.context.call);
            let Some(mut plan) = transaction.context.plan.take() else { return };
            let router = Arc::clone(&plan.router);
            let target = &router.config.targets[plan.target];
            if let Some(contact) = plan.contacts.pop() {
                let uri = Uri::parse(&contact.uri);
                let question = uri.as_ref().and_then(Question::of_uri);
                let hop = match &question {
                    None => uri.and_then(|uri| super::dialog::hop_to(&router, &uri, None, listener)),
                    Some(question) => {
                        let hops = self.known_hops(question, listener, self.draw(found.call_id)).unwrap_or_default();
                        if hops.len() > usize::from(contact.tried) + 1 {
                            plan.contacts.push(Contact { uri: contact.uri.clone(), tried: contact.tried + 1 });
                        }
                        hops.get(usize::from(contact.tried)).copied()
                    }
                };
                let Some(transaction) = self.transactions.server_mut(server) else { return };
                match (hop, question) {
                    (None, Some(question)) if !plan.is_parked => {
                        // The name is asked for, and the Contact tried again when it is known, or known to be none.
                        plan.is_parked = true;
                        plan.contacts.push(contact);
                        transaction.context.plan = Some(plan);
                        if self.park(now, server, question) {
                            return;
                        }
                        continue;
                    }
                    _ => plan.is_parked = false,
                }
                let takes_channel = hop.is_some_and(|hop| router.takes_channel(hop.address));
                let left = plan.uses.take_if(|_| hop.is_some() && !takes_channel);
                // Where a channel is used, nobody comes without one.
                let has_one = plan.uses.is_some() || !transaction.context.replaces.is_none();
                let is_without = takes_channel && !has_one && router.pool_id(plan.service).is_some();
                transaction.context.plan = Some(plan);
                let Some(hop) = hop.filter(|_| !is_without) else { continue };
                if let Some(pool) = left {
                    self.leave_channel(now, call, pool);
                }
                if !takes_channel {
                    self.no_heir(server);
                }
                let cookie = Cookie::new(&self.secret, call);
                let session = self.plan_session(server, message);
                let changes = Changes {
                    request_uri: Some(&contact.uri),
                    routes_popped: popped,
                    record_route: Some(Some(cookie)),
                    session,
                    ..Changes::default()
                };
                self.send_attempt(now, &router, message, found, server, hop, Some(target.silence), &changes);
                self.call_goes_to(call, hop, NO_PEER);
                return;
            }
            let places = router.places(plan.target);
            let again = plan.again.take();
            let chosen = again.or_else(|| self.health.choose(now, places, plan.tried, target.balance));
            if let Some(at) = chosen {
                let place = &places[at];
                plan.tried |= 1 << at;
                let (hop, widened) = next_hop(&self.large, now, &router, listener, (place, message), again.is_none());
                plan.again = widened.then_some(at);
                let hop = hop.filter(|_| place.transport.is_secure() || !is_sips(message.request_uri()));
                let service = &router.config.services[plan.service];
                let is_sos = is_sos(message.request_uri());
                let user = plan.user.clone().or_else(|| if is_sos { plain_number(service) } else { None });
                let lines = plan.refusal.map(|refusal| {
                    let advertise = &router.config.listen[usize::from(listener)].advertise;
                    overflow_lines(message, user.as_deref(), refusal, &place.host_port, advertise)
                });
                transaction.context.plan = Some(plan);
                let Some(hop) = hop else { continue };
                let mut scratch = std::mem::take(&mut self.scratch);
                let request_uri = ((target.rewrite && !is_sos) || user.is_some()).then(|| {
                    rewrite(&mut scratch, message.request_uri(), user.as_deref(), &place.host_port);
                    &scratch[..]
                });
                let cookie = Cookie::new(&self.secret, call);
                let session = self.plan_session(server, message);
                let (top, history) = lines.as_ref().map_or((&b""[..], &b""[..]), |(top, history)| (top, history));
                let changes = Changes {
                    request_uri,
                    routes_popped: popped,
                    record_route: Some(Some(cookie)),
                    session,
                    lines: if target.diversion { top } else { b"" },
                    history: if target.history_info { history } else { b"" },
                    ..Changes::default()
                };
                let silence = Some(target.silence);
                let client = self.send_attempt(now, &router, message, found, server, hop, silence, &changes);
                self.scratch = scratch;
                self.call_goes_to(call, hop, place.peer);
                if let Some(client) = self.transactions.client_mut(client) {
                    client.context.peer = place.peer;
                    client.context.widened = widened.then_some((hop.address, now));
                }
                return;
            }
            // The target has no more addresses: the channel, if this attempt had one, goes back before anything else.
            let service = &router.config.services[plan.service];
            if plan.refusal.is_none() {
                self.no_heir(server);
                plan.refusal = Some(Refusal::TargetFailed);
                self.refuse_count(Refusal::TargetFailed);
                if let Some(pool) = plan.uses.take() {
                    self.leave_channel(now, call, pool);
                }
                self.leave_service(now, call);
                if service.overflow_is_default {
                    // Nobody planned for this: the caller learns what the PBX said.
                    return self.answer_best(now, server, plan.best.take());
                }
            }
            let Some(step) = service.plan(plan.refusal).get(plan.next_step) else {
                return self.answer_best(now, server, plan.best.take());
            };
            plan.next_step += 1;
            self.end_step(now, &mut plan);
            if let Step::Wait(wait) = step {
                if self.wait(now, server, wait, &mut plan, message) {
                    self.overflow_count(router.service_id(plan.service), step);
                    plan.step = Some((step.position(), now));
                    if let Some(transaction) = self.transactions.server_mut(server) {
                        transaction.context.plan = Some(plan);
                    }
                    return self.say_queued(now, server);
                }
            } else if !matches!(step, Step::Borrow { .. }) {
                self.overflow_count(router.service_id(plan.service), step);
                plan.step = Some((step.position(), now));
            }
            match step {
                Step::Borrow { .. } | Step::Wait(_) => {
                    // Borrowing was tried when the call came; waiting was not possible.
                    if let Some(transaction) = self.transactions.server_mut(server) {
                        transaction.context.plan = Some(plan);
                    }
                }
                Step::Route { target, user }
                    if self.leads_back(&router, (*target, user.as_deref()), server, message) =>
                {
                    self.counters.overflow_loops += 1;
                    tracing::debug!(
                        target = &*router.config.targets[*target].name,
                        "the call was there: step passed over"
                    );
                    if let Some(transaction) = self.transactions.server_mut(server) {
                        transaction.context.plan = Some(plan);
                    }
                }
                Step::Route { target, user } => {
                    (plan.target, plan.tried, plan.user) = (*target, 0, user.clone());
                    let slot = self.calls.get(call).map(|call| call.slot);
                    if let Some(slot) = slot {
                        self.slots.update(slot, |slot| slot.target = *target as u16);
                    }
                    if let Some(transaction) = self.transactions.server_mut(server) {
                        transaction.context.plan = Some(plan);
                    }
                }
                Step::Redirect { lines } => return self.answer(now, server, 302, lines.as_bytes()),
                Step::Reject { status, reason, lines } => {
                    let cause = plan.refusal.unwrap_or(Refusal::PoolFull).cause();
                    let lines = match reason {
                        Some(reason) => format!("Reason: {reason}\r\n{lines}"),
                        None => format!("Reason: Q.850;cause={cause}\r\n{lines}"),
                    };
                    return self.answer(now, server, *status, lines.as_bytes());
                }
            }
        }
    }

    /// Whether a call that overflowed would come back to where it was: History-Info names the place (RFC 7044), or has as many
    /// entries as no honest call has; or the call went through us before and comes from there.
    fn leads_back(&self, router: &Router, step: (usize, Option<&str>), server: Key, invite: &Message<'_>) -> bool {
        let (target, user) = step;
        let places = router.places(target);
        let mut entries = 0;
        for span in invite.list(HeaderName::HistoryInfo) {
            entries += 1;
            let Some(entry) = NameAddr::parse(invite.slice(span)) else { continue };
            let Some(was) = entry.uri() else { continue };
            let is_there = |place: &Place| {
                let goes = rewritten_to(invite.request_uri(), user, &place.host_port);
                let Some(goes) = Uri::parse(&goes) else { return false };
                let port = |uri: &Uri<'_>| uri.port.unwrap_or_else(|| uri.default_port());
                let hosts = goes.host().zip(was.host());
                goes.user() == was.user() && port(&goes) == port(&was) && hosts.is_some_and(|(goes, was)| goes.is(&was))
            };
            if places.iter().any(is_there) {
                return true;
            }
        }
        let source = self.transactions.server(server).map(|server| server.source.ip());
        let comes_from_there = || places.iter().any(|place| Some(place.address.ip()) == source);
        entries >= HISTORY_MAX || (comes_from_there() && self.was_here(invite))
    }

    /// The target answered with 3xx and the call goes where it says; its channel goes back when no channel is used there. Says
    /// whether there is anywhere to go.
    pub(super) fn follow(&mut self, now: Instant, server: Key, message: &Message<'_>) -> bool {
        let Some(transaction) = self.transactions.server_mut(server) else { return false };
        let Some(plan) = &mut transaction.context.plan else { return false };
        let is_secure = Message::parse(&transaction.request).is_ok_and(|request| is_sips(request.request_uri()));
        // §8.1.3.4, §16.5: by q, 1 when not given; thousandths.
        let quality = |contact: &NameAddr<'_>| contact.parameter("q").map_or(1000, thousandths);
        let mut contacts: Vec<(u32, Box<[u8]>)> = Vec::new();
        for span in message.list(HeaderName::Contact) {
            let Some(contact) = NameAddr::parse(message.slice(span)) else { continue };
            let Some(uri) = contact.uri().filter(|uri| !uri.has_headers()) else { continue };
            // RFC 5630 §5.3: a sips: request follows no sip: Contact. Ourselves would be a loop.
            let may_follow =
                uri.host().is_some() && !plan.router.is_self(&uri) && (uri.scheme == Scheme::Sips) == is_secure;
            if may_follow {
                contacts.push((quality(&contact), uri.as_bytes().into()));
            }
        }
        contacts.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
        contacts.truncate(usize::from(CONTACTS_MAX - plan.followed));
        if contacts.is_empty() {
            return false;
        }
        plan.followed += contacts.len() as u8;
        plan.contacts.extend(contacts.into_iter().rev().map(|(_, uri)| Contact { uri, tried: 0 }));
        (plan.tried, plan.again) = (u64::MAX, None);
        self.advance(now, server);
        true
    }

    /// A service of kind `route` has no pool: its place in the service is given back all the same.
    fn leave_service(&mut self, now: Instant, key: Key) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.users == 0) else { return };
        if let Some(channel) =
            call.channels_mut().find(|channel| channel.pool().is_none() && channel.service().is_some())
        {
            self.gate.release_channel(now, channel, &mut self.events);
        }
    }

    /// Nothing was heard of an attempt for the target's `silence_ms`: the next address gets its chance, and what this one
    /// may still say is cancelled. The call keeps its channel until then: the PBX may have taken one.
    pub(super) fn fell_silent(&mut self, now: Instant, key: Key) {
        let Some(client) = self.transactions.client_mut(key) else { return };
        let (server, call, peer) = (client.context.server, client.context.call, client.context.peer);
        let widened = client.context.widened;
        client.context.is_silent = true;
        client.context.cancel = super::Cancel::Wanted;
        // It may have taken a channel: until it is known, the call uses one for it, wherever it goes meanwhile.
        let uses =
            self.transactions.server(server).and_then(|server| server.context.plan.as_ref()).and_then(|it| it.uses);
        if let (Some(pool), Some(call)) = (uses, self.calls.get_mut(call)) {
            call.users += 1;
            if let Some(client) = self.transactions.client_mut(key) {
                client.context.holds = Some(pool);
            }
        }
        let waited = self
            .transactions
            .server(server)
            .and_then(|server| server.context.plan.as_ref())
            .map_or(Duration::ZERO, |plan| plan.router.config.targets[plan.target].silence);
        self.transactions.fall_silent(env!(self, now), key, waited);
        if let Some(call) = self.calls.get_mut(call) {
            call.pending += 1;
        }
        let attempt = Attempt { peer, widened, ..Attempt::new((server, call), 0, Key::NONE) };
        self.attempt_failed(now, attempt, Failed::Silent);
    }
}

/// Whether the caller is to be told that an early dialog has ended (RFC 6228 §6): not where its provisional answers must be
/// acknowledged, which ours could not be.
fn wants_199(invite: &Message<'_>) -> bool {
    lists(invite, HeaderName::Supported, b"199") && !lists(invite, HeaderName::Require, b"100rel")
}

/// A call retargeted more often than this is on no way of anybody's making.
const HISTORY_MAX: usize = 10;

/// What a PBX that knows no URN calls an emergency service by: the first number of the service.
fn plain_number(service: &Service) -> Option<Box<str>> {
    service.numbers.iter().find_map(|number| match number {
        Pattern::Exact(number) if !number.starts_with("urn:") => Some(number.clone()),
        Pattern::Exact(_) | Pattern::Prefix(_) => None,
    })
}

/// Contacts of 3xx answers followed for one INVITE.
const CONTACTS_MAX: u8 = 5;

/// A q value (RFC 3261 §25.1) in thousandths; 0 when it cannot be read.
fn thousandths(text: &[u8]) -> u32 {
    let (whole, part) = match text.iter().position(|octet| *octet == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let digits = part.iter().copied().chain(std::iter::repeat(b'0')).take(3);
    let part = digits.fold(0, |number, digit| number * 10 + u32::from(digit.wrapping_sub(b'0').min(9)));
    crate::sip::decimal(whole).map_or(0, |whole| (whole.min(1) * 1000 + part).min(1000))
}

/// The way to an address of a target, and whether it is a try over TCP for a request too large for UDP: only where the address
/// does not say itself how it is to be reached.
pub(super) fn next_hop(
    large: &Large,
    now: Instant,
    router: &Router,
    listener: ListenerId,
    (place, message): (&Place, &Message<'_>),
    is_first: bool,
) -> (Option<Hop>, bool) {
    let hop = router.hop_to(listener, place);
    let may_widen = is_first && is_large(message) && !place.is_fixed;
    let wide = if may_widen { hop.and_then(|hop| large.widen(now, router, hop)) } else { None };
    (wide.or(hop), wide.is_some())
}

pub(super) fn rewritten(uri: &Uri<'_>, user: Option<&str>, host_port: &str) -> Vec<u8> {
    rewritten_to(uri.as_bytes(), user, host_port)
}

fn rewritten_to(uri: &[u8], user: Option<&str>, host_port: &str) -> Vec<u8> {
    let mut out = Vec::new();
    rewrite(&mut out, uri, user, host_port);
    out
}

/// The Request-URI for a target: the user part (or the plan's), the target's host and port, the parameters kept. A
/// `tel:` URI becomes a `sip:` URI with `user=phone` (RFC 3261 §19.1.6).
fn rewrite(out: &mut Vec<u8>, request_uri: &[u8], user: Option<&str>, host_port: &str) {
    out.clear();
    let Some(uri) = Uri::parse(request_uri) else { return out.extend_from_slice(request_uri) };
    out.extend_from_slice(if uri.scheme == Scheme::Sips { b"sips:" } else { b"sip:" });
    let scheme = out.len();
    match user {
        Some(user) => out.extend_from_slice(user.as_bytes()),
        None => out.extend_from_slice(uri.user()),
    }
    let is_tel = uri.scheme == Scheme::Tel;
    if is_tel && user.is_none() {
        out.extend_from_slice(uri.parameters());
    }
    if out.len() > scheme {
        out.push(b'@');
    }
    out.extend_from_slice(host_port.as_bytes());
    if is_tel {
        return out.extend_from_slice(b";user=phone");
    }
    // What said how to reach the former host says nothing of the new one.
    let parameters = uri.parameters();
    let mut at = 0;
    while at < parameters.len() {
        let end = parameter_end(parameters, at + 1);
        let (name, _) = split_parameter(&parameters[at + 1..end]);
        if ![&b"maddr"[..], b"transport", b"lr", b"ttl"].iter().any(|gone| name.eq_ignore_ascii_case(gone)) {
            out.extend_from_slice(&parameters[at..end]);
        }
        at = end;
    }
}

/// Diversion (RFC 5806) and History-Info (RFC 7044) of a call that overflowed: whom it was for, why it goes elsewhere.
fn overflow_lines(
    message: &Message<'_>,
    user: Option<&str>,
    refusal: Refusal,
    host_port: &str,
    advertise: &str,
) -> (Vec<u8>, Vec<u8>) {
    let original = message.request_uri();
    let is_away = matches!(refusal, Refusal::TargetFailed | Refusal::Unlicensed);
    let reason = if is_away { "unavailable" } else { "user-busy" };
    let mut diversion = b"Diversion: <".to_vec();
    diversion.extend_from_slice(original);
    diversion.extend_from_slice(format!(">;reason={reason};counter=1\r\n").as_bytes());

    // RFC 7044 §10.3: the index of a retargeted request is that of the request it came from, one level down.
    let last = message.list(HeaderName::HistoryInfo).last().and_then(|span| NameAddr::parse(message.slice(span)));
    let first = match last.as_ref().and_then(|entry| entry.parameter("index")) {
        Some(index) if index.len() <= 64 => [index, b".1"].concat(),
        Some(_) | None => b"1".to_vec(),
    };
    let mut history = b"History-Info: <".to_vec();
    // A tel: URI takes no header fields: it is written as the sip: URI it stands for (RFC 3261 §19.1.6). Nor does a URN.
    let mut from = original.to_vec();
    match Uri::parse(original).map(|uri| uri.scheme) {
        Some(Scheme::Tel) => rewrite(&mut from, original, None, advertise),
        Some(Scheme::Sos) => rewrite(&mut from, original, Some("sos"), advertise),
        Some(Scheme::Sip | Scheme::Sips | Scheme::Other) | None => {}
    }
    history.extend_from_slice(&from);
    history.extend_from_slice(format!("?Reason=Q.850%3Bcause%3D{}>;index=", refusal.cause()).as_bytes());
    history.extend_from_slice(&first);
    history.extend_from_slice(b"\r\nHistory-Info: <");
    let mut target = Vec::new();
    rewrite(&mut target, original, user, host_port);
    history.extend_from_slice(&target);
    history.extend_from_slice(b">;index=");
    history.extend_from_slice(&first);
    history.extend_from_slice(b".1;mp=");
    history.extend_from_slice(&first);
    history.extend_from_slice(b"\r\n");
    (diversion, history)
}
