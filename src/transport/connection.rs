//! One connection: its octets, the messages in them, and when it has to be looked at.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tungstenite::error::ProtocolError;
use tungstenite::handshake::MidHandshake;
use tungstenite::handshake::server::{ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::protocol::{Message as Frame, WebSocketConfig};
use tungstenite::{HandshakeError, WebSocket};

use super::stream::{BATCH, Closed, OUTPUT_MAX};
use super::wire::Wire;
use crate::outbox::{DomainId, ListenerId};
use crate::sip::framing::{self, Framer, STREAM_OCTETS_MAX};
use crate::store::{self, Key};
use crate::time::Instant;

/// Waiting connections the kernel keeps for a listener.
const BACKLOG: i32 = 1024;
/// A buffer larger than this is not kept once it is empty, in octets.
pub(super) const KEEP: usize = 4 * 1024;
/// How long a connection may take to open, to finish a message it began, and to take what was sent.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long one we accepted may stay without its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);

pub(super) type Shaking = MidHandshake<ServerHandshake<Wire, Subprotocol>>;
pub(super) type Subprotocol = fn(&Request, Response) -> Result<Response, ErrorResponse>;

pub(super) enum Body {
    /// TCP or TLS.
    Plain(Wire),
    /// A WebSocket that opens; empty only within one step.
    Opening(Option<Box<Shaking>>),
    /// A WebSocket.
    Web(Box<WebSocket<Wire>>),
}

pub(super) struct Connection {
    pub(super) body: Body,
    pub(super) listener: ListenerId,
    pub(super) peer: SocketAddr,
    /// Whom its certificate named, when we opened it.
    pub(super) domain: DomainId,
    pub(super) is_ours: bool,
    pub(super) is_open: bool,
    pub(super) is_connecting: bool,
    pub(super) is_readable: bool,
    pub(super) is_dirty: bool,
    pub(super) identities: Box<[Box<str>]>,
    pub(super) framer: Framer,
    /// A message that is not whole yet.
    pub(super) input: Vec<u8>,
    /// What the connection did not take yet.
    pub(super) output: Vec<u8>,
    /// Whom to tell if it is never sent: octets up to the end of a request, and its client transaction.
    pub(super) clients: Vec<(usize, Key)>,
    pub(super) opened: Instant,
    pub(super) last: Instant,
    /// Since when it opens, or a message is unfinished.
    pub(super) slow_since: Option<Instant>,
    /// Since when it takes nothing of what waits.
    pub(super) deaf_since: Option<Instant>,
    /// When it was asked whether anybody is there.
    pub(super) asked_at: Option<Instant>,
    pub(super) has_spoken: bool,
    pub(super) timer: store::Timer,
    pub(super) due: Instant,
    /// Octets kept for it, as they were weighed last.
    pub(super) weight: usize,
    /// Of these, what a WebSocket keeps itself: of an unfinished message, and unsent.
    pub(super) in_web: [usize; 2],
}

/// Binds one listener. Not yet registered with a shard.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of the process before us may linger on the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// RFC 7118 §4.1: the client must ask for the subprotocol `sip`, and is told so.
#[expect(clippy::result_large_err, reason = "tungstenite wants it so")]
pub(super) fn subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    const NAME: &str = "Sec-WebSocket-Protocol";
    let asks = request
        .headers()
        .get_all(NAME)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("sip")));
    if !asks {
        let mut refusal = ErrorResponse::new(Some("ask for the WebSocket subprotocol sip (RFC 7118)\n".into()));
        *refusal.status_mut() = tungstenite::http::StatusCode::BAD_REQUEST;
        return Err(refusal);
    }
    response.headers_mut().insert(NAME, tungstenite::http::HeaderValue::from_static("sip"));
    Ok(response)
}

impl Connection {
    pub(super) fn wire(&mut self) -> Option<&mut Wire> {
        match &mut self.body {
            Body::Plain(wire) => Some(wire),
            Body::Web(socket) => Some(socket.get_mut()),
            Body::Opening(shaking) => shaking.as_mut().map(|shaking| shaking.get_mut().get_mut()),
        }
    }

