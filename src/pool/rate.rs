//! New calls a second: the generic cell rate algorithm (ITU-T I.371), one number a limit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::time::Instant;

/// What the configuration says of a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateSettings {
    /// Calls a second in the long run.
    pub rate: u32,
    /// Calls that may come at once after a pause.
    pub burst: u32,
    /// Once a call was refused, calls are let in again when so much of the burst is free, in percent: not one at a time.
    pub resume_percent: u32,
}

impl RateSettings {
    /// Between two calls, in nanoseconds.
    fn interval(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate.max(1))
    }
}

/// Where a limit stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bucket {
    /// When all that came is paid for, in nanoseconds.
    paid: u64,
    is_closed: bool,
}

impl Bucket {
    /// Whether another call fits now.
    pub(crate) fn fits(&mut self, now: Instant, settings: &RateSettings) -> bool {
        let burst = settings.interval() * u64::from(settings.burst);
        // Under a limit that was made smaller nobody pays for longer than its burst lasts.
        self.paid = self.paid.min(nanos(now) + burst);
        let owed = self.paid.saturating_sub(nanos(now));
        if self.is_closed {
            self.is_closed = owed > burst / 100 * u64::from(100 - settings.resume_percent.min(100));
        }
        self.is_closed |= owed + settings.interval() > burst;
        !self.is_closed
    }

    /// The call came in.
    pub(crate) fn take(&mut self, now: Instant, settings: &RateSettings) {
        self.paid = self.paid.max(nanos(now)) + settings.interval();
    }

    /// Whether nothing is owed any more.
    fn is_empty(&self, now: Instant) -> bool {
        self.paid <= nanos(now)
    }
}

fn nanos(now: Instant) -> u64 {
    now.as_micros().saturating_mul(1_000)
}

/// Sources whose calls are counted at a time.
const SOURCES_MAX: usize = 65_536;

/// Rates by source. Should more sources call at a time than are kept, those beyond go uncounted: nobody is refused for what others
/// do.
#[derive(Default, Debug)]
pub(crate) struct Sources {
    of: HashMap<(u16, IpAddr), Bucket, foldhash::fast::RandomState>,
    /// When those that owe nothing were looked for last.
    purged: Instant,
}

impl Sources {
    /// Whether another call of this source fits its trunk's limit; if so, it came in.
    pub(crate) fn admit(&mut self, now: Instant, (trunk, ip): (u16, IpAddr), settings: &RateSettings) -> bool {
        let source = (trunk, source_of(ip));
        if self.of.len() >= SOURCES_MAX && !self.of.contains_key(&source) {
            // Once a second: it takes a walk through all of them.
            if now - self.purged >= Duration::from_secs(1) {
                self.of.retain(|_, bucket| !bucket.is_empty(now));
                self.purged = now;
            }
            if self.of.len() >= SOURCES_MAX {
                return true;
            }
        }
        let bucket = self.of.entry(source).or_default();
        let fits = bucket.fits(now, settings);
        if fits {
            bucket.take(now, settings);
        }
        fits
    }
}

/// Who counts as one source: an address, or the block of IPv6 one customer has.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(1_000_000 + millis * 1_000)
    }

    fn admitted(bucket: &mut Bucket, settings: &RateSettings, millis: impl Iterator<Item = u64>) -> usize {
        millis
            .filter(|millis| {
                let fits = bucket.fits(at(*millis), settings);
                if fits {
                    bucket.take(at(*millis), settings);
                }
                fits
            })
            .count()
    }

    #[test]
    fn a_burst_comes_in_at_once_and_then_the_rate() {
        let settings = RateSettings { rate: 10, burst: 5, resume_percent: 0 };
        let mut bucket = Bucket::default();
        assert_eq!(admitted(&mut bucket, &settings, std::iter::repeat_n(0, 20)), 5);
        assert_eq!(admitted(&mut bucket, &settings, 1..=1_000), 10);
        assert_eq!(admitted(&mut bucket, &settings, std::iter::repeat_n(60_000, 20)), 5, "no more is saved up");
    }

    #[test]
    fn in_the_long_run_the_rate_comes_in_whatever_it_divides() {
        for rate in [1, 3, 7, 300, 999] {
            let settings = RateSettings { rate, burst: 5, resume_percent: 0 };
            let got = admitted(&mut Bucket::default(), &settings, 0..30_000);
            let expected = rate as usize * 30 + 5;
            assert!((expected - 1..=expected).contains(&got), "{rate}: {got}");
        }
    }

    #[test]
    fn once_closed_it_opens_when_enough_of_the_burst_is_free() {
        let settings = RateSettings { rate: 10, burst: 10, resume_percent: 50 };
        let mut bucket = Bucket::default();
        assert_eq!(admitted(&mut bucket, &settings, std::iter::repeat_n(0, 11)), 10);
        assert_eq!(admitted(&mut bucket, &settings, 1..500), 0, "half of the burst is free after half a second");
        assert_eq!(admitted(&mut bucket, &settings, 500..505), 5);
    }

    #[test]
    fn a_rate_of_which_nothing_is_saved_up_lets_nobody_in() {
        let settings = RateSettings { rate: 10, burst: 0, resume_percent: 0 };
        assert_eq!(admitted(&mut Bucket::default(), &settings, 0..100), 0);
    }

    #[test]
    fn each_source_has_its_own_and_an_ipv6_customer_one_for_his_block() {
        let settings = RateSettings { rate: 1, burst: 2, resume_percent: 0 };
        let mut sources = Sources::default();
        let mut admit = |trunk, ip: &str| sources.admit(at(0), (trunk, ip.parse().expect("an address")), &settings);
        assert_eq!([(); 3].map(|()| admit(0, "192.0.2.1")), [true, true, false]);
        assert!(admit(0, "192.0.2.2") && admit(1, "192.0.2.1"));
        assert_eq!(["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|ip| admit(0, ip)), [true, true, false]);
        assert!(admit(0, "2001:db8:0:1::1"));
    }

    #[test]
    fn more_sources_than_are_kept_refuse_nobody_and_are_forgotten_when_they_owe_nothing() {
        let settings = RateSettings { rate: 1, burst: 1, resume_percent: 0 };
        let mut sources = Sources::default();
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        for number in 0..SOURCES_MAX as u32 {
            assert!(sources.admit(at(0), (0, ip(number)), &settings));
        }
        assert!(!sources.admit(at(0), (0, ip(7)), &settings), "those known are held to it");
        assert!(sources.admit(at(0), (0, ip(1 << 20)), &settings) && sources.admit(at(0), (0, ip(1 << 20)), &settings));
        assert_eq!(sources.of.len(), SOURCES_MAX);
        assert!(sources.admit(at(2_000), (0, ip(1 << 20)), &settings));
        assert_eq!(sources.of.len(), 1);
    }
}
