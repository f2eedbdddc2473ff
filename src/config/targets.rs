//! `[[target]]`: places calls go, how their addresses are chosen among, and how it is known that they live.

#![expect(clippy::wildcard_enum_match_arm, reason = "TOML's value types are not ours")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use toml::Value;

use super::check::{read_name, sections_bounded};
use super::file::{Problems, Section};
use super::{Balance, Listen, Probe, Sign, Target, TargetUri};
use crate::sip::{HeaderName, Host, Scheme, Transport, Uri};

pub(super) fn read_targets(root: &mut Section, problems: &mut Problems) -> (Vec<Target>, Vec<bool>) {
    let mut unsaid = Vec::new();
    let (mut targets, mut seen) = (Vec::new(), BTreeMap::new());
    let sections = sections_bounded(root, problems, "target");
    if sections.is_empty() {
        problems.add("target", "there is none", "add a [[target]] with the address of the PBX");
    }
    for mut section in sections {
        let name = read_name(&mut section, problems, &mut seen);
        let uris = read_uris(&mut section, problems);
        let tls_name = section.string(problems, "tls_name").map(String::into_boxed_str);
        if let Some(name) = tls_name.as_deref().filter(|name| Host::parse(name.as_bytes()).is_none()) {
            let what = format!("{name:?} is no host");
            problems.add(section.key("tls_name"), what, "write the name in the target's certificate");
        }
        let silence = section.number(problems, "silence_ms", 100..=60_000).unwrap_or(5_000);
        let mut one_of = |key, first: &str, second: &str| match section.string(problems, key) {
            None => false,
            Some(word) if word == first => false,
            Some(word) if word == second => true,
            Some(other) => {
                let what = format!("{other:?} is unknown");
                problems.add(section.key(key), what, format!("write {first:?} or {second:?}"));
                false
            }
        };
        let keeps = one_of("request_uri", "target", "keep");
        let by_calls = one_of("balance", "weight", "calls");
        let follows = one_of("redirects", "pass", "follow");
        let history_info = section.flag(problems, "history_info").unwrap_or(true);
        let diversion = section.flag(problems, "diversion").unwrap_or(true);
        let released_by = section.string(problems, "released_by").and_then(|text| {
            let sign = read_sign(&text);
            if sign.is_none() {
                let what = format!("{text:?} is no header field");
                problems.add(
                    section.key("released_by"),
                    what,
                    "write \"X-Transferred\" or \"X-Call-State: transferred\"",
                );
            }
            sign
        });
        let released_by_contact = section.flag(problems, "released_by_contact").unwrap_or(false);
        let uses_channel = section.flag(problems, "uses_channel");
        unsaid.push(uses_channel.is_none());
        let probe = read_probe(&mut section, problems);
        let down_after = section.number(problems, "down_after", 1..=100).unwrap_or(3) as u8;
        let up_after = section.number(problems, "up_after", 1..=100).unwrap_or(2) as u8;
        section.finish(problems);
        targets.push(Target {
            name: name.into(),
            uris,
            tls_name,
            silence: Duration::from_millis(u64::from(silence)),
            rewrite: !keeps,
            history_info,
            diversion,
            balance: if by_calls { Balance::Calls } else { Balance::Weight },
            probe,
            released_by,
            released_by_contact,
            uses_channel: uses_channel.unwrap_or(false),
            follows,
            down_after,
            up_after,
        });
    }
    (targets, unsaid)
}

/// `Name` or `Name: value`, of a header nobody else gives a meaning to here.
fn read_sign(text: &str) -> Option<Sign> {
    let (name, value) = match text.split_once(':') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (text.trim(), None),
    };
    let is_other = HeaderName::parse(name.as_bytes()) == HeaderName::Other;
    let is_name =
        !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
    let is_value = value.is_none_or(|value| !value.is_empty() && !value.contains(['\r', '\n']));
    (is_other && is_name && is_value).then(|| Sign { name: name.into(), value: value.map(Into::into) })
}

fn read_probe(section: &mut Section, problems: &mut Problems) -> Option<Probe> {
    let interval = section.number(problems, "probe_s", 1..=3_600);
    let timeout = section.number(problems, "probe_timeout_ms", 100..=60_000);
    let accept = section.numbers(problems, "probe_accept", 200..=699);
    let Some(interval) = interval else {
        for (key, is_there) in [("probe_timeout_ms", timeout.is_some()), ("probe_accept", accept.is_some())] {
            if is_there {
                problems.add(section.key(key), "says how to probe, and probe_s is missing", "add probe_s = 10");
            }
        }
        return None;
    };
    let interval = Duration::from_secs(u64::from(interval));
    let timeout =
        timeout.map_or_else(|| Duration::from_secs(3).min(interval), |ms| Duration::from_millis(u64::from(ms)));
    if timeout > interval {
        let what = format!("{} is longer than probe_s", timeout.as_millis());
        problems.add(section.key("probe_timeout_ms"), what, "make it shorter: one probe is under way at a time");
    }
    let accept = accept.map(|statuses| statuses.into_iter().map(|status| status as u16).collect());
    Some(Probe { interval, timeout, accept })
}

