//! UDP: one socket a listener, and one more, connected, for each peer we send to often.
//!
//! A connected socket spares the kernel the route look-up of every datagram (measured: about a sixth of its cost). The
//! kernel delivers what such a peer sends to that socket, so it is read like the listener's own; answers leave from the
//! listener's address all the same.

#![expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are open-ended")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::outbox::{ListenerId, Transmit};

/// Datagrams read from one socket before others get their turn.
const BATCH: usize = 32;
/// Octets read before any is handed on, not counting the last datagram's.
const BATCH_OCTETS: usize = 65_536;
/// A datagram can be this large.
const DATAGRAM: usize = 65_536;
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
    registry: Registry,
    /// The listeners', then those connected to one peer each.
    sockets: Vec<Own>,
    /// Of each listener that is one of datagrams.
    peers: Vec<Option<Peers>>,
    /// Positions of the sockets that may hold datagrams.
    ready: Vec<usize>,
    /// Where datagrams are read, one behind the other, and then handed on together: the processor's caches hold either
    /// what the kernel executes or what the proxy does.
    buffer: Box<[u8]>,
    /// The datagrams in it.
    received: Vec<(ListenerId, SocketAddr, Range<usize>)>,
}

struct Own {
    socket: UdpSocket,
    listener: ListenerId,
    is_ready: bool,
}

struct Peers {
    /// Position of the listener's socket.
    at: usize,
    address: SocketAddr,
    known: HashMap<SocketAddr, Peer, foldhash::fast::RandomState>,
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

/// Binds one listener's socket. Not yet registered with a shard. An address in use is an error even when its user
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
fn connect(address: SocketAddr, peer: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = open(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.connect(&peer.into())?;
    Ok(socket.into())
}

impl Sockets {
    /// Registers bound sockets; `None` stands for a listener of another kind. Their tokens are positions, for [`Sockets::mark`].
    pub fn new(registry: Registry, bound: Vec<Option<std::net::UdpSocket>>) -> io::Result<Self> {
        let mut sockets = Self {
            registry,
            sockets: Vec::with_capacity(bound.len()),
            peers: Vec::with_capacity(bound.len()),
            ready: Vec::new(),
            buffer: vec![0; BATCH_OCTETS + DATAGRAM].into_boxed_slice(),
            received: Vec::with_capacity(BATCH),
        };
        for (listener, socket) in bound.into_iter().enumerate() {
            sockets.peers.push(None);
            if let Some(socket) = socket {
                let address = socket.local_addr()?;
                let at = sockets.add(socket, listener as ListenerId)?;
                sockets.peers[listener] = Some(Peers { at, address, known: HashMap::default() });
            }
        }
        Ok(sockets)
    }

    fn add(&mut self, socket: std::net::UdpSocket, listener: ListenerId) -> io::Result<usize> {
        let at = self.sockets.len();
        let mut socket = UdpSocket::from_std(socket);
        self.registry.register(&mut socket, Token(at), Interest::READABLE)?;
        self.sockets.push(Own { socket, listener, is_ready: false });
        // What came before it was registered is told by no notice.
        self.mark(at);
        Ok(at)
    }

    /// A datagram may be waiting in the socket at this position.
    pub fn mark(&mut self, at: usize) {
        if let Some(own) = self.sockets.get_mut(at)
            && !std::mem::replace(&mut own.is_ready, true)
        {
            self.ready.push(at);
        }
    }

    /// Whether a socket may hold datagrams already told of.
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reads up to a batch from each socket that is ready. The kernel tells of a socket once, so one that still holds
    /// something stays marked.
    pub fn receive(&mut self, mut take: impl FnMut(ListenerId, SocketAddr, &[u8])) {
        let Self { sockets, buffer, received, .. } = self;
        let mut end = 0;
        self.ready.retain(|at| {
            let own = &mut sockets[*at];
            for _ in 0..BATCH {
                if end > BATCH_OCTETS {
                    return true;
                }
                match own.socket.recv_from(&mut buffer[end..]) {
                    Ok((length, source)) => {
                        received.push((own.listener, source, end..end + length));
                        end += length;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        own.is_ready = false;
                        return false;
                    }
                    // One datagram's or one peer's fault (an ICMP error come back) never ends the listener.
                    Err(_) => {}
                }
            }
            true
        });
        for (listener, source, place) in received.drain(..) {
            take(listener, source, &buffer[place]);
        }
    }

    /// Sends one datagram.
    pub fn send(&mut self, transmit: &Transmit<'_>) -> Sent {
        let listener = usize::from(transmit.listener);
        let Some(Some(peers)) = self.peers.get(listener) else { return Sent::Never };
        if let Some(Peer::Connected(at)) = peers.known.get(&transmit.destination) {
            let socket = &self.sockets[*at].socket;
            // A refusal told here is an earlier datagram's, and used up by the telling: this one was not sent yet.
            let sent = match socket.send(transmit.payload) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(transmit.payload),
                sent => sent,
            };
            return outcome(sent.map(drop));
        }
        let sent = self.sockets[peers.at].socket.send_to(transmit.payload, transmit.destination);
        if sent.is_ok() {
            self.count(transmit.listener, transmit.destination);
        }
        outcome(sent.map(drop))
    }

    fn count(&mut self, listener: ListenerId, destination: SocketAddr) {
        let connected = self.connected();
        let Some(peers) = &mut self.peers[usize::from(listener)] else { return };
        if peers.known.len() >= COUNTED_MAX {
            peers.known.retain(|_, peer| matches!(peer, Peer::Connected(_)));
        }
        let Peer::Counted(count) = peers.known.entry(destination).or_insert(Peer::Counted(0)) else { return };
        *count = count.saturating_add(1);
        if *count != OFTEN || connected >= CONNECTED_MAX {
            return;
        }
        // If the kernel will not have it, the peer goes on being served as before.
        let connected = connect(peers.address, destination).and_then(|socket| self.add(socket, listener));
        if let Ok(at) = connected
            && let Some(peers) = &mut self.peers[usize::from(listener)]
        {
            peers.known.insert(destination, Peer::Connected(at));
        }
    }

    /// Sockets connected to one peer each.
    pub fn connected(&self) -> usize {
        self.sockets.len() - self.peers.iter().flatten().count()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_one_batch_comes_with_the_next() {
        let poll = mio::Poll::new().expect("a queue");
        let bound = bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let to = bound.local_addr().expect("bound");
        let mut sockets =
            Sockets::new(poll.registry().try_clone().expect("a queue"), vec![Some(bound)]).expect("registered");
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let sent: Vec<Vec<u8>> =
            [60_000, 60_000, 60_000, 10].into_iter().zip(1..).map(|(length, octet)| vec![octet; length]).collect();
        for datagram in &sent {
            peer.send_to(datagram, to).expect("sent");
        }
        let mut receive = || {
            let mut got = Vec::new();
            sockets.receive(|_, _, payload| got.push(payload.to_vec()));
            (got, sockets.has_more())
        };
        assert_eq!(receive(), (sent[..2].to_vec(), true));
        assert_eq!(receive(), (sent[2..].to_vec(), false));
    }
}
