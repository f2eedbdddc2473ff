//! Requests within a dialog, and the ACK of a 2xx: whose call they are, and where they go.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::call::Call;
use super::forward::Changes;
use super::large::is_large;
use super::request::{Incoming, NO_WAY, Origin, warning};
use super::talk::Side;
use super::{Proxy, Role, env};
use crate::metrics::{Drop, EndReason};
use crate::outbox::{Hop, ListenerId};
use crate::route::{Question, Router};
use crate::sip::message::Essentials;
use crate::sip::uri::is_sips;
use crate::sip::{Message, Method, NameAddr, Scheme, Span, Uri};
use crate::store::Key;
use crate::time::Instant;
use crate::transaction::{Event, Outcome};

/// Where a request that has its route in itself goes.
pub(super) enum Way<'a> {
    /// There.
    Go(Changes<'a>, Hop),
    /// Where a name leads that must be looked up.
    Name(Changes<'a>, Question),
    /// Nowhere we can send to.
    Nowhere,
}

impl Proxy {
    /// The call a request within a dialog belongs to, whether the caller sent it, and the tag that names the dialog.
    pub(super) fn call_of(&self, incoming: &Incoming<'_>) -> Option<(Key, bool, u32)> {
        let Incoming { path, call_id: id, from_tag: from, .. } = incoming;
        let (id, from) = (*id, *from);
        let to = self.secret.tag(incoming.found.to_tag.unwrap_or_default());
        let is_it = |call: &Call| call.id == id && (call.from_tag == from || call.from_tag == to);
        let by_cookie = path.call.filter(|key| self.calls.get(*key).is_some_and(is_it));
        // Two calls may share Call-ID and caller's tag (an INVITE forked or copied before us): the one that knows the
        // dialog comes first.
        let knows = |call: &Call| is_it(call) && (call.dialogs.knows(to) || call.dialogs.knows(from));
        let key = by_cookie
            .filter(|key| self.calls.get(*key).is_some_and(knows))
            .or_else(|| self.find_call(id, knows))
            .or(by_cookie)
            .or_else(|| self.find_call(id, is_it))?;
        let from_caller = self.calls.get(key)?.from_tag == from;
        Some((key, from_caller, if from_caller { to } else { from }))
    }

    pub(super) fn in_dialog(&mut self, now: Instant, router: &Arc<Router>, incoming: &Incoming<'_>) {
        let Incoming { message, found, method, origin, .. } = *incoming;
        let call = self.call_of(incoming);
        if call.is_some_and(|(key, from_caller, _)| !from_caller && self.is_where_the_caller_is(key, origin.0)) {
            return self.reject(message, origin, 403, warning("the callee's tag from the caller's address").as_bytes());
        }
        if call.is_none() {
            if incoming.path.popped == 0
                && incoming.path.next.is_none()
                && !incoming.path.strict
                && router.is_ours(&incoming.uri)
            {
                // Nothing says whose dialog it is. A Request-URI in a domain of ours still has a service, whose PBX may
                // know it better; an INVITE must not get past the gate that way.
                if method == Method::Invite || router.is_self(&incoming.uri) {
                    return self.reject(message, origin, 481, b"");
                }
                return self.out_of_dialog(now, router, incoming);
            }
            if !self.is_known(origin.0) {
                return self.refuse_stranger(message, origin);
            }
            // A To tag is no pass: nobody opens a call by claiming that there is one. Who may relay may do so with or without
            // a tag, and is counted in its trunk either way.
            let is_ours = incoming.path.popped > 0 || incoming.path.strict;
            if method == Method::Invite {
                let trunk = self.trunk_of(origin.0).filter(|trunk| router.config.trunks[*trunk].relay);
                if let Some(trunk) = trunk.filter(|_| !is_ours) {
                    return self.relay(now, router, incoming, trunk);
                }
                return self.reject(message, origin, 481, b"");
            }
        }
        let (changes, hop) = match self.dialog_route(router, incoming, call) {
            Way::Go(changes, hop) => (changes, hop),
            Way::Name(_, question) => {
                // Whether it may pass is asked again when it is known where to.
                let is_ours = incoming.path.popped > 0 || incoming.path.strict;
                if !is_ours && !self.relays(router, origin.0) {
                    return self.reject(message, origin, 403, warning("this trunk may not relay").as_bytes());
                }
                let may_relay = self.relays(router, origin.0);
                let server = self.open(incoming, Role::Other, Key::NONE, 0);
                if let Some(server) = self.transactions.server_mut(server) {
                    server.context.may_relay = may_relay;
                }
                return self.go_by_name(now, server, question);
            }
            Way::Nowhere => {
                self.counters.drop(Drop::Unresolved);
                return self.reject(message, origin, 502, warning(NO_WAY).as_bytes());
            }
        };
        if call.is_none() && !self.may_pass(router, incoming, hop.address) {
            return self.reject(message, origin, 403, warning("this trunk may not relay").as_bytes());
        }
        let (key, from_caller, dialog) = call.unwrap_or_default();
        let role = if call.is_some() { Role::InDialog { from_caller } } else { Role::Other };
        if call.is_some() {
            self.heard(now, key, Side::of(from_caller), dialog, found.cseq.number);
            if !from_caller && self.speaks_for_callee(router, key, origin.0) {
                self.look_for_sign(now, router, key, message);
            }
        }
        let server = self.open(incoming, role, key, dialog);
        let mut changes = changes;
        changes.session = self.plan_session(server, message);
        if method == Method::Invite {
            self.trying(now, server);
        }
        let wide = self.wide_hop(now, router, incoming, hop);
        if wide.is_some()
            && let Some(server) = self.transactions.server_mut(server)
        {
            // To this address it may go, by whatever transport.
            server.context.may_relay = true;
        }
        let client = self.send_attempt(now, router, message, found, server, wide.unwrap_or(hop), None, &changes);
        self.mark_widened(client, wide.map(|hop| (hop.address, now)));
        // The PBX has let go as soon as it says so; the caller's BYE frees nothing before it is answered.
        // (Who speaks from elsewhere has to be believed by the caller first.)
        if method == Method::Bye && call.is_some() && !from_caller && self.speaks_for_callee(router, key, origin.0) {
            self.dialog_ended(now, key, dialog, EndReason::CalleeBye);
        }
    }

    /// Whether a request comes from where the callee is, or from a target.
    fn speaks_for_callee(&self, router: &Router, key: Key, source: SocketAddr) -> bool {
        router.is_target(source.ip()) || self.calls.get(key).is_some_and(|call| call.callee.address.ip() == source.ip())
    }

    /// Whether a request that bears the callee's tag comes from where the caller is: it would free a channel the PBX has
    /// not let go.
    pub(super) fn is_where_the_caller_is(&self, key: Key, source: SocketAddr) -> bool {
        self.calls.get(key).is_some_and(|call| {
            let (caller, callee) = (call.caller.address, call.callee.address);
            caller != callee && (source == caller || (source.ip() == caller.ip() && caller.ip() != callee.ip()))
        })
    }

    /// Whether a request within a dialog we know nothing of (it began before we did, or was no call) may go on: along a
    /// route of ours, to a place we know, or anywhere for a trunk that may relay.
    pub(super) fn may_pass(&self, router: &Router, incoming: &Incoming<'_>, destination: SocketAddr) -> bool {
        let is_ours = incoming.path.popped > 0 || incoming.path.strict;
        self.relays(router, incoming.origin.0)
            || (is_ours && (router.is_target(destination.ip()) || router.trunk(destination.ip()).is_some()))
    }

    fn relays(&self, router: &Router, source: SocketAddr) -> bool {
        self.trunk_of(source).is_some_and(|trunk| router.config.trunks[trunk].relay)
    }

    /// The way over TCP of a request that has its route in itself, when it is too large for the datagram it would go in and the
    /// URI it goes by is an address that does not say how it is to be reached (§18.1.1).
    pub(super) fn wide_hop(&self, now: Instant, router: &Router, incoming: &Incoming<'_>, hop: Hop) -> Option<Hop> {
        let Incoming { message, path, .. } = incoming;
        if !is_large(message) {
            return None;
        }
        let address = |span: Span| NameAddr::parse(message.slice(span)).map(|address| address.uri_bytes());
        let uri = path.next.or(path.request_uri).and_then(address).unwrap_or_else(|| message.request_uri());
        let uri = Uri::parse(uri).filter(|uri| matches!(uri.transport(), Ok(None)))?;
        uri.socket_addr().filter(|address| *address == hop.address).and_then(|_| self.large.widen(now, router, hop))
    }

    /// §16.4, §16.6 steps 6 and 7 for a request that has its route in itself.
    pub(super) fn dialog_route<'a>(
        &self,
        router: &Router,
        incoming: &Incoming<'a>,
        call: Option<(Key, bool, u32)>,
    ) -> Way<'a> {
        self.try_dialog_route(router, incoming, call).unwrap_or(Way::Nowhere)
    }

    fn try_dialog_route<'a>(
        &self,
        router: &Router,
        incoming: &Incoming<'a>,
        call: Option<(Key, bool, u32)>,
    ) -> Option<Way<'a>> {
        let Incoming { message, path, .. } = incoming;
        let mut changes = Changes { routes_popped: path.popped, last_route_popped: path.strict, ..Changes::default() };
        let uri_of = |span: Span| NameAddr::parse(message.slice(span)).map(|address| address.uri_bytes());
        if let Some(span) = path.request_uri {
            changes.request_uri = Some(uri_of(span)?);
        }
        let next = path.next.and_then(uri_of);
        let former = changes.request_uri.unwrap_or_else(|| message.request_uri());
        let hop = next.unwrap_or(former);
        let uri = Uri::parse(hop)?;
        if next.is_some() && uri.parameter("lr").is_none() {
            // §16.6 step 6: a strict router gets itself as Request-URI and the former one at the end.
            changes.route_appended = Some(former);
            changes.request_uri = Some(hop);
            changes.routes_popped += 1;
        }
        let peer = call.and_then(|(key, from_caller, _)| {
            let call = self.calls.get(key)?;
            Some(if from_caller { call.callee } else { call.caller })
        });
        // A name, or a Request-URI that names us since the other side follows no Route set: within a call we know where its
        // other side is, and need ask nobody.
        let is_self = router.is_self(&uri);
        if uri.socket_addr().is_none() || is_self {
            // What must be secure goes by nothing else (RFC 3261 §26.2.2), wherever its other side was heard. But for what
            // ends a call or acknowledges it: it says nothing that the other side does not have already.
            let may_go_open = matches!(incoming.method, Method::Bye | Method::Ack);
            let is_secure = |peer: &Hop| router.transport(peer.listener).is_secure();
            return match peer {
                Some(peer) if is_sips(hop) && !may_go_open && !is_secure(&peer) => Some(Way::Nowhere),
                Some(peer) => Some(Way::Go(changes, peer)),
                None if is_self => None,
                None => Some(Way::Name(changes, Question::of_uri(&uri)?)),
            };
        }
        let listener = path.listener.unwrap_or(incoming.origin.1);
        Some(Way::Go(changes, hop_to(router, &uri, peer, listener)?))
    }

    /// The ACK of a 2xx is a request of its own within the dialog; that of any other answer belongs to the transaction.
    pub(super) fn ack(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        found: &Essentials<'_>,
        (source, listener): Origin,
    ) {
        let fingerprint = self.secret.transaction(message, found, Method::Ack);
        // An answer given and forgotten bears a tag made from its request.
        let is_ours = found.to_tag.is_some_and(|tag| tag.len() == 18 && tag == self.local_tag(message).as_bytes());
        if let Some(key) = self.transactions.find(fingerprint) {
            // It was for a copy of this INVITE, which was let in afterwards: its caller has given up.
            if is_ours && self.transactions.server(key).is_some_and(|server| !server.state.is_final()) {
                return self.give_up(now, key, b"");
            }
            let outcome = self.transactions.server_event(env!(self, now), key, Event::Ack, |_| {});
            if outcome != Outcome::PassUp {
                return;
            }
        }
        if is_ours {
            return self.counters.drop(Drop::OwnAck);
        }
        let Some(uri) = Uri::parse(message.request_uri()).filter(|_| found.max_forwards != Some(0)) else {
            return self.counters.drop(Drop::StrayAck);
        };
        let router = Arc::clone(&self.router);
        let path = self.path(&router, message, &uri);
        let incoming = self.incoming(message, found, (Method::Ack, fingerprint), (source, listener), uri, path);
        let call = self.call_of(&incoming);
        match self.dialog_route(&router, &incoming, call) {
            // Without a call, only along a route of ours and for those we know: an ACK is never a way through us.
            Way::Go(_, hop)
                if call.is_none() && !(self.is_known(source) && self.may_pass(&router, &incoming, hop.address)) =>
            {
                self.counters.drop(Drop::StrayAck);
            }
            Way::Go(changes, hop) => self.send_ack(&router, message, found, (source, listener), hop, &changes),
            Way::Name(changes, question)
                if self.is_known(source) && (self.relays(&router, source) || changes.routes_popped > 0) =>
            {
                // Its INVITE asked for the name; an ACK waits for nothing.
                let hops = self.known_hops(&question, listener, self.draw(found.call_id)).unwrap_or_default();
                match hops.first() {
                    Some(hop) => self.send_ack(&router, message, found, (source, listener), *hop, &changes),
                    None => self.counters.drop(Drop::Unresolved),
                }
            }
            Way::Name(..) | Way::Nowhere => self.counters.drop(Drop::Unresolved),
        }
        if let Some((key, true, _)) = call {
            self.acked(now, key);
        }
    }
}

