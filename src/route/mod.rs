//! Where a request belongs: its trunk, its service, whether a host is ours, which listener sends.
//!
//! A [`Router`] is a [`Config`] made ready for look-ups, with the places the gate gave its pools, services and trunks.
//! It is immutable; a reload makes a new one, and a call keeps the one it began with.

pub mod explain;
pub mod places;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use explain::{Explanation, explain};
pub use places::{Found, Names, Place, Question};

use crate::config::{Config, Pattern, Step, Trunk};
use crate::outbox::{DomainId, Hop, ListenerId};
use crate::pool::{Gate, PoolId, ServiceId, TrunkId};
use crate::sip::{Host, Scheme, Transport, Uri, Via};

/// A configuration made ready for look-ups.
pub struct Router {
    /// The configuration.
    pub config: Arc<Config>,
    trunk_ids: Vec<TrunkId>,
    service_ids: Vec<ServiceId>,
    pool_ids: Vec<Option<PoolId>>,
    lenders: Vec<Box<[PoolId]>>,
    exact: HashMap<Box<[u8]>, Vec<u16>, foldhash::fast::RandomState>,
    prefixes: HashMap<Box<[u8]>, Vec<u16>, foldhash::fast::RandomState>,
    /// Lengths of prefixes in use, longest first.
    prefix_lengths: Vec<usize>,
    lines: Vec<ListenerLines>,
    /// Of each target.
    addresses: Vec<Box<[IpAddr]>>,
    places: Vec<Vec<Place>>,
    /// Host and port of every listener, bound and advertised.
    own: Vec<(OwnHost, u16)>,
}

#[derive(Clone)]
enum OwnHost {
    Ip(IpAddr),
    Name(Box<[u8]>),
}

impl OwnHost {
    fn as_host(&self) -> Host<'_> {
        match self {
            Self::Ip(ip) => Host::Ip(*ip),
            Self::Name(name) => Host::Name(name),
        }
    }
}

/// What the messages sent by a listener say of it.
pub struct ListenerLines {
    /// `Via: SIP/2.0/UDP host:port;branch=`
    pub via: Box<[u8]>,
    /// `Record-Route: <sip:host:port;transport=…;lr`
    pub record_route: Box<[u8]>,
    /// The same with `sips`, for a request whose Request-URI is one (§16.6 step 4).
    pub record_route_secure: Box<[u8]>,
    /// `host:port` or `host`
    pub advertise: Box<[u8]>,
}

impl Router {
    /// Makes `config` ready; `gate` must have been configured with it.
    pub fn new(config: Arc<Config>, gate: &Gate) -> Self {
        Self::with_names(config, gate, &Names::default())
    }

    /// The same, with what names in it stand for.
    pub fn with_names(config: Arc<Config>, gate: &Gate, names: &Names) -> Self {
        let (mut exact, mut prefixes) = (HashMap::default(), HashMap::default());
        let mut prefix_lengths = Vec::new();
        for (at, service) in config.services.iter().enumerate() {
            for pattern in &service.numbers {
                let (map, number): (&mut HashMap<Box<[u8]>, Vec<u16>, _>, _) = match pattern {
                    Pattern::Exact(number) => (&mut exact, number),
                    Pattern::Prefix(number) => {
                        prefix_lengths.push(number.len());
                        (&mut prefixes, number)
                    }
                };
                map.entry(number.as_bytes().into()).or_default().push(at as u16);
            }
        }
        prefix_lengths.sort_unstable_by(|one, two| two.cmp(one));
        prefix_lengths.dedup();
        let placed = "the gate was configured with this configuration";
        let reaches = |transport: Transport, address: SocketAddr| {
            config.listen.iter().any(|it| it.transport == transport && it.address.is_ipv4() == address.is_ipv4())
        };
        Self {
            trunk_ids: config.trunks.iter().map(|trunk| gate.trunk(&trunk.name).expect(placed)).collect(),
            service_ids: config.services.iter().map(|service| gate.service(&service.name).expect(placed)).collect(),
            pool_ids: config
                .services
                .iter()
                .map(|service| service.pool.as_ref().map(|pool| gate.pool(pool).expect(placed)))
                .collect(),
            lenders: config
                .services
                .iter()
                .map(|service| {
                    let pools = service.overflow.iter().filter_map(|step| match step {
                        Step::Borrow { pool } => gate.pool(&config.pools[*pool].settings.name),
                        Step::Wait(_) | Step::Route { .. } | Step::Redirect { .. } | Step::Reject { .. } => None,
                    });
                    pools.collect()
                })
                .collect(),
            exact,
            prefixes,
            prefix_lengths,
            addresses: config.targets.iter().map(|target| places::addresses(target, names)).collect(),
            places: config.targets.iter().map(|target| places::places(target, names, &reaches)).collect(),
            lines: config
                .listen
                .iter()
                .map(|listen| {
                    let (transport, at) = (listen.transport, &listen.advertise);
                    // A sips: URI says TLS by itself (RFC 5630 §3.1.1).
                    let secure = if transport.is_web_socket() { ";transport=ws" } else { "" };
                    let bytes = |text: String| text.into_bytes().into_boxed_slice();
                    ListenerLines {
                        via: bytes(format!("Via: SIP/2.0/{} {at};branch=", transport.via())),
                        record_route: bytes(format!("Record-Route: <sip:{at}{};lr", transport.uri_parameter())),
                        record_route_secure: bytes(format!("Record-Route: <sips:{at}{secure};lr")),
                        advertise: at.as_bytes().into(),
                    }
                })
                .collect(),
            own: config
                .listen
                .iter()
                .flat_map(|listen| {
                    let advertised = format!("sip:{}", listen.advertise);
                    let advertised = Uri::parse(advertised.as_bytes()).and_then(|uri| {
                        let host = match uri.host()? {
                            Host::Ip(ip) => OwnHost::Ip(ip),
                            Host::Name(name) => OwnHost::Name(name.into()),
                        };
                        Some((host, uri.port.unwrap_or_else(|| listen.transport.default_port())))
                    });
                    let bound = (OwnHost::Ip(listen.address.ip()), listen.address.port());
                    // Always two, which `own_listener` counts on.
                    [advertised.unwrap_or_else(|| bound.clone()), bound]
                })
                .collect(),
            config,
        }
    }

