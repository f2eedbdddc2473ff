//! What the admin interface says as JSON, and the command line prints.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::proxy::PeerView;
use crate::server::Node;

/// An error, for programs.
#[derive(Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub problem: String,
}

impl Problem {
    /// The sink is not configured.
    pub fn no_sink(config: &Config, sink: &str) -> Self {
        let known: Vec<&str> = config.sinks.iter().map(|sink| &*sink.name).collect();
        Self { problem: format!("there is no sink {sink:?}; known are {}", known.join(", ")) }
    }

    /// The target has no such URI, or there is no such target.
    pub fn no_uri(config: &Config, target: &str, uri: &str) -> Self {
        let Some(known) = config.targets.iter().find(|known| *known.name == *target) else {
            let known: Vec<&str> = config.targets.iter().map(|target| &*target.name).collect();
            return Self { problem: format!("there is no target {target:?}; known are {}", known.join(", ")) };
        };
        let known: Vec<&str> = known.uris.iter().map(|uri| &*uri.text).collect();
        Self { problem: format!("target {target:?} has no URI {uri:?}; it has {}", known.join(", ")) }
    }

    /// No call in progress has this number.
    pub fn no_call(slot: u64) -> Self {
        Self { problem: format!("no call in progress has the number {slot}; `sipweir calls` lists them") }
    }

    /// The trunk is not configured.
    pub fn no_trunk(config: &Config, trunk: &str) -> Self {
        let known: Vec<&str> = config.trunks.iter().map(|trunk| &*trunk.name).collect();
        Self { problem: format!("there is no trunk {trunk:?}; known are {}", known.join(", ")) }
    }
}

/// An address of a target.
#[derive(Serialize, Deserialize, Debug)]
pub struct Peer {
    /// Its target.
    pub target: String,
    /// The URI that leads there.
    pub uri: String,
    /// Its transport and address.
    pub address: String,
    /// `up`, `down`, `resting` (it asked for peace by Retry-After) or `draining`.
    pub state: String,
    /// Calls in progress there.
    pub calls: u32,
    /// Calls and probes that failed there.
    pub failures: u64,
}

impl From<&PeerView> for Peer {
    fn from(peer: &PeerView) -> Self {
        let state = match (peer.is_drained, peer.is_up, peer.is_resting) {
            (true, ..) => "draining",
            (false, false, _) => "down",
            (false, true, true) => "resting",
            (false, true, false) => "up",
        };
        Self {
            target: peer.target.to_string(),
            uri: peer.uri.to_string(),
            address: peer.address.clone(),
            state: state.into(),
            calls: peer.calls,
            failures: peer.failures,
        }
    }
}

/// A pool.
#[derive(Serialize, Deserialize, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Channels there are.
    pub capacity: u32,
    /// Channels in use.
    pub in_use: u32,
    /// Of these, calls being set up.
    pub reserved: u32,
    /// Of these, calls answered.
    pub held: u32,
    /// Free channels kept for services with a reserve.
    pub set_aside: u32,
    /// Of those in use, lent to services of other pools.
    #[serde(default)]
    pub lent: u32,
    /// Most channels in use at a time since the start.
    pub peak: u32,
    /// Calls admitted since the start.
    pub admitted: u64,
    /// `normal`, `near_full` or `exhausted`.
    pub condition: String,
    /// Calls refused since the condition began.
    pub refused: u64,
}

/// A service.
#[derive(Serialize, Deserialize, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Calls in progress.
    pub calls: u32,
    /// Calls admitted since the start.
    pub admitted: u64,
    /// Calls refused since the start.
    pub refused: u64,
    /// Calls that wait for a channel.
    #[serde(default)]
    pub waiting: u32,
}

/// A trunk.
#[derive(Serialize, Deserialize, Debug)]
pub struct Trunk {
    /// Its name.
    pub name: String,
    /// Calls in progress.
    pub calls: u32,
    /// Most calls at a time.
    pub max_calls: Option<u32>,
}

