//! The configuration: valid by construction, immutable.
//!
//! [`Config::parse`] reads the TOML and reports every problem at once; what it returns needs no further checks.

mod check;
mod file;
mod licences;
mod listen;
mod plan;
mod services;
mod sinks;
mod targets;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use file::Problem;
pub use licences::{Issuer, Licensed, Licensing};
pub use plan::{Step, Wait, WaitRules};
pub use sinks::{Mail, MailTls, Secret, Sink, SinkKind, SyslogTransport, Template};

use crate::pool::rate::RateSettings;
use crate::pool::{PoolSettings, Refusal, ServiceSettings, Settings, TrunkSettings};
use crate::sip::Transport;
use crate::transaction::timer::Lengths;

/// What to do with a request from an address that belongs to no trunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnknownSource {
    /// Answer 403.
    Reject,
    /// Say nothing: scanners learn nothing.
    Drop,
}

/// Whether the other side of a TLS connection must show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// It is not asked for one.
    None,
    /// It is asked; one that is shown must be good.
    Request,
    /// No certificate, no connection.
    Require,
}

/// The certificates of a listener for TLS. The files are read when the node starts or reloads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenTls {
    /// Our chain, PEM, our own first.
    pub certificate: Box<str>,
    /// Its private key, PEM.
    pub key: Box<str>,
    /// Who signs the other sides' certificates, PEM.
    pub client_ca: Option<Box<str>>,
    /// Whether they must show one.
    pub client_auth: ClientAuth,
}

/// A socket to receive SIP on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// What it speaks.
    pub transport: Transport,
    /// Where to bind.
    pub address: SocketAddr,
    /// For `tls` and `wss`.
    pub tls: Option<ListenTls>,
    /// Host and port as Via and Record-Route say them.
    pub advertise: Box<str>,
}

/// A block of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// Any address of the block.
    pub address: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

impl Cidr {
    /// Whether `ip` lies in the block. An IPv4-mapped IPv6 address is its IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                u64::from(block.to_bits()) >> shift == u64::from(ip.to_bits()) >> shift
            }
            (IpAddr::V6(block), IpAddr::V6(ip)) => match 128 - u32::from(self.bits.min(128)) {
                128 => true,
                shift => block.to_bits() >> shift == ip.to_bits() >> shift,
            },
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// A source of calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trunk {
    /// Its name.
    pub name: Box<str>,
    /// The addresses it sends from. Empty when a certificate alone names it.
    pub from: Vec<Cidr>,
    /// The SIP domains its certificate may name (RFC 5922 §7.1), lower case; when there are any, one must.
    pub identities: Vec<Box<str>>,
    /// Most calls at a time.
    pub max_calls: Option<u32>,
    /// New calls a second, in all and of each address.
    pub rate: Option<RateSettings>,
    /// The same for each address (IPv6 /64).
    pub source_rate: Option<RateSettings>,
    /// Whether it may send requests to hosts that are not ours.
    pub relay: bool,
    /// Whether it is believed what it says of priority.
    pub trusted: bool,
}

/// One URI of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetUri {
    /// As it is written.
    pub text: Box<str>,
    /// Where to send, when the host is an address.
    pub address: Option<SocketAddr>,
    /// The host, lower case.
    pub host: Box<str>,
    /// The port, when written.
    pub port: Option<u16>,
    /// By what, when it says so; then a large request goes no other way (RFC 3261 §18.1.1).
    pub transport: Option<Transport>,
    /// Host, port and transport as the Request-URI says them.
    pub host_port: Box<str>,
    /// Lower ones are tried first.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// It gets no new calls.
    pub drain: bool,
}

/// How to choose among addresses of one priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// In turn, each as often as its weight says.
    Weight,
    /// The one with the fewest calls for its weight.
    Calls,
}

/// OPTIONS sent to see whether an address lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// From one to the next.
    pub interval: Duration,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// The answers that say it lives; by default any but 408 and 5xx.
    pub accept: Option<Vec<u16>>,
}

impl Probe {
    /// Whether an answer says that the address lives.
    pub fn accepts(&self, status: u16) -> bool {
        match &self.accept {
            Some(statuses) => statuses.contains(&status),
            None => status != 408 && !(500..600).contains(&status),
        }
    }
}

/// A header field that says something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sign {
    /// Its name.
    pub name: Box<str>,
    /// Its value, when not any will do.
    pub value: Option<Box<str>>,
}

/// A place calls go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name.
    pub name: Box<str>,
    /// Its URIs.
    pub uris: Vec<TargetUri>,
    /// The name its certificate must bear, when not the URI's host.
    pub tls_name: Option<Box<str>>,
    /// How long to wait for a first answer.
    pub silence: Duration,
    /// Whether the Request-URI's host becomes the target's.
    pub rewrite: bool,
    /// Whether an overflowed call carries History-Info (RFC 7044).
    pub history_info: bool,
    /// Whether an overflowed call carries Diversion (RFC 5806).
    pub diversion: bool,
    /// How to choose among addresses of one priority.
    pub balance: Balance,
    /// Whether and how its addresses are probed.
    pub probe: Option<Probe>,
    /// What its requests bear when a call has left it, and uses no channel any more.
    pub released_by: Option<Sign>,
    /// Whether a call has left it when a re-INVITE or UPDATE of it names a Contact elsewhere.
    pub released_by_contact: bool,
    /// Whether a call that is there uses a channel: as written, else whether a service with a pool calls it.
    pub uses_channel: bool,
    /// Whether a 3xx of it is followed here, instead of being passed to the caller.
    pub follows: bool,
    /// So many failures in a row take an address down.
    pub down_after: u8,
    /// So many probes answered in a row bring it up again.
    pub up_after: u8,
}

