//! Every timer of a shard, on one hierarchical wheel driven by the time passed in.
//!
//! Arming and stopping cost the same whatever the number of timers; looking for the next one reads at most one word
//! a level. A timer never fires early and at most one [`TICK_MS`] late.

use super::{Key, Slab};
use crate::time::Instant;

/// The wheel's step, in milliseconds: 1/50 of T1, RFC 3261 §17.1.1.1.
pub const TICK_MS: u64 = 10;

/// Slots of the first level: a ring that reaches 41 s ahead, so that every transaction timer is linked once and never moved.
const FINE: usize = 4096;
const FINE_BITS: u32 = FINE.trailing_zeros();
/// Levels above it, and their slots.
const LEVELS: usize = 3;
const SLOTS: usize = 64;
/// Timers moved a level down in one go. A million calls that began together must not stop the loop when their timers
/// come nearer.
const MOVES: usize = 2048;
/// Longer timers are held back to this, 122 days: a slot less than the wheel reaches, so that none meets the present one.
const FARTHEST: u64 = (SLOTS as u64 - 1) << (FINE_BITS + 6 * (LEVELS as u32 - 1));

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
    /// The lists' first timers: those of the fine slots, then those of the levels above.
    heads: Box<[Key]>,
    /// One bit a fine slot, and one bit a word of them.
    fine: [u64; FINE / 64],
    fine_words: u64,
    /// One bit a slot of the levels above.
    coarse: [u64; LEVELS],
    elapsed: u64,
    /// The list whose timers are being moved down; 0 for none, since list 0 is a fine slot.
    moving: usize,
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self {
            nodes: Slab::default(),
            heads: vec![Key::NONE; FINE + LEVELS * SLOTS].into_boxed_slice(),
            fine: [0; FINE / 64],
            fine_words: 0,
            coarse: [0; LEVELS],
            elapsed: 0,
            moving: 0,
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
        if self.moving != 0 {
            return Some(Instant::from_micros(self.elapsed * TICK_MS * 1000));
        }
        self.next_list().map(|(_, tick)| Instant::from_micros(tick * TICK_MS * 1000))
    }

    /// The next timer that is due at `now`, taken off the wheel. `None` also while timers move down: they are moved in
    /// batches, so that other work gets its turn between them.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let tick_now = now.as_micros() / (TICK_MS * 1000);
        loop {
            if self.moving != 0 && !self.move_down() {
                return None;
            }
            match self.next_list() {
                Some((list, tick)) if tick <= tick_now => {
                    self.elapsed = tick;
                    if list < FINE {
                        let due = self.heads[list];
                        self.unlink(due);
                        return self.nodes.remove(due).map(|node| node.payload);
                    }
                    self.moving = list;
                }
                Some(_) | None => {
                    self.elapsed = self.elapsed.max(tick_now);
                    return None;
                }
            }
        }
    }

    /// Moves a batch of a coarse slot's timers to where they now belong. Says whether all are moved.
    fn move_down(&mut self) -> bool {
        for _ in 0..MOVES {
            let key = self.heads[self.moving];
            if key.is_none() {
                self.moving = 0;
                return true;
            }
            self.unlink(key);
            let when = self.nodes.get(key).expect("linked nodes exist").when;
            self.link(key, when);
        }
        false
    }

    /// The list that comes next, and its tick. At the same tick timers move down before any fires.
    fn next_list(&self) -> Option<(usize, u64)> {
        match (self.next_fine(), self.next_coarse()) {
            (Some(fine), Some(coarse)) => Some(if fine.1 < coarse.1 { fine } else { coarse }),
            (fine, coarse) => fine.or(coarse),
        }
    }

    /// The next occupied slot of the ring, from the present one on and around.
    fn next_fine(&self) -> Option<(usize, u64)> {
        if self.fine_words == 0 {
            return None;
        }
        let at = self.elapsed as usize % FINE;
        let (word, bit) = (at / 64, at % 64);
        let ahead = self.fine[word] & (u64::MAX << bit);
        let slot = if ahead != 0 {
            word * 64 + ahead.trailing_zeros() as usize
        } else {
            // The words behind this one, and at last its own lower bits.
            let turn = (word as u32 + 1) % 64;
            let next = (word + 1 + self.fine_words.rotate_right(turn).trailing_zeros() as usize) % 64;
            next * 64 + self.fine[next].trailing_zeros() as usize
        };
        Some((slot, self.elapsed + ((slot + FINE - at) % FINE) as u64))
    }

    /// The lowest coarse level that has timers, and its next slot.
    fn next_coarse(&self) -> Option<(usize, u64)> {
        (0..LEVELS).find(|level| self.coarse[*level] != 0).map(|level| {
            let shift = FINE_BITS + 6 * level as u32;
            let at = (self.elapsed >> shift) as usize % SLOTS;
            let ahead = self.coarse[level].rotate_right(at as u32).trailing_zeros() as usize;
            let slot = (at + ahead) % SLOTS;
            let start = self.elapsed >> (shift + 6) << (shift + 6);
            let mut tick = start + ((slot as u64) << shift);
            if slot < at {
                tick += (SLOTS as u64) << shift;
            }
            (FINE + level * SLOTS + slot, tick.max(self.elapsed))
        })
    }

    /// On the ring when it reaches so far; else the level is that of the highest digit in which `when` differs from the
    /// present tick.
    fn link(&mut self, key: Key, when: u64) {
        if when - self.elapsed < FINE as u64 {
            return self.push(key, when as usize % FINE);
        }
        let level = ((63 - (self.elapsed ^ when).leading_zeros() - FINE_BITS) as usize / 6).min(LEVELS - 1);
        let slot = (when >> (FINE_BITS + 6 * level as u32)) as usize % SLOTS;
        self.push(key, FINE + level * SLOTS + slot);
    }

    fn push(&mut self, key: Key, list: usize) {
        // Behind the head's predecessor: lists are rings, so timers of one slot fire in the order they were armed.
        let head = self.heads[list];
        if head.is_none() {
            let node = self.nodes.get_mut(key).expect("the caller just found it");
            (node.list, node.previous, node.next) = (list as u16, key, key);
            self.heads[list] = key;
            match list.checked_sub(FINE) {
                None => {
                    self.fine[list / 64] |= 1 << (list % 64);
                    self.fine_words |= 1 << (list / 64);
                }
                Some(coarse) => self.coarse[coarse / SLOTS] |= 1 << (coarse % SLOTS),
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
            match list.checked_sub(FINE) {
                None => {
                    self.fine[list / 64] &= !(1 << (list % 64));
                    if self.fine[list / 64] == 0 {
                        self.fine_words &= !(1 << (list / 64));
                    }
                }
                Some(coarse) => self.coarse[coarse / SLOTS] &= !(1 << (coarse % SLOTS)),
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

    #[test]
    fn the_longest_timer_fires_when_it_is_due_from_wherever_it_starts() {
        for start in [0, 1, 40_959, 40_960, 2_621_440_123] {
            let mut wheel = Wheel::default();
            assert_eq!(wheel.pop_due(at(start)), None);
            wheel.arm(at(u64::MAX / 1_000_000), ());
            let due = (start / TICK_MS + FARTHEST) * TICK_MS;
            assert_eq!(wheel.pop_due(at(due - TICK_MS)), None);
            assert_eq!(wheel.pop_due(at(due)), Some(()));
        }
    }

    #[test]
    fn transaction_timers_are_never_moved_wherever_they_start() {
        for start in (0..90_000).step_by(777) {
            let mut wheel = Wheel::default();
            assert_eq!(wheel.pop_due(at(start)), None);
            wheel.arm(at(start + 32_000), ());
            assert_eq!(wheel.coarse, [0; LEVELS], "{start}");
            assert!(wheel.next_at().is_some_and(|next| next >= at(start + 32_000)), "{start}: {:?}", wheel.next_at());
        }
    }

    #[test]
    fn a_million_timers_that_come_nearer_are_moved_in_batches() {
        let mut wheel = Wheel::default();
        for number in 0..10_000u32 {
            wheel.arm(at(3_600_000), number);
        }
        let mut looks = 0;
        while wheel.pop_due(at(3_590_000)).is_none() && wheel.moving != 0 {
            assert_eq!(
                wheel.next_at(),
                Some(Instant::from_micros(wheel.elapsed * TICK_MS * 1000)),
                "come again at once"
            );
            looks += 1;
        }
        assert!(looks >= 10_000 / MOVES, "{looks}");
        let fired: Vec<u32> = std::iter::from_fn(|| wheel.pop_due(at(3_600_000))).collect();
        assert_eq!(fired, (0..10_000).collect::<Vec<_>>());
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
