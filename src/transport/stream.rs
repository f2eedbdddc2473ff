//! TCP, TLS, WebSocket and WebSocket over TLS: connections of a shard.
//!
//! A connection is named by its listener and its other end, which is all the proxy needs to answer over the one a request
//! came by (RFC 3261 §18.2.2) and to use it again. What is sent in one round to one connection leaves in one write.
//!
//! Nobody can hold more than a share: connections are bounded in all and for each address, in the time they may take to
//! open, to finish a message and to take what is sent, and in the octets kept for them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event as Notice;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use tungstenite::handshake::server::ServerHandshake;
use tungstenite::protocol::Message as Frame;

pub use super::connection::bind;
use super::connection::{
    Body, Connection, PATIENCE, Progress, Subprotocol, budget_of, grant, read_frames, read_stream, shake_hands, start,
    subprotocol, tune, web_config, write_out,
};
pub use super::counts::{Closed, Counts};
use super::shares::Shares;
use super::tls::Tls;
use super::udp::Sent;
use super::wire::Wire;
use crate::config::Config;
use crate::outbox::{DomainId, ListenerId, Transmit};
use crate::sip::Transport;
use crate::sip::framing::{Framer, STREAM_OCTETS_MAX};
use crate::store::{self, Key, Slab, Wheel};
use crate::time::Instant;

/// Notices of listeners have these tokens and above; below are the datagram sockets'.
const LISTENERS: usize = 1 << 20;
/// Connections accepted from one listener before others get their turn.
const ACCEPTS: usize = 64;
/// How long a listener rests when the system gives it no more connections.
const REST: Duration = Duration::from_millis(100);
/// Octets read from one connection before others get their turn.
pub(super) const BATCH: usize = 64 * 1024;
/// Octets read in one round, from all connections.
const ROUND: usize = 1024 * 1024;
/// Of the connections there may be, one in so many is kept for those we open.
const KEPT: usize = 8;
/// What may seem left of a WebSocket's whole frames, in octets.
const HEADS: usize = 1024;
/// Octets that may wait for a connection to take them.
pub(super) const OUTPUT_MAX: usize = 256 * 1024;

#[derive(Clone, Copy)]
struct Limits {
    connections: usize,
    per_source: u32,
    octets: usize,
    idle: Duration,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self {
            connections: config.limits.connections as usize,
            per_source: config.limits.connections_per_source,
            octets: config.limits.connection_mb as usize * 1024 * 1024,
            idle: config.limits.connection_idle,
        }
    }
}

/// What a connection is known by: its listener, its other end, and whom the certificate there must name when we opened it. Two
/// hosts behind one address are two.
pub type Name = (ListenerId, SocketAddr, DomainId);

struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    is_ready: bool,
    /// It rests until then.
    rests: Option<Instant>,
}

/// The connections of a shard.
pub struct Streams {
    registry: Registry,
    transports: Vec<Transport>,
    listeners: Vec<Option<Listener>>,
    connections: Slab<Connection>,
    by_peer: HashMap<Name, Key, foldhash::fast::RandomState>,
    shares: Shares,
    wheel: Wheel<Key>,
    /// Connections that may hold octets.
    ready: Vec<Key>,
    /// Connections with something to send.
    dirty: Vec<Key>,
    /// Client transactions whose request could not be sent.
    failed: Vec<Key>,
    limits: Limits,
    tls: Arc<Tls>,
    counts: Counts,
    buffer: Box<[u8]>,
}

