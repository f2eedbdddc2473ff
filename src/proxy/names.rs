//! Names of next hops (RFC 3263): the core asks, the shell looks up, and whoever needs the answer is parked until it comes.
//!
//! Names of targets are kept warm: they are asked for again before calls need them, so that no call ever waits for one, and
//! a name service that is dead costs nothing while what it said last still works. Other names are asked for when needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::dialog::Way;
use super::talk::{Side, dialog as dialog_of};
use super::{Context, Proxy, Role};
use crate::alert::{Event, EventKind};
use crate::outbox::Hop;
use crate::route::{Found, Names, Question, Router};
use crate::sip::{Message, Method, Uri};
use crate::store::{Key, Timer};
use crate::time::Instant;
use crate::transaction::Due;
use crate::transaction::key::{Cookie, Domain, Fingerprint};

/// Names known or asked for at a time; one more is not asked for.
const NAMES_MAX: usize = 4096;
/// Requests that wait for one name; one more is refused.
const PARKED_MAX: usize = 256;
/// An answer that takes longer comes too late.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a name is asked for again after the name service failed.
const RETRY: Duration = Duration::from_secs(5);
/// Bounds of how long an answer, and that there is none, is believed.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
const NEGATIVE_MAX: Duration = Duration::from_secs(300);

/// What came of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Addresses.
    Found(Vec<Found>),
    /// There is no such name, or it has no address.
    NotFound,
    /// The name service did not answer.
    Failed,
}

#[derive(Debug)]
struct Entry {
    question: Question,
    is_target: bool,
    is_asked: bool,
    parked: Vec<Key>,
    timer: Timer,
    fails_since: Option<Instant>,
}

/// The names in use.
#[derive(Default, Debug)]
pub(super) struct Lookups {
    known: Names,
    entries: Vec<Option<Entry>>,
    index: HashMap<Question, u16, foldhash::fast::RandomState>,
    /// Questions for the shell.
    pub(super) asked: VecDeque<Question>,
}

impl Proxy {
    /// The router for a configuration: with what its names stand for, as far as is known, and every place numbered.
    pub(super) fn make_router(&mut self, now: Instant, config: Arc<crate::config::Config>) {
        let mut router = Router::with_names(config, &self.gate, &self.lookups.known);
        let config = Arc::clone(&router.config);
        for (target, places) in config.targets.iter().zip(router.places_mut()) {
            for place in places.iter_mut().filter(|place| place.transport.is_secure()) {
                let uri = &target.uris[place.uri];
                let host = uri.address.is_none().then_some(&*uri.host);
                let name = target.tls_name.as_deref().or(host).unwrap_or_default();
                place.domain = self.outbox.domain(name, true);
            }
        }
        self.number(now, &mut router);
        self.router = Arc::new(router);
    }

    /// Names of targets are asked for from now on, those of targets that are gone no more.
    pub(super) fn watch_names(&mut self, now: Instant) {
        let config = Arc::clone(&self.router.config);
        for entry in self.lookups.entries.iter_mut().flatten() {
            entry.is_target = false;
        }
        for question in config.targets.iter().flat_map(|target| &target.uris).filter_map(Question::of) {
            if let Some(at) = self.name_entry(now, question, true)
                && let Some(entry) = &mut self.lookups.entries[usize::from(at)]
            {
                entry.is_target = true;
            }
        }
    }

    /// The entry of a question, asked for when it is new.
    fn name_entry(&mut self, now: Instant, question: Question, is_target: bool) -> Option<u16> {
        if let Some(at) = self.lookups.index.get(&question) {
            return Some(*at);
        }
        let free = self.lookups.entries.iter().position(Option::is_none);
        let at = free.unwrap_or(self.lookups.entries.len());
        // Targets are as many as the configuration says.
        if (at >= NAMES_MAX && !is_target) || at >= usize::from(u16::MAX) {
            return None;
        }
        let entry = Entry {
            question: question.clone(),
            is_target: false,
            is_asked: false,
            parked: Vec::new(),
            timer: Timer::NONE,
            fails_since: None,
        };
        if free.is_some() {
            self.lookups.entries[at] = Some(entry);
        } else {
            self.lookups.entries.push(Some(entry));
        }
        self.lookups.index.insert(question, at as u16);
        self.ask_name(now, at as u16);
        Some(at as u16)
    }

