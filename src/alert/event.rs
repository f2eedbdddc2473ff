//! [`Event`]: something an operator should know. Its name is stable: alerts and scripts are written against it.

use std::fmt;

use crate::time::Instant;

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it today.
    Warning,
    /// Callers notice.
    Critical,
}

impl Severity {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// A pool passed its near-full mark.
    PoolNearFull,
    /// The last channel of a pool was taken, or a call found none.
    PoolExhausted,
    /// A pool that was near full or exhausted has room again.
    PoolRecovered,
    /// The node has more work than time and refuses some new calls.
    Overload,
    /// No call was refused for overload for a second.
    OverloadOver,
    /// A new configuration is in force.
    ConfigReloaded,
    /// A new configuration was refused; the old one stays in force.
    ConfigRefused,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::PoolNearFull,
        Self::PoolExhausted,
        Self::PoolRecovered,
        Self::Overload,
        Self::OverloadOver,
        Self::ConfigReloaded,
        Self::ConfigRefused,
    ];

    /// The stable name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PoolNearFull => "pool_near_full",
            Self::PoolExhausted => "pool_exhausted",
            Self::PoolRecovered => "pool_recovered",
            Self::Overload => "overload",
            Self::OverloadOver => "overload_over",
            Self::ConfigReloaded => "config_reloaded",
            Self::ConfigRefused => "config_refused",
        }
    }

    /// How much it matters.
    pub const fn severity(self) -> Severity {
        match self {
            Self::PoolNearFull => Severity::Warning,
            Self::PoolExhausted | Self::Overload | Self::ConfigRefused => Severity::Critical,
            Self::PoolRecovered | Self::OverloadOver | Self::ConfigReloaded => Severity::Info,
        }
    }

    /// What it means, for the catalogue.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::PoolNearFull => "channels in use passed near_full_percent of the pool's capacity",
            Self::PoolExhausted => "no channel is free; further calls take their service's overflow plan",
            Self::PoolRecovered => {
                "channels in use fell below recovered_percent; says how many calls were refused meanwhile"
            }
            Self::Overload => "the node has more work than time: some new calls get 503, calls in progress go on",
            Self::OverloadOver => "no call was refused for overload for a second; says how many were",
            Self::ConfigReloaded => "a new configuration is in force; calls in progress went on",
            Self::ConfigRefused => "a new configuration has problems; the old one stays in force",
        }
    }
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Instant,
    /// The pool, or whatever else it is about.
    pub subject: Box<str>,
    /// Channels in use.
    pub in_use: u32,
    /// Channels there are.
    pub capacity: u32,
    /// Calls refused since the condition began.
    pub refused: u64,
    /// How long the condition lasted, in milliseconds; 0 when it begins.
    pub lasted_ms: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, subject, in_use, capacity, refused, lasted_ms, .. } = self;
        match kind {
            EventKind::PoolNearFull => write!(f, "pool {subject}: {in_use} of {capacity} channels in use"),
            EventKind::PoolExhausted => write!(f, "pool {subject}: all {capacity} channels in use"),
            EventKind::PoolRecovered => write!(
                f,
                "pool {subject}: {in_use} of {capacity} channels in use again after {}.{} s; {refused} calls refused meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::Overload => write!(f, "{subject}: more calls than it can serve; some new ones get 503"),
            EventKind::OverloadOver => write!(
                f,
                "{subject}: serves every call again after {}.{} s; {refused} calls refused meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::ConfigReloaded => write!(f, "configuration reloaded: {subject}"),
            EventKind::ConfigRefused => write!(f, "configuration refused, the old one stays in force: {subject}"),
        }
    }
}