    /// What messages sent by a listener say of it.
    pub fn lines(&self, listener: ListenerId) -> &ListenerLines {
        &self.lines[usize::from(listener)]
    }

    /// The trunk a source address belongs to: the smallest block that holds it.
    pub fn trunk(&self, source: IpAddr) -> Option<usize> {
        // Where a certificate is asked for, an address proves nothing.
        let by_address = |trunk: &(usize, &Trunk)| trunk.1.identities.is_empty();
        let trunks = self.config.trunks.iter().enumerate();
        let blocks = trunks.filter(by_address).flat_map(|(at, trunk)| {
            trunk.from.iter().filter(|block| block.contains(source)).map(move |block| (block.bits, at))
        });
        blocks.max_by_key(|(bits, _)| *bits).map(|(_, at)| at)
    }

    /// The trunk whose certificate the other side of a connection has shown: one of its names, and an address of the trunk
    /// when that has any.
    pub fn trunk_of(&self, identities: &[Box<str>], source: IpAddr) -> Option<usize> {
        self.config.trunks.iter().position(|trunk| {
            trunk.identities.iter().any(|name| identities.contains(name))
                && (trunk.from.is_empty() || trunk.from.iter().any(|block| block.contains(source)))
        })
    }

    /// Whether a target has this address.
    pub fn is_target(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.addresses.iter().any(|of_target| of_target.contains(&source))
    }

    /// Whether a call at this address uses a channel: it is a target's that does, and not exactly where one is that does not.
    pub fn takes_channel(&self, address: SocketAddr) -> bool {
        let those = |uses: bool| {
            let all = self.config.targets.iter().enumerate();
            all.filter(move |(_, target)| target.uses_channel == uses).map(|(at, _)| at)
        };
        let is_there = |at: usize| self.places[at].iter().any(|place| place.address == address);
        those(true).any(is_there) || (!those(false).any(is_there) && those(true).any(|at| self.is_at(at, address.ip())))
    }

    /// Whether that target has this address.
    pub fn is_at(&self, target: usize, source: IpAddr) -> bool {
        self.addresses[target].contains(&source.to_canonical())
    }

    /// The addresses of a target.
    pub fn places(&self, target: usize) -> &[Place] {
        &self.places[target]
    }

    pub(crate) fn places_mut(&mut self) -> &mut [Vec<Place>] {
        &mut self.places
    }

    /// The place of a trunk in the gate.
    pub fn trunk_id(&self, trunk: usize) -> TrunkId {
        self.trunk_ids[trunk]
    }

    /// The place of a service in the gate.
    pub fn service_id(&self, service: usize) -> ServiceId {
        self.service_ids[service]
    }

    /// The place in the gate of a service's pool.
    pub fn pool_id(&self, service: usize) -> Option<PoolId> {
        self.pool_ids[service]
    }

    /// The pools a service borrows from, in the order of its plan.
    pub fn lenders(&self, service: usize) -> &[PoolId] {
        &self.lenders[service]
    }

