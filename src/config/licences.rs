//! Licences in the configuration: whose signatures are trusted, and which pools and services depend on them.

use std::collections::BTreeMap;

use super::check::{position, read_name, sections_bounded};
use super::file::{Problems, Section};
use super::{Pool, Service};
use crate::licence::Wanted;
use crate::licence::plan::{WantedPool, WantedService};

/// Channels of a licensed pool in the trial period, unless the configuration says otherwise.
const TRIAL_CHANNELS: u32 = 30;

/// Somebody whose licences are accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issuer {
    /// As the licences name them.
    pub name: Box<str>,
    /// Their public key, Ed25519, base64url (RFC 8037 §2, `x`).
    pub key: Box<str>,
}

/// The section `[licence]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Licensing {
    /// Whose licences are accepted.
    pub issuers: Vec<Issuer>,
    /// Whether this node is a standby, so that redundancy licences count.
    pub standby: bool,
    /// Days an expired licence goes on counting.
    pub grace_days: u32,
    /// The most channels of one product that work here.
    pub platform_channels: Option<u32>,
}

impl Licensing {
    /// The names of the issuers, for an error message.
    pub fn issuer_names(&self) -> String {
        let names: Vec<&str> = self.issuers.iter().map(|issuer| &*issuer.name).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// The product a pool's channels come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Licensed {
    /// The product.
    pub product: Box<str>,
    /// Channels in the trial period.
    pub trial_channels: u32,
}

pub(super) fn read_licensing(root: &mut Section, problems: &mut Problems) -> Licensing {
    let Some(mut section) = root.section(problems, "licence") else { return Licensing::default() };
    let (mut issuers, mut seen) = (Vec::<Issuer>::new(), BTreeMap::new());
    for mut issuer in sections_bounded(&mut section, problems, "issuer") {
        let name = read_name(&mut issuer, problems, &mut seen);
        let key = issuer.needed_string(problems, "key", "\"…\", as sipweir licence keygen prints it");
        if let Some(key) = key {
            let is_key = key.len() == 43 && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
            if !is_key {
                problems.add(
                    issuer.key("key"),
                    format!("{key:?} is no public key"),
                    "write the 43 characters sipweir licence keygen prints (Ed25519, base64url)",
                );
            }
            issuers.push(Issuer { name: name.into(), key: key.into() });
        }
        issuer.finish(problems);
    }
    let licensing = Licensing {
        issuers,
        standby: section.flag(problems, "standby").unwrap_or(false),
        grace_days: section.number(problems, "grace_days", 0..=90).unwrap_or(0),
        platform_channels: section.number(problems, "platform_channels", 1..=10_000_000),
    };
    section.finish(problems);
    licensing
}

/// `licence` and `trial_channels` of a pool.
pub(super) fn read_licensed(section: &mut Section, problems: &mut Problems) -> Option<Licensed> {
    let product = section.string(problems, "licence");
    let trial_channels = section.number(problems, "trial_channels", 0..=10_000_000);
    match (&product, section.has("channels")) {
        (None, false) => problems.add(
            section.key("channels"),
            "is missing",
            "write channels = 30, or licence = \"advanced-queueing\" when licences say how many",
        ),
        (Some(product), true) => problems.add(
            section.key("channels"),
            format!("is there besides licence = {product:?}"),
            "keep one of them; trial_channels says how many there are in the trial period",
        ),
        (Some(_), false) | (None, true) => {}
    }
    if product.is_none() && trial_channels.is_some() {
        problems.add(section.key("trial_channels"), "is there without licence", "remove it, or name a product");
    }
    if product.as_deref() == Some("") {
        problems.add(section.key("licence"), "is empty", "name a product, such as \"advanced-queueing\"");
    }
    let trial_channels = trial_channels.unwrap_or(TRIAL_CHANNELS);
    product.map(|product| Licensed { product: product.into(), trial_channels })
}

/// What only the whole shows: a licensed pool needs a place for its licences, and somebody to issue them.
pub(super) fn check_licensing(
    problems: &mut Problems,
    (licensing, pools): (&Licensing, &[Pool]),
    services: &[Service],
    has_data_dir: bool,
) {
    let licensed = pools.iter().find(|pool| pool.licence.is_some());
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for pool in pools {
        let Some(licence) = &pool.licence else { continue };
        if let Some(other) = taken.insert(&licence.product, &pool.settings.name) {
            problems.add(
                format!("pool {:?}", pool.settings.name),
                format!("takes its channels from {:?}, as pool {other:?} does", licence.product),
                "channels of one product are one pool: let the services of both share it, with reserve and limit",
            );
        }
    }
    let service = services.iter().find(|service| service.feature.is_some() || service.counted.is_some());
    let Some(who) = licensed
        .map(|pool| format!("pool {:?}", pool.settings.name))
        .or_else(|| service.map(|service| format!("service {:?}", service.name)))
    else {
        return;
    };
    if !has_data_dir {
        problems.add(
            "node.data_dir",
            format!("is missing, and {who} depends on licences"),
            "write data_dir = \"/var/lib/sipweir\": licences are kept there",
        );
    }
    if licensing.issuers.is_empty() {
        problems.add(
            "licence.issuer",
            format!("there is none, and {who} depends on licences"),
            "add [[licence.issuer]] with the name and the public key of whoever issues them",
        );
    }
}

/// `feature` and `counted` of a service. An IVR service on a licensed pool needs the feature `ivr` (seed 000).
pub(super) fn read_needs(
    section: &mut Section,
    problems: &mut Problems,
    is_ivr: bool,
    pool: Option<&Pool>,
) -> (Option<Box<str>>, Option<Box<str>>) {
    let is_licensed = pool.is_some_and(|pool| pool.licence.is_some());
    let feature = section.string(problems, "feature").or_else(|| (is_ivr && is_licensed).then(|| "ivr".into()));
    let counted = section.string(problems, "counted");
    let name = |text: Option<String>| text.filter(|text| !text.is_empty()).map(String::into_boxed_str);
    (name(feature), name(counted))
}

/// What pools and services ask of licences.
pub(super) fn wanted(pools: &[Pool], services: &[Service]) -> Wanted {
    let licensed = |pool: &Pool| {
        let Licensed { product, trial_channels } = pool.licence.clone()?;
        Some(WantedPool { name: pool.settings.name.clone(), product, trial_channels })
    };
    let of_pool = |service: &Service| {
        let at = position(pools, service.pool.as_deref()?, |pool| &pool.settings.name)?;
        pools[at].licence.as_ref().map(|licence| licence.product.clone())
    };
    Wanted {
        pools: pools.iter().filter_map(licensed).collect(),
        services: services
            .iter()
            .map(|service| WantedService {
                name: service.name.clone(),
                capacity: of_pool(service),
                reserve: service.reserve,
                feature: service.feature.clone(),
                counted: service.counted.clone(),
            })
            .filter(|service| service.capacity.is_some() || service.feature.is_some() || service.counted.is_some())
            .collect(),
    }
}