    /// Octets kept for it beyond what each connection has: of messages that are not whole, and of those it did not take.
    pub(super) fn octets(&self) -> usize {
        let [input, output] = [self.input.capacity(), self.output.capacity()].map(|all| all.saturating_sub(KEEP));
        input + output + self.in_web[0] + self.in_web[1]
    }

    /// When it has to be looked at next.
    pub(super) fn deadline(&self, idle: Duration) -> Instant {
        // Line ends and pings keep only those who speak SIP.
        let unused =
            if self.has_spoken || self.is_ours { self.last + idle } else { self.opened + idle.min(FIRST_MESSAGE) };
        let idle = self.asked_at.map_or(unused, |at| at + PATIENCE);
        [self.slow_since, self.deaf_since].into_iter().flatten().fold(idle, |due, since| due.min(since + PATIENCE))
    }

    /// Asks an idle WebSocket, which has a way to be asked, whether anybody is there. Once, and nobody who was slow or never
    /// spoke.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        if self.asked_at.is_some() || !self.has_spoken || self.is_slow(now) {
            return false;
        }
        let Body::Web(socket) = &mut self.body else { return false };
        self.asked_at = Some(now);
        socket.write(Frame::Ping(Vec::new().into())).is_ok()
    }

    /// Whether it took too long to open, to finish a message or to take what waits.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        [self.slow_since, self.deaf_since].into_iter().flatten().any(|since| since + PATIENCE <= now)
    }
}

/// Lets a connection take so many octets before others get their turn.
pub(super) fn grant(body: &mut Body, octets: usize) {
    match body {
        Body::Plain(wire) => wire.grant(octets),
        Body::Web(socket) => socket.get_mut().grant(octets),
        Body::Opening(_) => {}
    }
}

/// What is left of that.
pub(super) fn budget_of(body: &Body) -> usize {
    match body {
        Body::Plain(wire) => wire.budget(),
        Body::Web(socket) => socket.get_ref().budget(),
        Body::Opening(_) => BATCH,
    }
}

/// One step of a WebSocket's handshake: open, or what is left to do, or nothing after a fault.
pub(super) fn shake_hands(shaking: Box<Shaking>) -> Result<WebSocket<Wire>, Option<Box<Shaking>>> {
    shaking.handshake().map_err(|error| match error {
        HandshakeError::Interrupted(again) => Some(Box::new(again)),
        HandshakeError::Failure(_) => None,
    })
}

/// What is not acknowledged for so long never will be: whoever waits for it goes elsewhere, and the next message opens the
/// connection again. Half of what a transaction waits (64*T1).
const UNACKNOWLEDGED: Duration = Duration::from_secs(16);
/// A connection that carries nothing is asked for a sign of life.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(5)).with_retries(3);

/// Small messages at once, and an end that vanished without a word is found out. What the system refuses is done without.
pub(super) fn tune(socket: SockRef<'_>) {
    socket.set_tcp_nodelay(true).unwrap_or(());
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)).unwrap_or(());
    socket.set_tcp_keepalive(&KEEPALIVE).unwrap_or(());
}

/// A connection from the listener's address that is being opened.
pub(super) fn start(listener: SocketAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    tune(SockRef::from(&socket));
    if !listener.ip().is_unspecified() {
        socket.bind(&SocketAddr::new(listener.ip(), 0).into())?;
    }
    const EINPROGRESS: i32 = 115;
    match socket.connect(&peer.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) || error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

pub(super) fn web_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(KEEP)
        .write_buffer_size(KEEP)
        .max_write_buffer_size(OUTPUT_MAX)
        .max_message_size(Some(STREAM_OCTETS_MAX))
        .max_frame_size(Some(STREAM_OCTETS_MAX))
}

/// How far reading came.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) octets: usize,
    pub(super) messages: usize,
    /// Frames of a WebSocket that were whole messages, line ends included.
    pub(super) frames: usize,
    /// Octets of a WebSocket's frames that were whole, with as much as their heads may have.
    pub(super) whole: usize,
    pub(super) has_more: bool,
}

