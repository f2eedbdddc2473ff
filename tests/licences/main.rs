//! Licences: what they mean, day by day, and what loads. Dates are given, never read from a clock.

#![allow(missing_docs, reason = "tests")]

mod calendar;
mod documents;
mod vault;

use sipweir::licence::{Entitlement, EntitlementKind, Kind, Licence, Standing, Terms, Wall};

pub(crate) const TOKEN: &str = "SW-HERE";
pub(crate) const QUEUE: &str = "advanced-queueing";
/// 2024-10-04, the day of the installation.
pub(crate) const DAY_0: Wall = Wall(20_000 * 86_400);

pub(crate) fn day(days: i64) -> Wall {
    DAY_0.plus_days(days)
}

pub(crate) fn licence(code: &str, entitlements: Vec<Entitlement>) -> Licence {
    Licence {
        code: code.into(),
        issuer: "vendor".into(),
        customer: "Final Customer 1".into(),
        kind: Kind::Permanent,
        issued: DAY_0,
        not_before: None,
        expires: None,
        server: None,
        entitlements,
        replaces: Vec::new(),
        revokes: Vec::new(),
    }
}

pub(crate) fn channels(number: u32) -> Entitlement {
    Entitlement::new(EntitlementKind::Capacity, QUEUE, Some(number))
}

pub(crate) fn feature(name: &str) -> Entitlement {
    Entitlement::new(EntitlementKind::Feature, name, None)
}

/// From the first day to before the second, as a subscription.
pub(crate) fn between(from: i64, until: i64, licence: Licence) -> Licence {
    Licence { kind: Kind::Subscription, not_before: Some(day(from)), expires: Some(day(until)), ..licence }
}

pub(crate) fn terms(licences: &[Licence]) -> Terms<'_> {
    Terms { licences, token: TOKEN, standby: false, grace_days: 0, platform: None, installed: DAY_0, trial_days: 30 }
}

pub(crate) fn on(licences: &[Licence], days: i64) -> Standing {
    Standing::at(&terms(licences), day(days))
}

pub(crate) fn in_force(licences: &[Licence], days: i64) -> u32 {
    on(licences, days).channels.get(QUEUE).copied().unwrap_or(0)
}

pub(crate) fn states(standing: &Standing) -> Vec<(&str, &'static str)> {
    standing.rows.iter().map(|row| (row.code.as_str(), row.state.label())).collect()
}
