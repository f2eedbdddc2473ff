//! What would happen to a call now, and why.

use serde::Serialize;

use super::Router;
use crate::config::{Config, Service, Step, Target};
use crate::pool::rate::RateSettings;
use crate::pool::{Ask, Gate, Refusal, View};

/// The answer: a verdict and the reasons that led to it, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// `admit`, `overflow` or `refuse`.
    pub verdict: &'static str,
    /// The service, when one was found.
    pub service: Option<String>,
    /// The rung of the ladder that said no.
    pub refusal: Option<&'static str>,
    /// One line a step.
    pub steps: Vec<String>,
}

/// What keeps new calls from an address of a target (its name, and the address as views write it): `down`, `draining` and the
/// like; `None` when nothing does.
pub type Closed<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// Walks the ladder for a call from `trunk` to `number`, changing nothing; with `closed`, as far as the target. `None` when there
/// is no such trunk.
pub fn explain(
    router: &Router,
    gate: &Gate,
    (trunk, number): (&str, &str),
    closed: Option<Closed<'_>>,
) -> Option<Explanation> {
    let config = &router.config;
    let at = config.trunks.iter().position(|known| &*known.name == trunk)?;
    let view = gate.view();
    let trunk_view = &view.trunks[usize::from(router.trunk_id(at).0)];
    let mut steps = vec![match trunk_view.max_calls {
        Some(max) => format!("trunk {trunk}: {} of {max} calls in progress", trunk_view.calls),
        None => format!("trunk {trunk}: {} calls in progress, no limit", trunk_view.calls),
    }];
    let rates = &config.trunks[at];
    steps.extend(rates.rate.map(|rate| format!("trunk {trunk}: {}", says(&rate))));
    steps.extend(rates.source_rate.map(|rate| format!("each address of trunk {trunk}: {}", says(&rate))));
    let refuse = |refusal: Refusal, service, mut steps: Vec<String>| {
        steps.push(format!("refused: {refusal}; answer {}", refusal.status()));
        Explanation { verdict: "refuse", service, refusal: Some(refusal.label()), steps }
    };
    let Some(at_service) = router.service(at, number.as_bytes()) else {
        return Some(refuse(Refusal::UnknownService, None, steps));
    };
    let service = &config.services[at_service];
    let service_view = &view.services[usize::from(router.service_id(at_service).0)];
    let name = Some(service.name.to_string());
    steps.push(match service.limit {
        Some(limit) => {
            format!("service {} has number {number}: {} of {limit} calls in progress", service.name, service_view.calls)
        }
        None => {
            format!("service {} has number {number}: {} calls in progress, no limit", service.name, service_view.calls)
        }
    });
    steps.extend(service.rate.map(|rate| format!("service {}: {}", service.name, says(&rate))));
    if let Some(pool) = router.pool_id(at_service) {
        let pool = &view.pools[usize::from(pool.0)];
        let kept = if pool.set_aside > 0 {
            format!(", {} kept for services with a reserve", pool.set_aside)
        } else {
            String::new()
        };
        steps.push(format!("pool {}: {} of {} channels in use{kept}", pool.name, pool.in_use(), pool.capacity));
    } else {
        steps.push("the service takes no channel".into());
    }
    let is_emergency = service.emergency;
    if is_emergency {
        steps.push("an emergency: whatever is full or unlicensed, the call goes in and is counted beyond it".into());
    }
    let ask = Ask { trunk: router.trunk_id(at), service: router.service_id(at_service), is_known: false };
    let refusal = match gate.would_admit(ask, router.lenders(at_service)) {
        Err(refusal) => Some(refusal).filter(|_| !is_emergency),
        Ok((pool, is_lent)) => {
            let lender = pool.filter(|_| is_lent).map(|id| &view.pools[usize::from(id.0)].name);
            if let Some(lender) = lender {
                steps.push(format!("no channel: {}; one of {lender} is borrowed", Refusal::PoolFull));
            }
            None
        }
    };
    let Some(refusal) = refusal else {
        let target = &config.targets[service.target];
        let uris: Vec<&str> = target.uris.iter().map(|uri| &*uri.host_port).collect();
        steps.push(format!("admitted: to target {} ({})", target.name, uris.join(", then ")));
        let (is_reached, states) = closed.map_or((true, Vec::new()), |closed| reached(router, service.target, closed));
        steps.extend(states);
        if !is_reached {
            let refusal = Refusal::TargetFailed;
            steps.push(format!("no address of target {} takes calls: {refusal}", target.name));
            steps.push(format!("overflow plan: {}", plan(router, &view, at_service, Some(refusal))));
            return Some(Explanation { verdict: "overflow", service: name, refusal: Some(refusal.label()), steps });
        }
        steps.extend(after(config, service, target));
        steps.push(format!("if the target fails: {}", plan(router, &view, at_service, None)));
        return Some(Explanation { verdict: "admit", service: name, refusal: None, steps });
    };
    if !refusal.takes_plan() {
        return Some(refuse(refusal, name, steps));
    }
    steps.push(match &service_view.lacks {
        Some(lack) if refusal == Refusal::Unlicensed => format!("no channel: {refusal}: {lack}"),
        _ => format!("no channel: {refusal}"),
    });
    let is_unlicensed = refusal == Refusal::Unlicensed && service.unlicensed.is_some();
    let name_of = if is_unlicensed { "unlicensed plan" } else { "overflow plan" };
    steps.push(format!("{name_of}: {}", plan(router, &view, at_service, Some(refusal))));
    Some(Explanation { verdict: "overflow", service: name, refusal: Some(refusal.label()), steps })
}

