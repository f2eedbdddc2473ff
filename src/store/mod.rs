//! The tables under the state: nothing here knows SIP.
//!
//! Libraries cover most of it (`hashbrown`, `dashmap`); these three exist because a table of a million calls must
//! grow without a pause, give its memory back, and hand out keys that go stale by themselves.

pub mod index;
pub mod slab;
pub mod wheel;

pub use index::Index;
pub use slab::{Key, Slab};
pub use wheel::{Timer, Wheel};