/// Everything that is counted.
#[derive(Serialize, Deserialize, Debug)]
pub struct View {
    /// The node's name.
    pub node: String,
    /// Calls in progress.
    pub calls: u32,
    /// The pools.
    pub pools: Vec<Pool>,
    /// The services.
    pub services: Vec<Service>,
    /// The trunks.
    pub trunks: Vec<Trunk>,
}

impl View {
    /// Taken at one moment.
    pub fn of(node: &Node) -> Self {
        let view = node.gate.view();
        Self {
            node: node.config().name.to_string(),
            calls: view.calls,
            pools: view
                .pools
                .iter()
                .map(|pool| Pool {
                    name: pool.name.to_string(),
                    capacity: pool.capacity,
                    in_use: pool.in_use(),
                    reserved: pool.reserved,
                    held: pool.held,
                    set_aside: pool.set_aside,
                    lent: pool.lent,
                    peak: pool.peak,
                    admitted: pool.admitted,
                    condition: pool.condition.into(),
                    refused: pool.refused_now,
                })
                .collect(),
            services: view
                .services
                .iter()
                .map(|service| Service {
                    name: service.name.to_string(),
                    calls: service.calls,
                    admitted: service.admitted,
                    refused: service.refused,
                    waiting: service.waiting,
                })
                .collect(),
            trunks: view
                .trunks
                .iter()
                .map(|trunk| Trunk { name: trunk.name.to_string(), calls: trunk.calls, max_calls: trunk.max_calls })
                .collect(),
        }
    }
}

/// A call in progress.
#[derive(Serialize, Deserialize, Debug)]
pub struct Call {
    /// Its number, never used again.
    pub slot: u64,
    /// `waiting` (for a channel), `setup`, `answered` or `suspect` (it gives no sign of life).
    pub state: String,
    /// When its INVITE came, RFC 3339.
    pub since: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// The trunk it came by.
    pub trunk: String,
    /// The service it called.
    pub service: Option<String>,
    /// The pool it holds a channel of.
    pub pool: Option<String>,
    /// Whether it is an emergency.
    #[serde(default)]
    pub emergency: bool,
    /// The URI of its From header.
    pub caller: String,
    /// The number it called.
    pub number: String,
    /// Its Call-ID.
    pub call_id: String,
}

/// Calls in progress.
#[derive(Serialize, Deserialize, Debug)]
pub struct CallsView {
    /// How many there are, listed or not.
    pub total: usize,
    /// The oldest ones.
    pub calls: Vec<Call>,
}

impl CallsView {
    /// Up to `limit` calls that `wanted` accepts by trunk, service and pool.
    pub fn of(node: &Node, limit: usize, wanted: impl Fn(&str, Option<&str>, Option<&str>) -> bool) -> Self {
        let view = node.gate.view();
        let now = node.now();
        let service = |slot: &crate::pool::Slot| slot.service.map(|id| &*view.services[usize::from(id.0)].name);
        let pool = |slot: &crate::pool::Slot| slot.pool.map(|id| &*view.pools[usize::from(id.0)].name);
        let trunk = |slot: &crate::pool::Slot| &*view.trunks[usize::from(slot.trunk.0)].name;
        let found = node.slots.list(limit, |slot| wanted(trunk(slot), service(slot), pool(slot)));
        Self {
            total: node.slots.len(),
            calls: found
                .iter()
                .map(|(id, slot)| Call {
                    slot: *id,
                    state: match (slot.answered, slot.suspect) {
                        (false, _) if slot.waiting => "waiting".into(),
                        (false, _) => "setup".into(),
                        (true, false) => "answered".into(),
                        (true, true) => "suspect".into(),
                    },
                    since: node.wall(slot.since),
                    seconds: (now - slot.since).as_secs(),
                    trunk: trunk(slot).to_owned(),
                    service: service(slot).map(str::to_owned),
                    pool: pool(slot).map(str::to_owned),
                    emergency: slot.emergency,
                    caller: slot.caller(),
                    number: slot.number(),
                    call_id: slot.call_id(),
                })
                .collect(),
        }
    }
}
