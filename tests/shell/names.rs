//! Names, looked up by a real name server (dnsmasq) on loopback.

use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use sipweir::config::Config;
use sipweir::server::Server;

use super::secure::{Certificates, dns};
use super::{Peer, request, wait_for};

pub(super) struct NameServer {
    child: Child,
    pub(super) port: u16,
}

impl NameServer {
    /// Answers for `example.net` only, with these records.
    pub(super) fn start(records: &[String]) -> Self {
        // From a range nobody gets a port of by chance: one that was free a moment ago may be another test's by now.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % 20) as u16 * 45;
        for _ in 0..900 {
            let port = 19_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 900;
            if UdpSocket::bind(("127.0.0.1", port)).is_err() || TcpListener::bind(("127.0.0.1", port)).is_err() {
                continue;
            }
            let mut server = Self::on(port, records);
            let mut has_ended = false;
            wait_for("the name server listens, or ends", || {
                has_ended = server.child.try_wait().expect("it was started").is_some();
                has_ended || UdpSocket::bind(("127.0.0.1", port)).is_err()
            });
            if !has_ended {
                return server;
            }
        }
        panic!("no name server starts");
    }

    fn on(port: u16, records: &[String]) -> Self {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let child = Command::new("dnsmasq")
            .env("PATH", path)
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--local=/example.net/",
            ])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=5", "--user=", "--pid-file="])
            .arg(format!("--port={port}"))
            .args(records)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq starts (Debian: dnsmasq-base)");
        Self { child, port }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn start(port: u16, uri: &str) -> Server {
    start_with(port, uri, "")
}

fn start_with(port: u16, uri: &str, more: &str) -> Server {
    Server::start(Config::parse(&text_with(port, uri, more)).expect("valid"), None).expect("it starts")
}

fn text_with(port: u16, uri: &str, more: &str) -> String {
    format!(
        r#"
[dns]
servers = ["127.0.0.1:{port}"]
[[listen]]
uri = "udp:127.0.0.1:0"
[[listen]]
uri = "tcp:127.0.0.1:0"
{more}
[[trunk]]
name = "any"
from = ["127.0.0.0/8", "::1"]
[[target]]
name = "pbx"
uri = ["{uri}"]
[[pool]]
name = "ivr"
channels = 2
[[service]]
name = "menu"
kind = "ivr"
numbers = ["100"]
pool = "ivr"
target = "pbx"
"#
    )
}

/// The ways to the target that are known.
fn known(server: &Server) -> Vec<String> {
    let router = server.node().router().expect("a router");
    router.places(0).iter().map(|place| format!("{}:{} {}", place.transport, place.address, place.weight)).collect()
}

#[test]
fn srv_records_lead_to_the_pbx_and_a_call_goes_there() {
    let (caller, pbx) = (Peer::new("127.0.0.1"), Peer::new("127.0.0.1"));
    let names = NameServer::start(&[
        format!("--srv-host=_sip._udp.pbx.example.net,host1.example.net,{},10,5", pbx.address.port()),
        "--srv-host=_sip._udp.pbx.example.net,host2.example.net,5070,20,7".into(),
        "--host-record=host1.example.net,127.0.0.1".into(),
        "--host-record=host2.example.net,127.0.0.2".into(),
    ]);
    let server = start(names.port, "sip:pbx.example.net");
    wait_for("both hosts are known", || known(&server).len() == 2);
    assert_eq!(known(&server), [format!("udp:{} 5", pbx.address), "udp:127.0.0.2:5070 7".into()]);
    let gate = server.listen()[0];
    caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, "dns", "", 1, "").as_bytes());
    let (invite, from) = pbx.expect("INVITE sip:100@pbx.example.net ");
    pbx.reply(&invite, "486 Busy Here", from);
    caller.expect("SIP/2.0 486 ");
    // The name server dies: calls go on, and operators are told.
    drop(names);
    wait_for("its silence is noticed", || server.node().events().iter().any(|event| event.event == "name_failing"));
    caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, "after", "", 1, "").as_bytes());
    let (invite, from) = pbx.expect("INVITE ");
    pbx.reply(&invite, "486 Busy Here", from);
    caller.expect("SIP/2.0 486 ");
    server.stop();
}

