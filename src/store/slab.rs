//! A table addressed by [`Key`]: position and generation.
//!
//! Entries live in pages, so growth copies nothing and an empty page is freed. A key is never valid twice: the
//! generation counts insertions, so a message that names an entry long gone (a late response, an old cookie) finds
//! nothing instead of somebody else's call.

/// Entries in a page; a page is allocated and freed as a whole.
const PAGE: usize = 256;

/// Names one entry for as long as it lives. The default key names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Key {
    /// Position in the table.
    pub index: u32,
    /// Which insertion; 0 is never used.
    pub generation: u32,
}

impl Key {
    /// Names nothing.
    pub const NONE: Self = Self { index: 0, generation: 0 };

    /// Whether this key names nothing.
    pub const fn is_none(self) -> bool {
        self.generation == 0
    }
}

enum Entry<T> {
    Free { next: u32 },
    Used { generation: u32, value: T },
}

struct Page<T> {
    entries: Box<[Entry<T>]>,
    free: u32,
    used: u32,
}

/// A paged table with generation-checked keys.
pub struct Slab<T> {
    pages: Vec<Option<Page<T>>>,
    /// Pages with a free entry, the one to use next last. May name a page twice or a freed page; checked on use.
    open: Vec<u32>,
    /// Places in `pages` whose page was freed.
    vacant: Vec<u32>,
    generation: u32,
    len: usize,
}

const END: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), open: Vec::new(), vacant: Vec::new(), generation: 0, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Entries in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `value` and says how to find it again.
    pub fn insert(&mut self, value: T) -> Key {
        let at = self.open_page();
        let page = self.pages[at as usize].as_mut().expect("open_page names a page that exists");
        let slot = page.free;
        let Entry::Free { next } = page.entries[slot as usize] else {
            unreachable!("the free list names free entries")
        };
        page.free = next;
        page.used += 1;
        if page.free == END {
            self.open.pop();
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        page.entries[slot as usize] = Entry::Used { generation: self.generation, value };
        self.len += 1;
        Key { index: at * PAGE as u32 + slot, generation: self.generation }
    }

    /// The entry `key` names, if it still lives.
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.pages.get(key.index as usize / PAGE)?.as_ref()?.entries[key.index as usize % PAGE] {
            Entry::Used { generation, ref value } if generation == key.generation => Some(value),
            Entry::Used { .. } | Entry::Free { .. } => None,
        }
    }

    /// The entry `key` names, if it still lives.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.pages.get_mut(key.index as usize / PAGE)?.as_mut()?.entries[key.index as usize % PAGE] {
            Entry::Used { generation, ref mut value } if generation == key.generation => Some(value),
            Entry::Used { .. } | Entry::Free { .. } => None,
        }
    }

    /// Takes the entry `key` names out of the table.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let at = key.index / PAGE as u32;
        let page = self.pages[at as usize].as_mut().expect("get found the entry in this page");
        let slot = key.index as usize % PAGE;
        if page.free == END {
            self.open.push(at);
        }
        let taken = std::mem::replace(&mut page.entries[slot], Entry::Free { next: page.free });
        page.free = slot as u32;
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 && self.pages.len() - self.vacant.len() > 1 {
            self.pages[at as usize] = None;
            self.vacant.push(at);
        }
        match taken {
            Entry::Used { value, .. } => Some(value),
            Entry::Free { .. } => unreachable!("get found the entry in use"),
        }
    }

    /// Every entry, in order of position.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.pages.iter().enumerate().filter_map(|(at, page)| Some((at, page.as_ref()?))).flat_map(|(at, page)| {
            page.entries.iter().enumerate().filter_map(move |(slot, entry)| match entry {
                Entry::Used { generation, value } => {
                    Some((Key { index: (at * PAGE + slot) as u32, generation: *generation }, value))
                }
                Entry::Free { .. } => None,
            })
        })
    }

    fn open_page(&mut self) -> u32 {
        while let Some(&at) = self.open.last() {
            if self.pages[at as usize].as_ref().is_some_and(|page| page.free != END) {
                return at;
            }
            self.open.pop();
        }
        let entries =
            (1..=PAGE as u32).map(|next| Entry::Free { next: if next == PAGE as u32 { END } else { next } }).collect();
        let page = Some(Page { entries, free: 0, used: 0 });
        let at = match self.vacant.pop() {
            Some(at) => {
                self.pages[at as usize] = page;
                at
            }
            None => {
                self.pages.push(page);
                self.pages.len() as u32 - 1
            }
        };
        self.open.push(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_never_finds_the_next_tenant() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
    }

    #[test]
    fn the_default_key_names_nothing() {
        let mut slab = Slab::default();
        slab.insert(1);
        assert_eq!(slab.get(Key::NONE), None);
    }

    #[test]
    fn empty_pages_are_given_back_and_used_again() {
        let mut slab = Slab::default();
        for round in 0..3 {
            let keys: Vec<Key> = (0..10 * PAGE).map(|value| slab.insert(value)).collect();
            assert_eq!(slab.pages.len(), 10, "round {round}");
            for (value, key) in keys.iter().enumerate() {
                assert_eq!(slab.get(*key), Some(&value));
            }
            for key in keys {
                slab.remove(key);
            }
            assert!(slab.is_empty());
            assert_eq!(slab.pages.iter().flatten().count(), 1);
        }
    }
}