/// `uri`: a string, or a table with `uri` and more; each comes after those before it unless a priority says otherwise.
fn read_uris(section: &mut Section, problems: &mut Problems) -> Vec<TargetUri> {
    let key = section.key("uri");
    let values = match section.take("uri") {
        None => {
            problems.add(key, "is missing", "write uri = [\"sip:10.0.0.10:5060\"]");
            return Vec::new();
        }
        Some(Value::Array(values)) => values,
        Some(single @ (Value::String(_) | Value::Table(_))) => vec![single],
        Some(other) => {
            problems.add(key, format!("{other} is no list of URIs"), "write uri = [\"sip:10.0.0.10:5060\"]");
            return Vec::new();
        }
    };
    if values.is_empty() || values.len() > 16 {
        problems.add(key, format!("{} URIs", values.len()), "write 1 to 16 of them");
        return Vec::new();
    }
    let mut uris: Vec<TargetUri> = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let path = format!("{key}[{at}]");
        let (text, priority, weight, drain) = match value {
            Value::String(text) => (Some(text), None, None, None),
            Value::Table(table) => {
                let mut entry = Section::new(path.clone(), table);
                let text = entry.needed_string(problems, "uri", "\"sip:10.0.0.10:5060\"");
                let priority = entry.number(problems, "priority", 1..=1_000);
                let weight = entry.number(problems, "weight", 0..=10_000);
                let drain = entry.flag(problems, "drain");
                entry.finish(problems);
                (text, priority, weight, drain)
            }
            other => {
                let cure = "write \"sip:10.0.0.10:5060\", or { uri = \"…\", priority = 1, weight = 1 }";
                problems.add(path, format!("{other} is no URI"), cure);
                continue;
            }
        };
        let Some(text) = text else { continue };
        if uris.iter().any(|uri| *uri.text == *text) {
            problems.add(path.clone(), format!("{text:?} is there twice"), "remove one of them");
        }
        match target_uri(&text) {
            Ok(uri) => uris.push(TargetUri {
                priority: priority.unwrap_or(at as u32 + 1) as u16,
                weight: weight.unwrap_or(1) as u16,
                drain: drain.unwrap_or(false),
                ..uri
            }),
            Err(cure) => problems.add(path, format!("{text:?} is no place to send calls to"), cure),
        }
    }
    uris
}

fn target_uri(text: &str) -> Result<TargetUri, &'static str> {
    let uri = Uri::parse(text.as_bytes()).ok_or("write it as \"sip:10.0.0.10:5060\"")?;
    if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
        return Err("calls go to sip: and sips: URIs; write \"sip:…\"");
    }
    let transport = uri.transport().map_err(|_| "write ;transport=udp, tcp or tls, or leave it out")?;
    if transport.is_some_and(Transport::is_web_socket) {
        return Err("nobody can connect to a WebSocket client; write ;transport=tcp or tls");
    }
    let address = uri.socket_addr();
    let is_nowhere =
        |address: SocketAddr| address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0;
    if address.is_some_and(is_nowhere) || uri.port == Some(0) {
        return Err("write an address and port of one host");
    }
    let parameter = transport.map_or("", Transport::uri_parameter);
    Ok(TargetUri {
        text: text.into(),
        address,
        host: String::from_utf8_lossy(uri.host_text()).to_ascii_lowercase().into(),
        port: uri.port,
        transport,
        host_port: format!("{}{parameter}", &text[uri.host_port_range()]).into(),
        priority: 1,
        weight: 1,
        drain: false,
    })
}

/// Every address of a target needs a listener that can send there, and must not be ours.
pub(super) fn check_ways(problems: &mut Problems, targets: &[Target], listen: &[Listen]) {
    for (at, target) in targets.iter().enumerate() {
        for uri in &target.uris {
            let key = format!("target[{at}].uri");
            let can = |listen: &Listen| match (uri.transport, uri.address) {
                (Some(transport), Some(address)) => {
                    listen.transport == transport && listen.address.is_ipv4() == address.is_ipv4()
                }
                // Without a word of it an address is reached by UDP (RFC 3263 §4.1).
                (None, Some(address)) => {
                    listen.transport == Transport::Udp && listen.address.is_ipv4() == address.is_ipv4()
                }
                (Some(transport), None) => listen.transport == transport,
                (None, None) => !listen.transport.is_web_socket(),
            };
            let (transport, text) = (uri.transport.unwrap_or_default(), &uri.text);
            if !listen.is_empty() && !listen.iter().any(can) {
                let family = match uri.address {
                    Some(address) if address.is_ipv4() => " over IPv4",
                    Some(_) => " over IPv6",
                    None => "",
                };
                let what = format!("{text:?} cannot be reached: no [[listen]] has {transport}{family}");
                let cure = format!("add a [[listen]] with uri = \"{transport}:…\", or name another way to the target");
                problems.add(key.clone(), what, cure);
            }
            let is_here = |listen: &Listen| (Some(listen.address), listen.transport) == (uri.address, transport);
            if listen.iter().any(is_here) {
                let what = format!("{text:?} is this node itself");
                problems.add(key, what, "write the address of the PBX: a call to ourselves is a loop");
            }
        }
    }
}