#[test]
fn b7_naptr_chooses_the_transport_and_ports_and_transports_in_the_uri_cut_the_search_short() {
    let names = NameServer::start(&[
        "--naptr-record=a.example.net,20,10,s,SIP+D2U,,_sip._udp.a.example.net".into(),
        "--naptr-record=a.example.net,10,10,s,SIP+D2T,,_sip._tcp.a.example.net".into(),
        "--naptr-record=a.example.net,5,10,s,SIPS+D2T,,_sips._tcp.a.example.net".into(),
        "--srv-host=_sip._udp.a.example.net,host1.example.net,5081,1,0".into(),
        "--srv-host=_sip._tcp.a.example.net,host1.example.net,5082,1,0".into(),
        "--srv-host=_sips._tcp.a.example.net,host1.example.net,5083,1,0".into(),
        "--host-record=host1.example.net,127.0.0.3".into(),
    ]);
    for (uri, expected) in [
        // No listener speaks TLS here, so that rule is none.
        ("sip:a.example.net", vec!["tcp:127.0.0.3:5082 1", "udp:127.0.0.3:5081 1"]),
        ("sip:a.example.net;transport=udp", vec!["udp:127.0.0.3:5081 1"]),
        ("sip:host1.example.net:5090", vec!["udp:127.0.0.3:5090 1"]),
        ("sip:host1.example.net;transport=tcp", vec!["tcp:127.0.0.3:5060 1"]),
        ("sip:host1.example.net", vec!["udp:127.0.0.3:5060 1"]),
    ] {
        let server = start(names.port, uri);
        wait_for("the name is known", || !known(&server).is_empty());
        assert_eq!(known(&server), expected, "{uri}");
        server.stop();
    }
    let server = start(names.port, "sip:nobody.example.net");
    wait_for("it is known to be unknown", || server.node().events().iter().any(|event| event.event == "name_failing"));
    assert!(known(&server).is_empty());
    server.stop();
}

#[test]
fn b7_one_server_that_cannot_be_found_takes_nothing_from_the_others() {
    // A zone whose name server is dead (kamailio #4911), and more servers than some can count (kamailio #2651).
    let dead = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let mut records: Vec<String> = (1..=12)
        .map(|host| format!("--srv-host=_sip._udp.many.example.net,host{host}.example.net,5060,{host},0"))
        .chain((1..=12).map(|host| format!("--host-record=host{host}.example.net,127.0.1.{host}")))
        .collect();
    records.push("--srv-host=_sip._udp.many.example.net,host.example.org,5060,0,0".into());
    records.push(format!("--server=/example.org/127.0.0.1#{dead}"));
    let names = NameServer::start(&records);
    let server = start(names.port, "sip:many.example.net;transport=udp");
    wait_for("the others are known", || known(&server).len() == 12);
    server.stop();
}

#[test]
fn a_name_with_an_ipv6_address_is_called_where_a_listener_speaks_ipv6() {
    let (caller, pbx) = (Peer::new("127.0.0.1"), Peer::new("[::1]"));
    let names = NameServer::start(&[
        "--host-record=six.example.net,::1".into(),
        "--host-record=both.example.net,127.0.0.9,::1".into(),
    ]);
    let six = "[[listen]]\nuri = \"udp:[::1]:0\"";
    let port = pbx.address.port();
    let server = start_with(names.port, &format!("sip:six.example.net:{port}"), six);
    wait_for("the name is known", || known(&server) == [format!("udp:{} 1", pbx.address)]);
    let gate = server.listen()[0];
    caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, "six", "", 1, "").as_bytes());
    let (invite, from) = pbx.expect("INVITE sip:100@six.example.net");
    assert_eq!(from, server.listen()[2], "by the listener of its family");
    pbx.reply(&invite, "486 Busy Here", from);
    caller.expect("SIP/2.0 486 ");
    server.stop();
    // Of both families, both; without a listener for one of them, the other.
    let server = start_with(names.port, "sip:both.example.net:5090", six);
    wait_for("both are known", || known(&server).len() == 2);
    server.stop();
    let server = start(names.port, "sip:both.example.net:5090");
    wait_for("one is known", || known(&server) == ["udp:127.0.0.9:5090 1"]);
    server.stop();
}

