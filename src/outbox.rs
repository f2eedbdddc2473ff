//! What the core wants sent: datagrams waiting for the shell, written one after another into one buffer.

use std::collections::{HashMap, VecDeque};
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
    /// Whom the certificate there must name, over TLS.
    pub domain: DomainId,
    /// Whether the transport loses nothing, so that nothing is sent again.
    pub is_reliable: bool,
    /// Whether somebody was heard from there: it is the other end of the connection, whoever that has shown to be.
    pub is_heard: bool,
}

/// A name to be found in a certificate; [`DomainId::NONE`] stands for the address itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct DomainId(u16);

impl DomainId {
    /// No name: the certificate must be the address's own.
    pub const NONE: Self = Self(0);
}

/// Names that are no target's; of one more the certificate must be the address's own.
const DOMAINS_MAX: usize = 16 * 1024;

/// The names in use. None is ever forgotten, so that a number always stands for the same.
#[derive(Default)]
struct Domains {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, DomainId, foldhash::fast::RandomState>,
    /// Whether the operator was told that there is room for no more.
    is_full: bool,
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
    /// See [`Hop::domain`].
    pub domain: DomainId,
    /// The name it stands for.
    pub name: &'a str,
    /// See [`Hop::is_heard`].
    pub is_heard: bool,
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
    domains: Domains,
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
        let Queued {
            hop: Hop { listener, address: destination, connect, domain, is_heard, .. },
            place,
            method,
            client,
        } = self.queue.pop_front()?;
        let name = self.domains.names.get(usize::from(domain.0).wrapping_sub(1)).map_or("", |name| &**name);
        Some(Transmit {
            listener,
            destination,
            connect,
            domain,
            name,
            is_heard,
            payload: &self.buffer[place],
            method,
            client,
        })
    }

    /// The number of a name to be found in a certificate. There is always room for one `is_configured`.
    pub fn domain(&mut self, name: &str, is_configured: bool) -> DomainId {
        // A name with its root is the same (RFC 1034 §3.1), and certificates have none.
        let name = name.strip_suffix('.').unwrap_or(name);
        let Domains { names, numbers, is_full } = &mut self.domains;
        if let Some(number) = numbers.get(name) {
            return *number;
        }
        let most = if is_configured { usize::from(u16::MAX) } else { DOMAINS_MAX };
        if name.is_empty() || names.len() >= most {
            if names.len() >= most && !std::mem::replace(is_full, true) {
                tracing::warn!(event = "too_many_domains", "no more names are kept for certificates: restart the node");
            }
            return DomainId::NONE;
        }
        names.push(name.into());
        let number = DomainId(names.len() as u16);
        numbers.insert(name.into(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number_for_ever_and_targets_find_room_when_the_others_have_none() {
        let mut outbox = Outbox::default();
        let first = outbox.domain("pbx.example.net", true);
        assert_ne!(first, DomainId::NONE);
        assert_eq!(outbox.domain("pbx.example.net.", false), first);
        for number in 0..DOMAINS_MAX {
            outbox.domain(&format!("n{number}.example"), false);
        }
        assert_eq!(outbox.domain("one.more.example", false), DomainId::NONE);
        assert_ne!(outbox.domain("one.more.example", true), DomainId::NONE);
        assert_eq!(outbox.domain("", true), DomainId::NONE);
        assert_eq!(outbox.domain("pbx.example.net", false), first);
    }
}
