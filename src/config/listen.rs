//! `[[listen]]`: sockets, what they speak, and the certificates of those that speak TLS.

use std::net::SocketAddr;

use super::file::{Problems, Section};
use super::{ClientAuth, Listen, ListenTls};
use crate::sip::{Transport, Uri};

/// Listeners: a [`crate::outbox::ListenerId`] numbers them.
const LISTEN_MAX: usize = 64;

pub(super) fn read_listen(root: &mut Section, problems: &mut Problems) -> Vec<Listen> {
    let mut listen: Vec<Listen> = Vec::new();
    let sections = root.sections(problems, "listen");
    if sections.is_empty() {
        problems.add("listen", "there is none", "add [[listen]] with uri = \"udp:192.0.2.10:5060\"");
    } else if sections.len() > LISTEN_MAX {
        problems.add("listen", format!("{} are too many", sections.len()), format!("at most {LISTEN_MAX}"));
    }
    for mut section in sections {
        let uri = section.needed_string(problems, "uri", "\"udp:192.0.2.10:5060\"");
        let advertise = section.string(problems, "advertise");
        match uri.as_deref().map(|uri| (uri, listen_address(uri))) {
            None => {}
            Some((uri, Err(cure))) => {
                problems.add(section.key("uri"), format!("{uri:?} is nothing to listen on"), cure);
                for key in ["certificate", "key", "client_ca", "client_auth"] {
                    section.take(key);
                }
            }
            Some((uri, Ok((transport, address)))) => {
                let is_datagram = |transport: Transport| transport == Transport::Udp;
                let is_same = |other: &Listen| {
                    other.address == address
                        && address.port() != 0
                        && is_datagram(other.transport) == is_datagram(transport)
                };
                if listen.iter().any(is_same) {
                    problems.add(section.key("uri"), format!("{uri:?} is there twice"), "remove one of them");
                }
                if address.ip().is_unspecified() && advertise.is_none() {
                    problems.add(
                        section.key("advertise"),
                        format!("is missing: {uri:?} binds every address, and Via and Record-Route need one"),
                        "write advertise = \"host:port\" as peers reach this node",
                    );
                }
                let tls = read_tls(&mut section, problems, transport);
                let advertise = read_advertise(&section, problems, advertise, address);
                listen.push(Listen { transport, address, tls, advertise });
            }
        }
        section.finish(problems);
    }
    listen
}

fn read_advertise(
    section: &Section,
    problems: &mut Problems,
    advertise: Option<String>,
    address: SocketAddr,
) -> Box<str> {
    let Some(text) = advertise else { return address.to_string().into() };
    let is_host_port =
        |uri: Uri<'_>| text.len() <= 260 && uri.parameters().is_empty() && !uri.has_headers() && uri.user().is_empty();
    if !Uri::parse(format!("sip:{text}").as_bytes()).is_some_and(is_host_port) {
        let what = format!("{text:?} is no host and port");
        problems.add(section.key("advertise"), what, "write it as \"gate.example.net:5060\"");
    }
    text.into()
}

fn read_tls(section: &mut Section, problems: &mut Problems, transport: Transport) -> Option<ListenTls> {
    if !transport.is_secure() {
        return None;
    }
    let mut file = |key, example| {
        if !section.has(key) {
            problems.add(section.key(key), "is missing", format!("write {key} = \"{example}\""));
        }
        section.path_value(problems, key).unwrap_or_default().into_boxed_str()
    };
    let certificate = file("certificate", "/etc/sipweir/gate.pem");
    let key = file("key", "/etc/sipweir/gate.key");
    let client_ca = section.path_value(problems, "client_ca").map(String::into_boxed_str);
    let client_auth = match section.string(problems, "client_auth").as_deref() {
        None if client_ca.is_some() => ClientAuth::Require,
        None | Some("none") => ClientAuth::None,
        Some("request") => ClientAuth::Request,
        Some("require") => ClientAuth::Require,
        Some(other) => {
            let what = format!("{other:?} is no way to ask for certificates");
            problems.add(section.key("client_auth"), what, "write \"none\", \"request\" or \"require\"");
            ClientAuth::None
        }
    };
    if client_auth != ClientAuth::None && client_ca.is_none() {
        problems.add(
            section.key("client_ca"),
            "is missing, and client_auth asks for certificates",
            "write client_ca = \"/etc/sipweir/peers.pem\": who signs them",
        );
    }
    Some(ListenTls { certificate, key, client_ca, client_auth })
}

fn listen_address(uri: &str) -> Result<(Transport, SocketAddr), &'static str> {
    let cure = "write it as \"udp:192.0.2.10:5060\", with udp, tcp, tls, ws or wss";
    let (name, address) = uri.split_once(':').ok_or(cure)?;
    let transport = Transport::parse(name.as_bytes()).ok_or(cure)?;
    let address = address.parse().map_err(|_| "write it as \"udp:192.0.2.10:5060\" or \"udp:[2001:db8::1]:5060\"")?;
    Ok((transport, address))
}