pub(super) fn read_stream(
    wire: &mut Wire,
    buffer: &mut [u8],
    input: &mut Vec<u8>,
    framer: &mut Framer,
    output: &mut Vec<u8>,
    hand: &mut impl FnMut(&[u8]),
) -> Result<Progress, Closed> {
    let mut progress = Progress::default();
    while progress.octets < BATCH {
        let length = match wire.read(buffer) {
            Ok(0) => return Err(Closed::Peer),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(progress),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(Closed::Fault),
            Err(_) => return Err(Closed::Peer),
        };
        progress.octets += length;
        let is_fresh = input.is_empty();
        if !is_fresh {
            input.extend_from_slice(&buffer[..length]);
        }
        let all = if is_fresh { &buffer[..length] } else { &input[..] };
        let mut rest = all;
        loop {
            match framer.next(rest) {
                _ if rest.is_empty() => break,
                framing::Frame::Incomplete => break,
                framing::Frame::LineEnds { octets, is_ping } => {
                    if is_ping && output.is_empty() {
                        output.extend_from_slice(b"\r\n");
                    }
                    rest = &rest[octets..];
                }
                framing::Frame::Message(length) => {
                    hand(&rest[..length]);
                    progress.messages += 1;
                    rest = &rest[length..];
                }
                framing::Frame::Broken(_) => return Err(Closed::Fault),
            }
        }
        let done = all.len() - rest.len();
        if is_fresh {
            input.extend_from_slice(&buffer[done..length]);
        } else {
            input.drain(..done);
        }
        if input.is_empty() {
            input.shrink_to(KEEP);
        }
    }
    progress.has_more = true;
    Ok(progress)
}

/// The head of a frame at most (RFC 6455 §5.2), in octets.
const FRAME_HEAD: usize = 14;

pub(super) fn read_frames(socket: &mut WebSocket<Wire>, hand: &mut impl FnMut(&[u8])) -> Result<Progress, Closed> {
    let mut progress = Progress::default();
    while progress.octets < BATCH {
        match socket.read() {
            Ok(frame @ (Frame::Text(_) | Frame::Binary(_))) => {
                let message = frame.into_data();
                progress.octets += message.len() + 1;
                progress.frames += 1;
                progress.whole += message.len() + FRAME_HEAD;
                // RFC 7118 §6: RFC 5626's keep-alive works here, too.
                if message.iter().all(|octet| matches!(octet, b'\r' | b'\n')) {
                    if message.len() >= 4 {
                        // What does not fit now is no loss: the next ping comes.
                        socket.write(Frame::text("\r\n")).unwrap_or(());
                    }
                    continue;
                }
                progress.messages += 1;
                hand(&message);
            }
            Ok(control) => {
                progress.octets += 1;
                progress.whole += control.len() + FRAME_HEAD;
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(progress),
            Err(
                tungstenite::Error::Io(_)
                | tungstenite::Error::ConnectionClosed
                | tungstenite::Error::AlreadyClosed
                // A browser that went without a word.
                | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            ) => {
                return Err(Closed::Peer);
            }
            Err(_) => return Err(Closed::Fault),
        }
    }
    progress.has_more = true;
    Ok(progress)
}

/// Writes out what waits, and what TLS holds. Says how many octets were taken, too.
pub(super) fn write_out(wire: &mut Wire, output: &mut Vec<u8>) -> (usize, io::Result<()>) {
    let mut done = 0;
    let result = loop {
        if done == output.len() {
            break wire.flush();
        }
        match wire.write(&output[done..]) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    if done == output.len() {
        output.clear();
        output.shrink_to(KEEP);
    } else {
        output.drain(..done);
    }
    (done, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_vanishes_is_found_out() {
        let home = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = start(home.local_addr().expect("bound"), home.local_addr().expect("bound")).expect("a connection");
        let socket = SockRef::from(&socket);
        assert_eq!(socket.tcp_user_timeout().expect("Linux tells"), Some(UNACKNOWLEDGED));
        assert!(socket.keepalive().expect("Linux tells") && socket.tcp_nodelay().expect("Linux tells"));
        assert_eq!(socket.tcp_keepalive_time().expect("Linux tells"), Duration::from_secs(30));
    }
}
