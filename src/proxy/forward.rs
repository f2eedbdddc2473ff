//! RFC 3261 §16.6: the copy of a request that goes on.

use std::net::SocketAddr;
use std::time::Duration;

use super::session::SessionChange;
use super::{Attempt, Cancel, Proxy, env};
use crate::outbox::{Hop, ListenerId};
use crate::route::Router;
use crate::sip::edit::Edit;
use crate::sip::message::{Essentials, Header};
use crate::sip::uri::is_sips;
use crate::sip::{HeaderName, Message, Span, Text};
use crate::store::Key;
use crate::transaction::key::{Branch, Cookie, Domain, Secret};

/// Route values of ours at the top of one request: two when it changes listeners.
pub(super) const OWN_ROUTES_MAX: usize = 3;

/// Where a request goes and what changes in it, besides Via and Max-Forwards.
#[derive(Clone, Default)]
pub(super) struct Changes<'a> {
    /// The new Request-URI.
    pub(super) request_uri: Option<&'a [u8]>,
    /// Leading Route values to leave out.
    pub(super) routes_popped: usize,
    /// Whether the last Route value is left out: it became the Request-URI (§16.4).
    pub(super) last_route_popped: bool,
    /// Whether we stay on the dialog's route, and the call it belongs to.
    pub(super) record_route: Option<Option<Cookie>>,
    /// Of the session's timer.
    pub(super) session: SessionChange,
    /// Whole lines to add at the top.
    pub(super) lines: &'a [u8],
    /// History-Info lines, which come behind those the request has (RFC 7044 §10.3).
    pub(super) history: &'a [u8],
    /// The former Request-URI, to be added at the end of the route set for a strict router (§16.6 step 6).
    pub(super) route_appended: Option<&'a [u8]>,
}

/// Longest header lines we add to a request, in octets: two Record-Route, a Via and Max-Forwards.
const OWN_LINES: usize = 1024;

/// Writes the copy.
#[expect(clippy::too_many_arguments, reason = "the parts of one message, each from another owner")]
pub(super) fn write(
    out: &mut Vec<u8>,
    router: &Router,
    message: &Message<'_>,
    found: &Essentials<'_>,
    source: SocketAddr,
    (listener_in, out_hop): (ListenerId, Hop),
    branch: &[u8],
    changes: &Changes<'_>,
) {
    let listener_out = out_hop.listener;
    let is_secure = is_sips(changes.request_uri.unwrap_or_else(|| message.request_uri()));
    let mut lines = Text::<OWN_LINES>::default();
    lines.push_bytes(&router.lines(listener_out).via);
    lines.push_bytes(branch);
    lines.push_bytes(b"\r\n");
    if let Some(cookie) = &changes.record_route {
        // RFC 5658 §5: a proxy that changes interfaces records both, the one that faces the callee on top.
        let both = [listener_out, listener_in];
        for listener in if listener_in == listener_out { &both[..1] } else { &both[..] } {
            let own = router.lines(*listener);
            lines.push_bytes(if is_secure { &own.record_route_secure } else { &own.record_route });
            if let Some(cookie) = cookie {
                lines.push_bytes(b";sw=");
                lines.push_bytes(cookie.as_bytes());
            }
            lines.push_bytes(b">\r\n");
        }
    }
    let mut max_forwards = Text::<4>::default();
    match found.max_forwards {
        Some(hops) => max_forwards.push_number(hops.saturating_sub(1)),
        None => lines.push_bytes(b"Max-Forwards: 70\r\n"),
    }
    push_length(&mut lines, message, out_hop);
    let session = (changes.session != SessionChange::default()).then(|| changes.session.numbers());
    for (name, number) in session.iter().flatten() {
        if message.header(*name).is_none() && !number.as_bytes().is_empty() {
            for part in [name.label().as_bytes(), b": ", number.as_bytes(), b"\r\n"] {
                lines.push_bytes(part);
            }
        }
    }
    let stamp = found.via.stamp(source);
    let mut fits = true;
    let mut edit = Edit::new(message);
    if let (Some(uri), crate::sip::StartLine::Request { uri: place, .. }) = (changes.request_uri, message.start_line())
    {
        fits &= edit.replace(place.range(), uri);
    }
    fits &= edit.insert(message.headers_start(), lines.as_bytes());
    if !changes.lines.is_empty() {
        fits &= edit.insert(message.headers_start(), changes.lines);
    }
    if !changes.history.is_empty() {
        let behind = message
            .all(HeaderName::HistoryInfo)
            .last()
            .map_or_else(|| message.headers_start(), |header| header.line.end());
        fits &= edit.insert(behind, changes.history);
    }
    if let Some(via) = message.header(HeaderName::Via) {
        for (range, text) in stamp.splices() {
            fits &= edit.replace(via.value.start() + range.start..via.value.start() + range.end, text);
        }
    }
    if let (Some(header), Some(_)) = (message.header(HeaderName::MaxForwards), found.max_forwards) {
        fits &= edit.replace(header.value.range(), max_forwards.as_bytes());
    }
    for (name, number) in session.iter().flatten() {
        if let Some(header) = message.header(*name).filter(|_| !number.as_bytes().is_empty()) {
            let digits = message.slice(header.value).iter().take_while(|octet| octet.is_ascii_digit()).count();
            let start = header.value.start();
            fits &= edit.replace(start..start + digits, number.as_bytes());
        }
    }
    fits &= remove_routes(&mut edit, message, changes);
    debug_assert!(fits, "no change needs more splices than there are");
    edit.write(out);
}

