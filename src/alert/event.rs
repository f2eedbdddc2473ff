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
    /// An emergency call came in.
    EmergencyCall,
    /// A trunk has as many calls as it may, and another came.
    TrunkLimit,
    /// A trunk that was at its limit has room again.
    TrunkLimitOver,
    /// Calls of a trunk, or to a service, come faster than they may.
    RateLimit,
    /// None was refused for that for ten seconds.
    RateLimitOver,
    /// As many calls of a service wait as may, and another came.
    QueueFull,
    /// The queue has room again.
    QueueRecovered,
    /// An address of a target does not answer.
    TargetDown,
    /// It answers again.
    TargetUp,
    /// A target's name cannot be looked up.
    NameFailing,
    /// It can again.
    NameResolved,
    /// The node has more work than time and refuses some new calls.
    Overload,
    /// No call was refused for overload for a second.
    OverloadOver,
    /// A product or feature that is configured has no licence in force.
    LicenceMissing,
    /// A product or feature that was missing is in force.
    LicenceInForce,
    /// A licence ends in 30, 14, 7 or 1 days.
    LicenceExpiring,
    /// A licence ended.
    LicenceExpired,
    /// A licence was not accepted.
    LicenceRefused,
    /// A licence was installed or removed.
    LicenceChanged,
    /// The clock was set back.
    LicenceClock,
    /// A call came to a service that lacks a licence.
    ServiceUnlicensed,
    /// A service that lacked a licence has it.
    ServiceLicensed,
    /// A sink does not take what it is sent.
    SinkFailing,
    /// A sink that failed takes what it is sent.
    SinkRecovered,
    /// A listener's certificate ends in 30, 14, 7 or 1 days, or has ended.
    CertificateExpiring,
    /// Connections are refused: there are too many, or the system gives no more.
    ConnectionsRefused,
    /// None was refused for a minute.
    ConnectionsAccepted,
    /// Some call gives no sign of life.
    CallsSuspect,
    /// No call is suspect any more.
    CallsAlive,
    /// What is counted is not what calls hold.
    CountDrift,
    /// It is again.
    CountRight,
    /// A new configuration is in force.
    ConfigReloaded,
    /// A new configuration was refused; the old one stays in force.
    ConfigRefused,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 36] = [
        Self::PoolNearFull,
        Self::PoolExhausted,
        Self::PoolRecovered,
        Self::EmergencyCall,
        Self::TrunkLimit,
        Self::TrunkLimitOver,
        Self::RateLimit,
        Self::RateLimitOver,
        Self::QueueFull,
        Self::QueueRecovered,
        Self::TargetDown,
        Self::TargetUp,
        Self::NameFailing,
        Self::NameResolved,
        Self::Overload,
        Self::OverloadOver,
        Self::LicenceMissing,
        Self::LicenceInForce,
        Self::LicenceExpiring,
        Self::LicenceExpired,
        Self::LicenceRefused,
        Self::LicenceChanged,
        Self::LicenceClock,
        Self::ServiceUnlicensed,
        Self::ServiceLicensed,
        Self::SinkFailing,
        Self::SinkRecovered,
        Self::CertificateExpiring,
        Self::ConnectionsRefused,
        Self::ConnectionsAccepted,
        Self::CallsSuspect,
        Self::CallsAlive,
        Self::CountDrift,
        Self::CountRight,
        Self::ConfigReloaded,
        Self::ConfigRefused,
    ];

    /// The stable name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PoolNearFull => "pool_near_full",
            Self::PoolExhausted => "pool_exhausted",
            Self::PoolRecovered => "pool_recovered",
            Self::EmergencyCall => "emergency_call",
            Self::TrunkLimit => "trunk_limit",
            Self::TrunkLimitOver => "trunk_limit_over",
            Self::RateLimit => "rate_limit",
            Self::RateLimitOver => "rate_limit_over",
            Self::QueueFull => "queue_full",
            Self::QueueRecovered => "queue_recovered",
            Self::TargetDown => "target_down",
            Self::TargetUp => "target_up",
            Self::NameFailing => "name_failing",
            Self::NameResolved => "name_resolved",
            Self::Overload => "overload",
            Self::OverloadOver => "overload_over",
            Self::LicenceMissing => "licence_missing",
            Self::LicenceInForce => "licence_in_force",
            Self::LicenceExpiring => "licence_expiring",
            Self::LicenceExpired => "licence_expired",
            Self::LicenceRefused => "licence_refused",
            Self::LicenceChanged => "licence_changed",
            Self::LicenceClock => "licence_clock",
            Self::ServiceUnlicensed => "service_unlicensed",
            Self::ServiceLicensed => "service_licensed",
            Self::SinkFailing => "sink_failing",
            Self::SinkRecovered => "sink_recovered",
            Self::CertificateExpiring => "certificate_expiring",
            Self::ConnectionsRefused => "connections_refused",
            Self::ConnectionsAccepted => "connections_accepted",
            Self::CallsSuspect => "calls_suspect",
            Self::CallsAlive => "calls_alive",
            Self::CountDrift => "count_drift",
            Self::CountRight => "count_right",
            Self::ConfigReloaded => "config_reloaded",
            Self::ConfigRefused => "config_refused",
        }
    }

    /// How much it matters.
    pub const fn severity(self) -> Severity {
        match self {
            Self::NameFailing
            | Self::TrunkLimit
            | Self::QueueFull
            | Self::EmergencyCall
            | Self::RateLimit
            | Self::CertificateExpiring
            | Self::ConnectionsRefused
            | Self::CallsSuspect
            | Self::SinkFailing
            | Self::PoolNearFull
            | Self::LicenceExpiring
            | Self::LicenceClock => Severity::Warning,
            Self::PoolExhausted
            | Self::TargetDown
            | Self::CountDrift
            | Self::Overload
            | Self::ConfigRefused
            | Self::LicenceMissing
            | Self::LicenceExpired
            | Self::ServiceUnlicensed => Severity::Critical,
            Self::SinkRecovered
            | Self::TrunkLimitOver
            | Self::QueueRecovered
            | Self::RateLimitOver
            | Self::ConnectionsAccepted
            | Self::CallsAlive
            | Self::CountRight
            | Self::TargetUp
            | Self::NameResolved
            | Self::PoolRecovered
            | Self::OverloadOver
            | Self::ConfigReloaded
            | Self::LicenceInForce
            | Self::LicenceRefused
            | Self::LicenceChanged
            | Self::ServiceLicensed => Severity::Info,
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
            Self::EmergencyCall => "an emergency call came in; says which limit would have refused another call",
            Self::TrunkLimit => "a trunk has max_calls calls, and another one was refused",
            Self::TrunkLimitOver => "a trunk is below 70 % of max_calls again; says how many calls were refused",
            Self::RateLimit => "calls come by a trunk, or to a service, faster than its rate allows; some are refused",
            Self::RateLimitOver => {
                "no call was refused for its trunk's or service's rate for ten seconds; says how many were"
            }
            Self::QueueFull => {
                "as many calls of a service wait as its plan's length allows; the next took the next step"
            }
            Self::QueueRecovered => {
                "fewer than 70 % of the calls that may wait do; says how many calls found the queue full"
            }
            Self::TargetDown => "an address of a target failed down_after times in a row: calls go elsewhere",
            Self::TargetUp => "an address of a target answers again; says how many calls and probes failed meanwhile",
            Self::NameFailing => "the name of a target cannot be looked up; addresses it had before go on serving",
            Self::NameResolved => "the name of a target can be looked up again",
            Self::Overload => "the node has more work than time: some new calls get 503, calls in progress go on",
            Self::OverloadOver => "no call was refused for overload for a second; says how many were",
            Self::LicenceMissing => "no licence in force for a product or feature that is configured",
            Self::LicenceInForce => "a product or feature that was missing is in force",
            Self::LicenceExpiring => "a licence ends in 30, 14, 7 or 1 days",
            Self::LicenceExpired => "a licence ended; in grace it is said every day",
            Self::LicenceRefused => "a licence was not accepted; says why",
            Self::LicenceChanged => "a licence was installed or removed",
            Self::LicenceClock => "the clock was set back; licences are judged by the latest time seen",
            Self::ServiceUnlicensed => "a call came to a service that lacks a licence and took its unlicensed plan",
            Self::ServiceLicensed => "a service that lacked a licence has it; says how many calls were refused",
            Self::SinkFailing => "a sink does not take what it is sent; it is tried again, and nothing is lost yet",
            Self::SinkRecovered => "a sink that failed takes what it is sent; says for how long it did not",
            Self::CertificateExpiring => "a listener's certificate ends in 30, 14, 7 or 1 days, or has ended",
            Self::ConnectionsRefused => {
                "more connections than limits.connections, or of one source than its share, or than the system gives"
            }
            Self::ConnectionsAccepted => "no connection was refused for a minute; says how many were",
            Self::CallsSuspect => "calls give no sign of life; they make room when their pool is full",
            Self::CallsAlive => "no call is suspect any more",
            Self::CountDrift => {
                "what is counted is not what calls hold, which is a fault of sipweir; says what differs"
            }
            Self::CountRight => "what is counted is what calls hold again",
            Self::ConfigReloaded => "a new configuration is in force; calls in progress went on",
            Self::ConfigRefused => "a new configuration has problems; the old one stays in force",
        }
    }

    /// What the operator should do, for the catalogue.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::PoolNearFull => "watch it; when it is often so, order more channels",
            Self::PoolExhausted => {
                "see who holds them (sipweir calls --pool); order more channels, or improve the plan"
            }
            Self::EmergencyCall => {
                "nothing, or what your duties are; above its capacity a pool lets nobody else in meanwhile"
            }
            Self::TrunkLimit => {
                "see whether the carrier sends more than agreed; raise max_calls if the PBX can take it"
            }
            Self::CertificateExpiring => "renew the file and reload: no call goes over TLS when it has ended",
            Self::ConnectionsRefused => "see who opens so many (ss -tn); raise limits.connections or LimitNOFILE",
            Self::CallsSuspect => {
                "see whether the PBX knows them (sipweir calls); sipweir calls end frees what it does not"
            }
            Self::CountDrift => {
                "report it with the log; sipweir calls explain says what a call holds; a restart counts anew"
            }
            Self::ConnectionsAccepted | Self::CallsAlive | Self::CountRight => "nothing",
            Self::RateLimit => "see whether the calls are wanted; raise rate or burst if the PBX can take them",
            Self::QueueFull => "order more channels, or make the wait shorter: a longer queue only waits longer",
            Self::TargetDown => "see whether it runs and can be reached; sipweir targets shows all of them",
            Self::NameFailing => "see whether the name servers run, and whether the name is spelt as they know it",
            Self::TrunkLimitOver | Self::RateLimitOver | Self::QueueRecovered | Self::TargetUp | Self::NameResolved => {
                "nothing"
            }
            Self::PoolRecovered | Self::OverloadOver | Self::LicenceInForce | Self::LicenceChanged => "nothing",
            Self::Overload => "find out who calls so much (sipweir_trunk_calls); give the node a faster core",
            Self::LicenceMissing | Self::ServiceUnlicensed => "sipweir licence status says what; order and install it",
            Self::LicenceExpiring => "order a renewal and install it now: it begins by itself",
            Self::LicenceExpired => "install a renewal",
            Self::LicenceRefused => "do what the message says",
            Self::LicenceClock => "set the clock right; find out who set it back",
            Self::ServiceLicensed | Self::ConfigReloaded | Self::SinkRecovered => "nothing",
            Self::SinkFailing => {
                "see that what it sends to runs and can be reached; sipweir events test SINK says more"
            }
            Self::ConfigRefused => "sipweir check says what is wrong; correct it and reload",
        }
    }

    /// Whether it begins something that another event ends.
    pub const fn is_condition(self) -> bool {
        match self {
            Self::PoolNearFull
            | Self::PoolExhausted
            | Self::TrunkLimit
            | Self::QueueFull
            | Self::RateLimit
            | Self::ConnectionsRefused
            | Self::CallsSuspect
            | Self::CountDrift
            | Self::TargetDown
            | Self::NameFailing
            | Self::Overload
            | Self::LicenceMissing
            | Self::ServiceUnlicensed
            | Self::SinkFailing => true,
            Self::PoolRecovered
            | Self::TrunkLimitOver
            | Self::QueueRecovered
            | Self::RateLimitOver
            | Self::CertificateExpiring
            | Self::ConnectionsAccepted
            | Self::CallsAlive
            | Self::EmergencyCall
            | Self::CountRight
            | Self::TargetUp
            | Self::NameResolved
            | Self::OverloadOver
            | Self::LicenceInForce
            | Self::LicenceExpiring
            | Self::LicenceExpired
            | Self::LicenceRefused
            | Self::LicenceChanged
            | Self::LicenceClock
            | Self::ServiceLicensed
            | Self::SinkRecovered
            | Self::ConfigReloaded
            | Self::ConfigRefused => false,
        }
    }

    /// The conditions it ends.
    pub const fn resolves(self) -> &'static [Self] {
        match self {
            Self::PoolRecovered => &[Self::PoolNearFull, Self::PoolExhausted],
            Self::TrunkLimitOver => &[Self::TrunkLimit],
            Self::QueueRecovered => &[Self::QueueFull],
            Self::RateLimitOver => &[Self::RateLimit],
            Self::ConnectionsAccepted => &[Self::ConnectionsRefused],
            Self::CallsAlive => &[Self::CallsSuspect],
            Self::CountRight => &[Self::CountDrift],
            Self::TargetUp => &[Self::TargetDown],
            Self::NameResolved => &[Self::NameFailing],
            Self::OverloadOver => &[Self::Overload],
            Self::LicenceInForce => &[Self::LicenceMissing],
            Self::ServiceLicensed => &[Self::ServiceUnlicensed],
            Self::SinkRecovered => &[Self::SinkFailing],
            Self::CertificateExpiring
            | Self::PoolNearFull
            | Self::PoolExhausted
            | Self::TrunkLimit
            | Self::QueueFull
            | Self::RateLimit
            | Self::ConnectionsRefused
            | Self::CallsSuspect
            | Self::EmergencyCall
            | Self::CountDrift
            | Self::TargetDown
            | Self::NameFailing
            | Self::Overload
            | Self::LicenceMissing
            | Self::LicenceExpiring
            | Self::LicenceExpired
            | Self::LicenceRefused
            | Self::LicenceChanged
            | Self::LicenceClock
            | Self::ServiceUnlicensed
            | Self::SinkFailing
            | Self::ConfigReloaded
            | Self::ConfigRefused => &[],
        }
    }

    /// The catalogue, as a table of Markdown.
    pub fn catalogue() -> String {
        let mut table = "| event | severity | meaning | what to do |\n|---|---|---|---|\n".to_owned();
        for kind in Self::ALL {
            let (severity, meaning, remedy) = (kind.severity().label(), kind.meaning(), kind.remedy());
            table += &format!("| `{}` | {severity} | {meaning} | {remedy} |\n", kind.label());
        }
        table
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
    /// What else there is to say, for people.
    pub detail: Box<str>,
}

