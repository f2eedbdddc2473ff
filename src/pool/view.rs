//! Everything the gate knows, at one moment.

use super::Gate;

/// A pool as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// Its name.
    pub name: Box<str>,
    /// Its channels.
    pub capacity: u32,
    /// Channels of calls being set up.
    pub reserved: u32,
    /// Channels of calls answered.
    pub held: u32,
    /// Of both, those lent to services of other pools.
    pub lent: u32,
    /// Channels kept for services that do not use them now.
    pub set_aside: u32,
    /// Calls admitted since the start.
    pub admitted: u64,
    /// Most channels in use at a time since the start.
    pub peak: u32,
    /// `normal`, `near_full` or `exhausted`.
    pub condition: &'static str,
    /// Calls refused since the condition began.
    pub refused_now: u64,
}

impl PoolView {
    /// Channels in use.
    pub fn in_use(&self) -> u32 {
        self.reserved + self.held
    }
}

/// A service as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: Box<str>,
    /// Calls in progress.
    pub calls: u32,
    /// Calls admitted since the start.
    pub admitted: u64,
    /// Calls refused since the start.
    pub refused: u64,
    /// What it lacks of licences.
    pub lacks: Option<Box<str>>,
    /// Calls of it that wait for a channel.
    pub waiting: u32,
    /// Emergency calls since the start.
    pub emergencies: u64,
    /// Those of them that were let in beyond a limit.
    pub beyond: u64,
}

/// A trunk as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkView {
    /// Its name.
    pub name: Box<str>,
    /// Calls in progress.
    pub calls: u32,
    /// Most calls at a time.
    pub max_calls: Option<u32>,
}

/// Everything readers see, taken at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct View {
    /// Pools, in order of [`super::PoolId`].
    pub pools: Vec<PoolView>,
    /// Services, in order of [`super::ServiceId`].
    pub services: Vec<ServiceView>,
    /// Trunks, in order of [`super::TrunkId`].
    pub trunks: Vec<TrunkView>,
    /// Calls in progress.
    pub calls: u32,
}

impl Gate {
    /// Calls counted in their trunks.
    pub fn calls(&self) -> u32 {
        self.lock().calls
    }

    /// Everything, at one moment.
    pub fn view(&self) -> View {
        let state = self.lock();
        View {
            pools: state
                .pools
                .iter()
                .map(|pool| PoolView {
                    name: pool.settings.name.clone(),
                    capacity: pool.settings.capacity,
                    reserved: pool.reserved,
                    held: pool.held,
                    lent: pool.lent,
                    set_aside: pool.set_aside,
                    admitted: pool.admitted,
                    peak: pool.peak,
                    condition: pool.watch.condition().0,
                    refused_now: pool.watch.condition().1,
                })
                .collect(),
            services: state
                .services
                .iter()
                .map(|service| ServiceView {
                    name: service.settings.name.clone(),
                    calls: service.calls,
                    admitted: service.admitted,
                    refused: service.refused,
                    waiting: service.waiting,
                    emergencies: service.emergencies,
                    beyond: service.beyond,
                    lacks: service.unlicensed.as_ref().map(|unlicensed| unlicensed.lack.clone()),
                })
                .collect(),
            trunks: state
                .trunks
                .iter()
                .map(|trunk| TrunkView {
                    name: trunk.settings.name.clone(),
                    calls: trunk.calls,
                    max_calls: trunk.settings.max_calls,
                })
                .collect(),
            calls: state.calls,
        }
    }
}
