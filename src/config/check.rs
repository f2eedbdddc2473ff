//! From the file to a [`Config`]: every reference resolved, every bound checked, every problem reported.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::file::{Problems, Section};
use super::licences::{check_licensing, read_licensed, read_licensing};
use super::listen::read_listen;
use super::plan::read_waiting;
use super::services::read_services;
use super::sinks::read_sinks;
use super::targets::{check_ways, read_targets};
use super::{Cidr, Config, Limits, Pool, Problem, SessionRules, Trunk, UnknownSource};
use crate::alert::Thresholds;
use crate::pool::PoolSettings;
use crate::pool::rate::RateSettings;
use crate::sip::Host;
use crate::transaction::timer::Lengths;

/// Entries of one kind.
const ENTRIES_MAX: usize = 10_000;

pub(super) fn read(text: &str) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::default();
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            problems.add(format!("line {line}"), error.message().to_owned(), "correct the TOML");
            return Err(problems.0);
        }
    };
    let mut root = Section::new("", table);
    let config = read_root(&mut root, &mut problems);
    root.finish(&mut problems);
    if problems.0.is_empty() { Ok(config) } else { Err(problems.0) }
}

fn read_root(root: &mut Section, problems: &mut Problems) -> Config {
    let mut node = root.section(problems, "node").unwrap_or_else(|| Section::new("node", toml::Table::new()));
    let name = node.string(problems, "name").unwrap_or_else(|| "sipweir".into());
    let data_dir = node.path_value(problems, "data_dir").map(String::into_boxed_str);
    let workers = node.number(problems, "workers", 1..=64).unwrap_or(1) as u16;
    if workers != 1 {
        problems.add(
            node.key("workers"),
            format!("{workers} are not yet possible"),
            "write 1: this version runs one shard",
        );
    }
    if name.is_empty() {
        problems.add(node.key("name"), "is empty", "write name = \"gate-1\", or leave it out");
    }
    let domains = node.strings(problems, "domains").unwrap_or_default();
    for domain in domains.iter().filter(|domain| *domain != "*" && Host::parse(domain.as_bytes()).is_none()) {
        problems.add(
            node.key("domains"),
            format!("{domain:?} is no host"),
            "write a name such as \"pbx.example.net\", or \"*\" for any",
        );
    }
    let unknown_source = match node.string(problems, "unknown_source").as_deref() {
        None | Some("reject") => UnknownSource::Reject,
        Some("drop") => UnknownSource::Drop,
        Some(other) => {
            let what = format!("{other:?} is no way to treat strangers");
            problems.add(node.key("unknown_source"), what, "write \"reject\" or \"drop\"");
            UnknownSource::Reject
        }
    };
    node.finish(problems);

    let listen = read_listen(root, problems);
    let tls_ca = root.section(problems, "tls").and_then(|mut tls| {
        let file = tls.path_value(problems, "ca");
        tls.finish(problems);
        file.map(String::into_boxed_str)
    });
    let name_servers = read_name_servers(root, problems);
    let admin = root.section(problems, "admin").and_then(|mut admin| {
        let text = admin.needed_string(problems, "listen", "\"127.0.0.1:8060\"");
        let key = admin.key("listen");
        admin.finish(problems);
        let text = text?;
        let address = text.parse::<SocketAddr>();
        if address.is_err() {
            problems.add(
                key,
                format!("{text:?} is no address and port"),
                "write it as \"127.0.0.1:8060\" or \"[::1]:8060\"",
            );
        }
        address.ok()
    });
    let (timers, ack_wait, longest_call) = read_timers(root, problems);
    let limits = read_limits(root, problems);
    let trunks = read_trunks(root, problems);
    let (mut targets, unsaid) = read_targets(root, problems);
    check_ways(problems, &targets, &listen);
    let pools = read_pools(root, problems);
    let services = read_services(root, problems, (&trunks, &targets, &pools), longest_call);
    for service in services.iter().filter(|service| service.pool.is_some()) {
        if unsaid.get(service.target) == Some(&true) {
            targets[service.target].uses_channel = true;
        }
    }
    let licensing = read_licensing(root, problems);
    check_licensing(problems, (&licensing, &pools), &services, data_dir.is_some());
    if services.is_empty() && !problems.0.iter().any(|problem| problem.key.starts_with("service")) {
        problems.add("service", "there is none", "add a [[service]]: without one no call can be let in");
    }
    Config {
        name: name.into(),
        data_dir,
        workers,
        domains: domains.into_iter().map(|domain| domain.to_ascii_lowercase().into()).collect(),
        unknown_source,
        name_servers,
        tls_ca,
        listen,
        admin,
        trunks,
        targets,
        pools,
        services,
        timers,
        longest_call,
        session: read_session(root, problems),
        ack_wait,
        waiting: read_waiting(root, problems),
        priorities: read_emergency(root, problems),
        limits,
        licensing,
        sinks: read_sinks(root, problems),
        alert_hold: read_alerts(root, problems),
    }
}