    fn ask_name(&mut self, now: Instant, at: u16) {
        let Some(Some(entry)) = self.lookups.entries.get_mut(usize::from(at)) else { return };
        entry.is_asked = true;
        self.lookups.asked.push_back(entry.question.clone());
        self.wheel.stop(std::mem::take(&mut entry.timer));
        entry.timer = self.wheel.arm(now + PATIENCE, Due::Name(at));
    }

    /// An answer is overdue, or what was answered holds no longer.
    pub(super) fn name_due(&mut self, now: Instant, at: u16) {
        let Some(Some(entry)) = self.lookups.entries.get_mut(usize::from(at)) else { return };
        entry.timer = Timer::NONE;
        let question = entry.question.clone();
        if entry.is_asked {
            self.resolved(now, &question, Answer::Failed, RETRY);
        } else if entry.is_target {
            self.ask_name(now, at);
        } else {
            self.lookups.entries[usize::from(at)] = None;
            self.lookups.index.remove(&question);
            self.lookups.known.remove(&question);
        }
    }

    /// The shell has an answer, good for `ttl`.
    pub(super) fn resolved(&mut self, now: Instant, question: &Question, answer: Answer, ttl: Duration) {
        let Some(at) = self.lookups.index.get(question).copied() else { return };
        let Some(Some(entry)) = self.lookups.entries.get_mut(usize::from(at)) else { return };
        if !std::mem::take(&mut entry.is_asked) {
            return;
        }
        let (is_target, parked) = (entry.is_target, std::mem::take(&mut entry.parked));
        let (number, failure) = match &answer {
            Answer::Found(_) => (0, None),
            Answer::NotFound => (1, Some("there is no such name, or it has no address")),
            Answer::Failed => (2, Some("the name service does not answer")),
        };
        self.counters.lookups[number] += 1;
        match (failure, entry.fails_since) {
            (Some(why), None) => {
                entry.fails_since = Some(now);
                if is_target {
                    let kept = self.lookups.known.contains_key(question) && answer == Answer::Failed;
                    let kept = if kept { "; what it said last is kept" } else { "" };
                    let event = Event::about(EventKind::NameFailing, now, &question.host);
                    self.events.push(Event { detail: format!("{why}{kept}").into(), ..event });
                }
            }
            (None, Some(since)) => {
                entry.fails_since = None;
                if is_target {
                    let lasted_ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
                    self.events.push(Event { lasted_ms, ..Event::about(EventKind::NameResolved, now, &question.host) });
                }
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let (changed, again) = match answer {
            Answer::Found(found) => {
                let changed = self.lookups.known.get(question) != Some(&found);
                self.lookups.known.insert(question.clone(), found);
                (changed, ttl.clamp(TTL.0, TTL.1))
            }
            Answer::NotFound => (self.lookups.known.remove(question).is_some(), ttl.clamp(TTL.0, NEGATIVE_MAX)),
            Answer::Failed => (false, RETRY),
        };
        if let Some(Some(entry)) = self.lookups.entries.get_mut(usize::from(at)) {
            self.wheel.stop(std::mem::take(&mut entry.timer));
            entry.timer = self.wheel.arm(now + again, Due::Name(at));
        }
        if changed && is_target {
            let config = Arc::clone(&self.router.config);
            self.make_router(now, config);
        }
        for server in parked {
            self.resume(now, server);
        }
    }

    /// What a name stands for, in the order of RFC 2782: by priority, and by weight as `seed` has it.
    pub(super) fn known_hops(&mut self, question: &Question, listener: u8, seed: u64) -> Option<Vec<Hop>> {
        let mut left = self.lookups.known.get(question)?.clone();
        left.retain(|found| self.router.hop(listener, found.transport, found.address).is_some());
        let mut hops = Vec::with_capacity(left.len());
        let mut seed = seed;
        while let Some(priority) = left.iter().map(|found| found.priority).min() {
            let total: u64 = left.iter().filter(|it| it.priority == priority).map(|it| u64::from(it.weight) + 1).sum();
            let mut ticket = seed % total;
            seed = seed.rotate_left(17).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let is_drawn = |it: &Found| {
                let share = u64::from(it.weight) + 1;
                it.priority == priority
                    && (ticket < share || {
                        ticket -= share;
                        false
                    })
            };
            let at = left.iter().position(is_drawn).unwrap_or(0);
            let found = left.swap_remove(at);
            let mut hop = self.router.hop(listener, found.transport, found.address);
            // RFC 5922 §7.3: what was looked up is what the certificate must name.
            if let Some(hop) = hop.as_mut().filter(|_| found.transport.is_secure()) {
                hop.domain = self.outbox.domain(&question.host, false);
            }
            hops.extend(hop);
        }
        Some(hops)
    }

    /// The next hop of a request is a name: it goes on at once when that is known, else when it is.
    pub(super) fn go_by_name(&mut self, now: Instant, server: Key, question: Question) {
        if self.lookups.known.contains_key(&question) {
            self.resume(now, server);
        } else if !self.park(now, server, question) {
            self.counters.drop(crate::metrics::Drop::Unresolved);
            self.answer(now, server, 502, super::request::warning(super::request::NO_WAY).as_bytes());
        }
    }

    /// A request waits for a name. Says whether it can.
    pub(super) fn park(&mut self, now: Instant, server: Key, question: Question) -> bool {
        let Some(at) = self.name_entry(now, question, false) else { return false };
        let Some(Some(entry)) = self.lookups.entries.get_mut(usize::from(at)) else { return false };
        // One that was answered with nothing is not asked for again before its time.
        if !entry.is_asked || entry.parked.len() >= PARKED_MAX {
            return false;
        }
        entry.parked.push(server);
        true
    }

    /// A parked request goes on: its name was found, or was not.
    pub(super) fn resume(&mut self, now: Instant, server: Key) {
        // What is at hand now, an answer perhaps, came over somebody else's connection.
        let certified = self.certified.take();
        self.go_on(now, server);
        self.certified = certified;
    }

    fn go_on(&mut self, now: Instant, server: Key) {
        let Some(transaction) = self.transactions.server(server) else { return };
        if transaction.state.is_final() {
            return;
        }
        let (request, source, listener) = (transaction.request.clone(), transaction.source, transaction.reply.listener);
        let (role, call, method) = (transaction.context.role, transaction.context.call, transaction.context.method);
        let may_relay = transaction.context.may_relay;
        if transaction.context.cancelled {
            return self.answer(now, server, 487, b"");
        }
        if transaction.context.plan.is_some() {
            // A Contact of a 3xx.
            return self.advance(now, server);
        }
        let Ok(message) = Message::parse(&request) else { return };
        let Ok(found) = message.check() else { return };
        let Some(uri) = Uri::parse(message.request_uri()) else { return };
        let router = Arc::clone(&self.router);
        let path = self.path(&router, &message, &uri);
        let incoming = self.incoming(&message, &found, (method, Fingerprint::default()), (source, listener), uri, path);
        let (mut changes, hops) = match self.dialog_route(&router, &incoming, None) {
            Way::Go(changes, hop) => (changes, vec![hop]),
            Way::Name(changes, question) => {
                let seed = self.draw(found.call_id);
                let mut hops = self.known_hops(&question, listener, seed).unwrap_or_default();
                // Where that side of the call was heard last it is no more.
                let peer = self.peer_of(role, call);
                hops.retain(|hop| Some(hop.address) != peer.map(|peer| peer.address));
                (changes, hops)
            }
            Way::Nowhere => return self.goes_nowhere(now, server, 502, b""),
        };
        if hops.is_empty() {
            self.counters.drop(crate::metrics::Drop::Unresolved);
            return self.goes_nowhere(now, server, 502, super::request::warning(super::request::NO_WAY).as_bytes());
        }
        let cookie = (!call.is_none()).then(|| Cookie::new(&self.secret, call));
        changes.record_route = (method.is_dialog_forming() && found.to_tag.is_none()).then_some(cookie);
        changes.session = self.plan_session(server, &message);
        let tried = self.transactions.server_mut(server).map(|server| {
            server.context.hops = hops.len().min(usize::from(u8::MAX)) as u8;
            server.context.hops_tried = server.context.hops_tried.saturating_add(1);
            usize::from(server.context.hops_tried) - 1
        });
        let Some(hop) = tried.and_then(|tried| hops.get(tried)).copied() else {
            return self.goes_nowhere(now, server, 480, b"");
        };
        // Of each address: a name may lead to one we know first and to any other then.
        if role == Role::Other
            && found.to_tag.is_some()
            && !may_relay
            && !self.may_pass(&router, &incoming, hop.address)
        {
            return self.answer(now, server, 403, b"");
        }
        let more = hops.len() > tried.unwrap_or(0) + 1;
        let silence = (more && method == Method::Invite).then(|| Duration::from_secs(5));
        self.send_attempt(now, &router, &message, &found, server, hop, silence, &changes);
        if role == Role::Opening {
            self.call_goes_to(call, hop, super::health::NO_PEER);
        }
    }

    /// A request that waited for a name is answered here. Within a call that is as good as no answer (RFC 3261 §12.2.1.2).
    fn goes_nowhere(&mut self, now: Instant, server: Key, status: u16, lines: &[u8]) {
        self.answer(now, server, status, lines);
        let Some(context) = self.transactions.server(server).map(|server| &server.context) else { return };
        let (call, dialog, method) = (context.call, context.dialog, context.method);
        if let Role::InDialog { from_caller } = context.role {
            self.in_dialog_answered(now, (call, dialog), method, 408, from_caller);
        }
    }

    /// Where the other side of a call was heard last, of a request within it.
    fn peer_of(&self, role: Role, call: Key) -> Option<Hop> {
        let Role::InDialog { from_caller } = role else { return None };
        let call = self.calls.get(call)?;
        Some(if from_caller { call.callee } else { call.caller })
    }

    /// The next address of a name gets its chance (RFC 3263 §4.3): the last one could not be reached, or refused. Says whether
    /// there is one.
    pub(super) fn next_of_name(&mut self, now: Instant, server: Key, is_refused: bool) -> bool {
        let Some(transaction) = self.transactions.server(server) else { return false };
        let context = &transaction.context;
        if matches!(context.role, Role::InDialog { .. }) && context.hops_tried == 0 {
            // Who refuses is there, and knows the call; what another would say of it ends it.
            return !is_refused && self.leave_peer_for_name(now, server);
        }
        if context.plan.is_some()
            || context.hops_tried == 0
            || context.cancelled
            || usize::from(context.hops_tried) >= usize::from(context.hops)
        {
            return false;
        }
        self.resume(now, server);
        true
    }

    /// A request within a call went where its other side was heard last, and nobody is there. When that side's Contact is a name,
    /// another of its servers may know the call (RFC 3263 §4.3). Says whether it goes on.
    fn leave_peer_for_name(&mut self, now: Instant, server: Key) -> bool {
        let Some(transaction) = self.transactions.server(server) else { return false };
        let Context { role, call, dialog, method, .. } = transaction.context;
        let Role::InDialog { from_caller } = role else { return false };
        let (request, origin) = (transaction.request.clone(), (transaction.source, transaction.reply.listener));
        let Ok(message) = Message::parse(&request) else { return false };
        let Ok(found) = message.check() else { return false };
        let Some(uri) = Uri::parse(message.request_uri()) else { return false };
        let router = Arc::clone(&self.router);
        let path = self.path(&router, &message, &uri);
        let incoming = self.incoming(&message, &found, (method, Fingerprint::default()), origin, uri, path);
        let Way::Name(_, question) = self.dialog_route(&router, &incoming, None) else { return false };
        // The name that side gave itself, whatever the request says.
        let side = Side::of(from_caller).other();
        let is_its_own = self.calls.get_mut(call).is_some_and(|call| {
            let contact = dialog_of(&mut call.talk, dialog).and_then(|talk| Uri::parse(talk.contact(side)));
            contact.and_then(|contact| Question::of_uri(&contact)).is_some_and(|its| its.host == question.host)
        });
        if !is_its_own {
            return false;
        }
        let Some(found) = self.lookups.known.get(&question) else { return self.park(now, server, question) };
        // Is there anybody but the one that failed?
        let peer = self.peer_of(role, call).map(|peer| peer.address);
        if found.iter().all(|found| Some(found.address) == peer) {
            return false;
        }
        self.resume(now, server);
        true
    }

    /// A request within a call that went by its other side's name was accepted: that is where this side is from now on.
    pub(super) fn found_by_name(&mut self, server: Key, client: Key) {
        let Some(context) = self.transactions.server(server).map(|server| &server.context) else { return };
        let (call, role) = (context.call, context.role);
        let Some(hop) = self.transactions.client(client).map(|client| client.hop) else { return };
        let peer = self.peer_of(role, call).map(|peer| peer.address);
        if peer == Some(hop.address) {
            return;
        }
        match role {
            Role::InDialog { from_caller: true } => self.call_goes_to(call, hop, super::health::NO_PEER),
            Role::InDialog { from_caller: false } => {
                if let Some(call) = self.calls.get_mut(call) {
                    call.caller = hop;
                }
            }
            Role::Opening | Role::Other => {}
        }
    }

    /// What decides among equals, the same for every attempt of a request.
    pub(super) fn draw(&self, call_id: &[u8]) -> u64 {
        self.secret.hash(Domain::Call, 1, &[call_id])
    }
}
