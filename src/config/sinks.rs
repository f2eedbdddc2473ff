//! Where events go besides the log: sinks, any number, each with a filter of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::check::{read_name, sections_bounded};
use super::file::{Problems, Section};
use crate::alert::{EventKind, Filter, Severity};

/// Sinks of one node.
const SINKS_MAX: usize = 64;

/// A secret, and where it comes from: never written into the configuration, never logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Secret {
    /// The file of that name holds it.
    File(Box<str>),
    /// The environment variable of that name holds it.
    Environment(Box<str>),
}

/// How a webhook's body looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Template {
    /// Our own JSON.
    Json,
    /// `{"text": …}`, which Slack, Mattermost, Rocket.Chat and Google Chat take.
    Slack,
    /// A message with an adaptive card, for workflows of Microsoft Teams.
    Teams,
}

/// How a syslog message travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyslogTransport {
    /// One datagram (RFC 5426).
    Udp,
    /// A connection, octets counted (RFC 6587 §3.4.1).
    Tcp,
    /// The same within TLS (RFC 5425).
    Tls,
}

/// How mail is kept from other eyes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailTls {
    /// STARTTLS, or nothing is sent.
    StartTls,
    /// From the first octet.
    FromStart,
    /// Not at all.
    None,
}

/// A mail server, and whom it sends to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// The server.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// How it is talked to.
    pub tls: MailTls,
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<Box<str>>,
    /// User and password.
    pub login: Option<(Box<str>, Secret)>,
    /// The sender's mailbox.
    pub from: Box<str>,
    /// The receivers' mailboxes.
    pub to: Vec<Box<str>>,
}

/// What takes the notices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SinkKind {
    /// Prometheus Alertmanager, API version 2.
    Alertmanager {
        /// Its base URL.
        url: Box<str>,
    },
    /// An HTTP POST.
    Webhook {
        /// Where.
        url: Box<str>,
        /// What.
        template: Template,
        /// What the body is signed with.
        secret: Option<Secret>,
    },
    /// Syslog, RFC 5424.
    Syslog {
        /// How.
        transport: SyslogTransport,
        /// Host and port.
        address: Box<str>,
        /// The facility's number, RFC 5424 §6.2.1.
        facility: u8,
        /// Certificates that are trusted besides the system's.
        ca_file: Option<Box<str>>,
    },
    /// E-mail.
    Mail(Mail),
    /// An SNMPv2c trap (RFC 3416 §4.2.6).
    Snmp {
        /// Where.
        address: SocketAddr,
        /// The community; `public` without one.
        community: Option<Secret>,
    },
    /// Lines of JSON.
    File {
        /// The file; lines are added at its end.
        path: Box<str>,
    },
}

impl SinkKind {
    /// The secret it needs, when it needs one.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Webhook { secret, .. } => secret.as_ref(),
            Self::Snmp { community, .. } => community.as_ref(),
            Self::Mail(mail) => mail.login.as_ref().map(|(_, password)| password),
            Self::Alertmanager { .. } | Self::Syslog { .. } | Self::File { .. } => None,
        }
    }

    /// As it is written.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Alertmanager { .. } => "alertmanager",
            Self::Webhook { .. } => "webhook",
            Self::Syslog { .. } => "syslog",
            Self::Mail(_) => "mail",
            Self::Snmp { .. } => "snmp",
            Self::File { .. } => "file",
        }
    }
}

/// Somebody who is told of events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sink {
    /// Its name.
    pub name: Box<str>,
    /// What takes them.
    pub kind: SinkKind,
    /// Which it wants.
    pub filter: Filter,
}

pub(super) fn read_sinks(root: &mut Section, problems: &mut Problems) -> Vec<Sink> {
    let (mut sinks, mut seen) = (Vec::new(), BTreeMap::new());
    let sections = sections_bounded(root, problems, "sink");
    if sections.len() > SINKS_MAX {
        problems.add("sink", format!("{} are too many", sections.len()), format!("at most {SINKS_MAX}"));
    }
    for mut section in sections.into_iter().take(SINKS_MAX) {
        let name = read_name(&mut section, problems, &mut seen);
        let is_name = |name: &str| name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
        if !is_name(&name) || name.len() > 64 {
            problems.add(
                section.key("name"),
                format!("{name:?} cannot name a file"),
                "write up to 64 letters, digits, - and _: the sink's queue is kept under its name",
            );
        }
        let kind = read_kind(&mut section, problems);
        let filter = read_filter(&mut section, problems);
        section.finish(problems);
        sinks.extend(kind.map(|kind| Sink { name: name.into(), kind, filter }));
    }
    sinks
}

