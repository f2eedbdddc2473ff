//! What operators should know: events, raised and cleared once per condition.

pub mod board;
pub mod event;
pub mod pool_watch;

pub use board::{Board, Filter, Notice, Status};
pub use event::{Event, EventKind, Severity};
pub use pool_watch::{PoolWatch, Thresholds};
