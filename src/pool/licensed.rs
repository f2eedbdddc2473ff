//! What licences do to the gate: the capacity of pools that name a product, and services that lack something.

use super::{Gate, Service, State};
use crate::alert::{Event, EventKind};
use crate::licence::{Standing, Wanted};
use crate::time::Instant;

/// What a service lacks, and what came of it.
#[derive(Debug)]
pub(super) struct Unlicensed {
    /// With the name of what is lacking.
    pub(super) lack: Box<str>,
    since: Instant,
    refused: u64,
}

impl Gate {
    /// Takes over what licences allow from now on. Calls in progress stay; when they are more than fit, nothing new
    /// enters until they fit.
    pub fn license(&self, standing: Standing, now: Instant, events: &mut Vec<Event>) {
        let mut state = self.lock();
        state.standing = standing;
        state.apply_licences(now, events);
        for pool in &mut state.pools {
            pool.look(now, false, events);
        }
        state.given_back += 1;
    }

    /// What licences allow now.
    pub fn standing(&self) -> Standing {
        self.lock().standing.clone()
    }
}

impl State {
    /// Brings capacity and lacks in line with the standing. After every change of either side.
    pub(super) fn apply_licences(&mut self, now: Instant, events: &mut Vec<Event>) {
        let Self { pools, services, standing, wanted, .. } = self;
        for wish in &wanted.pools {
            if let Some(pool) = pools.iter_mut().find(|pool| pool.settings.name == wish.name) {
                pool.settings.capacity = Wanted::channels(wish, standing);
                // Its services are unlicensed then, which is said of them.
                if pool.settings.capacity == 0 {
                    events.extend(pool.watch.clear(now, &pool.settings.name));
                }
            }
        }
        let lacks = wanted.lacks(standing);
        for service in services {
            let position = wanted.services.iter().position(|wish| wish.name == service.settings.name);
            let lack = position.and_then(|at| Some(wanted.services[at].says(lacks[at]?).into_boxed_str()));
            match (&mut service.unlicensed, lack) {
                (Some(unlicensed), Some(lack)) => unlicensed.lack = lack,
                (None, Some(lack)) => service.unlicensed = Some(Unlicensed { lack, since: now, refused: 0 }),
                (Some(_), None) => events.extend(service.licensed(now)),
                (None, None) => {}
            }
        }
    }
}

impl Service {
    /// A call was refused for want of a licence. The first one is told of; the rest are counted.
    pub(super) fn refuse_unlicensed(&mut self, now: Instant) -> Option<Event> {
        let unlicensed = self.unlicensed.as_mut()?;
        unlicensed.refused += 1;
        (unlicensed.refused == 1).then(|| Event {
            refused: 1,
            detail: unlicensed.lack.clone(),
            ..Event::about(EventKind::ServiceUnlicensed, now, &self.settings.name)
        })
    }

    /// It lacks nothing any more: who heard of the first refusal hears how many there were.
    fn licensed(&mut self, now: Instant) -> Option<Event> {
        let Unlicensed { since, refused, .. } = self.unlicensed.take()?;
        (refused > 0).then(|| Event {
            refused,
            lasted_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
            ..Event::about(EventKind::ServiceLicensed, now, &self.settings.name)
        })
    }
}
