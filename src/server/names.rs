//! Shell: looks names up for the core (RFC 3263), beside the calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::{Semaphore, mpsc};

use super::Handle;
use crate::proxy::Answer;
use crate::route::{Found, Question};
use crate::sip::Transport;

/// Questions on their way to the control side.
pub(crate) const QUESTIONS_MAX: usize = 1024;
/// Names looked up at a time.
const AT_A_TIME: usize = 512;
/// How long a name server may take, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 2;
/// How long a whole question may take; the core gives up after ten seconds.
const WHOLE: Duration = Duration::from_secs(8);
/// Addresses of one name.
const FOUND_MAX: usize = 32;
/// How long it is believed that there is nothing, when the answer does not say.
const NEGATIVE: Duration = Duration::from_secs(30);

/// Answers questions until nobody asks any more.
pub(crate) async fn run(handle: Handle, mut questions: mpsc::Receiver<Question>) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut servers = None;
    let mut resolver: Option<TokioResolver> = None;
    while let Some(question) = questions.recv().await {
        let config = handle.node().config();
        if servers.as_ref() != Some(&config.name_servers) {
            resolver = make(&config.name_servers)
                .map_err(|error| tracing::warn!(event = "no_resolver", %error, "names cannot be looked up"))
                .ok();
            servers = Some(config.name_servers.clone());
        }
        let Some(resolver) = resolver.clone() else {
            handle.resolved(question, Answer::Failed, NEGATIVE).await;
            // The system's configuration may be readable next time.
            servers = None;
            continue;
        };
        let spoken: Vec<Transport> = config.listen.iter().map(|listen| listen.transport).collect();
        let (handle, places) = (handle.clone(), Arc::clone(&places));
        tokio::spawn(async move {
            let Ok(place) = places.acquire_owned().await else { return };
            let (answer, ttl) = match look_up(&resolver, &question, &spoken).await {
                Ok((found, until)) => {
                    let answer = if found.is_empty() { Answer::NotFound } else { Answer::Found(found) };
                    (answer, until.saturating_duration_since(now()))
                }
                Err(_) => (Answer::Failed, NEGATIVE),
            };
            handle.resolved(question, answer, ttl).await;
            drop(place);
        });
    }
}

fn now() -> Instant {
    Instant::now()
}

fn make(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|address| {
            let port = |mut connection: ConnectionConfig| {
                connection.port = address.port();
                connection
            };
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            server.connections = server.connections.into_iter().map(port).collect();
            server
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        *builder.options_mut() = options;
        builder
    };
    let options = builder.options_mut();
    (options.timeout, options.attempts) = (PATIENCE, ATTEMPTS);
    builder.build()
}

/// Every address a question leads to, and until when that holds.
async fn look_up(
    resolver: &TokioResolver,
    question: &Question,
    spoken: &[Transport],
) -> Result<(Vec<Found>, Instant), NetError> {
    let mut search = Search {
        resolver,
        found: Vec::new(),
        until: now() + Duration::from_secs(3600),
        nothing_until: now() + NEGATIVE,
        order: 0,
        error: None,
    };
    // What was found by then serves.
    if tokio::time::timeout(WHOLE, search.run(question, spoken)).await.is_err() {
        search.error.get_or_insert(NetError::Timeout);
    }
    match search.error {
        // What was found serves, whatever else could not be asked.
        Some(error) if search.found.is_empty() => Err(error),
        _ if search.found.is_empty() => Ok((search.found, search.nothing_until)),
        _ => Ok((search.found, search.until)),
    }
}

