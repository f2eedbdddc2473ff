//! Emergency calls: no rung of the ladder refuses them. They are counted like others, beyond the limit where there is no room.

use super::{Ask, Channel, Gate, PoolId, Refusal, TrunkId};
use crate::alert::Event;
use crate::time::Instant;

impl Gate {
    /// Lets an emergency call in, and says which rung would have refused another one. Beyond its capacity a pool lets nobody else in
    /// until the calls fit again.
    pub fn admit_emergency(
        &self,
        now: Instant,
        ask: Ask,
        lenders: &[PoolId],
        events: &mut Vec<Event>,
    ) -> (Channel, Option<Refusal>) {
        let mut state = self.lock();
        let (choice, beyond) = match state.choose(ask, lenders) {
            Ok(choice) => (choice, None),
            Err(refusal) => ((state.services[usize::from(ask.service.0)].pool, false), Some(refusal)),
        };
        let service = &mut state.services[usize::from(ask.service.0)];
        service.emergencies += 1;
        service.beyond += u64::from(beyond.is_some());
        (state.take(now, ask, choice, beyond.is_some(), events), beyond)
    }

    /// The same for a call that needs a place in its trunk only.
    pub fn admit_emergency_to_trunk(&self, trunk: TrunkId) -> (Channel, Option<Refusal>) {
        let mut state = self.lock();
        let beyond = state.check_trunk(trunk, false).err();
        (state.enter_trunk(trunk, true), beyond)
    }
}
