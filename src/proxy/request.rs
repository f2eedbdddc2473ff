//! RFC 3261 §16.3 to §16.6 for requests: check, find the route, admit, forward.

use std::net::SocketAddr;
use std::sync::Arc;

use super::dialog::Way;
use super::forward::{Changes, OWN_ROUTES_MAX, route_values};
use super::opening::{next_hop, rewritten};
use super::session::{self, Session};
use super::urgent::is_emergency;
use super::{Aside, Cancel, Context, Proxy, Role, env};
use crate::config::UnknownSource;
use crate::metrics::{Drop, WaitEnd};
use crate::outbox::{DomainId, Hop, ListenerId};
use crate::pool::Refusal;
use crate::route::Router;
use crate::sip::message::{Essentials, HEADERS_MAX, VIAS_MAX};
use crate::sip::{Fault, HeaderName, Host, Message, Method, NameAddr, Scheme, Span, Text, Uri, Via, build, typed};
use crate::store::Key;
use crate::time::Instant;
use crate::transaction::Event;
use crate::transaction::key::{BRANCH_LEN, Branch, Cookie, Domain, Fingerprint};

/// Header fields and Via values of a request we forward: room is left for our own, and for those of hops behind us.
const REQUEST_HEADERS_MAX: usize = HEADERS_MAX - 16;
const REQUEST_VIAS_MAX: usize = VIAS_MAX - 8;

/// Where a request came from and by which listener.
pub(super) type Origin = (SocketAddr, ListenerId);

/// A request past the door, with all that was found in it.
pub(super) struct Incoming<'a> {
    pub(super) message: &'a Message<'a>,
    pub(super) found: &'a Essentials<'a>,
    pub(super) method: Method,
    /// Of its transaction.
    pub(super) fingerprint: Fingerprint,
    /// Of its Call-ID.
    pub(super) call_id: Fingerprint,
    /// Its From tag.
    pub(super) from_tag: u32,
    pub(super) origin: Origin,
    pub(super) uri: Uri<'a>,
    pub(super) path: Path,
}

/// What the Route values and the Request-URI say of the way (§16.4).
#[derive(Default)]
pub(super) struct Path {
    /// Leading values that are ours.
    pub(super) popped: usize,
    /// The Request-URI was ours: a strict router put the real one at the end of the Route values.
    pub(super) strict: bool,
    /// The real Request-URI then.
    pub(super) request_uri: Option<Span>,
    /// The first value that is not ours.
    pub(super) next: Option<Span>,
    /// The call our own value names.
    pub(super) call: Option<Key>,
    /// The listener our last own value names: the one that faces where the request goes (RFC 5658 §5).
    pub(super) listener: Option<ListenerId>,
}

/// What a `sips:` request is told that would have to go on without TLS (RFC 5630 §5.3).
const SIPS_NOT_ALLOWED: &[u8] = b"Warning: 380 sipweir \"SIPS Not Allowed\"\r\n";

/// Why a request goes nowhere.
pub(super) const NO_WAY: &str = "the next hop is a name nobody knows, or no listener leads there";

/// Lines a refusal of ours adds: Warning (RFC 3261 §20.43), so that the other side's engineer can read why.
pub(super) type Lines = Text<256>;

pub(super) fn warning(why: impl std::fmt::Display) -> Lines {
    let mut lines = Lines::default();
    lines.push(format_args!("Warning: 399 sipweir \"{why}\"\r\n"));
    lines
}

