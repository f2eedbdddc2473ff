//! What a change of licences would do to this node: the dry run, and what stands in its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Standing;

/// What the configuration asks of licences.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Pools whose channels come from licences.
    pub pools: Vec<WantedPool>,
    /// Services that need something of licences.
    pub services: Vec<WantedService>,
}

/// A pool whose channels come from licences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedPool {
    /// Its name.
    pub name: Box<str>,
    /// The product that gives its channels.
    pub product: Box<str>,
    /// Its channels while the trial period runs and no licence gives any.
    pub trial_channels: u32,
}

/// What a service asks of licences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedService {
    /// Its name.
    pub name: Box<str>,
    /// The product that gives its pool's channels, when one does.
    pub capacity: Option<Box<str>>,
    /// Channels of the pool kept for it.
    pub reserve: u32,
    /// The feature it needs.
    pub feature: Option<Box<str>>,
    /// The counted product it takes one of, by being configured.
    pub counted: Option<Box<str>>,
}

/// What a service lacks. The order is that in which it is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lack {
    /// The pool's product has no channels in force.
    Capacity,
    /// The feature is not in force.
    Feature,
    /// More services are configured than licensed, and this one came too late.
    Count,
}

impl WantedService {
    /// What it lacks, with the name of it.
    pub fn says(&self, lack: Lack) -> String {
        let of = match lack {
            Lack::Capacity => &self.capacity,
            Lack::Feature => &self.feature,
            Lack::Count => &self.counted,
        };
        format!("{} ({})", lack.label(), of.as_deref().unwrap_or_default())
    }
}

impl Lack {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Capacity => "no capacity licence",
            Self::Feature => "no feature licence",
            Self::Count => "more services than licensed",
        }
    }
}

impl Wanted {
    /// Whether anything depends on licences.
    pub fn is_nothing(&self) -> bool {
        self.pools.is_empty()
            && self.services.iter().all(|service| service.feature.is_none() && service.counted.is_none())
    }

    /// The channels of a pool.
    pub fn channels(pool: &WantedPool, standing: &Standing) -> u32 {
        match standing.channels.get(&*pool.product) {
            Some(channels) => *channels,
            None if standing.trial_until.is_some() => pool.trial_channels,
            None => 0,
        }
    }

    /// What each service lacks, in the order of [`Wanted::services`]. While the trial period runs nothing does.
    pub fn lacks(&self, standing: &Standing) -> Vec<Option<Lack>> {
        let mut taken: BTreeMap<&str, u32> = BTreeMap::new();
        self.services
            .iter()
            .map(|service| {
                let over = service.counted.as_ref().is_some_and(|product| {
                    let taken = taken.entry(&**product).or_default();
                    *taken += 1;
                    *taken > standing.counts.get(&**product).copied().unwrap_or(0)
                });
                let has_capacity = service.capacity.as_ref().is_none_or(|product| standing.has_capacity(product));
                let has_feature = service.feature.as_ref().is_none_or(|feature| standing.features.contains(&**feature));
                match () {
                    () if standing.trial_until.is_some() => None,
                    () if !has_capacity => Some(Lack::Capacity),
                    () if !has_feature => Some(Lack::Feature),
                    () if over => Some(Lack::Count),
                    () => None,
                }
            })
            .collect()
    }

    /// Whether anything would be missing without the trial period.
    pub fn leans_on_trial(&self, standing: &Standing) -> bool {
        let without = Standing { trial_until: None, ..standing.clone() };
        standing.trial_until.is_some() && self.lacks(&without).iter().any(Option::is_some)
    }

    /// The products that have no capacity, and the features not in force, that something configured needs.
    pub fn missing(&self, standing: &Standing) -> BTreeSet<Box<str>> {
        if standing.trial_until.is_some() {
            return BTreeSet::new();
        }
        let products = self.pools.iter().map(|pool| &pool.product).filter(|product| !standing.has_capacity(product));
        let features = self.services.iter().filter_map(|service| service.feature.as_ref());
        products.chain(features.filter(|feature| !standing.features.contains(&***feature))).cloned().collect()
    }

