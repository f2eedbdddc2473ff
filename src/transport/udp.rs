//! UDP: one socket a listener, read in batches into shared buffers.

#![expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are open-ended")]

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

/// The sockets of a shard, in the order of the listeners.
pub struct Sockets {
    sockets: Vec<UdpSocket>,
    buffer: BytesMut,
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

/// Binds one listener's socket. Not yet registered with a runtime.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel gives what net.core.rmem_max allows.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Sockets {
    /// Registers bound sockets with the current runtime.
    pub fn new(bound: Vec<std::net::UdpSocket>) -> io::Result<Self> {
        let sockets = bound.into_iter().map(UdpSocket::from_std).collect::<io::Result<_>>()?;
        Ok(Self { sockets, buffer: BytesMut::new() })
    }

    /// Ready when a datagram may be waiting.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut ready = Poll::Pending;
        for socket in &self.sockets {
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
        for (at, socket) in self.sockets.iter().enumerate() {
            let mut left = BATCH;
            while left > 0 {
                left -= 1;
                if self.buffer.capacity() < DATAGRAM {
                    self.buffer.reserve(PIECE);
                }
                match socket.try_recv_buf_from(&mut self.buffer) {
                    Ok((_, source)) => take(at as ListenerId, source, self.buffer.split().freeze()),
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
    pub fn send(&self, transmit: &Transmit) -> Sent {
        let Some(socket) = self.sockets.get(usize::from(transmit.listener)) else { return Sent::Never };
        match socket.try_send_to(&transmit.payload, transmit.destination) {
            Ok(_) => Sent::Yes,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Sent::Later,
                _ => Sent::Never,
            },
        }
    }
}