impl Proxy {
    /// A request came.
    pub(super) fn request(&mut self, now: Instant, listener: ListenerId, source: SocketAddr, message: &Message<'_>) {
        let origin = (source, listener);
        let found = match message.check() {
            // What we add must not make the copy unreadable to ourselves when its answer, or its CANCEL, is due.
            Ok(found)
                if message.headers().len() > REQUEST_HEADERS_MAX
                    || (found.has_more_vias && message.list(HeaderName::Via).nth(REQUEST_VIAS_MAX).is_some()) =>
            {
                return self.refuse_fault(message, origin, Fault::TooManyHeaders);
            }
            Ok(found) => found,
            Err(fault) => return self.refuse_fault(message, origin, fault),
        };
        let method = message.method();
        if method == Method::Ack {
            return self.ack(now, message, &found, origin);
        }
        if method == Method::Cancel {
            return self.cancel(now, message, &found, origin);
        }
        let fingerprint = self.secret.transaction(message, &found, method);
        if let Some(key) = self.transactions.find(fingerprint) {
            self.counters.retransmissions += 1;
            if self.transactions.is_unanswered(key) {
                return self.say_trying(now, key);
            }
            self.transactions.server_event(env!(self, now), key, Event::Request, |_| {});
            return;
        }
        if method == Method::Invite
            && found.to_tag.is_none()
            && self.trunk_of(source).is_some()
            && self.brake.refuses(fingerprint.hash)
            && !self.is_urgent(message, source)
        {
            self.brake.refused(now, &mut self.events);
            self.refuse_count(Refusal::Overload);
            return self.reject(message, origin, Refusal::Overload.status(), b"Retry-After: 1\r\n");
        }
        self.new_request(now, message, &found, (method, fingerprint), origin);
    }

    // --- answers without a transaction -------------------------------------------------------------------------------

    fn refuse_fault(&mut self, message: &Message<'_>, origin: Origin, fault: Fault) {
        self.counters.drop(fault.into());
        self.reject(message, origin, fault.status(), warning(fault).as_bytes());
    }

    /// Answers and forgets (§8.2.7): a copy of the request gets the same answer again. An ACK is never answered; nor is
    /// a stranger when the operator wants silence.
    pub(super) fn reject(&mut self, message: &Message<'_>, (source, listener): Origin, status: u16, lines: &[u8]) {
        if message.method() == Method::Ack {
            return;
        }
        let reply = match message.top_via() {
            Some(via) => self.reply_to((source, listener), &via),
            // Nothing says where the answer goes. Those we know learn at the address they sent from; nobody else is sent
            // anything they did not ask for.
            None if self.is_known(source) => {
                let is_reliable = self.router.transport(listener).is_reliable();
                Hop { listener, address: source, connect: 0, domain: DomainId::NONE, is_reliable, is_heard: true }
            }
            None => return,
        };
        if self.router.config.unknown_source == UnknownSource::Drop && !self.is_known(source) {
            self.counters.drop(Drop::UnknownSource);
            return;
        }
        let tag = self.local_tag(message);
        self.outbox.send(reply, message.method(), Key::NONE, |out| {
            build::response(out, message, source, status, tag.as_bytes(), lines);
        });
    }

    /// The way of answers, [`Router::reply`]; over TLS, should the connection be gone, to nobody but who can show that he is the
    /// one who asked: by the name that was shown, else by the target's at the port of its Via, else by the one Via says (RFC 5922 §7.3).
    pub(super) fn reply_to(&mut self, (source, listener): Origin, via: &Via<'_>) -> Hop {
        let mut hop = self.router.reply(listener, source, via);
        if hop.is_reliable && self.router.transport(listener).is_secure() {
            hop.domain = self.shown;
            if hop.domain == DomainId::NONE && hop.connect != 0 {
                let home = SocketAddr::new(source.ip(), hop.connect);
                let target = self.router.hop(listener, self.router.transport(listener), home);
                hop.domain = target.map_or(DomainId::NONE, |target| target.domain);
                if hop.domain == DomainId::NONE
                    && let Host::Name(name) = via.host
                    && self.is_known(source)
                {
                    hop.domain = self.outbox.domain(&String::from_utf8_lossy(name).to_ascii_lowercase(), false);
                }
            }
        }
        hop
    }

    pub(super) fn is_known(&self, source: SocketAddr) -> bool {
        self.trunk_of(source).is_some() || self.router.is_target(source.ip())
    }

    /// The trunk the message at hand came from: by its certificate, or by its address.
    pub(super) fn trunk_of(&self, source: SocketAddr) -> Option<usize> {
        self.certified.or_else(|| self.router.trunk(source.ip()))
    }

