//! The proxy: the only core type the shell drives.
//!
//! ```text
//! handle(now, Input) … handle_timeout(now) … poll_output() until None … poll_timeout() → sleep
//! ```
//!
//! Any number of inputs may go in before outputs are taken. Nothing waits in here, nothing reads a clock, and the same
//! secret, times and bytes give the same outputs.

mod audit;
mod brake;
mod call;
mod dialog;
mod forward;
mod health;
mod io;
mod large;
mod names;
mod opening;
mod probe;
mod request;
mod response;
mod session;
mod talk;
mod transfer;
mod urgent;
mod waiting;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use audit::Story;
pub use health::PeerView;
pub use io::{Input, Output};
pub use names::Answer;

use crate::alert::Event;
use crate::config::Config;
use crate::metrics::{Counters, Direction, Drop, EndReason, WaitEnd};
use crate::outbox::{DomainId, ListenerId, Outbox};
use crate::pool::rate::Sources;
use crate::pool::{Gate, PoolId, Refusal, ServiceId, SlotId, Slots};
use crate::route::Router;
use crate::sip::{Fault, Message, Method};
use crate::store::{Index, Key, Slab, Timer, Wheel};
use crate::time::Instant;
use crate::transaction::key::{Fingerprint, Secret};
use crate::transaction::timer::{self, Lengths};
use crate::transaction::{self, Due, Outcome, Transactions};
use brake::Brake;
use call::Call;
use health::Health;
use session::Session;
use talk::Own;
use waiting::{Waiter, Waiting};

/// Timers fired in one go; datagrams get their turn between batches.
const TIMERS: usize = 1024;

/// What a request means to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// An INVITE that opens a call.
    Opening,
    /// A request within a dialog, from the caller or from the callee.
    InDialog { from_caller: bool },
    /// Any other request.
    Other,
}

/// What the proxy keeps with a server transaction: RFC 3261 §16.2's response context.
struct Context {
    role: Role,
    method: Method,
    /// The call it belongs to.
    call: Key,
    /// The other side's tag of an in-dialog request, which names the dialog.
    dialog: u32,
    /// The attempt in progress, or the last one.
    client: Key,
    /// Set for requests that may be tried elsewhere.
    plan: Option<Box<Plan>>,
    /// Set for other requests to a service.
    aside: Option<Box<Aside>>,
    cancelled: bool,
    is_answered: bool,
    /// Whether the call's count of pending INVITEs no longer includes this one.
    is_settled: bool,
    /// What it says of its session's timer.
    session: Session,
    /// The call it replaces (RFC 3891), whose channel it gets.
    replaces: Key,
    /// Addresses of the name it goes to, and how many were tried.
    hops: u8,
    hops_tried: u8,
    /// Whether who sent it may send it anywhere: a connection's certificate is not known any more when a name is.
    may_relay: bool,
}

/// Where a request to a service that opens no call can go next.
struct Aside {
    router: Arc<Router>,
    service: usize,
    /// Which of the target's addresses were tried, a bit each.
    tried: u64,
    /// See [`Plan::again`].
    again: Option<usize>,
}

/// Where an opening INVITE can go next. Attempts come one after another.
struct Plan {
    router: Arc<Router>,
    service: usize,
    /// The target being tried, and which of its addresses were, a bit each.
    target: usize,
    tried: u64,
    /// The address that is tried over TCP, the request being too large for UDP; UDP comes next.
    again: Option<usize>,
    /// Where a 3xx of the target sent the call; the next one last.
    contacts: Vec<Contact>,
    /// Contacts followed so far.
    followed: u8,
    /// Whether the next Contact's name was asked for.
    is_parked: bool,
    /// The overflow step that comes next.
    next_step: usize,
    /// The position of the step the call is at, and since when.
    step: Option<(usize, Instant)>,
    /// Set while the call waits for a channel.
    waiting: Option<Box<Waiter>>,
    /// Why the overflow plan was taken.
    refusal: Option<Refusal>,
    /// The user part the plan gave the Request-URI.
    user: Option<Box<str>>,
    /// The pool whose channel this INVITE uses, and must leave when it goes elsewhere.
    uses: Option<PoolId>,
    /// The best answer so far (§16.7 step 6).
    best: Option<(u16, Bytes)>,
    /// Tags of the attempt's early dialogs, when the caller wants to hear of their end by 199 (RFC 6228).
    early: Option<Vec<Box<[u8]>>>,
}

