//! What a licence says: the claims of the signed document (RFC 7519 names where there are any).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Rejection, Wall};

/// Entitlements in one document, those inside suites included.
pub const ENTITLEMENTS_MAX: usize = 256;
/// Codes, products and names are no longer than this, in octets.
pub const NAME_MAX: usize = 128;

/// How long a licence holds, and what for (seed 001).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Bought; never expires.
    Permanent,
    /// For a length of time, renewable.
    Subscription,
    /// For a short time: support, a late order.
    Temporary,
    /// To try; once per server.
    Trial,
}

impl Kind {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Subscription => "subscription",
            Self::Temporary => "temporary",
            Self::Trial => "trial",
        }
    }
}

/// What an entitlement is a right to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntitlementKind {
    /// So many channels of a product.
    Capacity,
    /// A function, such as `ivr`.
    Feature,
    /// So many things of a kind, such as services.
    Count,
    /// One order line that stands for several.
    Suite,
}

impl EntitlementKind {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Feature => "feature",
            Self::Count => "count",
            Self::Suite => "suite",
        }
    }
}

/// When a unit is taken (seed 003: "consumed either when it is configured for use or alternatively when it is actually
/// being used").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consumed {
    /// By being configured.
    Configured,
    /// By being used.
    Used,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// One line of a licence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entitlement {
    /// What it is a right to.
    #[serde(rename = "type")]
    pub kind: EntitlementKind,
    /// Of which product.
    pub product: String,
    /// How many; of a suite, how many times. A feature has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u32>,
    /// When a unit is taken; without it a capacity when used, a count when configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed: Option<Consumed>,
    /// Products that must have capacity in force on the same server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Whether it counts on a standby node, and only there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub redundancy: bool,
    /// What a suite stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub includes: Vec<Self>,
}

impl Entitlement {
    /// A line with nothing special about it.
    pub fn new(kind: EntitlementKind, product: impl Into<String>, quantity: Option<u32>) -> Self {
        Self {
            kind,
            product: product.into(),
            quantity,
            consumed: None,
            requires: Vec::new(),
            redundancy: false,
            includes: Vec::new(),
        }
    }
}

/// A licence. Made by the issuer, never changed: a new one replaces it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Its code, once per issuer.
    #[serde(rename = "jti")]
    pub code: String,
    /// Who issued it.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// For whom.
    #[serde(rename = "sub")]
    pub customer: String,
    /// How long it holds.
    pub kind: Kind,
    /// When it was issued.
    #[serde(rename = "iat")]
    pub issued: Wall,
    /// From when it holds; without it, from its issue.
    #[serde(rename = "nbf", default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Wall>,
    /// Until when it holds; only a permanent one has none.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Wall>,
    /// The token of the one server it is for; without it, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What it grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entitlements: Vec<Entitlement>,
    /// Codes it takes the place of, from the day it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// Codes that no longer hold, from the day it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revokes: Vec<String>,
}

impl Licence {
    /// From when it holds.
    pub fn start(&self) -> Wall {
        self.not_before.unwrap_or(self.issued)
    }

    /// The lines that count, suites taken apart.
    pub fn lines(&self) -> Vec<Entitlement> {
        let mut lines = Vec::new();
        for line in &self.entitlements {
            if line.kind != EntitlementKind::Suite {
                lines.push(line.clone());
                continue;
            }
            let times = line.quantity.unwrap_or(1);
            for part in &line.includes {
                let mut part = part.clone();
                part.quantity = part.quantity.map(|quantity| quantity.saturating_mul(times));
                part.redundancy |= line.redundancy;
                part.requires.extend(line.requires.iter().cloned());
                lines.push(part);
            }
        }
        lines
    }