    /// The service a number calls over a trunk: an exact number before a prefix, a longer prefix before a shorter, and
    /// of two that are equal the one that names the trunk.
    pub fn service(&self, trunk: usize, number: &[u8]) -> Option<usize> {
        let among = |services: &Vec<u16>| {
            let open = |at: &u16| {
                let trunks = &self.config.services[usize::from(*at)].trunks;
                trunks.is_empty() || trunks.contains(&trunk)
            };
            let named = |at: &&u16| !self.config.services[usize::from(**at)].trunks.is_empty();
            let open: Vec<u16> = services.iter().copied().filter(open).collect();
            open.iter().find(named).or_else(|| open.first()).map(|at| usize::from(*at))
        };
        if let Some(found) = self.exact.get(number).and_then(among) {
            return Some(found);
        }
        self.prefix_lengths
            .iter()
            .filter_map(|length| number.get(..*length))
            .find_map(|prefix| self.prefixes.get(prefix).and_then(among))
    }

    /// Whether a Record-Route value is, octet for octet, one of ours: what is faster to see than to read.
    pub fn wrote(&self, value: &[u8]) -> bool {
        const NAME: usize = b"Record-Route: ".len();
        self.lines.iter().any(|lines| value.starts_with(&lines.record_route[NAME..]))
    }

    /// The listener of ours a URI names.
    pub fn own_listener(&self, uri: &Uri<'_>) -> Option<ListenerId> {
        let host = uri.host()?;
        let transport = uri.transport().ok()?.unwrap_or_default();
        let port = uri.port.unwrap_or_else(|| transport.default_port());
        // Two entries a listener: bound and advertised.
        let found = self.own.iter().enumerate().position(|(at, (own, own_port))| {
            let speaks = self.config.listen[at / 2].transport;
            let is_spoken = speaks == transport || (speaks.is_web_socket() && transport.is_web_socket());
            port == *own_port && is_spoken && host.is(&own.as_host())
        })?;
        Some((found / 2) as ListenerId)
    }

    /// Whether a URI names one of our listeners.
    pub fn is_self(&self, uri: &Uri<'_>) -> bool {
        let Some(host) = uri.host() else { return false };
        let port = uri.port.unwrap_or_else(|| uri.default_port());
        self.own.iter().any(|(own, own_port)| port == *own_port && host.is(&own.as_host()))
    }

    /// Whether we answer for a URI's host: a listener of ours (whatever its port when the URI names none), a configured
    /// domain, or a telephone number.
    pub fn is_ours(&self, uri: &Uri<'_>) -> bool {
        let is_own_host = |host: Host<'_>| self.own.iter().any(|(own, _)| host.is(&own.as_host()));
        matches!(uri.scheme, Scheme::Tel | Scheme::Sos)
            || self.is_self(uri)
            || (uri.port.is_none() && uri.host().is_some_and(is_own_host))
            || {
                let host = uri.host_text();
                self.config
                    .domains
                    .iter()
                    .any(|domain| &**domain == "*" || domain.as_bytes().eq_ignore_ascii_case(host))
            }
    }

    /// What a listener speaks.
    pub fn transport(&self, listener: ListenerId) -> Transport {
        self.config.listen.get(usize::from(listener)).map_or(Transport::Udp, |listen| listen.transport)
    }

    /// The way to a target's address of what came in by `listener`.
    pub fn hop_to(&self, listener: ListenerId, place: &Place) -> Option<Hop> {
        Some(Hop { domain: place.domain, ..self.hop(listener, place.transport, place.address)? })
    }

    /// The way to `address` by `transport` of what came in by `listener`: by the same one when it can, else by the first
    /// of that transport and address family.
    pub fn hop(&self, listener: ListenerId, transport: Transport, address: SocketAddr) -> Option<Hop> {
        let can = |at: usize| {
            self.config
                .listen
                .get(at)
                .is_some_and(|listen| listen.transport == transport && listen.address.is_ipv4() == address.is_ipv4())
        };
        let listener = if can(usize::from(listener)) {
            listener
        } else {
            (0..self.config.listen.len()).find(|at| can(*at))? as ListenerId
        };
        let connect = if transport.is_web_socket() { 0 } else { address.port() };
        // A target's address that somebody wrote out is still the target's.
        let is_there = |place: &&Place| (place.transport, place.address) == (transport, address);
        let known = || self.places.iter().flatten().find(is_there).map_or(DomainId::NONE, |place| place.domain);
        let domain = if transport.is_secure() { known() } else { DomainId::NONE };
        Some(Hop { listener, address, connect, domain, is_reliable: transport.is_reliable(), is_heard: false })
    }