    /// The To tag of our own answers: the same for every answer to one request, without remembering it.
    pub(super) fn local_tag(&self, message: &Message<'_>) -> Text<20> {
        let branch = message.top_via().and_then(|via| via.branch()).unwrap_or_default();
        let call_id = message.value(HeaderName::CallId).unwrap_or_default();
        let hash = self.secret.sign(Domain::LocalTag, &[call_id, branch]);
        let mut tag = Text::default();
        tag.push(format_args!("sw{hash:016x}"));
        tag
    }

    // --- new requests --------------------------------------------------------------------------------------------------

    fn new_request(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        found: &Essentials<'_>,
        (method, fingerprint): (Method, Fingerprint),
        origin: Origin,
    ) {
        let Some(uri) = Uri::parse(message.request_uri()).filter(|uri| !uri.has_headers()) else {
            return self.refuse_fault(message, origin, Fault::RequestUri);
        };
        // §16.3, item by item.
        let speaks_tls = || self.router.config.listen.iter().any(|listen| listen.transport.is_secure());
        if uri.scheme == Scheme::Other || (uri.scheme == Scheme::Sips && !speaks_tls()) {
            return self.reject(
                message,
                origin,
                416,
                warning("this proxy routes sip: and tel: URIs, and sips: where it has TLS").as_bytes(),
            );
        }
        if uri.scheme == Scheme::Sips && !self.router.transport(origin.1).is_secure() {
            // RFC 5630 §5.3: what was asked for over an open transport was not safe on its way here.
            return self.reject(message, origin, 480, SIPS_NOT_ALLOWED);
        }
        // An OPTIONS that may go no further may be for us (§11): many peers ask so whether we live.
        let is_ping = method == Method::Options && found.to_tag.is_none() && self.router.is_ours(&uri);
        if found.max_forwards == Some(0) && !(is_ping && self.is_known(origin.0)) {
            return self.reject(message, origin, 483, b"");
        }
        if found.max_forwards == Some(0) {
            return self.reject(message, origin, 200, typed::allow_line().as_bytes());
        }
        if self.is_loop(message, found) {
            return self.reject(message, origin, 482, b"");
        }
        if message.header(HeaderName::ProxyRequire).is_some() {
            // Item 5: "an Unsupported (Section 20.40) header field listing those option-tags the element did not
            // understand": all of them.
            let mut lines = b"Unsupported: ".to_vec();
            for (at, option) in message.list(HeaderName::ProxyRequire).enumerate() {
                lines.extend_from_slice(if at > 0 { b", " } else { b"" });
                lines.extend_from_slice(message.slice(option));
            }
            lines.extend_from_slice(b"\r\n");
            return self.reject(message, origin, 420, &lines);
        }
        if matches!(method, Method::Invite | Method::Update)
            && let Err(least) = session::plan(self.router.config.session, message)
        {
            return self.reject(message, origin, 422, format!("Min-SE: {least}\r\n").as_bytes());
        }
        let has_room = |is_kept| self.transactions.has_room(is_kept);
        if !(has_room(found.to_tag.is_some()) || has_room(true) && self.is_urgent(message, origin.0)) {
            self.counters.drop(Drop::TransactionsFull);
            return self.reject(message, origin, 503, b"Retry-After: 1\r\n");
        }
        let router = Arc::clone(&self.router);
        let path = self.path(&router, message, &uri);
        let incoming = self.incoming(message, found, (method, fingerprint), origin, uri, path);
        if found.to_tag.is_some() {
            self.in_dialog(now, &router, &incoming);
        } else {
            self.out_of_dialog(now, &router, &incoming);
        }
    }

    /// §16.3 item 4: a branch of ours with the same loop hash is a loop; with another, a spiral.
    fn is_loop(&self, message: &Message<'_>, found: &Essentials<'_>) -> bool {
        let is_same = |branch: Branch| branch.loop_hash == self.secret.loop_hash(message, found);
        found.via.branch().and_then(|branch| Branch::verify(&self.secret, branch)).is_some_and(is_same)
            || (found.has_more_vias && self.own_branches(message, 1).any(is_same))
    }

    /// Whether it went through us before.
    pub(super) fn was_here(&self, message: &Message<'_>) -> bool {
        self.own_branches(message, 0).next().is_some()
    }