/// A pool of channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// What the gate is told.
    pub settings: PoolSettings,
    /// Where its channels come from, when from licences.
    pub licence: Option<Licensed>,
}

/// What a service is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceKind {
    /// An IVR service.
    Ivr,
    /// A queue.
    Queue,
    /// Neither: calls are routed and limited, and take no channel.
    Route,
}

impl ServiceKind {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ivr => "ivr",
            Self::Queue => "queue",
            Self::Route => "route",
        }
    }
}

/// Which called numbers a service has.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Pattern {
    /// Just this one.
    Exact(Box<str>),
    /// All that start with it; the empty prefix is any number, and none.
    Prefix(Box<str>),
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(number) => f.write_str(number),
            Self::Prefix(number) => write!(f, "{number}*"),
        }
    }
}

/// What is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its name.
    pub name: Box<str>,
    /// What it is.
    pub kind: ServiceKind,
    /// The numbers it answers to.
    pub numbers: Vec<Pattern>,
    /// The trunks it is open to, as positions; empty: all.
    pub trunks: Vec<usize>,
    /// The pool its calls take a channel of.
    pub pool: Option<Box<str>>,
    /// Where its calls go, as a position.
    pub target: usize,
    /// The licensed feature it needs.
    pub feature: Option<Box<str>>,
    /// The licensed product it takes one of, by being configured.
    pub counted: Option<Box<str>>,
    /// What becomes of a call while a licence is missing, when not the overflow plan.
    pub unlicensed: Option<Vec<Step>>,
    /// What becomes of a call without a channel.
    pub overflow: Vec<Step>,
    /// Whether `overflow` was written, or is the default.
    pub overflow_is_default: bool,
    /// Most calls at a time.
    pub limit: Option<u32>,
    /// New calls a second.
    pub rate: Option<RateSettings>,
    /// Channels kept for it.
    pub reserve: u32,
    /// The longest a call may take; it is ended after that.
    pub longest_call: Duration,
    /// Whether its calls are emergencies.
    pub emergency: bool,
    /// How often the callee is asked whether it still knows the call, in seconds; 0: never.
    pub ask_s: u32,
}

impl Service {
    /// The steps taken by a call refused for this reason.
    pub fn plan(&self, refusal: Option<Refusal>) -> &[Step] {
        match (&self.unlicensed, refusal) {
            (Some(plan), Some(Refusal::Unlicensed)) => plan,
            _ => &self.overflow,
        }
    }
}

/// Session timers we ask for (RFC 4028).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRules {
    /// The longest session interval, in seconds.
    pub expires: u32,
    /// The shortest we accept, in seconds.
    pub min_se: u32,
}

/// Bounds of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most calls at a time.
    pub calls: u32,
    /// Most server and most client transactions at a time.
    pub transactions: u32,
    /// Most connections at a time.
    pub connections: u32,
    /// Most connections of one address at a time.
    pub connections_per_source: u32,
    /// Most memory of messages that came in part or wait to be sent, in MiB; one address has an eighth.
    pub connection_mb: u32,
    /// A connection that carries nothing for so long is closed.
    pub connection_idle: Duration,
}

/// The configuration of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node's name.
    pub name: Box<str>,
    /// Where state is kept.
    pub data_dir: Option<Box<str>>,
    /// Shards.
    pub workers: u16,
    /// Hosts besides the listeners' that are ours; `*`: any.
    pub domains: Vec<Box<str>>,
    /// What to do with strangers.
    pub unknown_source: UnknownSource,
    /// Whom names are asked of; the system's name servers when empty.
    pub name_servers: Vec<SocketAddr>,
    /// Who signs the certificates of those we connect to, PEM; the system's authorities when not given.
    pub tls_ca: Option<Box<str>>,
    /// Sockets to receive on.
    pub listen: Vec<Listen>,
    /// Where the admin interface listens.
    pub admin: Option<SocketAddr>,
    /// Sources of calls.
    pub trunks: Vec<Trunk>,
    /// Places calls go.
    pub targets: Vec<Target>,
    /// Pools of channels.
    pub pools: Vec<Pool>,
    /// What is called.
    pub services: Vec<Service>,
    /// Transaction timers.
    pub timers: Lengths,
    /// The longest a call may take that belongs to no service.
    pub longest_call: Duration,
    /// Session timers we ask for.
    pub session: Option<SessionRules>,
    /// How long an answered call may go without its ACK.
    pub ack_wait: Duration,
    /// Values of Resource-Priority that make a call of a trusted trunk an emergency, lower case.
    pub priorities: Vec<Box<str>>,
    /// How calls wait for channels.
    pub waiting: WaitRules,
    /// Bounds.
    pub limits: Limits,
    /// Whose licences are accepted, and how they count.
    pub licensing: Licensing,
    /// Who is told of events.
    pub sinks: Vec<Sink>,
    /// How long a condition must hold before they are.
    pub alert_hold: Duration,
}

impl Config {
    /// Reads a configuration; every problem at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        check::read(text)
    }

    /// What the gate needs of it.
    pub fn settings(&self) -> Settings {
        Settings {
            pools: self.pools.iter().map(|pool| pool.settings.clone()).collect(),
            services: self
                .services
                .iter()
                .map(|service| ServiceSettings {
                    name: service.name.clone(),
                    pool: service.pool.clone(),
                    limit: service.limit,
                    rate: service.rate,
                    reserve: service.reserve,
                })
                .collect(),
            trunks: self
                .trunks
                .iter()
                .map(|trunk| TrunkSettings { name: trunk.name.clone(), max_calls: trunk.max_calls, rate: trunk.rate })
                .collect(),
            calls_max: self.limits.calls,
            wanted: licences::wanted(&self.pools, &self.services),
        }
    }
}
