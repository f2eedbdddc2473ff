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
    /// Whether its pool is not that of its service.
    pub(super) is_lent: bool,
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

    /// Takes out what it holds of service and pool; the place in the trunk stays. It must go into another channel at once.
    pub(crate) fn take_share(&mut self) -> Share {
        let held = std::mem::take(&mut self.held);
        let is_lent = std::mem::take(&mut self.is_lent);
        Share { service: self.service.take(), pool: self.pool.take(), held, is_lent }
    }

    /// Puts in what another channel held; this one must hold nothing of a service or pool.
    pub(crate) fn put_share(&mut self, share: Share) {
        debug_assert!(self.pool.is_none() && self.service.is_none(), "a share would be lost: {self:?}");
        (self.service, self.pool, self.held, self.is_lent) = (share.service, share.pool, share.held, share.is_lent);
    }

    /// Whether it counts in its trunk.
    pub fn is_in_trunk(&self) -> bool {
        self.in_trunk
    }

    /// Whether its pool is not that of its service.
    pub fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Whether the call was answered.
    pub fn is_held(&self) -> bool {
        self.held
    }
}

/// What a call holds of a service and its pool, on its way from one call to another.
#[must_use = "a share that is not put into a channel is lost"]
pub(crate) struct Share {
    service: Option<ServiceId>,
    pool: Option<PoolId>,
    held: bool,
    is_lent: bool,
}

impl Drop for Channel {
    fn drop(&mut self) {
        // While a panic unwinds, or at the end of the process, the books close with everything still open.
        debug_assert!(!self.armed || std::thread::panicking(), "a channel was lost: {self:?}");
    }
}
