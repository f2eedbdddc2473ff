//! What each source of connections takes: how many, and the octets kept for them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::pool::rate::source_of;

/// One source has at most one part in so many of the octets.
const PARTS: usize = 8;

#[derive(Default)]
struct Share {
    connections: u32,
    octets: usize,
}

/// The shares of all sources. Connections we open are nobody's share; their octets count in the whole.
#[derive(Default)]
pub(super) struct Shares {
    of: HashMap<IpAddr, Share, foldhash::fast::RandomState>,
    octets: usize,
}

impl Shares {
    /// Connections accepted from where `ip` belongs.
    pub(super) fn connections(&self, ip: IpAddr) -> u32 {
        self.of.get(&source_of(ip)).map_or(0, |share| share.connections)
    }

    /// One more was accepted.
    pub(super) fn enter(&mut self, ip: IpAddr) {
        self.of.entry(source_of(ip)).or_default().connections += 1;
    }

    /// One is closed for which nothing is kept any more.
    pub(super) fn leave(&mut self, ip: IpAddr) {
        let source = source_of(ip);
        if let Some(share) = self.of.get_mut(&source) {
            share.connections -= 1;
            if share.connections == 0 {
                self.of.remove(&source);
            }
        }
    }

    /// So many octets are kept for a connection, after so many before; `of` is whose share they are. Says whether that is within
    /// the bounds when all may have `most`.
    pub(super) fn weigh(&mut self, of: Option<IpAddr>, (before, after): (usize, usize), most: usize) -> bool {
        self.octets = self.octets + after - before;
        let share = of.and_then(|ip| self.of.get_mut(&source_of(ip)));
        let is_modest = share.is_none_or(|share| {
            share.octets = share.octets + after - before;
            share.octets <= most / PARTS
        });
        // What shrinks is never the culprit.
        after <= before || (is_modest && self.octets <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_ipv6_block_of_64_bits_counts_as_one_and_an_ipv4_address_however_it_is_written() {
        let mut shares = Shares::default();
        for address in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1", "192.0.2.1", "::ffff:192.0.2.1"] {
            shares.enter(ip(address));
        }
        let counts = ["2001:db8:0:1::9", "2001:db8:0:2::9", "192.0.2.1", "192.0.2.2"];
        assert_eq!(counts.map(|address| shares.connections(ip(address))), [2, 1, 2, 0]);
        shares.leave(ip("2001:db8:0:2::1"));
        assert_eq!(shares.of.len(), 2, "nobody is remembered who has nothing");
    }

    #[test]
    fn one_source_has_an_eighth_of_the_octets_and_all_together_the_whole() {
        let mut shares = Shares::default();
        let sources: Vec<IpAddr> = (1..=9).map(|last| ip(&format!("192.0.2.{last}"))).collect();
        sources.iter().for_each(|source| shares.enter(*source));
        for source in &sources[..8] {
            assert!(shares.weigh(Some(*source), (0, 100), 800));
            assert!(!shares.weigh(Some(*source), (100, 101), 800));
            assert!(shares.weigh(Some(*source), (101, 100), 800));
        }
        assert!(!shares.weigh(Some(sources[8]), (0, 1), 800), "all is taken");
        assert!(shares.weigh(Some(sources[8]), (1, 0), 800));
        assert!(shares.weigh(Some(sources[0]), (100, 0), 800));
        assert!(shares.weigh(Some(sources[8]), (0, 1), 800));
        // Ours are no source's.
        assert!(shares.weigh(None, (0, 99), 800));
        assert!(!shares.weigh(None, (99, 100), 800));
    }
}
