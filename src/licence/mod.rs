//! Licences: what a signed document grants, and what all of them together allow at a given moment.
//!
//! Pure: documents and a date go in, a [`Standing`] comes out. Reading signatures and files is the shell's (`vault`).
//! What the words mean is taken from the seed documents: licences add up and are capped by the platform (003), a feature
//! needs a capacity on the same server (000), redundancy licences count on a standby node only (004), each kind has its
//! term (001).

pub mod claims;
pub mod plan;
pub mod rejection;
pub mod standing;
pub mod watch;

pub use claims::{Entitlement, EntitlementKind, Kind, Licence};
pub use plan::{Change, Obstacle, Wanted};
pub use rejection::Rejection;
pub use standing::{Row, Standing, State, Terms};
pub use watch::Watch;

use serde::{Deserialize, Serialize};

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A moment by the clock on the wall: seconds since 1970-01-01 UTC (the NumericDate of RFC 7519 §2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub i64);

impl Wall {
    /// So many days later.
    pub const fn plus_days(self, days: i64) -> Self {
        Self(self.0.saturating_add(days.saturating_mul(DAY)))
    }

    /// The last day before this moment, in UTC: a term that ends at midnight ends with the day before.
    pub fn last_day(self) -> String {
        let last = Self(self.0.saturating_sub(1));
        jiff::Timestamp::from_second(last.0)
            .map_or_else(|_| last.0.to_string(), |at| at.to_zoned(jiff::tz::TimeZone::UTC).date().to_string())
    }

    /// Days from `now` until this moment, begun ones counted whole; 0 when it has passed.
    pub const fn days_after(self, now: Self) -> i64 {
        let seconds = self.0.saturating_sub(now.0);
        if seconds <= 0 { 0 } else { seconds.saturating_add(DAY - 1) / DAY }
    }
}

impl std::fmt::Display for Wall {
    /// The date, and the time of day when it is not midnight, in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(at) if self.0.rem_euclid(DAY) == 0 => write!(f, "{}", at.to_zoned(jiff::tz::TimeZone::UTC).date()),
            Ok(at) => write!(f, "{at}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begun_is_a_day_left() {
        let now = Wall(1_000_000);
        assert_eq!(now.plus_days(30).days_after(now), 30);
        assert_eq!(Wall(now.0 + 1).days_after(now), 1);
        assert_eq!((now.days_after(now), Wall(0).days_after(now)), (0, 0));
        assert_eq!(Wall(i64::MAX).days_after(Wall(i64::MIN)), i64::MAX / DAY);
    }

    #[test]
    fn moments_are_shown_as_dates() {
        assert_eq!(Wall(20_000 * DAY).to_string(), "2024-10-04");
        assert_eq!(Wall(20_000 * DAY + 3600).to_string(), "2024-10-04T01:00:00Z");
        assert_eq!(Wall(i64::MAX).to_string(), i64::MAX.to_string());
    }
}