/// A stream needs Content-Length, which a datagram may do without (§18.3).
pub(super) fn push_length<const N: usize>(lines: &mut Text<N>, message: &Message<'_>, hop: Hop) {
    if hop.is_reliable && message.header(HeaderName::ContentLength).is_none() {
        lines.push_bytes(b"Content-Length: ");
        lines.push_number(message.body().len() as u32);
        lines.push_bytes(b"\r\n");
    }
}

/// Leaves the popped Route values out: whole lines where nothing is left in them, else the values and their commas.
fn remove_routes<'a>(edit: &mut Edit<'a>, message: &'a Message<'a>, changes: &Changes<'a>) -> bool {
    let mut fits = true;
    let mut first = changes.routes_popped;
    // Of each line with something left in it: the line, and where what is left starts.
    let mut kept: Option<(&Header, usize)> = None;
    for header in message.all(HeaderName::Route) {
        let value = message.slice(header.value);
        let mut at = 0;
        while first > 0 && at < value.len() {
            at = (crate::sip::list_end(value, at) + 1).min(value.len());
            first -= 1;
        }
        if at == value.len() && at > 0 {
            fits &= edit.remove(header.line.range());
        } else if !value.is_empty()
            && let Some((header, from)) = kept.replace((header, at)).filter(|(_, from)| *from > 0)
        {
            fits &= edit.remove(header.value.start()..header.value.start() + from);
        }
    }
    let Some((header, from)) = kept else {
        return fits && append_route(edit, message.headers_start(), changes.route_appended);
    };
    let value = message.slice(header.value);
    let start = header.value.start();
    let (mut last, mut comma) = (from, None);
    while let Some(end) = Some(crate::sip::list_end(value, last)).filter(|end| *end < value.len()) {
        (comma, last) = (Some(end), end + 1);
    }
    match (changes.last_route_popped, comma) {
        (true, None) => fits &= edit.remove(header.line.range()),
        (is_popped, comma) => {
            if from > 0 {
                fits &= edit.remove(start..start + from);
            }
            if let Some(comma) = comma.filter(|_| is_popped) {
                fits &= edit.remove(start + comma..header.value.end());
            }
        }
    }
    fits && append_route(edit, header.line.end(), changes.route_appended)
}

fn append_route<'a>(edit: &mut Edit<'a>, position: usize, uri: Option<&'a [u8]>) -> bool {
    let mut parts = uri.into_iter().flat_map(|uri| [b"Route: <", uri, b">\r\n"]);
    parts.all(|part| edit.insert(position, part))
}

/// The values of Route, up to a bound; a request with more goes by the first ones all the same.
pub(super) fn route_values<'m>(message: &'m Message<'_>) -> impl Iterator<Item = Span> + 'm {
    message.list(HeaderName::Route)
}

/// What an answer must repeat of the request.
pub(super) fn identity(secret: &Secret, found: &Essentials<'_>, method: &[u8]) -> u64 {
    let parts = [found.call_id, method, found.from_tag.unwrap_or_default()];
    secret.hash(Domain::Identity, found.cseq.number, &parts)
}

impl Attempt {
    pub(super) fn new((server, call): (Key, Key), identity: u64, cancels: Key) -> Self {
        Self {
            server,
            call,
            identity,
            provisional: false,
            cancel: Cancel::No,
            cancel_lines: Vec::new(),
            is_silent: false,
            holds: None,
            cancels,
            peer: super::health::NO_PEER,
            own: super::talk::Own::No,
            widened: None,
        }
    }
}

impl Proxy {
    /// Opens a client transaction for a request and sends the copy. `silence` is how long to wait for a first answer.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message, each from another owner")]
    pub(super) fn send_attempt(
        &mut self,
        now: crate::time::Instant,
        router: &Router,
        message: &Message<'_>,
        found: &Essentials<'_>,
        server: Key,
        hop: Hop,
        silence: Option<Duration>,
        changes: &Changes<'_>,
    ) -> Key {
        let Some(transaction) = self.transactions.server(server) else { return Key::NONE };
        let (source, listener_in) = (transaction.source, transaction.reply.listener);
        let (method, call) = (transaction.context.method, transaction.context.call);
        let attempt = Attempt::new((server, call), identity(&self.secret, found, found.cseq.method), Key::NONE);
        let client = self.transactions.open_client(method, hop, attempt);
        if let Some(transaction) = self.transactions.server_mut(server) {
            transaction.context.client = client;
        }
        let branch = Branch { client, loop_hash: self.secret.loop_hash(message, found) }.write(&self.secret);
        self.transactions.start_client(env!(self, now), client, silence, |out| {
            write(out, router, message, found, source, (listener_in, hop), &branch, changes);
        });
        client
    }

    /// Sends a 2xx's ACK on: it belongs to no transaction (§16.11, §17.1.1.3).
    pub(super) fn send_ack(
        &mut self,
        router: &Router,
        message: &Message<'_>,
        found: &Essentials<'_>,
        (source, listener_in): (SocketAddr, ListenerId),
        hop: Hop,
        changes: &Changes<'_>,
    ) {
        let parts = [found.via.branch().unwrap_or_default(), found.call_id, found.to_tag.unwrap_or_default()];
        let hash = self.secret.sign(Domain::Ack, &parts);
        let nobody = Key { index: (hash >> 32) as u32, generation: 0 };
        let branch = Branch { client: nobody, loop_hash: hash as u32 }.write(&self.secret);
        self.outbox.send(hop, crate::sip::Method::Ack, Key::NONE, |out| {
            write(out, router, message, found, source, (listener_in, hop), &branch, changes);
        });
    }
}
