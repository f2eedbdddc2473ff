//! What goes into the core and what comes out of it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::alert::Event;
use crate::config::Config;
use crate::outbox::{ListenerId, Transmit};
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
}

/// Something is to be done.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send a datagram.
    Transmit(Transmit<'a>),
    /// Tell the operators.
    Event(Event),
}
