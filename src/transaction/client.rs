//! The non-INVITE client transaction: RFC 3261 figure 6.

use Action::{PassUp, Resend, Start, Stop, Timeout, Unreachable};
use Event::{Failure, Fired, Provisional, SendFailed, Success};
use State::{Completed, Proceeding, Terminated, Trying};
use Timer::{E, F, K};

use super::timer::Timer;
use super::{Action, Event};

/// The states of figure 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// Sent, nothing heard.
    Trying,
    /// A provisional answer came.
    Proceeding,
    /// A final answer came.
    Completed,
    /// To be removed.
    Terminated,
}

impl State {
    /// Every state, for the tests of the table.
    pub const ALL: [Self; 4] = [Trying, Proceeding, Completed, Terminated];
}

/// One line per arrow. `None`: the state absorbs the event.
#[rustfmt::skip]
pub const fn step(state: State, event: Event) -> Option<(State, &'static [Action])> {
    Some(match (state, event) {
        (Trying, Provisional)       => (Proceeding, &[PassUp]),
        (Trying, Success | Failure) => (Completed,  &[Stop(E), Stop(F), PassUp, Start(K)]),
        (Trying, Fired(E))          => (Trying,     &[Resend, Start(E)]),
        (Trying, Fired(F))          => (Terminated, &[Timeout]),
        (Trying, SendFailed)        => (Terminated, &[Unreachable]),
        (Proceeding, Provisional)   => (Proceeding, &[PassUp]),
        (Proceeding, Success | Failure) => (Completed, &[Stop(E), Stop(F), PassUp, Start(K)]),
        (Proceeding, Fired(E))      => (Proceeding, &[Resend, Start(E)]),
        (Proceeding, Fired(F))      => (Terminated, &[Timeout]),
        (Proceeding, SendFailed)    => (Terminated, &[Unreachable]),
        (Completed, Fired(K))       => (Terminated, &[]),
        _ => return None,
    })
}
