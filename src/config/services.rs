//! Services: what is called, by which numbers, and what becomes of the calls.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::{names, position, read_name, read_rate, sections_bounded};
use super::file::{Problems, Section};
use super::licences::read_needs;
use super::plan::{Step, default_reject, read_overflow};
use super::{Pattern, Pool, Service, ServiceKind, Target, Trunk};

pub(super) fn read_services(
    root: &mut Section,
    problems: &mut Problems,
    (trunks, targets, pools): (&[Trunk], &[Target], &[Pool]),
    longest_call: Duration,
) -> Vec<Service> {
    let (mut services, mut seen) = (Vec::<Service>::new(), BTreeMap::new());
    for mut section in sections_bounded(root, problems, "service") {
        let name = read_name(&mut section, problems, &mut seen);
        let kind = match section.needed_string(problems, "kind", "\"ivr\"").as_deref() {
            Some("queue") => ServiceKind::Queue,
            Some("route") => ServiceKind::Route,
            Some("ivr") | None => ServiceKind::Ivr,
            Some(other) => {
                problems.add(
                    section.key("kind"),
                    format!("{other:?} is unknown"),
                    "write \"ivr\", \"queue\" or \"route\"",
                );
                ServiceKind::Ivr
            }
        };
        let open_to = read_trunk_names(&mut section, problems, trunks);
        let numbers = read_numbers(&mut section, problems, &services, &open_to);
        let pool = section.string(problems, "pool");
        match (&pool, kind) {
            (Some(pool), _) if position(pools, pool, |pool| &pool.settings.name).is_none() => problems.add(
                section.key("pool"),
                format!("{pool:?} is no pool"),
                format!("add [[pool]] with this name; {}", names(pools.iter().map(|pool| &*pool.settings.name))),
            ),
            (None, ServiceKind::Ivr | ServiceKind::Queue) => {
                problems.add(section.key("pool"), "is missing", "name a [[pool]], or write kind = \"route\"");
            }
            (Some(_), ServiceKind::Route) => {
                problems.add(
                    section.key("pool"),
                    "a route takes no channel",
                    "remove it, or write kind = \"ivr\" or \"queue\"",
                );
            }
            (Some(_), ServiceKind::Ivr | ServiceKind::Queue) | (None, ServiceKind::Route) => {}
        }
        let target = section.needed_string(problems, "target", "\"pbx\"");
        let target_position = target.as_deref().and_then(|name| position(targets, name, |target| &target.name));
        if let (Some(name), None) = (&target, target_position) {
            problems.add(
                section.key("target"),
                format!("{name:?} is no target"),
                format!("add [[target]] with this name; {}", names(targets.iter().map(|target| &*target.name))),
            );
        }
        let overflow = read_overflow(&mut section, problems, "overflow", (targets, pools));
        let unlicensed = read_overflow(&mut section, problems, "unlicensed", (targets, pools));
        let its_pool = pool.as_deref().and_then(|pool| position(pools, pool, |pool| &pool.settings.name));
        let is_own = |step: &Step| matches!(step, Step::Borrow { pool } if its_pool.is_none_or(|own| own == *pool));
        if overflow.iter().flatten().any(is_own) {
            problems.add(
                section.key("overflow"),
                "borrows a channel of its own pool, or has no pool itself",
                "borrow from another pool, for a service that has one",
            );
        }
        let mut overflow = overflow.unwrap_or_default();
        // Who has nowhere to borrow any more, and waited in vain, has no other plan.
        let is_default = overflow.iter().all(Step::stays);
        if is_default {
            overflow.push(default_reject());
        }
        let is_ivr = kind == ServiceKind::Ivr;
        let (feature, counted) = read_needs(&mut section, problems, is_ivr, its_pool.map(|at| &pools[at]));
        let limit = section.number(problems, "limit", 0..=10_000_000);
        let reserve = section.number(problems, "reserve", 0..=10_000_000).unwrap_or(0);
        if reserve > 0 && kind == ServiceKind::Route {
            problems.add(section.key("reserve"), "a route takes no channel", "remove it");
        }
        if limit.is_some_and(|limit| limit < reserve) {
            problems.add(
                section.key("reserve"),
                format!("{reserve} is more than limit ({})", limit.unwrap_or(0)),
                "reserve no more than the service may use",
            );
        }
        if pool.is_none() && limit.is_none() && overflow.iter().any(|step| matches!(step, Step::Wait(_))) {
            problems.add(
                section.key("overflow"),
                "waits, and there is nothing to wait for",
                "remove the step, or give the service a pool or a limit",
            );
        }
        let rate = read_rate(&mut section, problems, ["rate", "burst"]);
        let emergency = section.flag(problems, "emergency").unwrap_or(false)
            || numbers.iter().any(|number| number.to_string().starts_with("urn:service:sos"));
        let ask_s = section.number(problems, "ask_s", 10..=86_400).unwrap_or(0);
        let longest = section
            .number(problems, "longest_call_s", 1..=604_800)
            .map_or(longest_call, |seconds| Duration::from_secs(u64::from(seconds)));
        section.finish(problems);
        services.push(Service {
            name: name.into(),
            kind,
            numbers,
            trunks: open_to,
            pool: pool.map(String::into_boxed_str),
            target: target_position.unwrap_or(0),
            feature,
            counted,
            unlicensed,
            overflow_is_default: is_default,
            overflow,
            limit,
            emergency,
            rate,
            reserve,
            longest_call: longest,
            ask_s,
        });
    }
    for pool in pools {
        let reserved: u64 = services
            .iter()
            .filter(|service| service.pool.as_ref() == Some(&pool.settings.name))
            .map(|service| u64::from(service.reserve))
            .sum();
        if pool.licence.is_none() && reserved > u64::from(pool.settings.capacity) {
            problems.add(
                format!("pool {:?}", pool.settings.name),
                format!("its services reserve {reserved} of {} channels", pool.settings.capacity),
                "lower reserve of its services, or raise channels",
            );
        }
    }
    services
}

