//! The INVITE server transaction: RFC 3261 figure 7 as amended by RFC 6026 §7.1 (figure 7 there).

use Action::{PassUp, Report, Resend, Send, Start, Stop};
use Event::{Ack, Failure, Fired, Provisional, Request, SendFailed, Success};
use State::{Accepted, Completed, Confirmed, Proceeding, Terminated};
use Timer::{G, H, I, L, Trying};

use super::timer::Timer;
use super::{Action, Event};

/// The states of figure 7 and RFC 6026's Accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// No final answer yet.
    Proceeding,
    /// A final answer other than 2xx was sent.
    Completed,
    /// Its ACK came.
    Confirmed,
    /// A 2xx was sent.
    Accepted,
    /// To be removed.
    Terminated,
}

impl State {
    /// Every state, for the tests of the table.
    pub const ALL: [Self; 5] = [Proceeding, Completed, Confirmed, Accepted, Terminated];
}

/// One line per arrow. `None`: the state absorbs the event.
#[rustfmt::skip]
pub const fn step(state: State, event: Event) -> Option<(State, &'static [Action])> {
    Some(match (state, event) {
        (Proceeding, Request)     => (Proceeding, &[Resend]),
        // "MUST generate a 100 (Trying) response unless it knows that the TU will generate a provisional or final
        // response within 200 ms" (§17.2.1): it does, for this timer asks the proxy for one.
        (Proceeding, Fired(Trying)) => (Proceeding, &[PassUp]),
        (Proceeding, Provisional) => (Proceeding, &[Stop(Trying), Send]),
        (Proceeding, Success)     => (Accepted,   &[Stop(Trying), Send, Start(L)]),
        (Proceeding, Failure)     => (Completed,  &[Stop(Trying), Send, Start(G), Start(H)]),
        // A proxy's 2xx are end to end: each is forwarded, none is sent again by the transaction (RFC 6026 §7.1).
        (Accepted, Success)       => (Accepted,   &[Send]),
        (Accepted, Ack)           => (Accepted,   &[PassUp]),
        (Accepted, Fired(L))      => (Terminated, &[]),
        (Completed, Request)      => (Completed,  &[Resend]),
        (Completed, Fired(G))     => (Completed,  &[Resend, Start(G)]),
        (Completed, Ack)          => (Confirmed,  &[Stop(G), Stop(H), Start(I)]),
        (Completed, Fired(H))     => (Terminated, &[Report]),
        (Confirmed, Fired(I))     => (Terminated, &[]),
        // RFC 6026 §7.1: "A server transaction MUST NOT discard transaction state based only on encountering a
        // non-recoverable transport error when sending a response."
        (Proceeding, SendFailed)  => (Proceeding, &[Report]),
        (Accepted, SendFailed)    => (Accepted,   &[Report]),
        (Completed, SendFailed)   => (Completed,  &[Report]),
        _ => return None,
    })
}
