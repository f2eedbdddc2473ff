//! What goes into the core and what comes out of it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::names::Answer;
use crate::alert::Event;
use crate::config::Config;
use crate::outbox::{DomainId, ListenerId, Transmit};
use crate::route::Question;
use crate::store::Key;

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came.
    Datagram {
        /// By which listener.
        listener: ListenerId,
        /// From where.
        source: SocketAddr,
        /// The datagram.
        payload: &'a [u8],
    },
    /// A whole message came over a connection.
    Stream {
        /// By which listener.
        listener: ListenerId,
        /// The other end.
        source: SocketAddr,
        /// The SIP domains its certificate names (RFC 5922 §7.1), lower case.
        identities: &'a [Box<str>],
        /// Of a connection we opened: [`crate::outbox::Hop::domain`].
        domain: DomainId,
        /// The message.
        payload: &'a [u8],
    },
    /// A message of this client transaction could not be sent.
    SendFailed {
        /// [`Transmit::client`].
        client: Key,
    },
    /// The operator changed the configuration.
    Reload(Arc<Config>),
    /// What came of a question ([`Output::Resolve`]).
    Resolved {
        /// The question.
        question: &'a Question,
        /// The answer.
        answer: Answer,
        /// How long it is good for.
        ttl: std::time::Duration,
    },
    /// The operator ends a call.
    EndCall {
        /// Its number in the table of calls.
        slot: crate::pool::SlotId,
    },
    /// The PBX has transferred a call away and does not say so: its channels go back, the call goes on.
    Release {
        /// Its number in the table of calls.
        slot: crate::pool::SlotId,
    },
    /// The operator wants no new calls to a URI of a target, or wants them again.
    Drain {
        /// The target's name.
        target: &'a str,
        /// The URI as the configuration writes it.
        uri: &'a str,
        /// Whether it gets no new calls.
        is_drained: bool,
    },
}

/// Something is to be done.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send a datagram.
    Transmit(Transmit<'a>),
    /// Tell the operators.
    Event(Event),
    /// Look a name up and say what came of it ([`Input::Resolved`]).
    Resolve(Question),
}