    /// What must be freed before `after` may take the place of `before`: only where it gives less than `before` did, so
    /// that nobody is kept from repairing what was wrong already.
    pub fn obstacles(&self, before: &Standing, after: &Standing) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        for pool in &self.pools {
            let (was, channels) = (Self::channels(pool, before), Self::channels(pool, after));
            let kept: Vec<(Box<str>, u32)> = self
                .services
                .iter()
                .filter(|service| service.capacity.as_ref() == Some(&pool.product) && service.reserve > 0)
                .map(|service| (service.name.clone(), service.reserve))
                .collect();
            let reserved = kept.iter().fold(0, |sum: u32, (_, reserve)| sum.saturating_add(*reserve));
            if channels < was && reserved > channels {
                obstacles.push(Obstacle::Reserved { pool: pool.name.clone(), channels, reserved, kept });
            }
        }
        let products: BTreeSet<&Box<str>> =
            self.services.iter().filter_map(|service| service.counted.as_ref()).collect();
        for product in products {
            let of = |standing: &Standing| standing.counts.get(&**product).copied().unwrap_or(0);
            let services: Vec<Box<str>> = self
                .services
                .iter()
                .filter(|service| service.counted.as_ref() == Some(product))
                .map(|service| service.name.clone())
                .collect();
            if of(after) < of(before) && services.len() > of(after) as usize {
                obstacles.push(Obstacle::Counted { product: product.clone(), licensed: of(after), services });
            }
        }
        obstacles
    }

    /// The dry run: every pool and service that changes.
    pub fn changes(&self, before: &Standing, after: &Standing) -> Vec<Change> {
        let pools = self.pools.iter().map(|pool| {
            let (was, will_be) = (Self::channels(pool, before), Self::channels(pool, after));
            Change { what: format!("pool {}", pool.name), before: channels(was), after: channels(will_be) }
        });
        let services =
            self.services.iter().zip(self.lacks(before)).zip(self.lacks(after)).map(|((service, was), is)| {
                let says = |lack: Option<Lack>| lack.map_or_else(|| "licensed".into(), |lack| service.says(lack));
                Change { what: format!("service {}", service.name), before: says(was), after: says(is) }
            });
        pools.chain(services).filter(|change| change.before != change.after).collect()
    }
}

fn channels(count: u32) -> String {
    if count == 1 { "1 channel".into() } else { format!("{count} channels") }
}

/// One line of a dry run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The pool or service.
    pub what: String,
    /// What it has now.
    pub before: String,
    /// What it would have.
    pub after: String,
}

/// What is configured and would no longer be covered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Services keep more channels of a pool than there would be.
    Reserved {
        /// The pool.
        pool: Box<str>,
        /// Channels there would be.
        channels: u32,
        /// Channels kept.
        reserved: u32,
        /// By whom.
        kept: Vec<(Box<str>, u32)>,
    },
    /// More services are configured than would be licensed.
    Counted {
        /// The counted product.
        product: Box<str>,
        /// How many would be licensed.
        licensed: u32,
        /// Those configured.
        services: Vec<Box<str>>,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved { pool, channels, reserved, kept } => {
                let kept: Vec<String> = kept.iter().map(|(name, reserve)| format!("{name} {reserve}")).collect();
                let over = reserved - channels;
                let kept = kept.join(", ");
                write!(
                    f,
                    "pool {pool}: {channels} channels, and services reserve {reserved} ({kept}): lower reserve by {over}"
                )
            }
            Self::Counted { product, licensed, services } => {
                let over = services.len() - *licensed as usize;
                let names = services.join(", ");
                let of = services.len();
                write!(f, "{product}: {licensed} licensed, and {of} configured ({names}): remove {over}")
            }
        }
    }
}