fn says(rate: &RateSettings) -> String {
    format!("at most {} new calls a second, {} at once", rate.rate, rate.burst)
}

/// What happens to the call once it is there: who ends it, what frees its channel before that.
fn after(config: &Config, service: &Service, target: &Target) -> Vec<String> {
    let mut lines = Vec::new();
    if target.follows {
        lines.push(format!("a 3xx of {} is followed here, to at most five contacts", target.name));
    }
    if service.pool.is_some() && !target.uses_channel {
        lines.push(format!("at {} the call uses no channel (uses_channel = false)", target.name));
    }
    if let Some(sign) = &target.released_by {
        let value = sign.value.as_ref().map_or_else(String::new, |value| format!(": {value}"));
        lines.push(format!("a request of {} with {}{value} gives its channel back", target.name, sign.name));
    }
    if target.released_by_contact {
        lines.push(format!("a Contact of {} elsewhere gives its channel back", target.name));
    }
    if let Some(session) = config.session {
        let (expires, least) = (session.expires, session.min_se);
        lines.push(format!("its session must be refreshed every {expires} s at least; one below {least} s gets 422"));
    }
    if service.ask_s > 0 {
        lines.push(format!("{} is asked every {} s whether it knows the call", target.name, service.ask_s));
    }
    lines.push(format!("it is ended {} s after the answer", service.longest_call.as_secs()));
    lines
}

/// Whether any address of a target takes calls, and a line for each that does not.
fn reached(router: &Router, target: usize, closed: Closed<'_>) -> (bool, Vec<String>) {
    let settings = &router.config.targets[target];
    let places = router.places(target);
    let (mut is_reached, mut lines) = (false, Vec::new());
    for place in places {
        let address = format!("{}:{}", place.transport, place.address);
        match closed(&settings.name, &address) {
            Some(state) => lines.push(format!(
                "target {}, {} ({address}), is {state}: no new calls go there",
                settings.name, settings.uris[place.uri].text
            )),
            None => is_reached = true,
        }
    }
    let unknown = settings.uris.iter().enumerate().filter(|(at, _)| places.iter().all(|place| place.uri != *at));
    lines.extend(unknown.map(|(_, uri)| format!("target {}, {}: no address is known", settings.name, uri.text)));
    (is_reached, lines)
}

fn plan(router: &Router, view: &View, at: usize, refusal: Option<Refusal>) -> String {
    let service = &router.config.services[at];
    let steps = service.plan(refusal);
    let has_failed = matches!(refusal, None | Some(Refusal::TargetFailed));
    if has_failed && service.overflow_is_default {
        return "the caller hears what it said, or 408".into();
    }
    // Who had a channel waits for none and borrows none.
    let words: Vec<String> = steps
        .iter()
        .filter(|step| !(step.stays() && has_failed))
        .map(|step| match step {
            Step::Route { target, user } => {
                let target = &router.config.targets[*target];
                match user {
                    Some(user) => format!("route to {} as {user}", target.name),
                    None => format!("route to {}", target.name),
                }
            }
            Step::Borrow { pool } => format!("borrow a channel of {}", router.config.pools[*pool].settings.name),
            Step::Wait(wait) => {
                let waiting = view.services[usize::from(router.service_id(at).0)].waiting;
                let most = wait.expected.map_or_else(String::new, |most| {
                    format!("; at once the next step where more than {} s are expected", most.as_secs())
                });
                format!(
                    "wait up to {} s for a channel ({waiting} of at most {} wait now{most})",
                    wait.longest.as_secs(),
                    wait.length
                )
            }
            Step::Redirect { lines } => format!("redirect (302, {})", lines.trim_end().replace("\r\n", ", ")),
            Step::Reject { status, reason, .. } => match reason {
                Some(reason) => format!("reject {status} ({reason})"),
                None => format!("reject {status}"),
            },
        })
        .collect();
    let is_default = service.overflow_is_default && steps == service.overflow;
    words.join(", then ") + if is_default { " (the default)" } else { "" }
}
