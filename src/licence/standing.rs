//! What all licences together allow at one moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entitlement, EntitlementKind, Kind, Licence, Wall};

/// Days before an expiry on which the operators are told.
pub const WARNINGS: [i64; 4] = [30, 14, 7, 1];
/// The code under which the trial period of a fresh installation is shown.
pub const TRIAL_CODE: &str = "trial period";

/// Everything a standing follows from, but the moment.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The licences installed, oldest installation first.
    pub licences: &'a [Licence],
    /// This server's token.
    pub token: &'a str,
    /// Whether this node is a standby: redundancy licences count.
    pub standby: bool,
    /// Days for which an expired licence goes on counting.
    pub grace_days: u32,
    /// The most channels of one product that work on this platform.
    pub platform: Option<u32>,
    /// When sipweir was installed here.
    pub installed: Wall,
    /// Days of full function from then on.
    pub trial_days: u32,
}

/// How a line of a licence stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It counts.
    InForce,
    /// It has expired and counts until this moment.
    Grace(Wall),
    /// It begins at this moment.
    NotYet(Wall),
    /// It ended at this moment.
    Expired(Wall),
    /// It is bound to this other server.
    WrongServer(String),
    /// It counts on a standby node only.
    Standby,
    /// It needs capacity of this product, and there is none.
    Needs(String),
    /// This licence took its place.
    Replaced(String),
    /// This licence revoked it.
    Revoked(String),
}

impl State {
    /// A word for it.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::Grace(_) => "grace",
            Self::NotYet(_) => "not yet",
            Self::Expired(_) => "expired",
            Self::WrongServer(_) => "wrong server",
            Self::Standby => "standby only",
            Self::Needs(_) => "incomplete",
            Self::Replaced(_) => "replaced",
            Self::Revoked(_) => "revoked",
        }
    }

    /// Whether it counts.
    pub const fn counts(&self) -> bool {
        matches!(self, Self::InForce | Self::Grace(_))
    }

    /// Why it does not count, or until when it does; empty when there is nothing to say.
    pub fn why(&self) -> String {
        match self {
            Self::InForce => String::new(),
            Self::Grace(until) => format!("expired, counts up to {}: renew it", until.last_day()),
            Self::NotYet(from) => format!("begins on {from}"),
            Self::Expired(at) => format!("its last day was {}", at.last_day()),
            Self::WrongServer(token) => format!("bound to server {token}"),
            Self::Standby => "counts on a standby node".into(),
            Self::Needs(product) => format!("needs a capacity licence for {product} on this server"),
            Self::Replaced(by) => format!("replaced by {by}"),
            Self::Revoked(by) => format!("revoked by {by}"),
        }
    }
}

/// One line of the licence page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The licence's code.
    pub code: String,
    /// The product.
    pub product: String,
    /// What the line is a right to.
    pub entitlement: EntitlementKind,
    /// The licence's kind.
    pub kind: Kind,
    /// How many it grants; 0 for a feature.
    pub quantity: u32,
    /// How many of them work: none when it does not count, fewer above the platform's capacity.
    pub working: u32,
    /// From when.
    pub start: Wall,
    /// Until when.
    pub term: Option<Wall>,
    /// How it stands.
    pub state: State,
}

/// What is allowed at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The moment.
    pub at: Wall,
    /// The licence page.
    pub rows: Vec<Row>,
    /// Channels in force, by product.
    pub channels: BTreeMap<String, u32>,
    /// Features in force.
    pub features: BTreeSet<String>,
    /// Counted things in force, by product.
    pub counts: BTreeMap<String, u32>,
    /// Until when the trial period runs, while it does.
    pub trial_until: Option<Wall>,
    /// When something changes next, a warning of an expiry included.
    pub next: Option<Wall>,
}