    /// The branches among its Vias that are ours.
    fn own_branches(&self, message: &Message<'_>, from: usize) -> impl Iterator<Item = Branch> {
        message.list(HeaderName::Via).skip(from).filter_map(|span| {
            // Only a value as long as our branch is worth reading.
            let value = message.slice(span);
            let via = Via::parse(value).filter(|_| value.len() >= BRANCH_LEN)?;
            Branch::verify(&self.secret, via.branch()?)
        })
    }

    pub(super) fn path(&self, router: &Router, message: &Message<'_>, uri: &Uri<'_>) -> Path {
        let mut path = Path::default();
        let cookie = |uri: &Uri<'_>| uri.parameter("sw").and_then(|cookie| Cookie::verify(&self.secret, cookie));
        path.strict = uri.parameter("lr").is_some() && router.is_self(uri);
        if path.strict {
            path.call = cookie(uri);
        }
        let (mut total, mut last) = (0, None);
        for span in route_values(message) {
            total += 1;
            last = Some(span);
            if path.next.is_none() && path.popped < OWN_ROUTES_MAX {
                let own = NameAddr::parse(message.slice(span))
                    .and_then(|address| address.uri())
                    .filter(|uri| router.is_self(uri));
                if let Some(own) = own {
                    path.popped += 1;
                    path.call = path.call.or_else(|| cookie(&own));
                    path.listener = router.own_listener(&own);
                    continue;
                }
            }
            path.next = path.next.or(Some(span));
        }
        match last {
            Some(last) if path.strict => {
                path.request_uri = Some(last);
                path.popped = path.popped.min(total - 1);
                path.next = path.next.filter(|next| *next != last);
            }
            _ => path.strict = false,
        }
        path
    }

    // --- within a dialog -------------------------------------------------------------------------------------------

