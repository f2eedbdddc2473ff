//! Why a call got no channel, in order of precedence: the admission ladder.

use std::fmt;

/// A rung of the ladder that said no. Earlier variants are asked first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// The source address belongs to no trunk.
    UnknownTrunk,
    /// The node has more work than time.
    Overload,
    /// The address has sent as many calls lately as it may (`source_rate` of its trunk).
    SourceRate,
    /// The trunk has sent as many calls lately as it may (`rate`).
    TrunkRate,
    /// The node holds as many calls as it may (`limits.calls`).
    NodeFull,
    /// The trunk has as many calls as it may (`max_calls`).
    TrunkFull,
    /// No service has the called number.
    UnknownService,
    /// The service has had as many calls lately as it may (`rate`).
    ServiceRate,
    /// A licence the service needs is missing or not in force.
    Unlicensed,
    /// The service has as many calls as it may (`limit`).
    ServiceFull,
    /// No channel is free in the service's pool, or those free are reserved for other services.
    PoolFull,
    /// The call was admitted, but its target refused it with 503, did not answer, or could not be reached.
    TargetFailed,
}

impl Refusal {
    /// Every refusal, in order of precedence.
    pub const ALL: [Self; 12] = [
        Self::UnknownTrunk,
        Self::Overload,
        Self::SourceRate,
        Self::TrunkRate,
        Self::NodeFull,
        Self::TrunkFull,
        Self::UnknownService,
        Self::ServiceRate,
        Self::Unlicensed,
        Self::ServiceFull,
        Self::PoolFull,
        Self::TargetFailed,
    ];

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownTrunk => "unknown_trunk",
            Self::Overload => "overload",
            Self::SourceRate => "source_rate",
            Self::TrunkRate => "trunk_rate",
            Self::ServiceRate => "service_rate",
            Self::NodeFull => "node_full",
            Self::TrunkFull => "trunk_full",
            Self::UnknownService => "unknown_service",
            Self::Unlicensed => "unlicensed",
            Self::ServiceFull => "service_full",
            Self::PoolFull => "pool_full",
            Self::TargetFailed => "target_failed",
        }
    }

    /// The status of the answer when no plan says otherwise. A full pool, service or trunk is busy, not out of
    /// service: a 503 would tell the carrier to send nothing at all (RFC 3261 §21.5.4).
    pub const fn status(self) -> u16 {
        match self {
            Self::UnknownTrunk => 403,
            Self::Overload | Self::NodeFull => 503,
            Self::UnknownService => 404,
            Self::TrunkFull | Self::ServiceFull | Self::PoolFull => 486,
            Self::SourceRate | Self::TrunkRate | Self::ServiceRate | Self::Unlicensed | Self::TargetFailed => 480,
        }
    }

    /// The Q.850 cause for the Reason header (RFC 3326): 34 no circuit or channel available, 42 switching equipment
    /// congestion, 27 destination out of order, 1 unallocated number, 21 call rejected, 50 requested facility not
    /// subscribed.
    pub const fn cause(self) -> u8 {
        match self {
            Self::UnknownTrunk => 21,
            Self::Overload | Self::NodeFull | Self::SourceRate | Self::TrunkRate | Self::ServiceRate => 42,
            Self::UnknownService => 1,
            Self::TrunkFull | Self::ServiceFull | Self::PoolFull => 34,
            Self::Unlicensed => 50,
            Self::TargetFailed => 27,
        }
    }

    /// Whether the called service's overflow plan is taken.
    pub const fn takes_plan(self) -> bool {
        matches!(self, Self::ServiceRate | Self::Unlicensed | Self::ServiceFull | Self::PoolFull | Self::TargetFailed)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownTrunk => "the source address belongs to no trunk",
            Self::Overload => "the node has more work than time",
            Self::SourceRate => "the source sends calls faster than its trunk's source_rate allows",
            Self::TrunkRate => "the trunk sends calls faster than its rate allows",
            Self::ServiceRate => "the service gets calls faster than its rate allows",
            Self::NodeFull => "the node holds as many calls as limits.calls allows",
            Self::TrunkFull => "the trunk has as many calls as its max_calls allows",
            Self::UnknownService => "no service has the called number",
            Self::Unlicensed => "a licence the service needs is missing or not in force",
            Self::ServiceFull => "the service has as many calls as its limit allows",
            Self::PoolFull => "the pool has no free channel for this service",
            Self::TargetFailed => "the target refused the call, did not answer, or could not be reached",
        })
    }
}
