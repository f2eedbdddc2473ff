//! Requests too large for a datagram (RFC 3261 §18.1.1): "it MUST be sent using an RFC 2914 congestion controlled transport
//! protocol, such as TCP", and over UDP all the same where that fails at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::outbox::Hop;
use crate::route::Router;
use crate::sip::{Message, Method, Transport};
use crate::time::Instant;

/// A larger request goes over TCP where it can: "if the path MTU is unknown and the request is larger than 1300 octets", in
/// octets.
const DATAGRAM_MAX: usize = 1300;
/// What we add to a request, about, in octets.
const OWN_OCTETS: usize = 250;
/// A failure that took so long is remembered.
const SLOW: Duration = Duration::from_secs(1);
/// How long TCP is not tried again where it did not work: nobody may answer there at all, which takes ten seconds to learn.
const MEMORY: Duration = Duration::from_secs(600);
/// Addresses remembered; of one more, all are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Whether a request is too large for a datagram. An ACK is not sent again when TCP fails, and a CANCEL follows its INVITE:
/// both stay as they are.
pub(super) fn is_large(message: &Message<'_>) -> bool {
    let has_choice = !matches!(message.method(), Method::Ack | Method::Cancel);
    has_choice && message.bytes().len() + OWN_OCTETS > DATAGRAM_MAX
}

/// Where TCP did not work, and until when that is believed.
#[derive(Default)]
pub(super) struct Large {
    failed: HashMap<SocketAddr, Instant, foldhash::fast::RandomState>,
}

impl Large {
    /// The way over TCP to where `hop` leads over UDP, when there is one to try.
    pub(super) fn widen(&self, now: Instant, router: &Router, hop: Hop) -> Option<Hop> {
        let is_tried = self.failed.get(&hop.address).is_none_or(|until| *until <= now);
        let is_open = router.transport(hop.listener) == Transport::Udp && is_tried;
        if is_open { router.hop(hop.listener, Transport::Tcp, hop.address) } else { None }
    }

    /// TCP, tried since then, did not work there. Who refuses at once costs nothing to ask again.
    pub(super) fn failed(&mut self, now: Instant, since: Instant, address: SocketAddr) {
        if now < since + SLOW {
            return;
        }
        if self.failed.len() >= ADDRESSES_MAX {
            self.failed.clear();
        }
        self.failed.insert(address, now + MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_took_long_to_fail_is_remembered_and_is_forgotten_when_there_is_too_much_of_it() {
        let (mut large, late) = (Large::default(), Instant::ZERO + SLOW);
        large.failed(Instant::ZERO, Instant::ZERO, SocketAddr::from(([192, 0, 2, 3], 1)));
        assert!(large.failed.is_empty());
        for port in 0..ADDRESSES_MAX as u16 {
            large.failed(late, Instant::ZERO, SocketAddr::from(([192, 0, 2, 1], port)));
        }
        assert_eq!(large.failed.len(), ADDRESSES_MAX);
        large.failed(late, Instant::ZERO, SocketAddr::from(([192, 0, 2, 2], 0)));
        assert_eq!(large.failed.len(), 1);
    }
}