#[test]
fn a_sips_name_goes_by_the_naptr_rules_of_tls_alone() {
    let names = NameServer::start(&[
        "--naptr-record=a.example.net,5,10,s,SIP+D2U,,_sip._udp.a.example.net".into(),
        "--naptr-record=a.example.net,10,10,s,SIPS+D2T,,_sips._tcp.edge.example.net".into(),
        "--srv-host=_sip._udp.a.example.net,host1.example.net,5081,1,0".into(),
        "--srv-host=_sips._tcp.a.example.net,host1.example.net,5083,1,0".into(),
        "--srv-host=_sips._tcp.edge.example.net,host1.example.net,5084,1,0".into(),
        "--naptr-record=open.example.net,5,10,s,SIP+D2U,,_sip._udp.a.example.net".into(),
        "--srv-host=_sips._tcp.open.example.net,host1.example.net,5085,1,0".into(),
        "--host-record=host1.example.net,127.0.0.3".into(),
    ]);
    let files = Certificates::new("naptr");
    files.sign("gate", vec![dns("gate.example.net")]);
    let listener = files.listener("tls", "");
    for (uri, expected) in [
        ("sips:a.example.net", "tls:127.0.0.3:5084 1"),
        ("sips:a.example.net;transport=tcp", "tls:127.0.0.3:5083 1"),
        ("sips:open.example.net", "tls:127.0.0.3:5085 1"),
        ("sips:host1.example.net", "tls:127.0.0.3:5061 1"),
        ("sips:host1.example.net:5090", "tls:127.0.0.3:5090 1"),
    ] {
        let server = start_with(names.port, uri, &listener);
        wait_for("the name is known", || !known(&server).is_empty());
        assert_eq!(known(&server), [expected], "{uri}");
        server.stop();
    }
}

// opensips PR #69: looking for NAPTR records nobody has delayed every call, until one could do without.
#[test]
fn b7_who_writes_a_transport_or_a_port_asks_for_no_naptr() {
    let log = std::env::temp_dir().join(format!("sipweir-dns-{}.log", std::process::id()));
    let names = NameServer::start(&[
        "--log-queries".into(),
        format!("--log-facility={}", log.display()),
        "--srv-host=_sip._udp.a.example.net,host1.example.net,5081,1,0".into(),
        "--host-record=host1.example.net,127.0.0.3".into(),
    ]);
    let asked = |uri: &str| {
        let before = std::fs::read_to_string(&log).unwrap_or_default().len();
        let server = start(names.port, uri);
        wait_for("the name is known", || !known(&server).is_empty());
        server.stop();
        let text = std::fs::read_to_string(&log).expect("a log");
        ["NAPTR", "SRV"].map(|kind| text[before..].contains(&format!("query[{kind}]")))
    };
    assert_eq!(asked("sip:a.example.net"), [true, true]);
    assert_eq!(asked("sip:a.example.net;transport=udp"), [false, true]);
    assert_eq!(asked("sip:host1.example.net:5081"), [false, false]);
    std::fs::remove_file(&log).expect("a log");
}

#[test]
fn the_next_server_of_a_name_gets_the_call_that_the_first_refuses_or_ignores() {
    let (caller, first, second) = (Peer::new("127.0.0.1"), Peer::new("127.0.0.1"), Peer::new("127.0.0.1"));
    let names = NameServer::start(&[
        format!("--srv-host=_sip._udp.pbx.example.net,host.example.net,{},10,5", first.address.port()),
        format!("--srv-host=_sip._udp.pbx.example.net,host.example.net,{},20,5", second.address.port()),
        "--host-record=host.example.net,127.0.0.1".into(),
    ]);
    let text = text_with(names.port, "sip:pbx.example.net", "")
        .replace("uri = [\"sip:pbx", "silence_ms = 200\nuri = [\"sip:pbx");
    let server = Server::start(Config::parse(&text).expect("valid"), None).expect("it starts");
    wait_for("both are known", || known(&server).len() == 2);
    let gate = server.listen()[0];
    let branch =
        |invite: &str| invite.split("branch=").nth(1).expect("a branch").split([';', '\r']).next().map(str::to_owned);
    for (id, refuses) in [("refused", true), ("ignored", false)] {
        caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, id, "", 1, "").as_bytes());
        let (one, from) = first.expect("INVITE ");
        if refuses {
            first.reply(&one, "503 Service Unavailable", from);
            first.expect("ACK ");
        }
        let (other, from) = second.expect("INVITE ");
        assert_ne!(branch(&one), branch(&other), "RFC 3263 §4.3");
        second.reply(&other, "486 Busy Here", from);
        caller.expect("SIP/2.0 486 ");
        caller.send(
            gate,
            request("ACK", &format!("sip:100@{gate}"), caller.address, id, ";tag=pbx", 1, "")
                .replace("ACK\r\nMax", "INVITE\r\nMax")
                .as_bytes(),
        );
    }
    server.stop();
}
