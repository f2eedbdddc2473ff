//! The addresses of targets: those written, and those their names stand for (RFC 3263).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Target, TargetUri};
use crate::outbox::DomainId;
use crate::sip::{Host, Scheme, Transport, Uri};

/// Addresses of one target; a plan remembers in 64 bits which it tried.
pub const PLACES_MAX: usize = 64;

/// What is asked of the name service.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// A name, lower case.
    pub host: Box<str>,
    /// With a port only addresses are looked up (RFC 3263 §4.1, §4.2).
    pub port: Option<u16>,
    /// With a transport no NAPTR is.
    pub transport: Option<Transport>,
    /// A `sips:` URI that names none: what NAPTR says of TLS alone counts (§4.1).
    pub is_secure: bool,
}

impl Question {
    /// What must be asked to reach the host of a URI; `None` when that is an address, or the transport is unknown.
    pub fn of_uri(uri: &Uri<'_>) -> Option<Self> {
        let Host::Name(host) = uri.host()? else { return None };
        let host = String::from_utf8_lossy(host).to_ascii_lowercase().into();
        let is_secure = uri.scheme == Scheme::Sips && uri.parameter("transport").is_none();
        let transport = uri.transport().ok()?.filter(|_| !is_secure);
        Some(Self { host, port: uri.port, transport, is_secure })
    }

    /// What must be asked to reach a URI; `None` when its host is an address.
    pub fn of(uri: &TargetUri) -> Option<Self> {
        Self::of_uri(&Uri::parse(uri.text.as_bytes())?)
    }
}

/// One answer: the order of RFC 2782.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// How to reach it.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
    /// Lower ones come first.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
}

/// What names stand for.
pub type Names = HashMap<Question, Vec<Found>, foldhash::fast::RandomState>;

/// One address of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// How to reach it.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
    /// Whether the URI says how: then a large request goes no other way.
    pub is_fixed: bool,
    /// Host, port and transport as the Request-URI says them.
    pub host_port: Box<str>,
    /// Lower ones are tried first.
    pub priority: u32,
    /// Its share among those of its priority.
    pub weight: u32,
    /// Position of its URI.
    pub uri: usize,
    /// It gets no new calls.
    pub drain: bool,
    /// Whom its certificate must name, over TLS.
    pub domain: DomainId,
    /// Its number in the proxy's table of peers.
    pub peer: u16,
}

/// The addresses of a target, of those its names stand for the ones that a listener `reaches`: a host may have addresses of a
/// family that this node does not speak.
pub(super) fn places(target: &Target, names: &Names, reaches: &impl Fn(Transport, SocketAddr) -> bool) -> Vec<Place> {
    let mut places = Vec::new();
    for (at, uri) in target.uris.iter().enumerate() {
        let place = |found: Found| Place {
            transport: found.transport,
            address: found.address,
            is_fixed: uri.transport.is_some(),
            host_port: uri.host_port.clone(),
            priority: u32::from(uri.priority) << 16 | u32::from(found.priority),
            weight: u32::from(uri.weight) * u32::from(found.weight.max(1)),
            uri: at,
            drain: uri.drain,
            domain: DomainId::NONE,
            peer: 0,
        };
        match (uri.address, Question::of(uri)) {
            (Some(address), _) => {
                let transport = uri.transport.unwrap_or_default();
                places.push(place(Found { transport, address, priority: 0, weight: 1 }));
            }
            (None, Some(question)) => {
                let found = names.get(&question).into_iter().flatten();
                places.extend(found.filter(|found| reaches(found.transport, found.address)).copied().map(place));
            }
            (None, None) => {}
        }
    }
    places.truncate(PLACES_MAX);
    places
}

/// Every address a target is known by, whether a listener reaches it or not: who speaks from there is the target.
pub(super) fn addresses(target: &Target, names: &Names) -> Box<[IpAddr]> {
    let written = target.uris.iter().filter_map(|uri| uri.address);
    let found = target.uris.iter().filter_map(Question::of).filter_map(|question| names.get(&question)).flatten();
    written.chain(found.map(|found| found.address)).map(|address| address.ip().to_canonical()).collect()
}