impl Search<'_> {
    /// RFC 3263 §4.
    async fn run(&mut self, question: &Question, spoken: &[Transport]) {
        let host = &*question.host;
        let is_secure = question.is_secure;
        let default = if is_secure { Transport::Tls } else { Transport::Udp };
        // §4.2: a port means that addresses alone are asked for.
        if let Some(port) = question.port {
            self.addresses(host, question.transport.unwrap_or(default), port, 1).await;
            return;
        }
        if let Some(transport) = question.transport {
            if !self.services(&service(host, transport), transport).await {
                self.addresses(host, transport, transport.default_port(), 1).await;
            }
            return;
        }
        // §4.1: NAPTR says by what, in the order the domain prefers.
        let mut rules: Vec<(u16, u16, Transport, String)> = Vec::new();
        if let Some(lookup) = self.records(host, RecordType::NAPTR).await {
            self.until = self.until.min(lookup.valid_until());
            for record in lookup.answers() {
                let RData::NAPTR(rule) = &record.data else { continue };
                let transport = match &*rule.services.to_ascii_uppercase() {
                    b"SIP+D2U" => Transport::Udp,
                    b"SIP+D2T" => Transport::Tcp,
                    b"SIPS+D2T" => Transport::Tls,
                    _ => continue,
                };
                let is_fit = spoken.contains(&transport) && (!is_secure || transport.is_secure());
                if rule.flags.eq_ignore_ascii_case(b"s") && is_fit {
                    rules.push((rule.order, rule.preference, transport, rule.replacement.to_string()));
                }
            }
        }
        rules.sort_by_key(|(order, preference, ..)| (*order, *preference));
        for (_, _, transport, name) in rules {
            self.services(&name, transport).await;
        }
        if self.found.is_empty() {
            // "If no NAPTR records are found, the client constructs SRV queries for those transport protocols it supports".
            let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
            for transport in all.into_iter().filter(|it| spoken.contains(it) && (!is_secure || it.is_secure())) {
                self.services(&service(host, transport), transport).await;
            }
        }
        if self.found.is_empty() {
            self.addresses(host, default, default.default_port(), 1).await;
        }
    }
}

/// Where SRV records of a transport are (§4.1).
fn service(host: &str, transport: Transport) -> String {
    let prefix = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tls => "_sips._tcp",
        Transport::Tcp | Transport::Ws | Transport::Wss => "_sip._tcp",
    };
    format!("{prefix}.{host}")
}

struct Search<'a> {
    resolver: &'a TokioResolver,
    found: Vec<Found>,
    until: Instant,
    /// Until when it holds that there is nothing.
    nothing_until: Instant,
    /// Of the rule at hand: what comes first stays first.
    order: u16,
    /// What went wrong last.
    error: Option<NetError>,
}

impl Search<'_> {
    /// Records of one kind. A server or zone that does not answer takes nothing from what others say.
    async fn records(&mut self, name: &str, kind: RecordType) -> Option<Lookup> {
        // Names in configurations and messages are whole.
        let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let asked = tokio::time::timeout(PATIENCE * ATTEMPTS as u32, self.resolver.lookup(name, kind));
        match asked.await.unwrap_or(Err(NetError::Timeout)) {
            Ok(lookup) => Some(lookup),
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                if let Some(seconds) = nothing.negative_ttl {
                    self.nothing_until = self.nothing_until.min(now() + Duration::from_secs(u64::from(seconds)));
                }
                None
            }
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    /// The servers of a service; says whether there is the record.
    async fn services(&mut self, name: &str, transport: Transport) -> bool {
        let Some(lookup) = self.records(name, RecordType::SRV).await else { return false };
        self.until = self.until.min(lookup.valid_until());
        let mut servers: Vec<(u16, u16, u16, String)> = Vec::new();
        for record in lookup.answers() {
            if let RData::SRV(server) = &record.data {
                servers.push((server.priority, server.weight, server.port, server.target.to_string()));
            }
        }
        servers.sort_unstable();
        let mut last = None;
        for (priority, weight, port, target) in servers {
            if last.replace(priority).is_some_and(|last| last != priority) {
                self.order += 1;
            }
            // RFC 2782: a target of "." says that the service is not there.
            if target != "." {
                self.addresses(&target, transport, port, weight).await;
            }
        }
        self.order += 1;
        true
    }

    async fn addresses(&mut self, name: &str, transport: Transport, port: u16, weight: u16) {
        self.error = None;
        for kind in [RecordType::A, RecordType::AAAA] {
            if self.error.is_some() {
                // Whoever does not say the one will not say the other.
                return;
            }
            let Some(lookup) = self.records(name, kind).await else { continue };
            self.until = self.until.min(lookup.valid_until());
            for record in lookup.answers() {
                let ip = match &record.data {
                    RData::A(ip) => ip.0.into(),
                    RData::AAAA(ip) => ip.0.into(),
                    _ => continue,
                };
                if self.found.len() < FOUND_MAX {
                    let address = SocketAddr::new(ip, port);
                    self.found.push(Found { transport, address, priority: self.order, weight });
                }
            }
        }
    }
}