    pub(super) fn incoming<'a>(
        &self,
        message: &'a Message<'a>,
        found: &'a Essentials<'a>,
        (method, fingerprint): (Method, Fingerprint),
        origin: Origin,
        uri: Uri<'a>,
        path: Path,
    ) -> Incoming<'a> {
        let call_id = self.secret.call(found.call_id);
        let from_tag = self.secret.tag(found.from_tag.unwrap_or_default());
        Incoming { message, found, method, fingerprint, call_id, from_tag, origin, uri, path }
    }

    // --- CANCEL ----------------------------------------------------------------------------------------------------

    /// §9.2, §16.10. A CANCEL is answered here and sent on as a request of our own. One that matches no INVITE gets 481:
    /// we never forward an INVITE without a transaction, so there is nobody further on who would know it.
    fn cancel(&mut self, now: Instant, message: &Message<'_>, found: &Essentials<'_>, origin: Origin) {
        let fingerprint = self.secret.transaction(message, found, Method::Invite);
        let Some(key) = self.transactions.find(fingerprint) else {
            return self.reject(message, origin, 481, b"");
        };
        self.reject(message, origin, 200, b"");
        let mut reason = Vec::new();
        for header in message.all(HeaderName::Reason) {
            reason.extend_from_slice(b"Reason: ");
            reason.extend_from_slice(message.slice(header.value));
            reason.extend_from_slice(b"\r\n");
        }
        self.give_up(now, key, &reason);
    }

    /// The caller of an INVITE wants it no more.
    pub(super) fn give_up(&mut self, now: Instant, key: Key, reason: &[u8]) {
        let Some(server) = self.transactions.server_mut(key) else { return };
        if server.state.is_final() || std::mem::replace(&mut server.context.cancelled, true) {
            return;
        }
        let client = server.context.client;
        if self.stop_waiting(now, key, WaitEnd::GaveUp) {
            return self.answer(now, key, 487, reason);
        }
        self.send_cancel(now, client, reason);
    }

    /// Cancels an attempt: now if a provisional answer came, else as soon as one does (§9.1).
    pub(super) fn send_cancel(&mut self, now: Instant, key: Key, reason: &[u8]) {
        let Some(client) = self.transactions.client_mut(key) else { return };
        if client.state.is_final() || matches!(client.context.cancel, Cancel::Sent(_)) {
            return;
        }
        if !client.context.provisional {
            client.context.cancel = Cancel::Wanted;
            if !reason.is_empty() {
                client.context.cancel_lines = reason.to_vec();
            }
            return;
        }
        let waited = std::mem::take(&mut client.context.cancel_lines);
        let reason = if reason.is_empty() { &waited[..] } else { reason };
        let (hop, server) = (client.hop, client.context.server);
        let call = client.context.call;
        let sent = client.sent.clone();
        let sent = Message::parse(&sent);
        let mut cancel = Key::NONE;
        if let Ok(sent) = &sent
            && let Ok(found) = sent.check()
        {
            let identity = super::forward::identity(&self.secret, &found, b"CANCEL");
            let attempt = super::Attempt::new((server, call), identity, key);
            cancel = self.transactions.open_client(Method::Cancel, hop, attempt);
            self.transactions.start_client(env!(self, now), cancel, None, |out| build::cancel(out, sent, reason));
        }
        // Even if none could be written: the wait below ends the attempt.
        if let Some(client) = self.transactions.client_mut(key) {
            client.context.cancel = Cancel::Sent(cancel);
        }
        // §9.1: "If there is no final response for the original request in 64*T1 seconds ... the client SHOULD then
        // consider the original transaction cancelled".
        let wait = self.lengths.t1 * 64;
        self.transactions.restart_timer_c(env!(self, now), key, wait);
    }

    // --- out of dialog -----------------------------------------------------------------------------------------------

    pub(super) fn refuse_stranger(&mut self, message: &Message<'_>, origin: Origin) {
        self.refuse_count(Refusal::UnknownTrunk);
        self.reject(message, origin, Refusal::UnknownTrunk.status(), b"");
    }

    pub(super) fn out_of_dialog(&mut self, now: Instant, router: &Arc<Router>, incoming: &Incoming<'_>) {
        let Incoming { message, method, origin, uri, path, .. } = incoming;
        let (source, _) = *origin;
        let Some(trunk) = self.trunk_of(source) else {
            // A PBX may ask whether we live without being a trunk.
            if *method == Method::Options && router.is_self(uri) && router.is_target(source.ip()) {
                return self.reject(message, *origin, 200, typed::allow_line().as_bytes());
            }
            return self.refuse_stranger(message, *origin);
        };
        let relays = router.config.trunks[trunk].relay;
        if path.next.is_some() || path.strict || !router.is_ours(uri) {
            if !relays {
                // No open relay: neither a Route nor a Request-URI leads elsewhere unless the trunk may.
                return self.reject(message, *origin, 403, warning("this trunk may not relay").as_bytes());
            }
            return self.relay(now, router, incoming, trunk);
        }
        let number = uri.number();
        let service = router.service(trunk, &number);
        if *method == Method::Options && (number.is_empty() || (router.is_self(uri) && service.is_none())) {
            return self.reject(message, *origin, 200, typed::allow_line().as_bytes());
        }
        let Some(service) = service else {
            self.refuse_count(Refusal::UnknownService);
            let lines = refusal_lines(Refusal::UnknownService);
            return self.reject(message, *origin, Refusal::UnknownService.status(), lines.as_bytes());
        };
        if *method == Method::Invite {
            return self.open_call(now, router, incoming, (trunk, service), &number);
        }
        // Anything else to a service goes to its target and takes no channel.
        let server = self.open(incoming, Role::Other, Key::NONE, 0);
        if let Some(transaction) = self.transactions.server_mut(server) {
            transaction.context.aside =
                Some(Box::new(Aside { router: Arc::clone(router), service, tried: 0, again: None }));
        }
        self.ask_aside(now, server, incoming);
    }

    /// A request to a service that opens no call goes to the next address of its target. Says whether there is one.
    fn ask_aside(&mut self, now: Instant, server: Key, incoming: &Incoming<'_>) -> bool {
        let Incoming { message, found, method, origin, uri, path, .. } = incoming;
        let Some(transaction) = self.transactions.server_mut(server) else { return false };
        let Some(mut aside) = transaction.context.aside.take() else { return false };
        let router = Arc::clone(&aside.router);
        let at = router.config.services[aside.service].target;
        let (target, places) = (&router.config.targets[at], router.places(at));
        let is_first = aside.tried == 0;
        let sips = uri.scheme == Scheme::Sips;
        let mut is_open = false;
        let (place, hop, is_wide) = loop {
            let again = aside.again.take();
            let chosen = again.or_else(|| self.health.choose(now, places, aside.tried, target.balance));
            let Some(chosen) = chosen else {
                // What the last one said goes back, if there was one.
                if is_first {
                    self.answer(now, server, 480, if is_open { SIPS_NOT_ALLOWED } else { b"" });
                }
                return false;
            };
            aside.tried |= 1 << chosen;
            let place = &places[chosen];
            is_open |= sips && !place.transport.is_secure();
            if (!sips || place.transport.is_secure())
                && let (Some(hop), is_wide) =
                    next_hop(&self.large, now, &router, origin.1, (place, message), again.is_none())
            {
                aside.again = is_wide.then_some(chosen);
                break (place, hop, is_wide);
            }
        };
        if let Some(transaction) = self.transactions.server_mut(server) {
            transaction.context.aside = Some(aside);
        }
        let request_uri = target.rewrite.then(|| rewritten(uri, None, &place.host_port));
        let changes = Changes {
            request_uri: request_uri.as_deref(),
            routes_popped: path.popped,
            record_route: method.is_dialog_forming().then_some(None),
            ..Changes::default()
        };
        let client = self.send_attempt(now, &router, message, found, server, hop, None, &changes);
        self.mark_widened(client, is_wide.then_some((hop.address, now)));
        true
    }

    /// A target's address was reached and refused: over UDP it would say the same. Says whether there is another.
    pub(super) fn refused_aside(&mut self, now: Instant, server: Key) -> bool {
        let aside = self.transactions.server_mut(server).and_then(|server| server.context.aside.as_mut());
        if let Some(aside) = aside {
            aside.again = None;
        }
        self.next_aside(now, server)
    }

    pub(super) fn mark_widened(&mut self, client: Key, widened: Option<(SocketAddr, Instant)>) {
        if widened.is_some()
            && let Some(client) = self.transactions.client_mut(client)
        {
            client.context.widened = widened;
        }
    }

    /// A target's address refused a request that opens no call, or could not be reached: the next one gets its chance (RFC
    /// 3263 §4.3). Says whether there is one. Silence is no reason: whoever asked has given up when it is known (RFC 4320).
    pub(super) fn next_aside(&mut self, now: Instant, server: Key) -> bool {
        let Some(transaction) = self.transactions.server(server).filter(|it| it.context.aside.is_some()) else {
            return false;
        };
        let (request, method) = (transaction.request.clone(), transaction.context.method);
        let origin = (transaction.source, transaction.reply.listener);
        let Ok(message) = Message::parse(&request) else { return false };
        let Ok(found) = message.check() else { return false };
        let Some(uri) = Uri::parse(message.request_uri()) else { return false };
        let path = self.path(&Arc::clone(&self.router), &message, &uri);
        let incoming = self.incoming(&message, &found, (method, Fingerprint::default()), origin, uri, path);
        self.ask_aside(now, server, &incoming)
    }

    /// A request a trusted trunk sends elsewhere through us: along its Route, or to its Request-URI.
    pub(super) fn relay(&mut self, now: Instant, router: &Arc<Router>, incoming: &Incoming<'_>, trunk: usize) {
        let Incoming { message, found, method, origin, .. } = *incoming;
        let way = match self.dialog_route(router, incoming, None) {
            Way::Go(changes, hop) => Ok((changes, hop)),
            Way::Name(_, question) => Err(question),
            Way::Nowhere => {
                self.counters.drop(Drop::Unresolved);
                return self.reject(message, origin, 502, warning(NO_WAY).as_bytes());
            }
        };
        let mut key = Key::NONE;
        if method == Method::Invite {
            let admitted = if is_emergency(&router.config, message, &incoming.uri, (trunk, None)) {
                let (channel, beyond) = self.gate.admit_emergency_to_trunk(router.trunk_id(trunk));
                self.tell_of_emergency(now, (&router.config.trunks[trunk].name, "another host"), beyond);
                Ok(channel)
            } else {
                let pace = self.pace(now, router, origin.0, trunk, None);
                pace.and_then(|()| self.gate.admit_to_trunk(router.trunk_id(trunk), false))
            };
            match admitted {
                Ok(channel) => {
                    let longest = (router.config.longest_call, 0);
                    key = self.begin_call(
                        now,
                        incoming,
                        (Some(channel), None),
                        u16::MAX,
                        longest,
                        &incoming.uri.number(),
                    );
                }
                Err(refusal) => {
                    self.refuse_count(refusal);
                    return self.reject(message, origin, refusal.status(), refusal_lines(refusal).as_bytes());
                }
            }
        }
        let role = if method == Method::Invite { Role::Opening } else { Role::Other };
        let server = self.open(incoming, role, key, 0);
        if method == Method::Invite {
            self.trying(now, server);
        }
        if let Some(call) = self.calls.get_mut(key) {
            call.server = server;
        }
        let (mut changes, hop) = match way {
            Ok(way) => way,
            Err(question) => return self.go_by_name(now, server, question),
        };
        let cookie = (!key.is_none()).then(|| Cookie::new(&self.secret, key));
        changes.session = self.plan_session(server, message);
        changes.record_route = method.is_dialog_forming().then_some(cookie);
        let wide = self.wide_hop(now, router, incoming, hop);
        let client = self.send_attempt(now, router, message, found, server, wide.unwrap_or(hop), None, &changes);
        self.mark_widened(client, wide.map(|hop| (hop.address, now)));
        self.call_goes_to(key, hop, super::health::NO_PEER);
    }

    pub(super) fn open(&mut self, incoming: &Incoming<'_>, role: Role, call: Key, dialog: u32) -> Key {
        let Incoming { message, found, method, fingerprint, origin: (source, listener), .. } = *incoming;
        let reply = self.reply_to((source, listener), &found.via);
        let context = Context {
            role,
            method,
            call,
            dialog,
            client: Key::NONE,
            plan: None,
            aside: None,
            cancelled: false,
            is_answered: false,
            is_settled: false,
            session: Session::default(),
            replaces: Key::NONE,
            hops: 0,
            hops_tried: 0,
            may_relay: false,
        };
        self.transactions.open_server(fingerprint, method, (source, reply), message.detach(), context)
    }

    /// A caller who hears nothing sends again: it gets a 100 (§17.2.1), unless the callee's own answer comes first, as it
    /// does of a PBX that rings at once. Where it does, a datagram is spared.
    pub(super) fn trying(&mut self, now: Instant, server: Key) {
        if self.lengths.trying.is_zero() {
            self.say_trying(now, server);
        } else {
            self.transactions.hold_trying(env!(self, now), server);
        }
    }

    pub(super) fn say_trying(&mut self, now: Instant, key: Key) {
        let Some(server) = self.transactions.server(key) else { return };
        let (request, source) = (server.request.clone(), server.source);
        if let Ok(message) = Message::parse(&request) {
            self.transactions.server_event(env!(self, now), key, Event::Provisional, |out| {
                build::response(out, &message, source, 100, b"", b"");
            });
        }
    }

    /// The final answer to a request, made here.
    pub(super) fn answer(&mut self, now: Instant, server: Key, status: u16, lines: &[u8]) {
        let Some((request, source)) =
            self.transactions.server(server).map(|server| (server.request.clone(), server.source))
        else {
            return;
        };
        if let Ok(message) = Message::parse(&request) {
            let tag = self.local_tag(&message);
            let event = Event::response(status);
            self.transactions.server_event(env!(self, now), server, event, |out| {
                build::response(out, &message, source, status, tag.as_bytes(), lines);
            });
        }
        self.settle(now, server);
    }
}

/// Reason (RFC 3326) and Warning of a refusal.
pub(super) fn refusal_lines(refusal: Refusal) -> Lines {
    let mut lines = Lines::default();
    lines.push(format_args!("Reason: Q.850;cause={}\r\nWarning: 399 sipweir \"{refusal}\"\r\n", refusal.cause()));
    lines
}
