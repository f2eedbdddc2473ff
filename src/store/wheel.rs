//! Every timer of a shard, on one hierarchical wheel driven by the time passed in.
//!
//! Arming and stopping cost the same whatever the number of timers; looking for the next one reads at most one word
//! a level. A timer never fires early and at most one [`TICK_MS`] late.

use super::{Key, Slab};
use crate::time::Instant;

/// The wheel's step, in milliseconds: 1/50 of T1, RFC 3261 §17.1.1.1.
pub const TICK_MS: u64 = 10;

const LEVELS: usize = 5;
const SLOTS: usize = 64;
/// The list of timers that are due, behind the slots.
const DUE: usize = LEVELS * SLOTS;
/// Longer timers are held back to this and armed again by nobody: 64^5 ticks are 124 days.
const FARTHEST: u64 = (1 << (6 * LEVELS)) - 1;

/// Names an armed timer. The default names none.
pub type Timer = Key;

struct Node<T> {
    payload: T,
    when: u64,
    list: u16,
    previous: Key,
    next: Key,
}

/// The wheel. `T` says whose timer it is.
pub struct Wheel<T> {
    nodes: Slab<Node<T>>,
    heads: Box<[Key]>,
    occupied: [u64; LEVELS],
    elapsed: u64,
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self {
            nodes: Slab::default(),
            heads: vec![Key::NONE; DUE + 1].into_boxed_slice(),
            occupied: [0; LEVELS],
            elapsed: 0,
        }
    }
}

impl<T: Copy> Wheel<T> {
    /// Timers armed.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Arms a timer that is due at `when`.
    pub fn arm(&mut self, when: Instant, payload: T) -> Timer {
        let tick = when.as_micros().div_ceil(TICK_MS * 1000).clamp(self.elapsed + 1, self.elapsed + FARTHEST);
        let key = self.nodes.insert(Node { payload, when: tick, list: 0, previous: Key::NONE, next: Key::NONE });
        self.link(key, tick);
        key
    }

    /// Stops `timer`; stopping one that fired or was stopped changes nothing.
    pub fn stop(&mut self, timer: Timer) {
        if self.nodes.get(timer).is_some() {
            self.unlink(timer);
            self.nodes.remove(timer);
        }
    }

    /// When [`Wheel::pop_due`] is worth asking again; `None` when no timer is armed.
    ///
    /// Never later than the next timer; it may be earlier, when timers move a level down.
    pub fn next_at(&self) -> Option<Instant> {
        if !self.heads[DUE].is_none() {
            return Some(Instant::from_micros(self.elapsed * TICK_MS * 1000));
        }
        self.next_slot().map(|(_, _, tick)| Instant::from_micros(tick * TICK_MS * 1000))
    }

