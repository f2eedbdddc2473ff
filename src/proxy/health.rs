//! Which addresses of targets live, and which of them the next call goes to.
//!
//! Two sources: OPTIONS sent for the purpose (probes), and what becomes of real calls. With probes an address is up or
//! down. Without, one that failed is *suspect*: others come first, and now and then a call tries it again; nobody is left
//! without a way because of a guess.

use std::net::SocketAddr;
use std::time::Duration;

use crate::alert::{Event, EventKind};
use crate::config::{Balance, Config, Probe};
use crate::outbox::DomainId;
use crate::route::{Place, Router};
use crate::sip::Transport;
use crate::store::{Key, Timer};
use crate::time::Instant;

/// Names no peer.
pub(super) const NO_PEER: u16 = u16::MAX;
/// How long others come before a suspect.
const SUSPECT: Duration = Duration::from_secs(30);
/// The longest Retry-After that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What is known of one address.
#[derive(Debug)]
pub(super) struct Peer {
    transport: Transport,
    address: SocketAddr,
    domain: DomainId,
    /// Target and URI, for people.
    name: Box<str>,
    is_up: bool,
    /// Failures in a row while up, successes in a row while down.
    streak: u8,
    down_after: u8,
    up_after: u8,
    /// A 503 asked for peace until then (RFC 3261 §21.5.4).
    not_before: Instant,
    suspect_until: Instant,
    is_drained: bool,
    calls: u32,
    failures: u64,
    failures_while_down: u64,
    since: Instant,
    /// Of the weighted turns.
    credit: i64,
    pub(super) probe: Option<Probe>,
    /// The probe under way.
    pub(super) asked: Key,
    pub(super) asked_at: Instant,
    pub(super) timer: Timer,
    is_used: bool,
}

/// A peer as readers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Its target.
    pub target: Box<str>,
    /// The URI that leads there.
    pub uri: Box<str>,
    /// Its transport and address.
    pub address: String,
    /// Whether calls go there: as far as is known it lives.
    pub is_up: bool,
    /// Whether it gets no new calls because the operator wants it so.
    pub is_drained: bool,
    /// Whether it asked for peace by Retry-After.
    pub is_resting: bool,
    /// Calls in progress there.
    pub calls: u32,
    /// Calls and probes that failed there.
    pub failures: u64,
}

/// The peers of a shard. They are never forgotten while they have calls.
#[derive(Default, Debug)]
pub(super) struct Health {
    peers: Vec<Peer>,
}

impl Health {
    /// Gives every place of the router its peer, and says which are to be probed from now on.
    pub(super) fn number(&mut self, now: Instant, config: &Config, places: &mut [Vec<Place>]) -> Vec<u16> {
        for peer in &mut self.peers {
            (peer.is_used, peer.probe) = (false, None);
        }
        // Those known first, so that nobody new takes the entry of one that is still named.
        let mut is_fresh = Vec::new();
        for is_second in [false, true] {
            for (at_target, (target, places)) in config.targets.iter().zip(places.iter_mut()).enumerate() {
                for (at_place, place) in places.iter_mut().enumerate() {
                    let way = (place.transport, place.address, place.domain);
                    let known = |peer: &Peer| peer.way() == way;
                    let name = || format!("{} {}", target.name, target.uris[place.uri].text).into_boxed_str();
                    let found = self.peers.iter().position(known);
                    let at = match (found, is_second) {
                        (None, false) => {
                            is_fresh.push((at_target, at_place));
                            continue;
                        }
                        (Some(at), false) => at,
                        (_, true) if !is_fresh.contains(&(at_target, at_place)) => continue,
                        (Some(at), true) => at,
                        (None, true) => {
                            let fresh = Peer::new(now, way, name());
                            let is_free = |peer: &Peer| {
                                !peer.is_used && peer.calls == 0 && peer.asked.is_none() && peer.timer == Timer::NONE
                            };
                            // In the place of one nobody names any more, if there is one.
                            let free = self.peers.iter().position(is_free);
                            match free {
                                Some(at) => self.peers[at] = fresh,
                                None => self.peers.push(fresh),
                            }
                            free.unwrap_or(self.peers.len() - 1)
                        }
                    };
                    let peer = &mut self.peers[at];
                    // Of several targets with this address the first names it, and the strictest marks hold.
                    if !std::mem::replace(&mut peer.is_used, true) {
                        (peer.name, peer.down_after, peer.up_after) = (name(), target.down_after, target.up_after);
                    }
                    peer.down_after = peer.down_after.min(target.down_after);
                    peer.up_after = peer.up_after.max(target.up_after);
                    peer.probe = peer.probe.take().or_else(|| target.probe.clone());
                    place.peer = at as u16;
                }
            }
        }
        for peer in self.peers.iter_mut().filter(|peer| peer.probe.is_none()) {
            // Nobody would ever find out that it is back.
            peer.is_up = true;
        }
        let probed =
            |(at, peer): (usize, &Peer)| (peer.probe.is_some() && peer.timer == Timer::NONE).then_some(at as u16);
        self.peers.iter().enumerate().filter_map(probed).collect()
    }