    /// The way of answers to a request from `source` (§18.2.2): over a stream, its connection, or a new one to the port in
    /// sent-by when that is gone; else what [`Via::reply_to`] says.
    pub fn reply(&self, listener: ListenerId, source: SocketAddr, via: &Via<'_>) -> Hop {
        let transport = self.transport(listener);
        if !transport.is_reliable() {
            let address = via.reply_to(source);
            return Hop { listener, address, connect: 0, domain: DomainId::NONE, is_reliable: false, is_heard: true };
        }
        let port = via.port.unwrap_or_else(|| transport.default_port());
        let connect = if transport.is_web_socket() { 0 } else { port };
        Hop { listener, address: source, connect, domain: DomainId::NONE, is_reliable: true, is_heard: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        let text = r#"
[node]
domains = ["Example.COM"]
[[listen]]
uri = "udp:192.0.2.10:5060"
advertise = "gate.example.net"
[[listen]]
uri = "udp:[2001:db8::1]:5070"
[[trunk]]
name = "wide"
from = ["198.51.0.0/16"]
[[trunk]]
name = "narrow"
from = ["198.51.100.0/24"]
[[target]]
name = "pbx"
uri = ["sip:10.0.0.10"]
[[pool]]
name = "p"
channels = 1
[[service]]
name = "exact"
kind = "ivr"
numbers = ["100"]
pool = "p"
target = "pbx"
[[service]]
name = "narrow-only"
kind = "ivr"
numbers = ["100"]
trunks = ["narrow"]
pool = "p"
target = "pbx"
[[service]]
name = "prefix"
kind = "ivr"
numbers = ["1*", "+44*"]
pool = "p"
target = "pbx"
[[service]]
name = "long"
kind = "ivr"
numbers = ["+4420*"]
pool = "p"
target = "pbx"
[[service]]
name = "rest"
kind = "route"
numbers = ["*"]
trunks = ["wide"]
target = "pbx"
"#;
        let config = Config::parse(text).expect("valid");
        let gate = Gate::new(&config.settings());
        Router::new(Arc::new(config), &gate)
    }

    #[test]
    fn the_most_specific_number_wins() {
        let router = router();
        let name =
            |trunk, number: &str| router.service(trunk, number.as_bytes()).map(|at| &*router.config.services[at].name);
        assert_eq!(name(0, "100"), Some("exact"));
        assert_eq!(name(1, "100"), Some("narrow-only"));
        assert_eq!(name(0, "101"), Some("prefix"));
        assert_eq!(name(0, "+442079"), Some("long"));
        assert_eq!(name(0, "+4919"), Some("rest"));
        assert_eq!(name(0, ""), Some("rest"));
        assert_eq!(name(1, "+4919"), None);
    }

    #[test]
    fn the_smallest_block_names_the_trunk() {
        let router = router();
        let name = |ip: &str| router.trunk(ip.parse().expect("an address")).map(|at| &*router.config.trunks[at].name);
        assert_eq!(
            (name("198.51.100.1"), name("198.51.7.1"), name("203.0.113.1")),
            (Some("narrow"), Some("wide"), None)
        );
    }

    #[test]
    fn our_hosts_are_ours_and_no_others() {
        let router = router();
        let is = |uri: &str| {
            let uri = Uri::parse(uri.as_bytes()).expect("valid");
            (router.is_self(&uri), router.is_ours(&uri))
        };
        for uri in ["sip:192.0.2.10", "sip:100@192.0.2.10:5060;x", "sip:GATE.example.net", "sip:[2001:DB8::1]:5070"] {
            assert_eq!(is(uri), (true, true), "{uri}");
        }
        assert_eq!(is("sip:a@example.com:5080"), (false, true));
        assert_eq!(is("tel:+4420"), (false, true));
        assert_eq!(is("sip:100@[2001:db8::1]"), (false, true), "our host, and no port named");
        for uri in ["sip:192.0.2.10:5061", "sip:[2001:db8::1]:5060", "sip:192.0.2.11", "sip:a@evil.example"] {
            assert_eq!(is(uri), (false, false), "{uri}");
        }
    }

    #[test]
    fn answers_leave_by_the_destinations_family() {
        let router = router();
        let listener =
            |from, to: &str| router.hop(from, Transport::Udp, to.parse().expect("an address")).map(|hop| hop.listener);
        assert_eq!(listener(0, "10.0.0.10:5060"), Some(0));
        assert_eq!(listener(1, "10.0.0.10:5060"), Some(0));
        assert_eq!(listener(1, "[2001:db8::9]:5060"), Some(1));
    }
}
