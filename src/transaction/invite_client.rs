//! The INVITE client transaction: RFC 3261 figure 5 as amended by RFC 6026 §7.2 (figure 8 there).

use Action::{Ack, PassUp, Resend, Start, Stop, Timeout, Unreachable};
use Event::{Failure, Fired, Provisional, SendFailed, Success};
use State::{Accepted, Calling, Completed, Proceeding, Terminated};
use Timer::{A, B, D, M};

use super::timer::Timer;
use super::{Action, Event};

/// The states of figure 5 and RFC 6026's Accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// Sent, nothing heard.
    Calling,
    /// A provisional answer came.
    Proceeding,
    /// A final answer other than 2xx came and was acknowledged.
    Completed,
    /// A 2xx came; others may follow from forks.
    Accepted,
    /// To be removed.
    Terminated,
}

impl State {
    /// Every state, for the tests of the table.
    pub const ALL: [Self; 5] = [Calling, Proceeding, Completed, Accepted, Terminated];
}

/// One line per arrow. `None`: the state absorbs the event.
#[rustfmt::skip]
pub const fn step(state: State, event: Event) -> Option<(State, &'static [Action])> {
    Some(match (state, event) {
        (Calling, Provisional)   => (Proceeding, &[Stop(A), Stop(B), PassUp]),
        (Calling, Success)       => (Accepted,   &[Stop(A), Stop(B), PassUp, Start(M)]),
        (Calling, Failure)       => (Completed,  &[Stop(A), Stop(B), Ack, PassUp, Start(D)]),
        (Calling, Fired(A))      => (Calling,    &[Resend, Start(A)]),
        (Calling, Fired(B))      => (Terminated, &[Timeout]),
        (Calling, SendFailed)    => (Terminated, &[Unreachable]),
        (Proceeding, Provisional) => (Proceeding, &[PassUp]),
        (Proceeding, Success)    => (Accepted,   &[PassUp, Start(M)]),
        (Proceeding, Failure)    => (Completed,  &[Ack, PassUp, Start(D)]),
        (Completed, Failure)     => (Completed,  &[Ack]),
        (Completed, Fired(D))    => (Terminated, &[]),
        // RFC 6026 §7.2: "A 2xx response received while in the 'Accepted' state MUST be passed to the TU".
        (Accepted, Success)      => (Accepted,   &[PassUp]),
        (Accepted, Fired(M))     => (Terminated, &[]),
        _ => return None,
    })
}
