//! The brake: when the shard has more work than time, it refuses some of the new calls while that is still cheap.
//!
//! Without it, an overloaded proxy loses datagrams at random, their copies come on top, and calls that hold channels
//! cannot end. The brake looks at one figure, the part of the time the shard's loop is busy, every 20 ms. A call refused
//! costs a tenth of a call served, so what is left serves nearly as many as ever. Requests within a dialog, CANCEL and
//! copies of an INVITE already taken are never refused.

use std::time::Duration;

use crate::alert::{Event, EventKind};
use crate::time::Instant;

/// How often the brake looks.
const WINDOW: Duration = Duration::from_millis(20);
/// Windows in a row without a pause before it acts: a burst that the sockets' buffers can hold is no overload.
const PATIENCE: u8 = 3;
/// Busy for longer than this part of a window, in thousandths: no time left.
const BUSY: u64 = 990;
/// Idle enough to take more calls, in thousandths.
const EASY: u64 = 930;
/// Idle enough to take nearly all again.
const IDLE: u64 = 700;
/// The whole of the calls.
const ALL: u32 = 1 << 16;
/// However great the overload, one call in so many is let in.
const LEAST: u32 = ALL / 64;
/// This long without a refusal and the overload is over.
const OVER: Duration = Duration::from_secs(1);

/// How hard the brake is pressed.
#[derive(Clone, Debug, Default)]
pub(super) struct Brake {
    /// The part of the new calls to refuse, of [`ALL`].
    pressed: u32,
    window_began: Instant,
    busy: Duration,
    busy_windows: u8,
    /// When the first call of this overload was refused, and the last one.
    since: Option<(Instant, Instant)>,
    refused: u64,
}

impl Brake {
    /// The loop went through a round that began at `began`.
    pub(super) fn look(&mut self, began: Instant, now: Instant, events: &mut Vec<Event>) {
        // A window ends with the round in progress, so that its busy time is never more than its length.
        self.busy += now - began.max(self.window_began);
        let length = now - self.window_began;
        if length < WINDOW {
            return;
        }
        let part = (self.busy.as_micros() * 1000 / length.as_micros().max(1)) as u64;
        (self.window_began, self.busy) = (now, Duration::ZERO);
        self.busy_windows = if part >= BUSY { self.busy_windows.saturating_add(1) } else { 0 };
        if self.busy_windows >= PATIENCE {
            self.pressed += (ALL - LEAST - self.pressed) / 8;
        } else if part < IDLE {
            self.pressed /= 2;
        } else if part < EASY {
            self.pressed -= self.pressed / 32;
        }
        if let Some((since, last)) = self.since
            && now - last > OVER
        {
            self.since = None;
            events.push(event(EventKind::OverloadOver, now, self.refused, (last - since).as_millis() as u64));
        }
    }

    /// Whether to refuse the call whose transaction has this hash. The same for all its copies, as long as the brake is
    /// pressed no less.
    pub(super) fn refuses(&self, hash: u64) -> bool {
        (hash >> 8) as u32 % ALL < self.pressed
    }

    /// A call was refused.
    pub(super) fn refused(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.refused += 1;
        match &mut self.since {
            Some((_, last)) => *last = now,
            None => {
                (self.since, self.refused) = (Some((now, now)), 1);
                events.push(event(EventKind::Overload, now, 1, 0));
            }
        }
    }
}

fn event(kind: EventKind, at: Instant, refused: u64, lasted_ms: u64) -> Event {
    Event { kind, at, subject: "node".into(), in_use: 0, capacity: 0, refused, lasted_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of a millisecond, busy for so many thousandths, for so long. Returns the part of calls refused at the end.
    fn run(brake: &mut Brake, now: &mut Instant, busy: u64, ms: u64, events: &mut Vec<Event>) -> u32 {
        for _ in 0..ms {
            let began = *now + Duration::from_micros(1000 - busy);
            *now = *now + Duration::from_millis(1);
            brake.look(began, *now, events);
            if brake.refuses(0) {
                brake.refused(*now, events);
            }
        }
        (0..1000u64).filter(|at| brake.refuses(at * (u64::from(ALL) << 8) / 1000)).count() as u32
    }

    #[test]
    fn a_burst_is_no_overload() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        assert_eq!(run(&mut brake, &mut now, 1000, 40, &mut events), 0);
        assert_eq!(run(&mut brake, &mut now, 900, 5_000, &mut events), 0);
        assert!(events.is_empty());
    }

    #[test]
    fn overload_is_braked_never_wholly_and_forgotten_within_a_second() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        let pressed = run(&mut brake, &mut now, 1000, 2_000, &mut events);
        assert!((900..1000).contains(&pressed), "{pressed}");
        assert_eq!(run(&mut brake, &mut now, 300, 500, &mut events), 0);
        run(&mut brake, &mut now, 300, 2_000, &mut events);
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Overload, EventKind::OverloadOver]);
        assert!(events[1].refused > 1_000 && events[1].lasted_ms > 1_000, "{:?}", events[1]);
    }

    #[test]
    fn between_busy_and_idle_the_brake_is_eased_slowly() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        let pressed = run(&mut brake, &mut now, 1000, 400, &mut events);
        let same = run(&mut brake, &mut now, 960, 200, &mut events);
        let eased = run(&mut brake, &mut now, 900, 200, &mut events);
        assert!(pressed == same && eased < same && eased > same / 2, "{pressed} {same} {eased}");
    }
}