impl Standing {
    /// Works it out.
    pub fn at(terms: &Terms<'_>, at: Wall) -> Self {
        let mut standing = Self { at, ..Self::default() };
        let trial_end = terms.installed.plus_days(i64::from(terms.trial_days));
        if at < trial_end && terms.trial_days > 0 {
            standing.trial_until = Some(trial_end);
        }
        let mut lines: Vec<(Row, Entitlement)> = Vec::new();
        for licence in terms.licences {
            let state = licence_state(licence, terms, at);
            for line in licence.lines() {
                let state =
                    if state.counts() && line.redundancy && !terms.standby { State::Standby } else { state.clone() };
                let row = Row {
                    code: licence.code.clone(),
                    product: line.product.clone(),
                    entitlement: line.kind,
                    kind: licence.kind,
                    quantity: line.quantity.unwrap_or(0),
                    working: 0,
                    start: licence.start(),
                    term: licence.expires,
                    state,
                };
                lines.push((row, line));
            }
        }
        settle(&mut lines);
        for (row, _) in &mut lines {
            if !row.state.counts() {
                continue;
            }
            match row.entitlement {
                EntitlementKind::Capacity => {
                    let channels = standing.channels.entry(row.product.clone()).or_default();
                    let room = terms.platform.map_or(u32::MAX, |most| most.saturating_sub(*channels));
                    row.working = row.quantity.min(room);
                    *channels = channels.saturating_add(row.working);
                }
                EntitlementKind::Count => {
                    row.working = row.quantity;
                    let count = standing.counts.entry(row.product.clone()).or_default();
                    *count = count.saturating_add(row.quantity);
                }
                EntitlementKind::Feature => {
                    standing.features.insert(row.product.clone());
                }
                // Taken apart by `Licence::lines`.
                EntitlementKind::Suite => {}
            }
        }
        standing.rows = lines.into_iter().map(|(row, _)| row).collect();
        standing.next = moments(terms, trial_end).filter(|moment| *moment > at).min();
        standing
    }

    /// Whether the product has channels in force, or the trial period stands in for them.
    pub fn has_capacity(&self, product: &str) -> bool {
        self.trial_until.is_some() || self.channels.get(product).is_some_and(|channels| *channels > 0)
    }
}

/// Lines whose needs are met count; the others say what they lack. A line that is met may meet another's needs, so this
/// goes on until nothing changes.
fn settle(lines: &mut [(Row, Entitlement)]) {
    let mut met: Vec<bool> = lines.iter().map(|(row, line)| row.state.counts() && line.requires.is_empty()).collect();
    for _ in 0..lines.len() {
        let before = met.clone();
        let has = |product: &String| {
            lines
                .iter()
                .zip(&before)
                .any(|((row, _), met)| *met && row.entitlement == EntitlementKind::Capacity && row.product == *product)
        };
        for ((row, line), met) in lines.iter().zip(&mut met) {
            *met |= row.state.counts() && line.requires.iter().all(has);
        }
        if met == before {
            let missing: Vec<Option<String>> =
                lines.iter().map(|(_, line)| line.requires.iter().find(|product| !has(product)).cloned()).collect();
            for (((row, _), met), missing) in lines.iter_mut().zip(met).zip(missing) {
                if let Some(missing) = missing.filter(|_| row.state.counts() && !met) {
                    row.state = State::Needs(missing);
                }
            }
            return;
        }
    }
}

fn licence_state(licence: &Licence, terms: &Terms<'_>, at: Wall) -> State {
    if let Some(server) = licence.server.as_ref().filter(|server| *server != terms.token) {
        return State::WrongServer(server.clone());
    }
    let names = |list: fn(&Licence) -> &Vec<String>| {
        terms.licences.iter().find(|other| {
            other.issuer == licence.issuer
                && other.start() <= at
                && other.server.as_ref().is_none_or(|server| server == terms.token)
                && list(other).contains(&licence.code)
        })
    };
    if let Some(by) = names(|other| &other.revokes) {
        return State::Revoked(by.code.clone());
    }
    if let Some(by) = names(|other| &other.replaces) {
        return State::Replaced(by.code.clone());
    }
    if at < licence.start() {
        return State::NotYet(licence.start());
    }
    match licence.expires {
        Some(expires) if at >= expires => {
            let until = expires.plus_days(i64::from(terms.grace_days));
            if at < until { State::Grace(until) } else { State::Expired(expires) }
        }
        _ => State::InForce,
    }
}

/// Every moment at which a standing may change, or a warning is due.
fn moments<'a>(terms: &'a Terms<'_>, trial_end: Wall) -> impl Iterator<Item = Wall> + 'a {
    let grace = i64::from(terms.grace_days);
    let ends = terms.licences.iter().filter_map(|licence| licence.expires).chain([trial_end]);
    let around_ends = ends.flat_map(move |end| {
        let warnings = WARNINGS.into_iter().map(move |days| end.plus_days(-days));
        // In grace the operators are told every day.
        let grace_days = (0..=grace.min(366)).map(move |day| end.plus_days(day));
        warnings.chain(grace_days).chain([end.plus_days(grace)])
    });
    terms.licences.iter().map(Licence::start).chain(around_ends)
}