    pub(super) fn peer(&mut self, peer: u16) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(peer))
    }

    /// Whether any of these places takes new calls.
    pub(super) fn is_any_open(&self, now: Instant, places: &[Place]) -> bool {
        places.iter().any(|place| {
            let peer = self.peers.get(usize::from(place.peer));
            peer.is_some_and(|peer| peer.is_up && !peer.is_drained && !place.drain && peer.not_before <= now)
        })
    }

    /// The place the next attempt goes to: of those not tried, alive and allowed, one of the lowest priority.
    pub(super) fn choose(&mut self, now: Instant, places: &[Place], tried: u64, balance: Balance) -> Option<usize> {
        let open = |health: &Self, at: usize| {
            let peer = health.peers.get(usize::from(places[at].peer))?;
            let is_open =
                tried & 1 << at == 0 && peer.is_up && !peer.is_drained && !places[at].drain && peer.not_before <= now;
            is_open.then_some((peer.suspect_until > now, places[at].priority))
        };
        if places.len() == 1 && self.peers[usize::from(places[0].peer)].streak == 0 {
            return open(self, 0).map(|_| 0);
        }
        let best = (0..places.len()).filter_map(|at| open(self, at)).min()?;
        let group = |health: &Self| -> u64 {
            (0..places.len()).filter(|at| open(health, *at) == Some(best)).fold(0, |group, at| group | 1 << at)
        };
        let group = group(self);
        let members = || (0..places.len()).filter(move |at| group & 1 << at != 0);
        let chosen = if group.count_ones() == 1 {
            group.trailing_zeros() as usize
        } else {
            match balance {
                Balance::Calls => members().min_by_key(|at| {
                    // calls / weight, compared without a division; one of weight 0 comes last.
                    let weight = u64::from(places[*at].weight);
                    let calls = u64::from(self.peers[usize::from(places[*at].peer)].calls) + 1;
                    (calls << 24).checked_div(weight).unwrap_or(u64::MAX)
                })?,
                Balance::Weight => {
                    let total: i64 = members().map(|at| i64::from(places[at].weight)).sum();
                    for at in members() {
                        self.peers[usize::from(places[at].peer)].credit += i64::from(places[at].weight);
                    }
                    let first_of_most = |at: &usize| {
                        let credit = self.peers[usize::from(places[*at].peer)].credit;
                        (places[*at].weight > 0, credit, std::cmp::Reverse(*at))
                    };
                    let at = members().max_by_key(first_of_most)?;
                    self.peers[usize::from(places[at].peer)].credit -= total;
                    at
                }
            }
        };
        let peer = &mut self.peers[usize::from(places[chosen].peer)];
        if peer.streak >= peer.down_after && peer.probe.is_none() {
            // One call tries it; the others go elsewhere until it answered.
            peer.suspect_until = now + SUSPECT;
        }
        Some(chosen)
    }

    /// A call is sent there, instead of where it was sent before.
    pub(super) fn moved(&mut self, from: u16, to: u16) {
        if let Some(peer) = self.peers.get_mut(usize::from(from)) {
            peer.calls = peer.calls.saturating_sub(1);
        }
        if let Some(peer) = self.peers.get_mut(usize::from(to)) {
            peer.calls += 1;
        }
    }

    /// Something answered there: a call or a probe.
    pub(super) fn answered(&mut self, now: Instant, peer: u16, is_probe: bool, events: &mut Vec<Event>) {
        let Some(peer) = self.peers.get_mut(usize::from(peer)) else { return };
        let was_down = !peer.is_up || peer.streak >= peer.down_after;
        if peer.is_up {
            peer.streak = 0;
            peer.suspect_until = Instant::ZERO;
        } else if is_probe {
            peer.streak += 1;
            if peer.streak < peer.up_after {
                return;
            }
            (peer.is_up, peer.streak) = (true, 0);
        } else {
            return;
        }
        if was_down {
            let lasted_ms = u64::try_from((now - peer.since).as_millis()).unwrap_or(u64::MAX);
            let refused = std::mem::take(&mut peer.failures_while_down);
            events.push(Event { lasted_ms, refused, ..Event::about(EventKind::TargetUp, now, &peer.name) });
        }
    }

    /// A call or probe failed there. `retry_after`: it asked for peace.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        peer: u16,
        why: &str,
        retry_after: Option<Duration>,
        events: &mut Vec<Event>,
    ) {
        let Some(peer) = self.peers.get_mut(usize::from(peer)) else { return };
        peer.failures += 1;
        if let Some(wait) = retry_after {
            peer.not_before = now + wait.min(RETRY_AFTER_MAX);
        }
        if !peer.is_up {
            peer.streak = 0;
            peer.failures_while_down += 1;
            return;
        }
        let was_down = peer.streak >= peer.down_after;
        peer.streak = peer.streak.saturating_add(1);
        if peer.streak < peer.down_after {
            return;
        }
        if was_down {
            peer.failures_while_down += 1;
        } else {
            let detail = format!("{} failures in a row, the last: {why}", peer.streak).into();
            events.push(Event { detail, ..Event::about(EventKind::TargetDown, now, &peer.name) });
            (peer.since, peer.failures_while_down) = (now, 0);
        }
        if peer.probe.is_some() {
            (peer.is_up, peer.streak) = (false, 0);
        } else {
            peer.suspect_until = now + SUSPECT;
        }
    }

    /// The operator wants no new calls there, or wants them again.
    pub(super) fn drain(&mut self, peer: u16, is_drained: bool) {
        if let Some(peer) = self.peers.get_mut(usize::from(peer)) {
            peer.is_drained = is_drained;
        }
    }

    /// What readers see, in the order of the configuration.
    pub(super) fn view(&self, now: Instant, router: &Router) -> Vec<PeerView> {
        let targets = router.config.targets.iter().enumerate();
        let all = targets.flat_map(|(at, target)| router.places(at).iter().map(move |place| (target, place)));
        all.filter_map(|(target, place)| {
            let peer = self.peers.get(usize::from(place.peer))?;
            Some(PeerView {
                target: target.name.clone(),
                uri: target.uris[place.uri].text.clone(),
                address: format!("{}:{}", place.transport, place.address),
                is_up: peer.is_up && peer.streak < peer.down_after,
                is_drained: peer.is_drained || place.drain,
                is_resting: peer.not_before > now,
                calls: peer.calls,
                failures: peer.failures,
            })
        })
        .collect()
    }
}

impl Peer {
    fn new(now: Instant, way: (Transport, SocketAddr, DomainId), name: Box<str>) -> Self {
        let (transport, address, domain) = way;
        Self {
            transport,
            address,
            domain,
            name,
            is_up: true,
            streak: 0,
            down_after: 1,
            up_after: 1,
            not_before: Instant::ZERO,
            suspect_until: Instant::ZERO,
            is_drained: false,
            calls: 0,
            failures: 0,
            failures_while_down: 0,
            since: now,
            credit: 0,
            probe: None,
            asked: Key::NONE,
            asked_at: now,
            timer: Timer::NONE,
            is_used: false,
        }
    }

    pub(super) fn way(&self) -> (Transport, SocketAddr, DomainId) {
        (self.transport, self.address, self.domain)
    }
}
