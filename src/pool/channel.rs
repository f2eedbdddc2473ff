//! [`Channel`]: the proof that one call was admitted. It moves, it is never copied.

use super::{PoolId, ServiceId, TrunkId};

/// What one call holds: a place in its trunk, and, unless it overflowed, a place in its service and a channel of the
/// service's pool. Given back through [`super::Gate::release`], which takes it by value, so that nothing can be given
/// back twice (I2).
#[derive(Debug)]
#[must_use = "a channel that is not released is lost"]
pub struct Channel {
    pub(super) trunk: TrunkId,
    pub(super) service: Option<ServiceId>,
    pub(super) pool: Option<PoolId>,
    /// Whether it counts in its trunk: a second channel of one call does not.
    pub(super) in_trunk: bool,
    pub(super) held: bool,
    pub(super) armed: bool,
}

impl Channel {
    /// The trunk the call came by.
    pub fn trunk(&self) -> TrunkId {
        self.trunk
    }

    /// The service the call counts in.
    pub fn service(&self) -> Option<ServiceId> {
        self.service
    }

    /// The pool a channel was taken from.
    pub fn pool(&self) -> Option<PoolId> {
        self.pool
    }

    /// Whether the call was answered.
    pub fn is_held(&self) -> bool {
        self.held
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // While a panic unwinds, or at the end of the process, the books close with everything still open.
        debug_assert!(!self.armed || std::thread::panicking(), "a channel was lost: {self:?}");
    }
}
