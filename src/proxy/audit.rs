//! Guarding the count: what calls hold, compared with what the gate and the table of calls say; and the story of one call.

use serde::{Deserialize, Serialize};

use super::Proxy;
use super::call::Call;
use crate::alert::{Event, EventKind};
use crate::pool::SlotId;
use crate::store::Key;
use crate::time::Instant;

/// Looks at every call at once while there are no more than this: nobody is served meanwhile. Of more, the totals are compared, and
/// the calls themselves looked at so many a second.
const WHOLE_MAX: usize = 5_000;
/// Seconds from one look at every call to the next.
const WHOLE_EVERY: u32 = 10;
/// Calls looked at a second when there are more.
const SLICE: usize = 2_000;

/// How far the audit came.
#[derive(Default)]
pub(super) struct Audit {
    ticks: u32,
    /// Calls already looked at, of the slice's walk.
    walked: usize,
    /// Since when the count is wrong.
    drifting: Option<Instant>,
}

/// Why a call holds what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// Its number.
    pub slot: SlotId,
    /// Since its INVITE, in seconds.
    pub age_s: u64,
    /// Since anything of it was heard that shows it lives, in seconds.
    pub heard_s: u64,
    /// One line a reason.
    pub lines: Vec<String>,
}

impl Proxy {
    /// Once a second.
    pub(super) fn audit(&mut self, now: Instant) {
        self.audit.ticks = self.audit.ticks.wrapping_add(1);
        let is_small = self.calls.len() <= WHOLE_MAX;
        if is_small && !self.audit.ticks.is_multiple_of(WHOLE_EVERY) {
            return;
        }
        let drift = self.totals().or_else(|| if is_small { self.whole() } else { self.slice() });
        match (drift, self.audit.drifting) {
            (Some(detail), None) => {
                self.audit.drifting = Some(now);
                self.events.push(Event { detail: detail.into(), ..Event::about(EventKind::CountDrift, now, "node") });
            }
            // What is wrong in one slice is not put right by the next one.
            (None, Some(since)) if is_small => {
                self.audit.drifting = None;
                let lasted_ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
                self.events.push(Event { lasted_ms, ..Event::about(EventKind::CountRight, now, "node") });
            }
            (Some(_), Some(_)) | (None, _) => {}
        }
    }

    /// The three counts of calls are kept in three places.
    fn totals(&self) -> Option<String> {
        let (known, listed, counted) = (self.calls.len(), self.slots.len(), self.gate.calls() as usize);
        (known != listed || known != counted)
            .then(|| format!("{known} calls are known, {listed} listed and {counted} counted"))
    }

    /// What all calls hold, against what the gate counts.
    fn whole(&self) -> Option<String> {
        let view = self.gate.view();
        let mut pools = vec![[0u32; 3]; view.pools.len()];
        let (mut services, mut trunks) = (vec![0u32; view.services.len()], vec![0u32; view.trunks.len()]);
        for (key, call) in self.calls.iter() {
            if let Some(wrong) = self.wrong(key, call) {
                return Some(wrong);
            }
            for channel in call.channels() {
                if let Some(pool) = channel.pool() {
                    let counts = &mut pools[usize::from(pool.0)];
                    counts[0] += 1;
                    counts[1] += u32::from(channel.is_held());
                    counts[2] += u32::from(channel.is_lent());
                }
                if let Some(service) = channel.service() {
                    services[usize::from(service.0)] += 1;
                }
                trunks[usize::from(channel.trunk().0)] += u32::from(channel.is_in_trunk());
            }
        }
        let of_pools = view.pools.iter().zip(pools).find_map(|(pool, [used, held, lent])| {
            let counted = [pool.in_use(), pool.held, pool.lent];
            (counted != [used, held, lent]).then(|| {
                format!(
                    "pool {}: {counted:?} in use, held and lent are counted, calls have {:?}",
                    pool.name,
                    [used, held, lent]
                )
            })
        });
        let of_services = || {
            let found = view.services.iter().zip(services).find(|(service, held)| service.calls != *held);
            found.map(|(it, held)| format!("service {}: {} calls are counted, {held} are there", it.name, it.calls))
        };
        let of_trunks = || {
            let found = view.trunks.iter().zip(trunks).find(|(trunk, held)| trunk.calls != *held);
            found.map(|(it, held)| format!("trunk {}: {} calls are counted, {held} are there", it.name, it.calls))
        };
        of_pools.or_else(of_services).or_else(of_trunks)
    }

