//! What the core wants sent: datagrams waiting for the shell, written one after another into shared buffers.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use crate::sip::Method;
use crate::store::Key;

/// Which of the configured listeners, in the order of the configuration.
pub type ListenerId = u8;

/// One datagram to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The listener whose socket sends it: answers leave from the address that was asked.
    pub listener: ListenerId,
    /// Where to.
    pub destination: SocketAddr,
    /// The message.
    pub payload: Bytes,
    /// Its method; of a response, that of its request.
    pub method: Method,
    /// The client transaction to tell when sending fails; [`Key::NONE`] when nobody waits.
    pub client: Key,
}

/// Buffers are allocated in pieces of this size; a piece is used again when everything in it was sent.
const PIECE: usize = 256 * 1024;

/// The queue of datagrams. Bounded by what one batch of inputs can cause, since the shell drains it after each.
#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Transmit>,
    buffer: BytesMut,
}

impl Outbox {
    /// Writes one message with `write` and queues it.
    pub fn send(
        &mut self,
        (listener, destination): (ListenerId, SocketAddr),
        method: Method,
        client: Key,
        write: impl FnOnce(&mut BytesMut),
    ) -> Bytes {
        if self.buffer.capacity() < 4096 {
            self.buffer.reserve(PIECE);
        }
        write(&mut self.buffer);
        let payload = self.buffer.split().freeze();
        self.send_again((listener, destination), method, client, payload.clone());
        payload
    }

    /// Queues bytes that were sent before.
    pub fn send_again(
        &mut self,
        (listener, destination): (ListenerId, SocketAddr),
        method: Method,
        client: Key,
        payload: Bytes,
    ) {
        self.queue.push_back(Transmit { listener, destination, payload, method, client });
    }

    /// The next datagram to send.
    pub fn pop(&mut self) -> Option<Transmit> {
        self.queue.pop_front()
    }
}