/// The way to a URI with an address, by `listener` unless something speaks for another: `peer` is where that side of the call
/// was heard last.
pub(super) fn hop_to(router: &Router, uri: &Uri<'_>, peer: Option<Hop>, listener: ListenerId) -> Option<Hop> {
    let address = uri.socket_addr()?;
    let transport = uri.transport().ok()?;
    // The other side's connection is used again, whatever port its Contact says (RFC 5923 asks it to say so; clients
    // behind NAT cannot be reached otherwise).
    let is_same_side = |peer: &Hop| {
        peer.address.ip() == address.ip() && transport.is_none_or(|it| router.transport(peer.listener) == it)
    };
    if let Some(peer) = peer.filter(|peer| peer.is_reliable && is_same_side(peer)) {
        return Some(Hop { connect: if peer.connect == 0 { 0 } else { address.port() }, ..peer });
    }
    // Behind NAT nobody but who asked knows the way back (RFC 3581 for the dialog's other requests).
    let is_safe = |peer: &Hop| uri.scheme != Scheme::Sips || router.transport(peer.listener).is_secure();
    let is_behind = |peer: &Hop| is_private(address.ip()) && !is_private(peer.address.ip());
    if let Some(peer) = peer.filter(|peer| is_behind(peer) && is_safe(peer)) {
        return Some(peer);
    }
    let listener = peer.filter(|peer| peer.address == address).map_or(listener, |peer| peer.listener);
    router.hop(listener, transport.unwrap_or_default(), address)
}

/// An address that means nothing beyond its own network (RFC 1918, 3927, 4193, 4291, 6598), or beyond its host.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || is_shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}