    /// The next of many calls.
    fn slice(&mut self) -> Option<String> {
        let from = self.audit.walked;
        let mut seen = 0;
        let found = self.calls.iter().skip(from).take(SLICE).find_map(|(key, call)| {
            seen += 1;
            self.wrong(key, call)
        });
        self.audit.walked = if seen < SLICE { 0 } else { from + seen };
        found
    }

    /// What is wrong with one call, if anything is.
    fn wrong(&self, key: Key, call: &Call) -> Option<String> {
        let about = |what: &str| Some(format!("call {}: {what}", call.slot));
        let Some(slot) = self.slots.get(call.slot) else { return about("it is not listed") };
        if slot.call != key {
            return about("another call has its place in the list");
        }
        if slot.pool != call.channels().find_map(|channel| channel.pool()) && call.rare().more.is_empty() {
            return about("it holds another channel than is listed");
        }
        if call.pending == 0 && !call.dialogs.is_up() {
            return about("nothing of it is left, and it is there");
        }
        if call.timer == crate::store::Timer::NONE {
            return about("nothing will end it");
        }
        None
    }

    /// Why a call is there and holds what it holds; `None` when there is no such call.
    pub fn story(&self, now: Instant, slot: SlotId) -> Option<Story> {
        let entry = self.slots.get(slot)?;
        let call = self.calls.get(entry.call)?;
        let view = self.gate.view();
        let left = |until: Instant| if until > now { (until - now).as_secs() } else { 0 };
        let mut lines = Vec::new();
        for channel in call.channels() {
            if let Some(pool) = channel.pool() {
                let state = if channel.is_held() {
                    "held, since it was answered"
                } else {
                    "reserved, while it is being set up"
                };
                let lent = if channel.is_lent() { ", lent to another pool's service" } else { "" };
                lines.push(format!("a channel of pool {}: {state}{lent}", view.pools[usize::from(pool.0)].name));
            }
            if channel.is_in_trunk() {
                lines.push(format!("a place in trunk {}", view.trunks[usize::from(channel.trunk().0)].name));
            }
        }
        if call.channels().all(|channel| channel.pool().is_none()) {
            lines.push("no channel".into());
        }
        let rare = call.rare();
        if let Some((position, left)) = self.place_of(now, entry.call) {
            lines.push(format!("it waits for a channel at position {position}, {} s more at most", left.as_secs()));
        } else if call.pending > 0 {
            lines.push(format!("{} INVITEs or attempts of it have no final answer yet", call.pending));
        }
        let up = call.dialogs.count();
        if up > 0 {
            lines
                .push(format!("{up} of its dialogs {} up: it ends with their BYE", if up == 1 { "is" } else { "are" }));
        }
        if call.answered && !call.acked {
            lines.push(format!("no ACK came yet: without one it ends in {} s", left(call.until)));
        } else if call.answered {
            lines.push(format!("it ends in {} s at the latest (longest_call_s)", left(call.until)));
        }
        if call.lease != Instant::ZERO {
            let what = if rare.is_overdue {
                "its session was not refreshed: it ends"
            } else {
                "its session must be refreshed"
            };
            lines.push(format!("{what} in {} s (RFC 4028)", left(call.lease)));
        }
        if call.ask_at != Instant::ZERO {
            lines.push(format!("the PBX is asked whether it knows the call in {} s", left(call.ask_at)));
        }
        if rare.missed > 0 {
            lines.push(format!("{} questions in a row were not answered", rare.missed));
        }
        if rare.is_suspect {
            lines.push("it is suspect: it makes room when its pool is full".into());
        }
        if let Some(reason) = rare.ending {
            lines.push(format!("it is being ended: {}; the PBX has not answered the BYE yet", reason.words()));
        }
        if !rare.refers.is_empty() {
            lines.push("the PBX is transferring it; the channel goes back when the caller says it went well".into());
        }
        if self.calls.get(rare.heir).is_some() {
            lines.push("another call replaces it and gets its channel".into());
        }
        Some(Story { slot, age_s: (now - call.since).as_secs(), heard_s: (now - call.heard()).as_secs(), lines })
    }
}