/// Where a 3xx sent a call.
struct Contact {
    uri: Box<[u8]>,
    /// Addresses of its name that were tried.
    tried: u8,
}

/// Early dialogs of one attempt whose end is told; of more, nothing is.
const EARLY_MAX: usize = 16;

/// What the proxy keeps with a client transaction.
struct Attempt {
    server: Key,
    call: Key,
    /// Keyed hash of Call-ID, CSeq and From tag: what an answer must repeat.
    identity: u64,
    provisional: bool,
    cancel: Cancel,
    /// Lines for a CANCEL that waits for a provisional answer.
    cancel_lines: Vec<u8>,
    /// The proxy went elsewhere while nothing had been heard: what comes now is cancelled, and no answer for the caller.
    is_silent: bool,
    /// The channel a silent attempt may still turn out to hold.
    holds: Option<PoolId>,
    /// The INVITE's client transaction when this is its CANCEL.
    cancels: Key,
    /// Whose answer it waits for, when that is an address of a target.
    peer: u16,
    /// Set for requests of our own.
    own: Own,
    /// Where, and since when, it goes over TCP for being too large for a datagram.
    widened: Option<(SocketAddr, Instant)>,
}

/// Whether an attempt was cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cancel {
    No,
    /// As soon as a provisional answer allows it (§9.1).
    Wanted,
    /// The CANCEL's client transaction.
    Sent(Key),
}

/// The core of one shard.
pub struct Proxy {
    router: Arc<Router>,
    gate: Arc<Gate>,
    slots: Arc<Slots>,
    secret: Secret,
    transactions: Transactions<Context, Attempt>,
    calls: Slab<Call>,
    /// Calls by Call-ID.
    by_call_id: Index,
    wheel: Wheel<Due>,
    outbox: Outbox,
    lengths: Lengths,
    events: Vec<Event>,
    /// A Request-URI in the making; kept so that its memory is.
    scratch: Vec<u8>,
    counters: Counters,
    brake: Brake,
    health: Health,
    lookups: names::Lookups,
    large: large::Large,
    /// Calls that give no sign of life, longest first.
    suspects: VecDeque<Key>,
    waiting: Waiting,
    audit: audit::Audit,
    /// When an emergency call was told of last, and how many were not since.
    emergencies: (Instant, u64),
    /// How fast each source calls.
    sources: Sources,
    /// The trunk whose certificate the sender of the message at hand has shown.
    certified: Option<usize>,
    /// Whom the certificate of that connection must name when it is opened again.
    shown: DomainId,
}

/// How full the tables of a shard are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Server transactions.
    pub servers: usize,
    /// Client transactions.
    pub clients: usize,
    /// Calls.
    pub calls: usize,
    /// Timers.
    pub timers: usize,
    /// Calls that give no sign of life.
    pub suspects: usize,
}

macro_rules! env {
    ($proxy:expr, $now:expr) => {
        &mut $crate::transaction::Env {
            now: $now,
            wheel: &mut $proxy.wheel,
            outbox: &mut $proxy.outbox,
            lengths: &$proxy.lengths,
        }
    };
}
use env;