fn read_alerts(root: &mut Section, problems: &mut Problems) -> Duration {
    let Some(mut section) = root.section(problems, "alerts") else { return Duration::ZERO };
    let hold = section.number(problems, "hold_s", 0..=86_400).unwrap_or(0);
    section.finish(problems);
    Duration::from_secs(u64::from(hold))
}

fn read_timers(root: &mut Section, problems: &mut Problems) -> (Lengths, Duration, Duration) {
    let mut lengths = Lengths::default();
    let (mut ack_wait, mut longest) = (Duration::from_secs(60), Duration::from_secs(12 * 3600));
    if let Some(mut section) = root.section(problems, "timers") {
        let mut millis = |key, range, into: &mut Duration| {
            if let Some(number) = section.number(problems, key, range) {
                *into = Duration::from_millis(u64::from(number));
            }
        };
        millis("t1_ms", 10..=10_000, &mut lengths.t1);
        millis("t2_ms", 10..=60_000, &mut lengths.t2);
        millis("t4_ms", 10..=60_000, &mut lengths.t4);
        // More than this and §17.2.1 has us answer first.
        millis("trying_ms", 0..=190, &mut lengths.trying);
        let mut seconds = |key, range, into: &mut Duration| {
            if let Some(number) = section.number(problems, key, range) {
                *into = Duration::from_secs(u64::from(number));
            }
        };
        seconds("timer_c_s", 181..=3600, &mut lengths.timer_c);
        seconds("ack_wait_s", 1..=3600, &mut ack_wait);
        seconds("longest_call_s", 1..=604_800, &mut longest);
        if lengths.t2 < lengths.t1 {
            problems.add(
                section.key("t2_ms"),
                format!("{} is less than t1_ms ({})", lengths.t2.as_millis(), lengths.t1.as_millis()),
                "make it at least as long (RFC 3261 §17.1.2.1)",
            );
        }
        section.finish(problems);
    }
    (lengths, ack_wait, longest)
}

fn read_name_servers(root: &mut Section, problems: &mut Problems) -> Vec<SocketAddr> {
    let Some(mut section) = root.section(problems, "dns") else { return Vec::new() };
    let mut servers = Vec::new();
    for text in section.strings(problems, "servers").unwrap_or_default() {
        let with_port = text.parse::<SocketAddr>().ok();
        match with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53))) {
            Some(server) => servers.push(server),
            None => {
                let what = format!("{text:?} is no address");
                problems.add(section.key("servers"), what, "write servers = [\"192.0.2.53\"]");
            }
        }
    }
    section.finish(problems);
    servers
}

