//! The timers of RFC 3261 §17 (table 4 of appendix A) and RFC 6026, and how long each runs over UDP.

use std::time::Duration;

/// A transaction timer, by its letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Timer {
    /// INVITE client: send again.
    A,
    /// INVITE client: no answer at all.
    B,
    /// Proxy: no final answer (§16.6 step 11).
    C,
    /// INVITE client: absorb copies of the final answer.
    D,
    /// Non-INVITE client: send again.
    E,
    /// Non-INVITE client: no final answer.
    F,
    /// INVITE server: send the final answer again.
    G,
    /// INVITE server: no ACK came.
    H,
    /// INVITE server: absorb copies of the ACK.
    I,
    /// Non-INVITE server: absorb copies of the request.
    J,
    /// Non-INVITE client: absorb copies of the final answer.
    K,
    /// INVITE server: absorb copies of the INVITE after a 2xx (RFC 6026 §8.5).
    L,
    /// INVITE client: wait for further 2xx (RFC 6026 §8.4).
    M,
    /// INVITE server: no answer yet, so a 100 is due (§17.2.1 gives it no letter).
    Trying,
}

/// The two places a transaction keeps timers in: whatever sends again, and whatever ends a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Place {
    /// A, E, G, and the 100
    Again = 0,
    /// All others
    End = 1,
}

impl Timer {
    /// The place it is kept in: no state runs two timers of one place.
    pub const fn place(self) -> Place {
        match self {
            Self::A | Self::E | Self::G | Self::Trying => Place::Again,
            Self::B | Self::C | Self::D | Self::F | Self::H | Self::I | Self::J | Self::K | Self::L | Self::M => {
                Place::End
            }
        }
    }
}

/// The base lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lengths {
    /// T1, the round-trip estimate (§17.1.1.1).
    pub t1: Duration,
    /// T2, the longest wait between copies.
    pub t2: Duration,
    /// T4, how long a message may stay in the network.
    pub t4: Duration,
    /// Timer C, longer than three minutes (§16.6 step 11).
    pub timer_c: Duration,
    /// How long the caller may be left without an answer before it gets a 100; zero sends it at once.
    pub trying: Duration,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            timer_c: Duration::from_secs(181),
            trying: Duration::from_millis(100),
        }
    }
}

impl Lengths {
    /// How long `timer` runs over a transport that loses nothing, or over one that does; `None` when it does not run at all.
    /// What is sent once needs no A, E and G; what comes once needs no time to absorb copies (§17, appendix A: D, I, J and
    /// K are zero).
    pub fn over(&self, is_reliable: bool, timer: Timer, round: u8) -> Option<Duration> {
        match (is_reliable, timer) {
            (true, Timer::A | Timer::E | Timer::G) => None,
            (true, Timer::D | Timer::I | Timer::J | Timer::K) => Some(Duration::ZERO),
            (_, timer) => Some(self.of(timer, round)),
        }
    }

    /// How long `timer` runs over UDP when it is started for the `round`th time (0 the first).
    pub fn of(&self, timer: Timer, round: u8) -> Duration {
        let doubled = self.t1 * (1 << round.min(16));
        match timer {
            // It doubles each time ("MUST reset the timer with a value of 2*T1" and so on), without an upper bound
            // but B (§17.1.1.2).
            Timer::A => doubled,
            Timer::E | Timer::G => doubled.min(self.t2),
            Timer::B | Timer::F | Timer::H | Timer::J | Timer::L | Timer::M => self.t1 * 64,
            Timer::C => self.timer_c,
            Timer::Trying => self.trying,
            Timer::D => (self.t1 * 64).max(Duration::from_secs(32)),
            Timer::I | Timer::K => self.t4,
        }
    }
}