impl Proxy {
    /// A proxy with nothing in progress. `secret` must be random; it signs branches and cookies.
    pub fn new(config: Arc<Config>, gate: Arc<Gate>, slots: Arc<Slots>, secret: [u8; 16]) -> Self {
        let router = Arc::new(Router::new(Arc::clone(&config), &gate));
        let mut proxy = Self {
            transactions: Transactions::new(router.config.limits.transactions as usize),
            lengths: router.config.timers,
            router,
            gate,
            slots,
            secret: Secret::new(secret),
            calls: Slab::default(),
            by_call_id: Index::default(),
            wheel: Wheel::default(),
            outbox: Outbox::default(),
            events: Vec::new(),
            scratch: Vec::new(),
            counters: Counters::default(),
            brake: Brake::default(),
            health: Health::default(),
            lookups: names::Lookups::default(),
            large: large::Large::default(),
            suspects: VecDeque::new(),
            waiting: Waiting::default(),
            audit: audit::Audit::default(),
            emergencies: (Instant::ZERO, 0),
            sources: Sources::default(),
            certified: None,
            shown: DomainId::NONE,
        };
        proxy.make_router(Instant::ZERO, config);
        proxy.watch_names(Instant::ZERO);
        proxy
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { listener, source, payload } => self.datagram(now, listener, source, payload),
            Input::Stream { listener, source, identities, domain, payload } => {
                self.shown = domain;
                if !identities.is_empty() {
                    let router = Arc::clone(&self.router);
                    self.certified = router.trunk_of(identities, source.ip());
                    let trunk = self.certified.map(|trunk| &router.config.trunks[trunk]);
                    let name = trunk.and_then(|it| it.identities.iter().find(|name| identities.contains(name)));
                    if let Some(name) = name.filter(|_| domain == DomainId::NONE) {
                        self.shown = self.outbox.domain(name, true);
                    }
                }
                self.datagram(now, listener, source, payload);
                (self.certified, self.shown) = (None, DomainId::NONE);
            }
            Input::SendFailed { client } => {
                self.counters.drop(Drop::SendFailed);
                self.client_event(now, client, transaction::Event::SendFailed);
            }
            Input::Reload(config) => self.reload(now, config),
            Input::Resolved { question, answer, ttl } => self.resolved(now, question, answer, ttl),
            Input::EndCall { slot } => self.end_by_operator(now, slot),
            Input::Release { slot } => {
                if let Some(slot) = self.slots.get(slot) {
                    self.release_channels(now, slot.call);
                }
            }
            Input::Drain { target, uri, is_drained } => self.drain_peers(target, uri, is_drained),
        }
        self.wake(now);
    }

    fn datagram(&mut self, now: Instant, listener: ListenerId, source: SocketAddr, payload: &[u8]) {
        // RFC 5626 §3.5.1 keep-alives, and what NAT boxes send to keep a binding.
        if payload.len() <= 4 && payload.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            self.counters.drop(Drop::KeepAlive);
            return;
        }
        match Message::parse(payload) {
            Err(fault) => self.counters.drop(Drop::Fault(fault)),
            Ok(message) => match message.status() {
                Some(status) => {
                    self.counters.response(Direction::In, message.method(), status);
                    self.response(now, &message, status);
                }
                None => {
                    self.counters.request(Direction::In, message.method());
                    self.request(now, listener, source, &message);
                }
            },
        }
    }

    fn reload(&mut self, now: Instant, config: Arc<Config>) {
        self.gate.configure(&config.settings(), now, &mut self.events);
        self.transactions.set_max(config.limits.transactions as usize);
        self.lengths = config.timers;
        self.make_router(now, config);
        self.watch_names(now);
    }

    /// Fires the timers that are due, up to a batch: [`Proxy::poll_timeout`] says when to come again.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.fire(now);
        self.wake(now);
    }

    fn fire(&mut self, now: Instant) {
        for _ in 0..TIMERS {
            let Some(due) = self.wheel.pop_due(now) else { return };
            match due {
                Due::Server(key, timer) => {
                    let env = env!(self, now);
                    let fired = transaction::Event::Fired(timer);
                    if self.transactions.server_event(env, key, fired, |_| {}) == Outcome::PassUp {
                        self.say_trying(now, key);
                    }
                }
                Due::Client(key, timer::Timer::C) => self.timer_c(now, key),
                Due::Client(key, timer) => {
                    if timer != timer::Timer::E || !self.transactions.sends_once(key) {
                        self.client_event(now, key, transaction::Event::Fired(timer));
                    }
                    // That of a CANCEL says nothing of the INVITE.
                    let is_cancel = |attempt: &Attempt| !attempt.cancels.is_none();
                    let is_own = self.transactions.client(key).is_some_and(|client| !is_cancel(&client.context));
                    if timer == timer::Timer::E && is_own && self.transactions.is_slow(key) {
                        // RFC 4320 §4.1: a 100, once timer E has come to T2.
                        let server = self.transactions.client(key).map_or(Key::NONE, |client| client.context.server);
                        self.say_trying(now, server);
                    }
                }
                Due::Call(key) => self.call_timer(now, key),
                Due::Peer(peer) => self.probe_due(now, peer),
                Due::Name(name) => self.name_due(now, name),
                Due::Waiting(server) => self.waiting_due(now, server),
            }
        }
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        if let Some(transmit) = self.outbox.pop() {
            match transmit.payload.strip_prefix(b"SIP/2.0 ") {
                Some(rest) => {
                    let status = rest.iter().take(3).fold(0u16, |status, digit| status * 10 + u16::from(digit & 15));
                    self.counters.response(Direction::Out, transmit.method, status);
                }
                None => self.counters.request(Direction::Out, transmit.method),
            }
            return Some(Output::Transmit(transmit));
        }
        if !self.events.is_empty() {
            return Some(Output::Event(self.events.remove(0)));
        }
        self.lookups.asked.pop_front().map(Output::Resolve)
    }

    /// When [`Proxy::handle_timeout`] is due; `None` when nothing runs.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next_at()
    }

    /// A datagram found the kernel's buffer full; what matters is sent again by its timer.
    pub fn count_unsent(&mut self) {
        self.counters.drop(Drop::SendFailed);
    }

    /// The shell went through one round: it woke at `began`, and left the sockets empty or not.
    pub fn end_round(&mut self, began: Instant, now: Instant, is_empty: bool) {
        self.counters.round(now - began);
        self.brake.look((began, now), is_empty, &mut self.events);
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How full the tables are.
    pub fn load(&self) -> Load {
        let (servers, clients) = self.transactions.len();
        let is_suspect = |key: &&Key| self.calls.get(**key).is_some_and(|call| call.rare().is_suspect);
        let suspects = self.suspects.iter().filter(is_suspect).count();
        Load { servers, clients, calls: self.calls.len(), timers: self.wheel.len(), suspects }
    }

    /// The addresses of targets.
    pub fn peers(&self, now: Instant) -> Vec<PeerView> {
        self.health.view(now, &self.router)
    }

    /// Whether nothing is in progress: no transaction, no call, no timer.
    pub fn is_idle(&self) -> bool {
        self.transactions.is_empty() && self.calls.is_empty() && self.by_call_id.is_empty() && self.wheel.is_empty()
    }

    /// The router in force.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    // --- calls ---------------------------------------------------------------------------------------------------

    /// The call with this Call-ID that `is_it` accepts.
    fn find_call(&self, id: Fingerprint, is_it: impl Fn(&Call) -> bool) -> Option<Key> {
        self.by_call_id.find(id.hash, |key| self.calls.get(key).is_some_and(|call| call.id == id && is_it(call)))
    }

    /// The callee answered: the channel is held.
    fn answered(&mut self, now: Instant, key: Key, tag: u32) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.dialogs.confirm(tag);
        for channel in call.channels_mut() {
            self.gate.confirm(channel);
        }
        if call.dialogs.is_up() && !std::mem::replace(&mut call.answered, true) {
            self.counters.answered += 1;
            call.gave_sign(now);
            self.counters.answer_delay(now - call.since);
            self.slots.update(call.slot, |slot| slot.answered = true);
            call.until = now + self.router.config.ack_wait;
            self.wheel.stop(call.timer);
            call.timer = self.wheel.arm(call.due(), Due::Call(key));
        }
    }

    /// The ACK for a 2xx came: from now on only the longest call counts.
    fn acked(&mut self, now: Instant, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if !call.acked && call.dialogs.is_up() && call.rare().ending.is_none() {
            call.acked = true;
            call.until = now + Duration::from_secs(u64::from(call.longest_s));
            if call.ask_s > 0 {
                call.ask_at = now + Duration::from_secs(u64::from(call.ask_s));
            }
            self.wheel.stop(call.timer);
            call.timer = self.wheel.arm(call.due(), Due::Call(key));
        }
    }

    /// The operator ends a call.
    fn end_by_operator(&mut self, now: Instant, slot: SlotId) {
        if let Some(slot) = self.slots.get(slot) {
            self.hang_up(now, slot.call, EndReason::Administrator);
        }
    }

    /// One of the call's moments came nearer.
    fn watch_call(&mut self, key: Key) {
        if let Some(call) = self.calls.get_mut(key) {
            self.wheel.stop(call.timer);
            call.timer = self.wheel.arm(call.due(), Due::Call(key));
        }
    }

    fn call_timer(&mut self, now: Instant, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.timer = Timer::NONE;
        // An INVITE under way may still be answered, and ends by its own timers: until then the call is counted.
        if call.pending > 0 {
            call.timer = self.wheel.arm(now + self.lengths.t1 * 64, Due::Call(key));
            return;
        }
        if let Some(reason) = call.rare().ending {
            // The BYE's own end should have come first.
            return self.end_call(now, key, reason);
        }
        if now >= call.until {
            let reason = if call.rare().is_replaced {
                EndReason::Replaced
            } else if call.answered && !call.acked {
                EndReason::AckMissing
            } else {
                EndReason::LongestCall
            };
            return self.hang_up(now, key, reason);
        } else if call.lease != Instant::ZERO && now >= call.lease {
            if call.rare().is_overdue {
                // RFC 4028 §8.3: "Unlike the UA, it MUST NOT send a BYE."
                return self.end_call(now, key, EndReason::SessionLapsed);
            }
            call.rare_mut().is_overdue = true;
            call.lease = now + self.lengths.t1 * 64;
            self.doubt(key);
        } else if call.ask_at != Instant::ZERO && now >= call.ask_at {
            call.ask_at = now + Duration::from_secs(u64::from(call.ask_s));
            self.ask_callee(now, key);
        }
        self.watch_call(key);
    }

    /// A dialog of the call is over; the last one ends the call, unless an INVITE of it is still under way.
    fn dialog_ended(&mut self, now: Instant, key: Key, tag: u32, reason: EndReason) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.dialogs.end(tag);
        tracing::debug!(slot = call.slot, reason = reason.label(), "dialog ended");
        if call.pending == 0 && !call.dialogs.is_up() {
            self.end_call(now, key, reason);
        }
    }

    /// An INVITE of the call has its final answer, or never gets one.
    fn settle(&mut self, now: Instant, server: Key) {
        let Some(transaction) = self.transactions.server_mut(server) else { return };
        let context = &mut transaction.context;
        if context.role != Role::Opening || std::mem::replace(&mut context.is_settled, true) {
            return;
        }
        let mut plan = context.plan.take();
        let (key, answered) = (context.call, context.is_answered);
        let replaces = std::mem::take(&mut context.replaces);
        if !replaces.is_none() {
            self.replacement_answered(now, replaces, answered);
        }
        if let Some(plan) = plan.as_deref_mut().filter(|plan| plan.step.is_some()) {
            if let Some(call) = self.calls.get(key).filter(|_| plan.waiting.is_some()) {
                self.slots.update(call.slot, |slot| slot.waiting = false);
            }
            self.end_step(now, plan);
        }
        let uses = plan.and_then(|plan| plan.uses);
        if let Some(pool) = uses.filter(|_| !answered) {
            self.leave_channel(now, key, pool);
        }
        self.no_longer_pending(now, key);
    }

    /// An INVITE or attempt of the call no longer uses its channel of `pool`. When none does, the channel is given back;
    /// the call may go on without it.
    fn leave_channel(&mut self, now: Instant, key: Key, pool: PoolId) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.users = call.users.saturating_sub(1);
        if call.users > 0 {
            return;
        }
        let slot = call.slot;
        if let Some(channel) = call.channels_mut().find(|channel| channel.pool() == Some(pool)) {
            self.gate.release_channel(now, channel, &mut self.events);
            self.slots.update(slot, |slot| slot.pool = None);
        }
    }

    /// The one place where a call ends: everything it holds is given back.
    fn end_call(&mut self, now: Instant, key: Key, reason: EndReason) {
        self.inherit(key);
        let Some(mut call) = self.calls.remove(key) else { return };
        self.by_call_id.remove(call.id.hash, key);
        self.health.moved(call.peer, health::NO_PEER);
        self.wheel.stop(call.timer);
        self.slots.remove(call.slot);
        for channel in call.take_channels() {
            self.gate.release(now, channel, &mut self.events);
        }
        self.counters.end(reason);
        tracing::debug!(slot = call.slot, reason = reason.label(), "call ended");
    }

    fn refuse_count(&mut self, refusal: Refusal) {
        self.counters.refusal(refusal);
    }

    fn overflow_count(&mut self, service: ServiceId, step: &crate::config::Step) {
        self.counters.overflow(service, step);
    }

    /// The call goes on from the step of its plan it was at.
    fn end_step(&mut self, now: Instant, plan: &mut Plan) {
        if let Some(waiter) = plan.waiting.take() {
            self.forget_waiting(now, plan.router.service_id(plan.service), &waiter, WaitEnd::GaveUp);
        }
        if let Some((step, since)) = plan.step.take() {
            self.counters.step_took(step, now - since);
        }
    }

    // --- client transactions ---------------------------------------------------------------------------------------

    /// A timer or the transport, for a client transaction.
    fn client_event(&mut self, now: Instant, key: Key, event: transaction::Event) {
        let outcome = self.transactions.client_event(env!(self, now), key, event, None);
        let closed = self.transactions.close_client(env!(self, now), key);
        match (outcome, closed) {
            (Outcome::Timeout, Some(attempt)) => self.attempt_failed(now, attempt, response::Failed::Silent),
            (Outcome::Unreachable, Some(attempt)) => self.attempt_failed(now, attempt, response::Failed::Unreachable),
            (_, Some(attempt)) => self.attempt_over(now, attempt),
            (_, None) => {}
        }
    }

    /// A client transaction is gone. One the proxy had left for its silence may have kept a channel until now.
    fn attempt_over(&mut self, now: Instant, attempt: Attempt) {
        if !attempt.is_silent {
            return;
        }
        if let Some(pool) = attempt.holds {
            self.leave_channel(now, attempt.call, pool);
        }
        self.no_longer_pending(now, attempt.call);
    }

    fn no_longer_pending(&mut self, now: Instant, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.pending = call.pending.saturating_sub(1);
        if call.pending == 0 && !call.dialogs.is_up() {
            let reason = if call.answered { EndReason::CallerBye } else { EndReason::NotAnswered };
            let reason = call.rare().ending.unwrap_or(reason);
            self.end_call(now, key, reason);
        }
    }

    /// RFC 3261 §16.8: "If the client transaction has received a provisional response, the proxy MUST generate a CANCEL
    /// request matching that transaction." When that brings no final answer either, the attempt is given up (§9.1).
    fn timer_c(&mut self, now: Instant, key: Key) {
        let Some(client) = self.transactions.client(key) else { return };
        if !client.context.provisional {
            return self.fell_silent(now, key);
        }
        match client.context.cancel {
            Cancel::No | Cancel::Wanted => self.send_cancel(now, key, b""),
            Cancel::Sent(_) => {
                if let Some(attempt) = self.transactions.give_up_client(env!(self, now), key) {
                    self.attempt_failed(now, attempt, response::Failed::NoFinal);
                }
            }
        }
    }
}

impl std::ops::Drop for Proxy {
    /// A shard that ends gives back what its calls hold: the gate may outlive it.
    fn drop(&mut self) {
        let keys: Vec<Key> = self.calls.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(mut call) = self.calls.remove(key) {
                self.slots.remove(call.slot);
                for channel in call.take_channels() {
                    self.gate.release(Instant::ZERO, channel, &mut self.events);
                }
            }
        }
    }
}

/// A fault, as the reason of a drop.
impl From<Fault> for Drop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
