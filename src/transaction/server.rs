//! The non-INVITE server transaction: RFC 3261 figure 8, with RFC 6026 §8.7 (a failed send ends nothing).

use Action::{Report, Resend, Send, Start};
use Event::{Failure, Fired, Provisional, Request, SendFailed, Success};
use State::{Completed, Proceeding, Terminated, Trying};
use Timer::J;

use super::timer::Timer;
use super::{Action, Event};

/// The states of figure 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// No answer yet: copies of the request are ignored.
    Trying,
    /// A provisional answer was sent.
    Proceeding,
    /// A final answer was sent.
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
        (Trying, Provisional)           => (Proceeding, &[Send]),
        (Trying, Success | Failure)     => (Completed,  &[Send, Start(J)]),
        (Proceeding, Request)           => (Proceeding, &[Resend]),
        (Proceeding, Provisional)       => (Proceeding, &[Send]),
        (Proceeding, Success | Failure) => (Completed,  &[Send, Start(J)]),
        (Proceeding, SendFailed)        => (Proceeding, &[Report]),
        (Completed, Request)            => (Completed,  &[Resend]),
        (Completed, SendFailed)         => (Completed,  &[Report]),
        (Completed, Fired(J))           => (Terminated, &[]),
        _ => return None,
    })
}
