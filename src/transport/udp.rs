//! UDP: one socket a listener, and one more, connected, for each peer we send to often.
//!
//! A connected socket spares the kernel the route look-up of every datagram (measured: about a sixth of its cost). The
//! kernel delivers what such a peer sends to that socket, so it is read like the listener's own; answers leave from the
//! listener's address all the same.

#![expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are open-ended")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::outbox::{ListenerId, Transmit};

/// Datagrams read from one socket before others get their turn.
const BATCH: usize = 64;
/// A datagram can be this large.
const DATAGRAM: usize = 65_536;
/// Receive buffers are allocated in pieces of this size, and used again once everything in them was handled.
const PIECE: usize = 8 * DATAGRAM;
/// What we ask of the kernel for each socket, in octets: a burst must not be lost while a batch is handled.
const SOCKET_BUFFER: usize = 8 * 1024 * 1024;
/// A peer that was sent this many datagrams gets a connected socket.
const OFTEN: u32 = 64;
/// Connected sockets at most, the listeners' peers together.
const CONNECTED_MAX: usize = 64;
/// Peers whose datagrams are counted; when they are more, counting starts afresh.
const COUNTED_MAX: usize = 4096;

/// The sockets of a shard.
pub struct Sockets {
    listeners: Vec<Listener>,
    connected: Vec<Connected>,
    buffer: BytesMut,
}

struct Listener {
    socket: UdpSocket,
    address: SocketAddr,
    peers: HashMap<SocketAddr, Peer, foldhash::fast::RandomState>,
}

struct Connected {
    socket: UdpSocket,
    listener: ListenerId,
}

/// How a peer is sent to.
enum Peer {
    /// Through the listener's socket; so many datagrams up to now.
    Counted(u32),
    /// Through its own socket, at this position.
    Connected(usize),
}

/// How sending went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The kernel has it.
    Yes,
    /// The kernel's buffer is full; retransmission repairs it.
    Later,
    /// The destination cannot be reached.
    Never,
}

/// Binds one listener's socket. Not yet registered with a runtime. An address in use is an error even when its user
/// would share it.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = open(address)?;
    socket.bind(&address.into())?;
    // Only from here on may our own connected sockets share the port: a second process finds it taken.
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel gives what net.core.rmem_max allows.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket with the listener's address that talks to `peer` alone. Until it is connected it may be handed datagrams of
/// others; they are read like all.
fn connect(address: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.connect(&peer.into())?;
    UdpSocket::from_std(socket.into())
}

impl Sockets {
    /// Registers bound sockets with the current runtime.
    pub fn new(bound: Vec<std::net::UdpSocket>) -> io::Result<Self> {
        let listener = |socket: std::net::UdpSocket| {
            let address = socket.local_addr()?;
            Ok(Listener { socket: UdpSocket::from_std(socket)?, address, peers: HashMap::default() })
        };
        let listeners = bound.into_iter().map(listener).collect::<io::Result<_>>()?;
        Ok(Self { listeners, connected: Vec::new(), buffer: BytesMut::new() })
    }

    /// Ready when a datagram may be waiting.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut ready = Poll::Pending;
        let all = self.listeners.iter().map(|listener| &listener.socket);
        for socket in all.chain(self.connected.iter().map(|connected| &connected.socket)) {
            // An error shows itself when reading.
            if socket.poll_recv_ready(context).is_ready() {
                ready = Poll::Ready(());
            }
        }
        ready
    }

    /// Reads up to a batch from each socket. Says whether more may be waiting.
    pub fn receive(&mut self, mut take: impl FnMut(ListenerId, SocketAddr, Bytes)) -> bool {
        let mut more = false;
        let own = self.listeners.iter().enumerate().map(|(at, listener)| (at as ListenerId, &listener.socket));
        let connected = self.connected.iter().map(|connected| (connected.listener, &connected.socket));
        for (listener, socket) in own.chain(connected) {
            let mut left = BATCH;
            while left > 0 {
                left -= 1;
                if self.buffer.capacity() < DATAGRAM {
                    self.buffer.reserve(PIECE);
                }
                match socket.try_recv_buf_from(&mut self.buffer) {
                    Ok((_, source)) => take(listener, source, self.buffer.split().freeze()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // One datagram's or one peer's fault (an ICMP error come back) never ends the listener.
                    Err(_) => {}
                }
            }
            more |= left == 0;
        }
        more
    }

    /// Sends one datagram.
    pub fn send(&mut self, transmit: &Transmit) -> Sent {
        let Some(listener) = self.listeners.get_mut(usize::from(transmit.listener)) else { return Sent::Never };
        if let Some(Peer::Connected(at)) = listener.peers.get(&transmit.destination) {
            let socket = &self.connected[*at].socket;
            // A refusal told here is an earlier datagram's, and used up by the telling: this one was not sent yet.
            let sent = match socket.try_send(&transmit.payload) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.try_send(&transmit.payload),
                sent => sent,
            };
            return outcome(sent.map(drop));
        }
        let sent = listener.socket.try_send_to(&transmit.payload, transmit.destination);
        if sent.is_ok() {
            self.count(transmit.listener, transmit.destination);
        }
        outcome(sent.map(drop))
    }

    fn count(&mut self, listener_id: ListenerId, destination: SocketAddr) {
        let listener = &mut self.listeners[usize::from(listener_id)];
        if listener.peers.len() >= COUNTED_MAX {
            listener.peers.retain(|_, peer| matches!(peer, Peer::Connected(_)));
        }
        let peer = listener.peers.entry(destination).or_insert(Peer::Counted(0));
        let Peer::Counted(count) = peer else { return };
        *count = count.saturating_add(1);
        if *count == OFTEN && self.connected.len() < CONNECTED_MAX {
            // If the kernel will not have it, the peer goes on being served as before.
            if let Ok(socket) = connect(listener.address, destination) {
                *peer = Peer::Connected(self.connected.len());
                self.connected.push(Connected { socket, listener: listener_id });
            }
        }
    }

    /// Sockets connected to one peer each.
    pub fn connected(&self) -> usize {
        self.connected.len()
    }
}

fn outcome(sent: io::Result<()>) -> Sent {
    // ENOBUFS: the interface's queue is full; as passing as a full socket.
    const ENOBUFS: i32 = 105;
    match sent {
        Ok(()) => Sent::Yes,
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Sent::Later,
            _ if error.raw_os_error() == Some(ENOBUFS) => Sent::Later,
            _ => Sent::Never,
        },
    }
}
