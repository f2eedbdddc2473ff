//! What the core wants sent: datagrams waiting for the shell, written one after another into one buffer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use crate::sip::Method;
use crate::store::Key;

/// Which of the configured listeners, in the order of the configuration.
pub type ListenerId = u8;

/// Where a message goes, and by which listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Its socket sends it, or it owns the connection.
    pub listener: ListenerId,
    /// Where to; of a stream, the other end of the connection.
    pub address: SocketAddr,
    /// The port to connect to at that address when the connection is not open; 0 when nobody listens there.
    pub connect: u16,
    /// Whether the transport loses nothing, so that nothing is sent again.
    pub is_reliable: bool,
}

/// One message to send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// The listener whose socket sends it: answers leave from the address that was asked.
    pub listener: ListenerId,
    /// Where to.
    pub destination: SocketAddr,
    /// See [`Hop::connect`].
    pub connect: u16,
    /// The message.
    pub payload: &'a [u8],
    /// Its method; of a response, that of its request.
    pub method: Method,
    /// The client transaction to tell when sending fails; [`Key::NONE`] when nobody waits.
    pub client: Key,
}

struct Queued {
    hop: Hop,
    place: Range<usize>,
    method: Method,
    client: Key,
}

/// A buffer that grew beyond this for one batch is not kept, in octets.
const KEEP: usize = 1024 * 1024;

/// The queue of datagrams. Bounded by what one batch of inputs can cause, since the shell drains it after each; then the
/// buffer is filled from its start again, where it is still in the processor's cache.
#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Queued>,
    buffer: Vec<u8>,
}

impl Outbox {
    /// Writes one message with `write` and queues it. Returns the message.
    pub fn send(&mut self, hop: Hop, method: Method, client: Key, write: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        if self.queue.is_empty() {
            self.buffer.clear();
            self.buffer.shrink_to(KEEP);
        }
        let start = self.buffer.len();
        write(&mut self.buffer);
        let place = start..self.buffer.len();
        self.queue.push_back(Queued { hop, place, method, client });
        &self.buffer[start..]
    }

    /// Queues bytes that were sent before.
    pub fn send_again(&mut self, hop: Hop, method: Method, client: Key, payload: &[u8]) {
        self.send(hop, method, client, |out| out.extend_from_slice(payload));
    }

    /// The next datagram to send.
    pub fn pop(&mut self) -> Option<Transmit<'_>> {
        let Queued { hop: Hop { listener, address: destination, connect, .. }, place, method, client } =
            self.queue.pop_front()?;
        Some(Transmit { listener, destination, connect, payload: &self.buffer[place], method, client })
    }
}