fn read_trunk_names(section: &mut Section, problems: &mut Problems, trunks: &[Trunk]) -> Vec<usize> {
    let mut open_to = Vec::new();
    for name in section.strings(problems, "trunks").unwrap_or_default() {
        match position(trunks, &name, |trunk| &trunk.name) {
            Some(at) => open_to.push(at),
            None => problems.add(
                section.key("trunks"),
                format!("{name:?} is no trunk"),
                format!("add [[trunk]] with this name; {}", names(trunks.iter().map(|trunk| &*trunk.name))),
            ),
        }
    }
    open_to
}

fn read_numbers(
    section: &mut Section,
    problems: &mut Problems,
    services: &[Service],
    open_to: &[usize],
) -> Vec<Pattern> {
    let key = section.key("numbers");
    let Some(texts) = section.strings(problems, "numbers") else {
        problems.add(key, "is missing", "write numbers = [\"100\"], a prefix \"+4420*\" or \"*\" for any");
        return Vec::new();
    };
    if texts.is_empty() {
        problems.add(&*key, "is empty", "write at least one number, or \"*\" for any");
    }
    let mut numbers: Vec<Pattern> = Vec::new();
    for text in texts {
        let (pattern, digits) = match text.strip_suffix('*') {
            Some(prefix) => (Pattern::Prefix(prefix.into()), prefix),
            None => (Pattern::Exact(text.as_str().into()), &*text),
        };
        if (digits.is_empty() && text != "*")
            || digits.len() > 64
            || digits.contains(['*', '@', '<', '>', '"', ';', ' '])
        {
            problems.add(&*key, format!("{text:?} is no number"), "write digits, or a prefix with one * at its end");
            continue;
        }
        let both_open = |other: &Service| {
            open_to.is_empty() == other.trunks.is_empty()
                && (open_to.is_empty() || other.trunks.iter().any(|trunk| open_to.contains(trunk)))
        };
        let taken = services.iter().find(|other| other.numbers.contains(&pattern) && both_open(other));
        if let Some(other) = taken {
            problems.add(
                &*key,
                format!("{text:?} is a number of service {:?} already", other.name),
                "a number calls one service; remove it from one of them",
            );
        } else if numbers.contains(&pattern) {
            problems.add(&*key, format!("{text:?} is there twice"), "remove one of them");
        }
        numbers.push(pattern);
    }
    numbers
}
