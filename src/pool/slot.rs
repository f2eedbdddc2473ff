//! The table of calls in progress: the readable truth of a node.
//!
//! Shards write their own calls; anybody may read. No guard leaves this file (a `dashmap` guard held across another
//! access deadlocks).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;

use super::{PoolId, ServiceId, TrunkId};
use crate::store::Key;
use crate::time::Instant;

/// Shards of the table: each grows by itself, so that no growth is a pause.
const SHARDS: usize = 256;

/// The number of a call in the table, never used again.
pub type SlotId = u64;

/// One call in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    caption: Caption,
    /// The trunk it came by.
    pub trunk: TrunkId,
    /// The service that was called.
    pub service: Option<ServiceId>,
    /// The pool it holds a channel of; `None` for a call that overflowed.
    pub pool: Option<PoolId>,
    /// Position of the target in the configuration the call was routed with.
    pub target: u16,
    /// Whether it was answered.
    pub answered: bool,
    /// Whether it gives no sign of life.
    pub suspect: bool,
    /// Whether it is an emergency.
    pub emergency: bool,
    /// Whether it waits at the gate for a channel.
    pub waiting: bool,
    /// Its key in the shard.
    pub call: Key,
    /// When the INVITE came.
    pub since: Instant,
}

/// The longest piece of text shown of each Call-ID, caller and number, in octets.
const SHOWN_MAX: usize = 128;

/// What a slot shows of its call: Call-ID, the caller's URI and the called number, each at its place in a text the call
/// keeps anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    text: Arc<[u8]>,
    starts: [u16; 3],
    lengths: [u8; 3],
}

impl Caption {
    /// The places of Call-ID, caller and number in `text`, of which the first 64 KiB can be shown. What is longer than 128
    /// octets is cut.
    pub fn new(text: Arc<[u8]>, places: [Range<usize>; 3]) -> Self {
        let bound = text.len().min(usize::from(u16::MAX));
        let places = places.map(|place| place.start.min(bound)..place.end.min(bound).max(place.start.min(bound)));
        Self {
            starts: places.clone().map(|place| place.start as u16),
            lengths: places.map(|place| place.len().min(SHOWN_MAX) as u8),
            text,
        }
    }

    /// The text it shows was written anew, with the same octets at its places: shows the new one, so that the former one's
    /// memory is free.
    pub fn follow(&mut self, former: &Arc<[u8]>, text: &Arc<[u8]>) {
        if Arc::ptr_eq(&self.text, former) {
            self.text = Arc::clone(text);
        }
    }

    fn part(&self, at: usize) -> String {
        let start = usize::from(self.starts[at]);
        String::from_utf8_lossy(&self.text[start..start + usize::from(self.lengths[at])]).into_owned()
    }
}

impl Slot {
    /// A call that is being set up.
    pub fn new(
        caption: Caption,
        (trunk, service, pool): (TrunkId, Option<ServiceId>, Option<PoolId>),
        target: u16,
        (since, call): (Instant, Key),
    ) -> Self {
        Self {
            caption,
            trunk,
            service,
            pool,
            target,
            answered: false,
            suspect: false,
            emergency: false,
            waiting: false,
            call,
            since,
        }
    }

    /// The Call-ID.
    pub fn call_id(&self) -> String {
        self.caption.part(0)
    }

    /// The URI of the From header.
    pub fn caller(&self) -> String {
        self.caption.part(1)
    }

    /// The called number.
    pub fn number(&self) -> String {
        self.caption.part(2)
    }

    /// Where its texts are.
    pub fn caption_mut(&mut self) -> &mut Caption {
        &mut self.caption
    }
}

/// The table.
pub struct Slots {
    table: DashMap<SlotId, Slot, RandomState>,
    next: AtomicU64,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            table: DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), SHARDS),
            next: AtomicU64::new(1),
        }
    }
}

impl Slots {
    /// Enters a call and gives it a number.
    pub fn enter(&self, slot: Slot) -> SlotId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.table.insert(id, slot);
        id
    }

    /// Changes a call's entry, when it is still there.
    pub fn update(&self, id: SlotId, change: impl FnOnce(&mut Slot)) {
        if let Some(mut slot) = self.table.get_mut(&id) {
            change(&mut slot);
        }
    }

    /// A call's entry.
    pub fn get(&self, id: SlotId) -> Option<Slot> {
        self.table.view(&id, |_, slot| slot.clone())
    }

    /// Takes a call out.
    pub fn remove(&self, id: SlotId) {
        self.table.remove(&id);
    }

    /// Calls in progress.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no call.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Up to `limit` calls that `wanted` accepts, oldest first. Shards are locked one at a time, for the time of a look.
    pub fn list(&self, limit: usize, mut wanted: impl FnMut(&Slot) -> bool) -> Vec<(SlotId, Slot)> {
        // Numbers first: of a million calls only those listed are copied.
        let mut ids: Vec<SlotId> =
            self.table.iter().filter(|entry| wanted(entry.value())).map(|entry| *entry.key()).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        ids.into_iter().filter_map(|id| self.table.view(&id, |id, slot| (*id, slot.clone()))).collect()
    }

    /// Gives the room of calls that ended back to the system.
    pub fn shrink(&self) {
        if self.table.len() * 8 < self.table.capacity() {
            self.table.shrink_to_fit();
        }
    }
}