impl Streams {
    /// Registers bound listeners; `None` stands for one of datagrams.
    pub fn new(
        registry: Registry,
        bound: Vec<Option<std::net::TcpListener>>,
        config: &Config,
        tls: Arc<Tls>,
    ) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(bound.len());
        for (at, socket) in bound.into_iter().enumerate() {
            listeners.push(match socket {
                None => None,
                Some(socket) => {
                    let address = socket.local_addr()?;
                    let mut socket = TcpListener::from_std(socket);
                    registry.register(&mut socket, Token(LISTENERS + at), Interest::READABLE)?;
                    Some(Listener { socket, address, is_ready: true, rests: None })
                }
            });
        }
        Ok(Self {
            registry,
            transports: config.listen.iter().map(|listen| listen.transport).collect(),
            listeners,
            connections: Slab::default(),
            by_peer: HashMap::default(),
            shares: Shares::default(),
            wheel: Wheel::default(),
            ready: Vec::new(),
            dirty: Vec::new(),
            failed: Vec::new(),
            limits: Limits::of(config),
            tls,
            counts: Counts::default(),
            buffer: vec![0; BATCH].into_boxed_slice(),
        })
    }

    /// New limits and certificates, for connections to come.
    pub fn reload(&mut self, config: &Config, tls: Arc<Tls>) {
        (self.limits, self.tls) = (Limits::of(config), tls);
    }

    /// The certificates shown, and when each ends, in seconds since 1970.
    pub fn certificates(&self) -> &[(Arc<str>, i64)] {
        self.tls.certificates()
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        Counts { open: self.connections.len(), ..self.counts }
    }

    /// Whether the listener is one of these.
    pub fn has(&self, listener: ListenerId) -> bool {
        self.listeners.get(usize::from(listener)).is_some_and(Option::is_some)
    }

    /// Takes a notice of the kernel; `false` when it is about a datagram socket.
    pub fn take(&mut self, now: Instant, notice: &Notice) -> bool {
        let Token(token) = notice.token();
        if token < LISTENERS {
            return false;
        }
        if token < 1 << 32 {
            if let Some(Some(listener)) = self.listeners.get_mut(token - LISTENERS) {
                listener.is_ready = true;
            }
            return true;
        }
        let key = Key { index: token as u32, generation: (token >> 32) as u32 };
        let Some(connection) = self.connections.get_mut(key) else { return true };
        if std::mem::take(&mut connection.is_connecting) {
            let wire = connection.wire().map(|wire| &wire.socket);
            let is_up =
                wire.is_some_and(|socket| matches!(socket.take_error(), Ok(None)) && socket.peer_addr().is_ok());
            if !is_up {
                self.close(key, Closed::Unreachable);
                return true;
            }
        }
        if !connection.is_open && self.open(now, key).is_none() {
            return true;
        }
        let Some(connection) = self.connections.get_mut(key) else { return true };
        if (notice.is_readable() || notice.is_read_closed() || notice.is_error())
            && !std::mem::replace(&mut connection.is_readable, true)
        {
            self.ready.push(key);
        }
        if notice.is_writable() {
            self.touch(key);
        }
        true
    }

    /// Whether something already told of is left to do.
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty() || self.listeners.iter().flatten().any(|listener| listener.is_ready)
    }

    /// When [`Streams::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rests = self.listeners.iter().flatten().filter_map(|listener| listener.rests);
        rests.chain(self.wheel.next_at()).min()
    }

    /// Closes what took too long, and wakes listeners that rested.
    pub fn handle_timeout(&mut self, now: Instant) {
        for listener in self.listeners.iter_mut().flatten() {
            if listener.rests.is_some_and(|until| until <= now) {
                (listener.is_ready, listener.rests) = (true, None);
            }
        }
        for _ in 0..ACCEPTS {
            let Some(key) = self.wheel.pop_due(now) else { return };
            let idle = self.limits.idle;
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.timer = store::Timer::NONE;
            let due = connection.deadline(idle);
            if due > now {
                (connection.due, connection.timer) = (due, self.wheel.arm(due, key));
            } else if connection.ask(now) {
                // A browser answers by itself, so one that is there is not cut off (RFC 6455 §5.5.2).
                (connection.due, connection.timer) = (now + PATIENCE, self.wheel.arm(now + PATIENCE, key));
                self.touch(key);
            } else {
                let is_slow = connection.is_slow(now);
                let never_opened = is_slow && connection.is_ours && !connection.is_open;
                self.close(
                    key,
                    if never_opened {
                        Closed::Unreachable
                    } else if is_slow {
                        Closed::Slow
                    } else {
                        Closed::Idle
                    },
                );
            }
        }
    }

    /// Its timer fires no later than it has to.
    fn watch(&mut self, key: Key) {
        let idle = self.limits.idle;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let due = connection.deadline(idle);
        if due < connection.due {
            self.wheel.stop(connection.timer);
            (connection.due, connection.timer) = (due, self.wheel.arm(due, key));
        }
    }

    // --- opening -----------------------------------------------------------------------------------------------------

    /// Accepts what waits.
    fn accept(&mut self, now: Instant) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                let Some(Some(listener)) =
                    self.listeners.get_mut(at).filter(|it| it.as_ref().is_some_and(|it| it.is_ready))
                else {
                    break;
                };
                match listener.socket.accept() {
                    Ok((socket, peer)) => self.accepted(now, at, socket, peer),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.is_ready = false,
                    // The connection was gone before it was accepted.
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                    Err(_) => {
                        // No descriptors or no memory: never the end of the listener.
                        self.counts.accept_errors += 1;
                        (listener.is_ready, listener.rests) = (false, Some(now + REST));
                    }
                }
            }
        }
    }

    fn accepted(&mut self, now: Instant, at: usize, socket: TcpStream, peer: SocketAddr) {
        let of_source = self.shares.connections(peer.ip());
        let most = self.limits.connections - self.limits.connections / KEPT;
        if self.connections.len() >= most || of_source >= self.limits.per_source {
            self.counts.refused += 1;
            return;
        }
        let tls = match self.tls.server(at) {
            None => None,
            Some(config) => match ServerConnection::new(Arc::clone(config)) {
                Ok(tls) => Some(tls.into()),
                Err(_) => return,
            },
        };
        tune(socket2::SockRef::from(&socket));
        self.shares.enter(peer.ip());
        let name = (at as ListenerId, peer, DomainId::NONE);
        let key = self.add(now, name, Wire::new(socket, tls), false);
        if let Some(key) = key {
            self.counts.accepted += 1;
            if self.open(now, key).is_some()
                && let Some(connection) = self.connections.get_mut(key)
                && !std::mem::replace(&mut connection.is_readable, true)
            {
                self.ready.push(key);
            }
        }
    }

    fn add(&mut self, now: Instant, name: Name, wire: Wire, is_ours: bool) -> Option<Key> {
        let (listener, peer, domain) = name;
        let is_web = self.transports.get(usize::from(listener)).is_some_and(|it| it.is_web_socket());
        let due = now + PATIENCE;
        let key = self.connections.insert(Connection {
            body: Body::Plain(wire),
            listener,
            peer,
            domain,
            is_ours,
            is_open: false,
            is_connecting: is_ours,
            is_readable: false,
            is_dirty: false,
            identities: Box::default(),
            framer: Framer::default(),
            input: Vec::new(),
            output: Vec::new(),
            clients: Vec::new(),
            opened: now,
            last: now,
            slow_since: Some(now),
            deaf_since: None,
            asked_at: None,
            has_spoken: false,
            timer: store::Timer::NONE,
            due,
            weight: 0,
            in_web: [0, 0],
        });
        let token = Token((key.generation as usize) << 32 | key.index as usize);
        let connection = self.connections.get_mut(key)?;
        connection.timer = self.wheel.arm(due, key);
        let registered = match &mut connection.body {
            Body::Plain(wire) => {
                self.registry.register(&mut wire.socket, token, Interest::READABLE | Interest::WRITABLE)
            }
            Body::Opening(_) | Body::Web(_) => Ok(()),
        };
        if is_web && let Body::Plain(_) = connection.body {
            let opening = std::mem::replace(&mut connection.body, Body::Opening(None));
            if let Body::Plain(wire) = opening {
                let start = ServerHandshake::start(wire, subprotocol as Subprotocol, Some(web_config()));
                connection.body = Body::Opening(Some(Box::new(start)));
            }
        }
        // One that we opened has shown who it is: none that was accepted from the same port takes its place.
        let known = self.by_peer.get(&name).and_then(|key| self.connections.get(*key));
        if is_ours || known.is_none_or(|known| !known.is_ours) {
            self.by_peer.insert(name, key);
        }
        if registered.is_err() {
            self.close(key, Closed::Unreachable);
            return None;
        }
        Some(key)
    }

    /// Goes on opening. `None` when the connection is closed.
    fn open(&mut self, now: Instant, key: Key) -> Option<()> {
        let connection = self.connections.get_mut(key)?;
        if connection.is_open || connection.is_connecting {
            return Some(());
        }
        if let Some(wire) = connection.wire() {
            wire.grant(BATCH);
        }
        let done = match &mut connection.body {
            Body::Plain(wire) => wire.shake_hands().map_err(|_| ()),
            Body::Opening(shaking) => match shaking.take().map(shake_hands) {
                Some(Ok(socket)) => {
                    connection.body = Body::Web(Box::new(socket));
                    Ok(true)
                }
                Some(Err(again)) => {
                    *shaking = again;
                    if shaking.is_some() { Ok(false) } else { Err(()) }
                }
                None => Err(()),
            },
            Body::Web(_) => Ok(true),
        };
        match done {
            Err(()) => {
                self.close(key, Closed::Fault);
                return None;
            }
            Ok(false) => {}
            Ok(true) => {
                (connection.is_open, connection.slow_since) = (true, None);
                (connection.opened, connection.last) = (now, now);
                // What came with the last piece of the handshake is in TLS already, and told by no notice.
                if !std::mem::replace(&mut connection.is_readable, true) {
                    self.ready.push(key);
                }
                connection.identities = connection.wire().map(|wire| wire.identities()).unwrap_or_default();
                if connection.is_ours {
                    self.counts.connected += 1;
                }
                self.watch(key);
                self.touch(key);
            }
        }
        Some(())
    }

    fn connect(&mut self, now: Instant, name: Name, host: &str) -> Option<Key> {
        let (listener, peer, _) = name;
        let at = usize::from(listener);
        if self.connections.len() >= self.limits.connections {
            self.counts.refused += 1;
            return None;
        }
        let tls = if self.transports[at].is_secure() {
            let config = Arc::clone(self.tls.client(at)?);
            let host = match host {
                "" => ServerName::IpAddress(peer.ip().into()),
                host => ServerName::try_from(host.to_owned()).ok()?,
            };
            Some(ClientConnection::new(config, host).ok()?.into())
        } else {
            None
        };
        let socket = start(self.listeners[at].as_ref()?.address, peer).ok()?;
        self.add(now, name, Wire::new(socket, tls), true)
    }

    fn close(&mut self, key: Key, reason: Closed) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        self.counts.closed[reason as usize] += 1;
        self.wheel.stop(connection.timer);
        let name = (connection.listener, connection.peer, connection.domain);
        if self.by_peer.get(&name) == Some(&key) {
            self.by_peer.remove(&name);
        }
        let source = (!connection.is_ours).then_some(connection.peer.ip());
        self.shares.weigh(source, (connection.weight, 0), usize::MAX);
        if let Some(source) = source {
            self.shares.leave(source);
        }
        self.failed.extend(connection.clients.drain(..).map(|(_, client)| client));
        if let Some(wire) = connection.wire() {
            wire.close();
            // The socket is closed with the connection, which takes it out of the queue too.
            self.registry.deregister(&mut wire.socket).unwrap_or(());
        }
        tracing::debug!(peer = %connection.peer, reason = reason.label(), "connection closed");
    }

    // --- receiving ---------------------------------------------------------------------------------------------------

    /// Accepts, reads, and hands whole messages on: what the connection is known by, the names its certificate proved, the message.
    pub fn receive(&mut self, now: Instant, mut take: impl FnMut(Name, &[Box<str>], &[u8])) {
        self.accept(now);
        let mut ready = std::mem::take(&mut self.ready);
        // A round has a bound: datagrams and timers get their turn, and who was not read comes first in the next.
        let mut budget = ROUND;
        let done = ready.iter().position(|key| {
            let (more, octets) = self.read(now, *key, &mut take);
            if more {
                self.ready.push(*key);
            }
            budget = budget.saturating_sub(octets.max(256));
            budget == 0
        });
        ready.drain(..done.map_or(ready.len(), |last| last + 1));
        ready.append(&mut self.ready);
        // Its memory serves again.
        self.ready = ready;
    }

    /// Reads one connection; whether it may hold more, and how many octets came.
    fn read(&mut self, now: Instant, key: Key, take: &mut impl FnMut(Name, &[Box<str>], &[u8])) -> (bool, usize) {
        let Some(connection) = self.connections.get_mut(key) else { return (false, 0) };
        if !connection.is_open {
            connection.is_readable = false;
            return (false, 0);
        }
        let Connection { body, framer, input, output, identities, listener, peer, domain, .. } = connection;
        let mut hand = |message: &[u8]| take((*listener, *peer, *domain), identities, message);
        let had = output.len();
        grant(body, BATCH);
        let read = match body {
            Body::Plain(wire) => read_stream(wire, &mut self.buffer, input, framer, output, &mut hand),
            Body::Web(socket) => read_frames(socket, &mut hand),
            Body::Opening(_) => Ok(Progress::default()),
        };
        let wrote = output.len() > had || matches!(body, Body::Web(_));
        let taken = BATCH - budget_of(body);
        let given = if let Body::Web(socket) = body { socket.get_mut().take_given() } else { 0 };
        let is_web = matches!(body, Body::Web(_));
        let has_input = !input.is_empty();
        match read {
            Err(reason) => {
                self.close(key, reason);
                (false, 0)
            }
            Ok(progress) => {
                let is_partial = if is_web {
                    // What was given to it and was no whole frame yet. Heads are shorter than they may be: what seems left of a few
                    // is nothing once a message was whole.
                    let kept = (connection.in_web[0] + given).saturating_sub(progress.whole);
                    let is_nothing = progress.frames > 0 && kept < HEADS;
                    connection.in_web[0] = if is_nothing { 0 } else { kept.min(2 * STREAM_OCTETS_MAX) };
                    connection.in_web[0] > 0
                } else {
                    has_input
                };
                let has_more = progress.has_more || taken == BATCH;
                connection.is_readable = has_more;
                connection.has_spoken |= progress.messages > 0;
                if progress.octets > 0 {
                    (connection.last, connection.asked_at) = (now, None);
                }
                // A message that is finished ends the wait for it, even if the next one has begun.
                if progress.messages + progress.frames > 0 || !is_partial {
                    connection.slow_since = None;
                }
                if is_partial && connection.slow_since.is_none() {
                    connection.slow_since = Some(now);
                    self.watch(key);
                }
                if wrote {
                    self.touch(key);
                }
                self.weigh(key);
                (has_more, progress.octets.max(taken))
            }
        }
    }

    // --- sending -----------------------------------------------------------------------------------------------------

    /// What is kept for a connection changed. One that was accepted is closed when it has more than its share.
    fn weigh(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let after = connection.octets();
        let before = std::mem::replace(&mut connection.weight, after);
        if after == before {
            return;
        }
        let source = (!connection.is_ours).then_some(connection.peer.ip());
        if !self.shares.weigh(source, (before, after), self.limits.octets) && source.is_some() {
            self.close(key, Closed::Full);
        }
    }

    fn touch(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// The connection to be used: the one of that name, else one that was accepted from there. Where nobody was heard before, that
    /// must have shown the name, too: its other end may be anybody who has the port now.
    fn find(&self, (listener, peer, domain): Name, transmit: &Transmit<'_>) -> Option<Key> {
        let is_free = transmit.is_heard || !self.transports[usize::from(listener)].is_secure();
        let known = |domain: DomainId, may_be_ours: bool| {
            let key = *self.by_peer.get(&(listener, peer, domain))?;
            let connection = self.connections.get(key)?;
            let shows = || is_free || connection.identities.iter().any(|name| **name == *transmit.name);
            let fits = if connection.is_ours { may_be_ours } else { shows() };
            fits.then_some(key)
        };
        known(domain, true).or_else(|| known(DomainId::NONE, domain == DomainId::NONE))
    }

    /// Queues one message for its connection, which is opened when it must be. [`Streams::flush`] sends.
    pub fn send(&mut self, now: Instant, transmit: &Transmit<'_>) -> Sent {
        let (listener, domain) = (transmit.listener, transmit.domain);
        let key = self.find((listener, transmit.destination, domain), transmit).or_else(|| {
            // Gone: the port its other side listens on, if any.
            let name = (listener, SocketAddr::new(transmit.destination.ip(), transmit.connect), domain);
            let again = self.find(name, transmit);
            again.or_else(|| if transmit.connect == 0 { None } else { self.connect(now, name, transmit.name) })
        });
        let Some(key) = key else { return Sent::Never };
        let Some(connection) = self.connections.get_mut(key) else { return Sent::Never };
        match &mut connection.body {
            Body::Web(socket) => {
                let frame = match std::str::from_utf8(transmit.payload) {
                    Ok(text) => Frame::text(text),
                    Err(_) => Frame::binary(transmit.payload.to_vec()),
                };
                connection.in_web[1] += transmit.payload.len();
                match socket.write(frame) {
                    Ok(()) => {}
                    Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        self.close(key, Closed::Full);
                        return Sent::Never;
                    }
                }
            }
            // It was accepted, so nobody waits for an answer over it yet.
            Body::Opening(_) => return Sent::Never,
            Body::Plain(_) => {
                if connection.output.len() + transmit.payload.len() > OUTPUT_MAX {
                    self.close(key, Closed::Full);
                    return Sent::Never;
                }
                connection.output.extend_from_slice(transmit.payload);
            }
        }
        if !transmit.client.is_none() {
            // Of a WebSocket all or nothing is known to have left.
            let end = connection.output.len().max(1);
            connection.clients.push((end, transmit.client));
        }
        connection.last = now;
        self.touch(key);
        Sent::Yes
    }

    /// Writes what was queued, as far as the connections take it.
    pub fn flush(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.is_dirty = false;
            if !connection.is_open {
                self.weigh(key);
                continue;
            }
            let Connection { body, output, clients, .. } = connection;
            let (taken, written) = match body {
                Body::Plain(wire) => write_out(wire, output),
                Body::Web(socket) => match socket.flush() {
                    Ok(()) => (usize::MAX, Ok(())),
                    Err(tungstenite::Error::Io(error)) => (0, Err(error)),
                    Err(error) => (0, Err(io::Error::other(error))),
                },
                Body::Opening(_) => (0, Ok(())),
            };
            clients.retain_mut(|(end, _)| {
                *end = end.saturating_sub(taken);
                *end > 0
            });
            match written {
                Ok(()) => (connection.deaf_since, connection.in_web[1]) = (None, 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if taken > 0 || connection.deaf_since.is_none() {
                        connection.deaf_since = Some(now);
                        self.watch(key);
                    }
                }
                Err(_) => self.close(key, Closed::Peer),
            }
            self.weigh(key);
        }
        // Its memory serves again.
        self.dirty.append(&mut dirty);
    }

    /// A client transaction whose request was queued and could not be sent.
    pub fn pop_failed(&mut self) -> Option<Key> {
        self.failed.pop()
    }
}