    /// The next timer that is due at `now`, taken off the wheel.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let tick_now = now.as_micros() / (TICK_MS * 1000);
        loop {
            let due = self.heads[DUE];
            if !due.is_none() {
                self.unlink(due);
                return self.nodes.remove(due).map(|node| node.payload);
            }
            match self.next_slot() {
                Some((level, slot, tick)) if tick <= tick_now => {
                    self.elapsed = tick;
                    self.spill(level * SLOTS + slot);
                }
                Some(_) | None => {
                    self.elapsed = self.elapsed.max(tick_now);
                    return None;
                }
            }
        }
    }

    /// Moves every timer of a slot to where it now belongs: the due list, or a lower level.
    fn spill(&mut self, list: usize) {
        while let Some(key) = Some(self.heads[list]).filter(|key| !key.is_none()) {
            self.unlink(key);
            let when = self.nodes.get(key).expect("linked nodes exist").when;
            if when <= self.elapsed { self.push(key, DUE) } else { self.link(key, when) }
        }
    }

    /// The lowest occupied level's next slot holds the earliest timers.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS).find(|level| self.occupied[*level] != 0).map(|level| {
            let shift = 6 * level as u32;
            let at = (self.elapsed >> shift) as usize % SLOTS;
            let ahead = self.occupied[level].rotate_right(at as u32).trailing_zeros() as usize;
            let slot = (at + ahead) % SLOTS;
            let start = self.elapsed >> (shift + 6) << (shift + 6);
            let mut tick = start + ((slot as u64) << shift);
            if slot < at {
                tick += (SLOTS as u64) << shift;
            }
            (level, slot, tick.max(self.elapsed))
        })
    }

    /// The level is that of the highest six-bit digit in which `when` differs from the present tick.
    fn link(&mut self, key: Key, when: u64) {
        let differs = (self.elapsed ^ when) | (SLOTS as u64 - 1);
        let level = ((63 - differs.leading_zeros() as usize) / 6).min(LEVELS - 1);
        let slot = (when >> (6 * level)) as usize % SLOTS;
        self.push(key, level * SLOTS + slot);
    }

    fn push(&mut self, key: Key, list: usize) {
        // Behind the head's predecessor: lists are rings, so timers of one slot fire in the order they were armed.
        let head = self.heads[list];
        if head.is_none() {
            let node = self.nodes.get_mut(key).expect("the caller just found it");
            (node.list, node.previous, node.next) = (list as u16, key, key);
            self.heads[list] = key;
            if list < DUE {
                self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
            }
        } else {
            let last = self.nodes.get(head).expect("heads name armed timers").previous;
            self.nodes.get_mut(last).expect("rings are whole").next = key;
            self.nodes.get_mut(head).expect("heads name armed timers").previous = key;
            let node = self.nodes.get_mut(key).expect("the caller just found it");
            (node.list, node.previous, node.next) = (list as u16, last, head);
        }
    }

    fn unlink(&mut self, key: Key) {
        let node = self.nodes.get(key).expect("the caller just found it");
        let (list, previous, next) = (node.list as usize, node.previous, node.next);
        if next == key {
            self.heads[list] = Key::NONE;
            if list < DUE {
                self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            }
            return;
        }
        self.nodes.get_mut(previous).expect("rings are whole").next = next;
        self.nodes.get_mut(next).expect("rings are whole").previous = previous;
        if self.heads[list] == key {
            self.heads[list] = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_timer_fires_once_at_its_time_and_not_before() {
        let mut wheel = Wheel::default();
        wheel.arm(at(500), 'a');
        assert_eq!(wheel.pop_due(at(499)), None);
        assert_eq!(wheel.next_at(), Some(at(500)));
        assert_eq!(wheel.pop_due(at(500)), Some('a'));
        assert_eq!(wheel.pop_due(at(500)), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_stopped_timer_never_fires() {
        let mut wheel = Wheel::default();
        let timer = wheel.arm(at(500), 'a');
        wheel.arm(at(500), 'b');
        wheel.stop(timer);
        wheel.stop(timer);
        assert_eq!(wheel.pop_due(at(600)), Some('b'));
        assert_eq!(wheel.pop_due(at(600)), None);
    }

    proptest! {
        #[test]
        fn the_wheel_fires_as_a_sorted_list_would(
            steps in prop::collection::vec((0u64..3_000_000, 0u64..90_000_000, any::<bool>()), 1..200)
        ) {
            let (mut wheel, mut model, mut now) = (Wheel::default(), Vec::new(), 0);
            for (number, (pause, length, stop)) in steps.into_iter().enumerate() {
                let timer = wheel.arm(at(now + length), number);
                if stop {
                    wheel.stop(timer);
                } else {
                    model.push((((now + length).div_ceil(TICK_MS)).max(now / TICK_MS + 1), number));
                }
                now += pause;
                let mut fired = Vec::new();
                while let Some(number) = wheel.pop_due(at(now)) {
                    fired.push(number);
                }
                let mut due: Vec<_> = model.iter().copied().filter(|(tick, _)| *tick <= now / TICK_MS).collect();
                due.sort_unstable();
                model.retain(|(tick, _)| *tick > now / TICK_MS);
                let mut expected: Vec<usize> = due.iter().map(|(_, number)| *number).collect();
                fired.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(fired, expected);
                prop_assert_eq!(wheel.len(), model.len());
                if let (Some(next), Some((tick, _))) = (wheel.next_at(), model.iter().min()) {
                    prop_assert!(next <= at(tick * TICK_MS), "a sleeper would wake too late");
                }
            }
        }
    }
}