fn read_kind(section: &mut Section, problems: &mut Problems) -> Option<SinkKind> {
    let kinds = "\"alertmanager\", \"webhook\", \"syslog\", \"snmp\", \"mail\" or \"file\"";
    let kind = section.needed_string(problems, "type", "\"alertmanager\"")?;
    match kind.as_str() {
        "alertmanager" => {
            read_url(section, problems, "\"http://127.0.0.1:9093\"").map(|url| SinkKind::Alertmanager { url })
        }
        "webhook" => {
            let url = read_url(section, problems, "\"https://chat.example.net/hook\"");
            let template = match section.string(problems, "template").as_deref() {
                None | Some("json") => Template::Json,
                Some("slack" | "mattermost" | "rocketchat" | "googlechat") => Template::Slack,
                Some("teams") => Template::Teams,
                Some(other) => {
                    problems.add(
                        section.key("template"),
                        format!("{other:?} is unknown"),
                        "write \"json\", \"slack\", \"mattermost\", \"rocketchat\", \"googlechat\" or \"teams\"",
                    );
                    Template::Json
                }
            };
            let secret = read_secret(section, problems, ("secret", "secret_file", "secret_env"));
            url.map(|url| SinkKind::Webhook { url, template, secret })
        }
        "syslog" => {
            let example = "\"udp:192.0.2.20:514\", \"tcp:192.0.2.20:601\" or \"tls:logs.example.net:6514\"";
            let text = section.needed_string(problems, "address", example);
            let facility = section.number(problems, "facility", 0..=23).unwrap_or(16) as u8;
            let ca_file = section.path_value(problems, "ca_file").map(String::into_boxed_str);
            let text = text?;
            let has_port = |address: &str| {
                address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            };
            let parts = match text.split_once(':') {
                Some(("udp", address)) if has_port(address) => Some((SyslogTransport::Udp, address)),
                Some(("tcp", address)) if has_port(address) => Some((SyslogTransport::Tcp, address)),
                Some(("tls", address)) if has_port(address) => Some((SyslogTransport::Tls, address)),
                _ => None,
            };
            if parts.is_none() {
                let cure = format!("write it as {example}");
                problems.add(section.key("address"), format!("{text:?} is no address of a syslog server"), cure);
            }
            parts.map(|(transport, address)| SinkKind::Syslog { transport, address: address.into(), facility, ca_file })
        }
        "snmp" => {
            let text = section.needed_string(problems, "address", "\"192.0.2.20:162\"");
            let community = read_secret(section, problems, ("community", "community_file", "community_env"));
            let text = text?;
            let address = text.parse().ok();
            if address.is_none() {
                problems.add(
                    section.key("address"),
                    format!("{text:?} is no address and port"),
                    "write it as \"192.0.2.20:162\"",
                );
            }
            address.map(|address| SinkKind::Snmp { address, community })
        }
        "mail" => read_mail(section, problems).map(SinkKind::Mail),
        "file" => {
            let example = "\"/var/log/sipweir/events.jsonl\"";
            let path = if section.has("path") {
                section.path_value(problems, "path")
            } else {
                section.needed_string(problems, "path", example)
            };
            path.map(|path| SinkKind::File { path: path.into() })
        }
        other => {
            problems.add(section.key("type"), format!("{other:?} is unknown"), format!("write {kinds}"));
            None
        }
    }
}