/// `[emergency]`: the values of Resource-Priority (RFC 4412 §3.1: `namespace.value`) that make a call an emergency.
fn read_emergency(root: &mut Section, problems: &mut Problems) -> Vec<Box<str>> {
    let Some(mut section) = root.section(problems, "emergency") else { return Vec::new() };
    let mut values = Vec::new();
    for value in section.strings(problems, "resource_priority").unwrap_or_default() {
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-!%*_+`'~".contains(&octet))
        };
        if value.split_once('.').is_none_or(|(namespace, priority)| !is_token(namespace) || !is_token(priority)) {
            let what = format!("{value:?} is no resource priority");
            problems.add(section.key("resource_priority"), what, "write it as \"ets.0\" or \"esnet.1\" (RFC 4412)");
        }
        values.push(value.to_ascii_lowercase().into());
    }
    section.finish(problems);
    values
}

fn read_session(root: &mut Section, problems: &mut Problems) -> Option<SessionRules> {
    let mut section = root.section(problems, "session")?;
    // RFC 4028 §4: 1800 is recommended; §5: never less than 90.
    let expires = section.number(problems, "expires_s", 90..=86_400).unwrap_or(1_800);
    let min_se = section.number(problems, "min_se_s", 90..=86_400).unwrap_or(90);
    if min_se > expires {
        let what = format!("{min_se} is more than expires_s ({expires})");
        problems.add(section.key("min_se_s"), what, "make it at most expires_s");
    }
    section.finish(problems);
    Some(SessionRules { expires, min_se })
}

fn read_limits(root: &mut Section, problems: &mut Problems) -> Limits {
    let mut limits = Limits {
        calls: 1_000_000,
        transactions: 4_000_000,
        connections: 10_000,
        connections_per_source: 1_000,
        connection_mb: 256,
        connection_idle: Duration::from_secs(900),
    };
    if let Some(mut section) = root.section(problems, "limits") {
        limits.calls = section.number(problems, "calls", 1..=10_000_000).unwrap_or(limits.calls);
        limits.transactions = section.number(problems, "transactions", 1..=10_000_000).unwrap_or(limits.transactions);
        limits.connections = section.number(problems, "connections", 1..=1_000_000).unwrap_or(limits.connections);
        limits.connections_per_source = section
            .number(problems, "connections_per_source", 1..=1_000_000)
            .unwrap_or_else(|| limits.connections_per_source.min(limits.connections));
        limits.connection_mb = section.number(problems, "connection_mb", 1..=65_536).unwrap_or(limits.connection_mb);
        if let Some(seconds) = section.number(problems, "connection_idle_s", 10..=86_400) {
            limits.connection_idle = Duration::from_secs(u64::from(seconds));
        }
        section.finish(problems);
    }
    limits
}

/// The `name` of an entry, once.
pub(super) fn read_name(section: &mut Section, problems: &mut Problems, seen: &mut BTreeMap<String, String>) -> String {
    let name = section.needed_string(problems, "name", "\"…\"").unwrap_or_default();
    if let Some(other) = seen.get(&name).filter(|_| !name.is_empty()) {
        problems.add(section.key("name"), format!("{name:?} is the name of {other} already"), "give each its own name");
    }
    seen.insert(name.clone(), section.path().to_owned());
    name
}

pub(super) fn sections_bounded(root: &mut Section, problems: &mut Problems, key: &'static str) -> Vec<Section> {
    let mut sections = root.sections(problems, key);
    if sections.len() > ENTRIES_MAX {
        problems.add(key, format!("{} are too many", sections.len()), format!("at most {ENTRIES_MAX}"));
        sections.truncate(ENTRIES_MAX);
    }
    sections
}

fn read_trunks(root: &mut Section, problems: &mut Problems) -> Vec<Trunk> {
    let (mut trunks, mut seen) = (Vec::<Trunk>::new(), BTreeMap::new());
    let sections = sections_bounded(root, problems, "trunk");
    if sections.is_empty() {
        problems.add("trunk", "there is none", "add a [[trunk]] with the addresses calls come from");
    }
    for mut section in sections {
        let name = read_name(&mut section, problems, &mut seen);
        let identities = read_identities(&mut section, problems, &trunks);
        let mut from = Vec::new();
        match section.strings(problems, "from") {
            None if !identities.is_empty() => {}
            None => problems.add(section.key("from"), "is missing", "write from = [\"198.51.100.0/24\"]"),
            Some(blocks) => {
                if blocks.is_empty() {
                    problems.add(section.key("from"), "is empty", "write from = [\"198.51.100.0/24\"]");
                }
                for block in blocks {
                    match parse_cidr(&block) {
                        Some(cidr) => {
                            // Trunks that show certificates may share addresses.
                            let twice = trunks
                                .iter()
                                .find(|trunk| trunk.from.contains(&cidr) && trunk.identities.is_empty())
                                .filter(|_| identities.is_empty());
                            if let Some(other) = twice {
                                problems.add(
                                    section.key("from"),
                                    format!("{block:?} belongs to trunk {:?} already", other.name),
                                    "an address block names one trunk; remove it from one of them",
                                );
                            }
                            from.push(cidr);
                        }
                        None => problems.add(
                            section.key("from"),
                            format!("{block:?} is no block of addresses"),
                            "write it as \"198.51.100.0/24\" or \"2001:db8::/32\"",
                        ),
                    }
                }
            }
        }
        let max_calls = section.number(problems, "max_calls", 0..=10_000_000);
        let relay = section.flag(problems, "relay").unwrap_or(false);
        let rate = read_rate(&mut section, problems, ["rate", "burst"]);
        let source_rate = read_rate(&mut section, problems, ["source_rate", "source_burst"]);
        let trusted = section.flag(problems, "trusted").unwrap_or(false);
        section.finish(problems);
        trunks.push(Trunk { name: name.into(), from, identities, max_calls, rate, source_rate, relay, trusted });
    }
    trunks
}

/// `rate = 20`, `burst = 40`: new calls a second, and how many at once after a pause; `resume_percent` belongs to all of a section.
pub(super) fn read_rate(
    section: &mut Section,
    problems: &mut Problems,
    [rate, burst]: [&'static str; 2],
) -> Option<RateSettings> {
    let (of_rate, of_burst) =
        (section.number(problems, rate, 1..=100_000), section.number(problems, burst, 1..=1_000_000));
    let resume_percent = section.number(problems, "resume_percent", 0..=100).unwrap_or(0);
    if of_rate.is_none() && of_burst.is_some() {
        problems.add(
            section.key(burst),
            format!("says nothing without {rate}"),
            format!("write {rate} = 20, or remove it"),
        );
    }
    if resume_percent > 0
        && !["rate", "source_rate"].iter().any(|rate| section.has(rate))
        && of_rate.is_none()
        && rate == "rate"
    {
        problems.add(section.key("resume_percent"), "says nothing without a rate", "write rate = 20, or remove it");
    }
    // What comes in a second may come at once.
    of_rate.map(|rate| RateSettings { rate, burst: of_burst.unwrap_or(rate), resume_percent })
}

/// `tls = ["carrier.example.net"]`: the SIP domains one of which the trunk's certificate must name.
fn read_identities(section: &mut Section, problems: &mut Problems, trunks: &[Trunk]) -> Vec<Box<str>> {
    let mut identities = Vec::<Box<str>>::new();
    for name in section.strings(problems, "tls").unwrap_or_default() {
        let name = name.to_ascii_lowercase();
        if !matches!(Host::parse(name.as_bytes()), Some(Host::Name(_))) {
            let what = format!("{name:?} is no SIP domain");
            problems.add(
                section.key("tls"),
                what,
                "write the name in the certificate, such as \"carrier.example.net\"",
            );
        } else if let Some(other) = trunks.iter().find(|trunk| trunk.identities.iter().any(|other| **other == *name)) {
            let what = format!("{name:?} belongs to trunk {:?} already", other.name);
            problems.add(section.key("tls"), what, "a certificate names one trunk; remove it from one of them");
        }
        identities.push(name.into());
    }
    identities
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some(Cidr { address, bits })
}

fn read_pools(root: &mut Section, problems: &mut Problems) -> Vec<Pool> {
    let (mut pools, mut seen) = (Vec::new(), BTreeMap::new());
    for mut section in sections_bounded(root, problems, "pool") {
        let name = read_name(&mut section, problems, &mut seen);
        let licence = read_licensed(&mut section, problems);
        let capacity = section.number(problems, "channels", 0..=10_000_000).unwrap_or(0);
        let default = Thresholds::default();
        let near =
            section.number(problems, "near_full_percent", 1..=100).map_or(default.near_full_percent, |n| n as u8);
        let recovered = section
            .number(problems, "recovered_percent", 1..=100)
            .map_or_else(|| default.recovered_percent.min(near.saturating_sub(1).max(1)), |n| n as u8);
        if recovered > near || (recovered == near && near > 1) {
            problems.add(
                section.key("recovered_percent"),
                format!("{recovered} is not below near_full_percent ({near})"),
                "make it lower, or the pool recovers and fills at one mark",
            );
        }
        section.finish(problems);
        let thresholds = Thresholds { near_full_percent: near, recovered_percent: recovered };
        pools.push(Pool { settings: PoolSettings { name: name.into(), capacity, thresholds }, licence });
    }
    pools
}

pub(super) fn position<T>(entries: &[T], name: &str, of: impl Fn(&T) -> &str) -> Option<usize> {
    entries.iter().position(|entry| of(entry) == name)
}

pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.take(8).collect();
    if names.is_empty() { "there is none".into() } else { format!("known are {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const EXAMPLE: &str = r#"
[node]
name = "gate-1"
[[listen]]
uri = "udp:192.0.2.10:5060"
[admin]
listen = "127.0.0.1:8060"
[[trunk]]
name = "carrier-a"
from = ["198.51.100.0/24"]
[[target]]
name = "pbx"
uri = ["sip:10.0.0.10:5060"]
[[target]]
name = "voicemail"
uri = ["sip:10.0.0.20:5060"]
[[pool]]
name = "ivr-and-queues"
channels = 30
[[service]]
name = "main-menu"
kind = "ivr"
numbers = ["100", "+44207946*"]
pool = "ivr-and-queues"
target = "pbx"
overflow = [{ route = "voicemail" }, { reject = 486 }]
"#;

    fn problems(from: &str, to: &str) -> Vec<String> {
        assert!(EXAMPLE.contains(from), "{from}");
        match Config::parse(&EXAMPLE.replacen(from, to, 1)) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn the_example_of_the_design_is_valid() {
        let config = Config::parse(EXAMPLE).expect("valid");
        assert_eq!(&*config.listen[0].advertise, "192.0.2.10:5060");
        assert_eq!(config.services[0].numbers.len(), 2);
        assert_eq!(config.services[0].overflow.len(), 2);
        assert!(config.trunks[0].from[0].contains("198.51.100.9".parse().expect("an address")));
        assert!(config.trunks[0].from[0].contains("::ffff:198.51.100.9".parse().expect("an address")));
        assert!(!config.trunks[0].from[0].contains("198.51.101.9".parse().expect("an address")));
    }

    #[test]
    fn every_problem_names_key_value_and_cure() {
        let one = |from: &str, to: &str, message: &str| assert_eq!(problems(from, to), [message], "{to}");
        one("name = \"gate-1\"", "nmae = \"gate-1\"", "node.nmae: is no known key; did you mean name?");
        one(
            "udp:192.0.2.10:5060",
            "sctp:192.0.2.10:5060",
            "listen[0].uri: \"sctp:192.0.2.10:5060\" is nothing to listen on; write it as \"udp:192.0.2.10:5060\", with udp, tcp, tls, ws or wss",
        );
        one(
            "sip:10.0.0.10:5060",
            "sip:10.0.0.10:5060;transport=tcp",
            "target[0].uri: \"sip:10.0.0.10:5060;transport=tcp\" cannot be reached: no [[listen]] has tcp over IPv4; add a [[listen]] with uri = \"tcp:…\", or name another way to the target",
        );
        one(
            "sip:10.0.0.10:5060",
            "sip:10.0.0.10:5060;transport=ws",
            "target[0].uri[0]: \"sip:10.0.0.10:5060;transport=ws\" is no place to send calls to; nobody can connect to a WebSocket client; write ;transport=tcp or tls",
        );
        one(
            "udp:192.0.2.10:5060",
            "udp:0.0.0.0:5060",
            "listen[0].advertise: is missing: \"udp:0.0.0.0:5060\" binds every address, and Via and Record-Route need one; write advertise = \"host:port\" as peers reach this node",
        );
        one(
            "channels = 30",
            "channels = -1",
            "pool[0].channels: -1 is no whole number from 0 to 10000000; write a number from 0 to 10000000",
        );
        one(
            "channels = 30",
            "",
            "pool[0].channels: is missing; write channels = 30, or licence = \"advanced-queueing\" when licences say how many",
        );
        one(
            "sip:10.0.0.10:5060",
            "http://x",
            "target[0].uri[0]: \"http://x\" is no place to send calls to; calls go to sip: and sips: URIs; write \"sip:…\"",
        );
        one(
            "sip:10.0.0.10:5060",
            "10.0.0.10",
            "target[0].uri[0]: \"10.0.0.10\" is no place to send calls to; write it as \"sip:10.0.0.10:5060\"",
        );
        one(
            "target = \"pbx\"",
            "target = \"pxb\"",
            "service[0].target: \"pxb\" is no target; add [[target]] with this name; known are pbx, voicemail",
        );
        one(
            "route = \"voicemail\"",
            "route = \"vm\"",
            "service[0].overflow[0].route: \"vm\" is no target; add [[target]] with this name; known are pbx, voicemail",
        );
        one(
            "198.51.100.0/24",
            "198.51.100.0/33",
            "trunk[0].from: \"198.51.100.0/33\" is no block of addresses; write it as \"198.51.100.0/24\" or \"2001:db8::/32\"",
        );
        one("\"100\", ", "\"100\", \"100\", ", "service[0].numbers: \"100\" is there twice; remove one of them");
        one(
            "{ reject = 486 }]",
            "{ reject = 200 }]",
            "service[0].overflow[1].reject: 200 is no whole number from 400 to 699; write a number from 400 to 699",
        );
        one(
            "{ route = \"voicemail\" }, { reject = 486 }",
            "{ reject = 486 }, { route = \"voicemail\" }",
            "service[0].overflow[0]: ends the plan, and more steps follow; move it to the end",
        );
        one(
            "channels = 30",
            "channels = 30\nnear_full_percent = 50\nrecovered_percent = 60",
            "pool[0].recovered_percent: 60 is not below near_full_percent (50); make it lower, or the pool recovers and fills at one mark",
        );
        one(
            "pool = \"ivr-and-queues\"",
            "pool = \"ivr-and-queues\"\nreserve = 31",
            "pool \"ivr-and-queues\": its services reserve 31 of 30 channels; lower reserve of its services, or raise channels",
        );
        one("[admin]", "[[admin]]", "admin: [{ listen = \"127.0.0.1:8060\" }] is no table; write it as [admin]");
        one("[node]", "[node", "line 2: unclosed table, expected `]`; correct the TOML");
    }

    #[test]
    fn overlapping_numbers_and_names_are_refused_unless_trunks_part_them() {
        let second = "[[service]]\nname = \"two\"\nkind = \"queue\"\nnumbers = [\"100\"]\npool = \"ivr-and-queues\"\ntarget = \"pbx\"\n";
        let text = format!("{EXAMPLE}{second}");
        let message = Config::parse(&text).expect_err("100 is taken")[0].to_string();
        assert_eq!(
            message,
            "service[1].numbers: \"100\" is a number of service \"main-menu\" already; a number calls one service; remove it from one of them"
        );
        assert!(Config::parse(&text.replace("kind = \"queue\"", "kind = \"queue\"\ntrunks = [\"carrier-a\"]")).is_ok());
        let twice = EXAMPLE.replace("\"voicemail\"\nuri", "\"pbx\"\nuri");
        assert!(
            Config::parse(&twice).expect_err("two of one name").iter().any(|problem| problem.key == "target[1].name")
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = EXAMPLE
            .replace("channels = 30", "channels = \"x\"")
            .replace("target = \"pbx\"", "target = \"x\"")
            .replace("name = \"gate-1\"", "nom = 1");
        let keys: Vec<String> =
            Config::parse(&text).expect_err("three problems").into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["node.nom", "pool[0].channels", "service[0].target"]);
        let empty: Vec<String> =
            Config::parse("").expect_err("nothing").into_iter().map(|problem| problem.key).collect();
        assert_eq!(empty, ["listen", "trunk", "target", "service"]);
    }
}
