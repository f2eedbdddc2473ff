//! Shell: the licences of a node on disk.
//!
//! Everything is in `licences/` below `node.data_dir`: the server's key, one file a licence, the history of what was
//! installed, removed and refused, and the latest time seen. The commands work on these files whether a node runs or
//! not; a running node notices by the history growing.

mod document;
mod store;

pub use document::{KeyFile, decode, peek, sign, verify};
pub use store::{Clock, Done, Held, Installed, Record, Vault, VaultError};

use crate::licence::Wall;

/// Now, by the clock on the wall.
#[expect(clippy::disallowed_methods, reason = "the shell owns the clock")]
pub fn wall_now() -> Wall {
    let now = std::time::SystemTime::now();
    let seconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Wall(i64::try_from(seconds).unwrap_or(i64::MAX))
}
