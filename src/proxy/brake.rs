//! The brake: when the shard has more work than time, it refuses some of the new calls while that is still cheap.
//!
//! Without it, an overloaded proxy loses datagrams at random, their copies come on top, and calls that hold channels
//! cannot end. The brake looks every 20 ms: it is pressed while the sockets are never found empty, and eased by the part
//! of the time the loop is idle. A call refused costs a fraction of a call served, so what is left serves nearly as many
//! as ever. Requests within a dialog, CANCEL and copies of an INVITE already taken are never refused.

use std::time::Duration;

use crate::alert::{Event, EventKind};
use crate::time::Instant;

/// How often the brake looks.
const WINDOW: Duration = Duration::from_millis(20);
/// Windows in a row in which the sockets were never empty before it acts: what their buffers can hold is no overload,
/// nor is a machine that stood still for a moment.
const PATIENCE: u8 = 5;
/// How busy the loop may be for the calls let in, in thousandths of the time: what is left empties the sockets.
const TARGET: u64 = 970;
/// Less busy than this, and the brake is let go by half at least.
const IDLE: u64 = 500;
/// With no more new calls than this in a window, refusing them would win nothing: the load is something else.
const FEW: u64 = 4;
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
    /// Whether the sockets were found empty in this window, and in how many windows in a row they were not.
    was_empty: bool,
    full_windows: u8,
    /// New calls of this window, and those of them refused.
    offered: u64,
    turned_away: u64,
    /// When the first call of this overload was refused, and the last one.
    since: Option<(Instant, Instant)>,
    refused: u64,
}

impl Brake {
    /// The loop went through a round that began at `began`, and left the sockets empty or not.
    pub(super) fn look(&mut self, (began, now): (Instant, Instant), is_empty: bool, events: &mut Vec<Event>) {
        self.was_empty |= is_empty;
        // A window ends with the round in progress, so that its busy time is never more than its length.
        self.busy += now - began.max(self.window_began);
        let length = now - self.window_began;
        if length < WINDOW {
            return;
        }
        let part = (self.busy.as_micros() * 1000 / length.as_micros().max(1)) as u64;
        (self.window_began, self.busy) = (now, Duration::ZERO);
        self.full_windows = if std::mem::take(&mut self.was_empty) { 0 } else { self.full_windows.saturating_add(1) };
        let let_in = self.offered - self.turned_away;
        if self.full_windows >= PATIENCE && let_in > FEW {
            self.pressed += (ALL - LEAST - self.pressed) / 16;
        } else if self.full_windows == 0 && self.pressed > 0 {
            // So many more could have been let in as there was time left; half as many more at most, for the figures of
            // one window are rough.
            let could = (let_in * TARGET / part.max(1)).min(let_in + let_in / 2).max(1);
            let rest = self.offered.saturating_sub(could);
            // Of few calls the figures say nothing; half the time left says enough.
            let most = if part < IDLE { self.pressed / 2 } else { self.pressed };
            self.pressed = (u64::from(ALL) * rest / self.offered.max(1)).min(u64::from(most)) as u32;
        }
        (self.offered, self.turned_away) = (0, 0);
        if let Some((since, last)) = self.since
            && now - last > OVER
        {
            self.since = None;
            events.push(event(EventKind::OverloadOver, now, self.refused, (last - since).as_millis() as u64));
        }
    }

    /// Whether to refuse the new call whose transaction has this hash. The same for all its copies, as long as the brake
    /// is pressed no less.
    pub(super) fn refuses(&mut self, hash: u64) -> bool {
        self.offered += 1;
        let refuses = (hash >> 8) as u32 % ALL < self.pressed;
        self.turned_away += u64::from(refuses);
        refuses
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
    Event { refused, lasted_ms, ..Event::about(kind, at, "node") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of a millisecond for so long, with 20 new calls each, of which every one let in costs so many microseconds;
    /// what is left over when a round ends waits in the sockets. Returns the thousandths of calls refused at the end.
    fn run(brake: &mut Brake, now: &mut Instant, cost: u64, ms: u64, events: &mut Vec<Event>) -> u32 {
        let mut left = 0;
        for round in 0..ms {
            for call in 0..20u64 {
                if brake.refuses((round * 20 + call).wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
                    brake.refused(*now, events);
                } else {
                    left += cost;
                }
            }
            let busy = left.min(1000);
            left = (left - busy).min(100_000);
            let began = *now + Duration::from_micros(1000 - busy);
            *now = *now + Duration::from_millis(1);
            brake.look((began, *now), left == 0, events);
        }
        brake.pressed * 1000 / ALL
    }

    #[test]
    fn a_burst_is_no_overload_nor_is_a_node_that_is_just_busy() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        assert_eq!(run(&mut brake, &mut now, 100, 80, &mut events), 0);
        assert_eq!(run(&mut brake, &mut now, 49, 5_000, &mut events), 0);
        assert!(events.is_empty());
    }

    #[test]
    fn of_twice_the_calls_it_can_serve_it_refuses_half_and_forgets_within_a_second() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        let pressed = run(&mut brake, &mut now, 100, 5_000, &mut events);
        assert!((470..600).contains(&pressed), "{pressed}");
        assert_eq!(run(&mut brake, &mut now, 20, 500, &mut events), 0);
        run(&mut brake, &mut now, 20, 2_000, &mut events);
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Overload, EventKind::OverloadOver]);
        assert!(events[1].refused > 40_000 && events[1].lasted_ms > 4_000, "{:?}", events[1]);
    }

    #[test]
    fn a_brake_left_pressed_lets_go_of_an_idle_node_whatever_the_few_calls_it_gets() {
        for per_window in [1, 2, 5] {
            let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
            brake.pressed = ALL / 10;
            for _ in 0..50 {
                for _ in 0..per_window {
                    brake.refuses(0);
                }
                now = now + Duration::from_millis(20);
                brake.look((now, now), true, &mut events);
                assert!(brake.pressed <= ALL / 10, "{}", brake.pressed);
            }
            assert_eq!(brake.pressed, 0, "{per_window}");
        }
    }

    #[test]
    fn a_flood_of_other_things_does_not_press_the_brake() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        for _ in 0..1_000 {
            brake.refuses(0);
            let began = now;
            now = now + Duration::from_millis(20);
            brake.look((began, now), false, &mut events);
        }
        assert_eq!((brake.pressed, events.len()), (0, 0));
    }

    #[test]
    fn however_great_the_overload_some_calls_are_let_in() {
        let (mut brake, mut now, mut events) = (Brake::default(), Instant::ZERO, Vec::new());
        let pressed = run(&mut brake, &mut now, 1_000_000, 5_000, &mut events);
        assert!((900..1000).contains(&pressed), "{pressed}");
    }
}