fn read_mail(section: &mut Section, problems: &mut Problems) -> Option<Mail> {
    let server = section.needed_string(problems, "server", "\"smtp.example.net:587\"");
    let tls = match section.string(problems, "tls").as_deref() {
        None | Some("starttls") => MailTls::StartTls,
        Some("tls") => MailTls::FromStart,
        Some("none") => MailTls::None,
        Some(other) => {
            let what = format!("{other:?} is unknown");
            problems.add(section.key("tls"), what, "write \"starttls\", \"tls\" or \"none\"");
            MailTls::StartTls
        }
    };
    let ca_file = section.path_value(problems, "ca_file").map(String::into_boxed_str);
    let user = section.string(problems, "username");
    let password = read_secret(section, problems, ("password", "password_file", "password_env"));
    let login = match (user, password) {
        (Some(user), Some(password)) => Some((user.into(), password)),
        (None, None) => None,
        (Some(_), None) => {
            problems.add(section.key("password_file"), "is missing beside username", "name it, or password_env");
            None
        }
        (None, Some(_)) => {
            problems.add(section.key("username"), "is missing beside the password", "name it");
            None
        }
    };
    let from = section.needed_string(problems, "from", "\"sipweir <gate@example.net>\"");
    let to = section.strings(problems, "to").unwrap_or_default();
    if to.is_empty() {
        problems.add(section.key("to"), "is missing", "write to = [\"operators@example.net\"]");
    }
    // The whole grammar is the mail library's; this much tells a mailbox from a slip of the pen.
    let is_mailbox = |text: &str| {
        let address = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>'));
        let parts = address.split_once('@');
        parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
            && !address.contains(char::is_whitespace)
            && !text.contains(char::is_control)
    };
    for (key, text) in from.iter().map(|text| ("from", text)).chain(to.iter().map(|text| ("to", text))) {
        if !is_mailbox(text) {
            problems.add(section.key(key), format!("{text:?} is no mailbox"), "write it as \"name@example.net\"");
        }
    }
    let server = server?;
    let parts = server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty()) else {
        let cure = "write it as \"smtp.example.net:587\"";
        problems.add(section.key("server"), format!("{server:?} is no host and port"), cure);
        return None;
    };
    let to = to.into_iter().map(String::into_boxed_str).collect();
    Some(Mail { host: host.into(), port, tls, ca_file, login, from: from?.into(), to })
}

fn read_url(section: &mut Section, problems: &mut Problems, example: &str) -> Option<Box<str>> {
    let text = section.needed_string(problems, "url", example)?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_url = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_url {
        problems.add(section.key("url"), format!("{text:?} is no URL"), format!("write it as {example}"));
        return None;
    }
    Some(text.trim_end_matches('/').into())
}

/// A secret is named, never written: `key` itself is refused.
fn read_secret(
    section: &mut Section,
    problems: &mut Problems,
    (key, file, environment): (&'static str, &'static str, &'static str),
) -> Option<Secret> {
    if section.take(key).is_some() {
        let cure = format!("write {file} = \"/etc/sipweir/…\" or {environment} = \"NAME\", and take {key} out");
        problems.add(section.key(key), "is written into the configuration", cure);
    }
    let in_file = section.path_value(problems, file);
    let in_environment = section.string(problems, environment);
    if in_file.is_some() && in_environment.is_some() {
        problems.add(section.key(file), format!("is there besides {environment}"), "keep one of them");
    }
    in_file
        .map(|path| Secret::File(path.into()))
        .or_else(|| in_environment.map(|name| Secret::Environment(name.into())))
}

fn read_filter(section: &mut Section, problems: &mut Problems) -> Filter {
    let severity = match section.string(problems, "severity").as_deref() {
        Some("info") => Severity::Info,
        None | Some("warning") => Severity::Warning,
        Some("critical") => Severity::Critical,
        Some(other) => {
            let what = format!("{other:?} is unknown");
            problems.add(section.key("severity"), what, "write \"info\", \"warning\" or \"critical\"");
            Severity::Warning
        }
    };
    let events = section.strings(problems, "events").unwrap_or_default();
    for pattern in &events {
        let is_known = match pattern.strip_suffix('*') {
            Some(start) => EventKind::ALL.iter().any(|kind| kind.label().starts_with(start)),
            None => EventKind::ALL.iter().any(|kind| kind.label() == pattern),
        };
        if !is_known {
            problems.add(
                section.key("events"),
                format!("{pattern:?} names no event"),
                "write names such as \"pool_exhausted\" or \"pool_*\"; sipweir events list --catalogue lists them",
            );
        }
    }
    Filter { severity, events: events.into_iter().map(String::into_boxed_str).collect() }
}
