//! From a 64-bit keyed hash to the keys stored under it.
//!
//! Split into many small tables so that the growth of one is a pause of microseconds, whatever the whole holds.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Key;

/// Small tables in one index.
const TABLES: usize = 256;
/// A table with room for this many and hardly any left gives the room back.
const KEEP: usize = 64;

/// A multimap from hash to [`Key`]. Two different things under one hash are told apart by the caller.
pub struct Index {
    tables: Box<[HashTable<(u64, Key)>]>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

impl Index {
    /// Pairs stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `key` under `hash`; storing the same pair again changes nothing.
    pub fn insert(&mut self, hash: u64, key: Key) {
        let table = &mut self.tables[table(hash)];
        if let Entry::Vacant(entry) = table.entry(hash, |stored| *stored == (hash, key), |stored| stored.0) {
            entry.insert((hash, key));
            self.len += 1;
        }
    }

    /// Forgets the pair.
    pub fn remove(&mut self, hash: u64, key: Key) {
        let table = &mut self.tables[table(hash)];
        if let Ok(entry) = table.find_entry(hash, |stored| *stored == (hash, key)) {
            entry.remove();
            self.len -= 1;
            if table.capacity() > KEEP && table.len() * 8 < table.capacity() {
                table.shrink_to(table.len() * 2, |stored| stored.0);
            }
        }
    }

    /// The first key under `hash` that `is_it` accepts.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Key) -> bool) -> Option<Key> {
        self.tables[table(hash)].find(hash, |stored| stored.0 == hash && is_it(stored.1)).map(|stored| stored.1)
    }
}

/// The middle bits: hashbrown uses the top seven and the low ones.
fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_under_one_hash_are_both_found() {
        let mut index = Index::default();
        let (one, two) = (Key { index: 1, generation: 1 }, Key { index: 2, generation: 2 });
        index.insert(7, one);
        index.insert(7, two);
        index.insert(7, two);
        assert_eq!(index.len(), 2);
        assert_eq!(index.find(7, |key| key == two), Some(two));
        index.remove(7, two);
        assert_eq!(index.find(7, |key| key == two), None);
        assert_eq!(index.find(7, |_| true), Some(one));
    }

    #[test]
    fn room_is_given_back() {
        let mut index = Index::default();
        for n in 0..100_000u32 {
            index.insert(u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15), Key { index: n, generation: 1 });
        }
        let full: usize = index.tables.iter().map(HashTable::capacity).sum();
        for n in 0..100_000u32 {
            index.remove(u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15), Key { index: n, generation: 1 });
        }
        assert!(index.is_empty());
        assert!(index.tables.iter().map(HashTable::capacity).sum::<usize>() < full / 8);
    }
}