    /// What is wrong with the claims themselves, whoever signed them.
    pub fn check(&self) -> Result<(), Rejection> {
        let wrong = |what: String| Err(Rejection::Claims(what));
        let mut products = BTreeSet::new();
        let listed = || self.replaces.iter().chain(&self.revokes);
        let names = [&self.code, &self.issuer, &self.customer].into_iter().chain(&self.server).chain(listed());
        for name in names {
            if !is_name(name) {
                return wrong(format!("{name:?} is no name: 1 to {NAME_MAX} octets, no control characters"));
            }
        }
        if listed().any(|code| *code == self.code) {
            return wrong(format!("it replaces or revokes itself ({})", self.code));
        }
        match (self.kind, self.expires) {
            (Kind::Permanent, Some(_)) => return wrong("a permanent licence does not expire".into()),
            (Kind::Subscription | Kind::Temporary | Kind::Trial, None) => {
                return wrong(format!("a {} licence must say when it expires", self.kind.label()));
            }
            (_, Some(expires)) if expires <= self.start() => {
                return wrong(format!("it expires ({expires}) before it begins ({})", self.start()));
            }
            (Kind::Permanent, None) | (Kind::Subscription | Kind::Temporary | Kind::Trial, Some(_)) => {}
        }
        if self.kind == Kind::Trial && self.server.is_none() {
            return wrong("a trial licence must name the server it is for (--server TOKEN)".into());
        }
        if self.entitlements.is_empty() && self.revokes.is_empty() {
            return wrong("it grants nothing".into());
        }
        let count: usize = self.entitlements.iter().map(|line| 1 + line.includes.len()).sum();
        if count > ENTITLEMENTS_MAX {
            return wrong(format!("{count} entitlements; at most {ENTITLEMENTS_MAX}"));
        }
        for line in &self.entitlements {
            check_line(line)?;
            for part in &line.includes {
                if part.kind == EntitlementKind::Suite {
                    return wrong(format!("suite {:?} holds another suite, {:?}", line.product, part.product));
                }
                check_line(part)?;
            }
        }
        for line in self.lines() {
            if !products.insert((line.kind.label(), line.product.clone(), line.redundancy)) {
                return wrong(format!("{} {:?} is there twice", line.kind.label(), line.product));
            }
        }
        Ok(())
    }
}

fn check_line(line: &Entitlement) -> Result<(), Rejection> {
    let wrong = |what: &str| Err(Rejection::Claims(format!("{} {:?} {what}", line.kind.label(), line.product)));
    // Better refused than read as something else.
    match (line.kind, line.consumed) {
        (EntitlementKind::Capacity, Some(Consumed::Configured)) => {
            return wrong("is consumed when configured; this version knows channels that are consumed when used");
        }
        (EntitlementKind::Count, Some(Consumed::Used)) => {
            return wrong("is consumed when used; this version knows counts that are consumed when configured");
        }
        (EntitlementKind::Feature | EntitlementKind::Suite, Some(_)) => return wrong("is not consumed at all"),
        (_, None)
        | (EntitlementKind::Capacity, Some(Consumed::Used))
        | (EntitlementKind::Count, Some(Consumed::Configured)) => {}
    }
    if !is_name(&line.product) || !line.requires.iter().all(|name| is_name(name)) {
        return wrong("has no proper name");
    }
    match (line.kind, line.quantity) {
        (EntitlementKind::Capacity | EntitlementKind::Count, None | Some(0)) => return wrong("must say how many"),
        (EntitlementKind::Suite, Some(0)) => return wrong("must be there at least once"),
        (EntitlementKind::Feature, Some(_)) => return wrong("is there or not; it has no quantity"),
        (EntitlementKind::Capacity | EntitlementKind::Count | EntitlementKind::Suite, _)
        | (EntitlementKind::Feature, None) => {}
    }
    match (line.kind, line.includes.is_empty()) {
        (EntitlementKind::Suite, true) => wrong("includes nothing"),
        (EntitlementKind::Capacity | EntitlementKind::Feature | EntitlementKind::Count, false) => {
            wrong("is no suite and includes nothing else")
        }
        (EntitlementKind::Suite, false)
        | (EntitlementKind::Capacity | EntitlementKind::Feature | EntitlementKind::Count, true) => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control)
}
