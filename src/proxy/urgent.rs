//! What comes before the ladder: emergency calls, which no rung refuses, and how fast others may come.

use std::net::SocketAddr;
use std::time::Duration;

use super::Proxy;
use crate::alert::{Event, EventKind};
use crate::config::Config;
use crate::pool::Refusal;
use crate::route::Router;
use crate::sip::{Message, Method, Scheme, Uri};
use crate::time::Instant;

impl Proxy {
    /// Whether an INVITE is an emergency, before anything else is known of it.
    pub(super) fn is_urgent(&self, message: &Message<'_>, source: SocketAddr) -> bool {
        let Some(uri) = Uri::parse(message.request_uri()).filter(|_| message.method() == Method::Invite) else {
            return false;
        };
        self.trunk_of(source).is_some_and(|trunk| {
            let service = self.router.service(trunk, &uri.number());
            is_emergency(&self.router.config, message, &uri, (trunk, service))
        })
    }

    /// Whether a new call comes slowly enough for its source, its trunk and its service.
    pub(super) fn pace(
        &mut self,
        now: Instant,
        router: &Router,
        source: SocketAddr,
        trunk: usize,
        service: Option<usize>,
    ) -> Result<(), Refusal> {
        let settings = &router.config.trunks[trunk];
        let of_service = service.and_then(|service| router.config.services[service].rate);
        if settings.source_rate.is_none() && settings.rate.is_none() && of_service.is_none() {
            return Ok(());
        }
        let id = router.trunk_id(trunk);
        if let Some(rate) = &settings.source_rate
            && !self.sources.admit(now, (id.0, source.ip()), rate)
        {
            self.gate.refuse_source(now, id, rate, &mut self.events);
            return Err(Refusal::SourceRate);
        }
        self.gate.pace(now, id, service.map(|service| router.service_id(service)), &mut self.events)
    }

    /// An emergency call was let in, though a rung would have refused another. One a second is told of, and how many more there were.
    pub(super) fn tell_of_emergency(&mut self, now: Instant, (trunk, service): (&str, &str), beyond: Option<Refusal>) {
        let (last, untold) = self.emergencies;
        if last != Instant::ZERO && now - last < Duration::from_secs(1) {
            self.emergencies.1 += 1;
            return;
        }
        self.emergencies = (now, 0);
        let though = beyond.map_or_else(String::new, |refusal| format!(", though {refusal}"));
        let detail = format!("from trunk {trunk}{though}").into();
        self.events.push(Event { detail, refused: untold, ..Event::about(EventKind::EmergencyCall, now, service) });
    }
}

/// Whether an INVITE is an emergency: by its number (RFC 5031, or one the operator named), or by what a trusted trunk says of it
/// (a callback of an emergency centre, RFC 7090; Resource-Priority, RFC 4412).
pub(super) fn is_emergency(
    config: &Config,
    invite: &Message<'_>,
    uri: &Uri<'_>,
    (trunk, service): (usize, Option<usize>),
) -> bool {
    if uri.scheme == Scheme::Sos || service.is_some_and(|service| config.services[service].emergency) {
        return true;
    }
    if !config.trunks[trunk].trusted {
        return false;
    }
    let is_listed = |value: &[u8]| config.priorities.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(value));
    let mut values = invite.named_all("Resource-Priority").flat_map(|line| line.split(|octet| *octet == b','));
    invite.named("Priority").is_some_and(|value| value.eq_ignore_ascii_case(b"psap-callback"))
        || values.any(|value| is_listed(value.trim_ascii()))
}