impl Event {
    /// An event without numbers.
    pub fn about(kind: EventKind, at: Instant, subject: &str) -> Self {
        Self { kind, at, subject: subject.into(), in_use: 0, capacity: 0, refused: 0, lasted_ms: 0, detail: "".into() }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, subject, in_use, capacity, refused, lasted_ms, detail, .. } = self;
        match kind {
            EventKind::PoolNearFull => write!(f, "pool {subject}: {in_use} of {capacity} channels in use"),
            EventKind::PoolExhausted => write!(f, "pool {subject}: all {capacity} channels in use"),
            EventKind::PoolRecovered => write!(
                f,
                "pool {subject}: {in_use} of {capacity} channels in use again after {}.{} s; {refused} calls refused meanwhile{}{detail}",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
                if detail.is_empty() { "" } else { ", most of " },
            ),
            EventKind::EmergencyCall => {
                write!(f, "emergency call to {subject} {detail}; {refused} more since the last told")
            }
            EventKind::TrunkLimit => write!(f, "trunk {subject}: all {capacity} calls it may have are there"),
            EventKind::TrunkLimitOver => write!(
                f,
                "trunk {subject}: {in_use} of {capacity} calls again after {}.{} s; {refused} calls refused meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::RateLimit => write!(f, "{subject}: calls come faster than {capacity} a second"),
            EventKind::RateLimitOver => write!(
                f,
                "{subject}: calls come slowly enough again after {}.{} s; {refused} calls refused meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::QueueFull => write!(f, "service {subject}: all {capacity} calls that may wait for a channel do"),
            EventKind::QueueRecovered => write!(
                f,
                "service {subject}: {in_use} of {capacity} calls wait for a channel again after {}.{} s; {refused} calls found no room to wait meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::TargetDown => write!(f, "target {subject}: {detail}"),
            EventKind::TargetUp => write!(
                f,
                "target {subject}: answers again after {}.{} s; {refused} calls and probes failed meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::NameFailing => write!(f, "name {subject}: {detail}"),
            EventKind::NameResolved => write!(f, "name {subject} is known again after {} s", lasted_ms / 1000),
            EventKind::Overload => write!(f, "{subject}: more calls than it can serve; some new ones get 503"),
            EventKind::OverloadOver => write!(
                f,
                "{subject}: serves every call again after {}.{} s; {refused} calls refused meanwhile",
                lasted_ms / 1000,
                lasted_ms % 1000 / 100,
            ),
            EventKind::LicenceMissing => write!(f, "no licence for {subject} is in force: {detail}"),
            EventKind::LicenceInForce => write!(f, "{subject} is no longer missing"),
            EventKind::LicenceExpiring | EventKind::LicenceExpired => write!(f, "licence {subject}: {detail}"),
            EventKind::LicenceRefused => write!(f, "licence {subject} refused: {detail}"),
            EventKind::LicenceChanged => write!(f, "licence {subject} {detail}"),
            EventKind::LicenceClock => write!(f, "the clock was set back: {detail}"),
            EventKind::ServiceUnlicensed => {
                write!(f, "service {subject}: {detail}; its calls take the unlicensed plan")
            }
            EventKind::ServiceLicensed => write!(
                f,
                "service {subject} is licensed again after {} s; {refused} calls took the unlicensed plan meanwhile",
                lasted_ms / 1000,
            ),
            EventKind::SinkFailing => write!(f, "sink {subject}: {detail}"),
            EventKind::SinkRecovered => {
                write!(f, "sink {subject} takes what it is sent again after {} s", lasted_ms / 1000)
            }
            EventKind::CertificateExpiring => write!(f, "certificate {subject}: {detail}"),
            EventKind::ConnectionsRefused => write!(f, "{subject}: connections are refused; {in_use} are open"),
            EventKind::ConnectionsAccepted => write!(
                f,
                "{subject}: connections are accepted again after {} s; {refused} were refused",
                lasted_ms / 1000
            ),
            EventKind::CallsSuspect => write!(f, "{subject}: {in_use} calls give no sign of life"),
            EventKind::CallsAlive => write!(f, "{subject}: no call is suspect any more after {} s", lasted_ms / 1000),
            EventKind::CountDrift => write!(f, "the count is wrong: {detail}"),
            EventKind::CountRight => write!(f, "the count is right again after {} s", lasted_ms / 1000),
            EventKind::ConfigReloaded => write!(f, "configuration reloaded: {subject}"),
            EventKind::ConfigRefused => write!(f, "configuration refused, the old one stays in force: {subject}"),
        }
    }
}
