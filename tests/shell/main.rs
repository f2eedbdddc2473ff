//! Real sockets: a node in this process, calls over loopback, what the kernel and peers do wrong, orderly stop.

#![expect(clippy::disallowed_methods, reason = "real sockets take real time; every wait is bounded")]
#![allow(missing_docs, reason = "tests")]

mod departures;
mod identity;
mod names;
mod patience;
mod secure;
mod streams;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sipweir::config::Config;
use sipweir::server::Server;

fn config(listen: &str, pbx: SocketAddr, channels: u32) -> Config {
    Config::parse(&config_text(listen, pbx, channels)).expect("valid")
}

fn config_text(listen: &str, pbx: SocketAddr, channels: u32) -> String {
    format!(
        r#"
[[listen]]
uri = "udp:{listen}"
[[trunk]]
name = "any"
from = ["127.0.0.0/8", "::1"]
[[target]]
name = "pbx"
uri = ["sip:{pbx}"]
[[pool]]
name = "ivr"
channels = {channels}
[[service]]
name = "menu"
kind = "ivr"
numbers = ["100"]
pool = "ivr"
target = "pbx"
"#
    )
}

/// An end point with a bounded patience.
struct Peer {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Peer {
    fn new(ip: &str) -> Self {
        let socket = UdpSocket::bind(format!("{ip}:0")).expect("a port");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        Self { address: socket.local_addr().expect("bound"), socket }
    }

    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.socket.send_to(bytes, to).expect("sent");
    }

    /// The next datagram that starts so; others are passed over.
    fn expect(&self, start: &str) -> (String, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        for _ in 0..100 {
            let (length, from) =
                self.socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("waiting for {start}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(start) {
                return (text, from);
            }
        }
        panic!("a hundred datagrams and no {start}");
    }

    fn reply(&self, request: &str, status: &str, to: SocketAddr) {
        let names = ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"];
        let mut lines: Vec<String> = request
            .split("\r\n")
            .filter(|line| names.iter().any(|name| line.starts_with(name)))
            .map(str::to_owned)
            .collect();
        let to_line = request.split("\r\n").find(|line| line.starts_with("To:")).expect("a To");
        let tag = if to_line.contains("tag=") { "" } else { ";tag=pbx" };
        lines.push(format!("{to_line}{tag}"));
        let text = format!(
            "SIP/2.0 {status}\r\n{}\r\nContact: <sip:pbx@{}>\r\nContent-Length: 0\r\n\r\n",
            lines.join("\r\n"),
            self.address
        );
        self.send(to, text.as_bytes());
    }
}

fn request(method: &str, uri: &str, from: SocketAddr, call: &str, to_tag: &str, cseq: u32, lines: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};rport;branch=z9hG4bK{call}{method}\r\nMax-Forwards: 70\r\nFrom: <sip:a@x>;tag=a{call}\r\n\
         To: <sip:100@x>{to_tag}\r\nCall-ID: {call}\r\nCSeq: {cseq} {method}\r\nContact: <sip:a@{from}>\r\n{lines}Content-Length: 0\r\n\r\n"
    )
}

fn route_of(answer: &str) -> String {
    let routes = answer.split("\r\n").filter_map(|line| line.strip_prefix("Record-Route: "));
    let mut routes: Vec<String> = routes.map(|value| format!("Route: {value}\r\n")).collect();
    routes.reverse();
    routes.concat()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn in_use(server: &Server) -> u32 {
    server.node().gate.view().pools[0].in_use()
}

/// One whole call through the node.
fn call(server: &Server, gate: SocketAddr, caller: &Peer, pbx: &Peer, id: &str) {
    let uri = format!("sip:100@{gate}");
    caller.send(gate, request("INVITE", &uri, caller.address, id, "", 1, "").as_bytes());
    let (invite, from) = pbx.expect("INVITE ");
    caller.expect("SIP/2.0 100 ");
    pbx.reply(&invite, "200 OK", from);
    let (ok, _) = caller.expect("SIP/2.0 200 ");
    assert_eq!(in_use(server), 1);
    let target = format!("sip:pbx@{}", pbx.address);
    let routes = route_of(&ok);
    caller.send(gate, request("ACK", &target, caller.address, id, ";tag=pbx", 1, &routes).as_bytes());
    pbx.expect("ACK ");
    caller.send(gate, request("BYE", &target, caller.address, id, ";tag=pbx", 2, &routes).as_bytes());
    let (bye, from) = pbx.expect("BYE ");
    assert_eq!(in_use(server), 1, "the PBX has not let go");
    pbx.reply(&bye, "200 OK", from);
    caller.expect("SIP/2.0 200 ");
    wait_for("the channel is free", || in_use(server) == 0);
}

#[test]
fn a_call_over_ipv4_and_one_over_ipv6() {
    for ip in ["127.0.0.1", "[::1]"] {
        let (caller, pbx) = (Peer::new(ip), Peer::new(ip));
        let server = Server::start(config(&format!("{ip}:0"), pbx.address, 2), None).expect("it starts");
        call(&server, server.listen()[0], &caller, &pbx, "one");
        call(&server, server.listen()[0], &caller, &pbx, "two");
        server.stop();
    }
}

#[test]
fn a_call_from_ipv6_to_an_ipv4_pbx_keeps_both_listeners_on_its_route() {
    let (caller, pbx) = (Peer::new("[::1]"), Peer::new("127.0.0.1"));
    let text = config_text("[::1]:0", pbx.address, 2) + "[[listen]]\nuri = \"udp:127.0.0.1:0\"\n";
    let server = Server::start(Config::parse(&text).expect("valid"), None).expect("it starts");
    let (six, four) = (server.listen()[0], server.listen()[1]);
    caller.send(six, request("INVITE", &format!("sip:100@{six}"), caller.address, "x", "", 1, "").as_bytes());
    let (invite, from) = pbx.expect("INVITE ");
    assert_eq!(from, four);
    let recorded: Vec<&str> = invite.split("\r\n").filter(|line| line.starts_with("Record-Route:")).collect();
    assert!(
        recorded.len() == 2 && recorded[0].contains(&four.to_string()) && recorded[1].contains(&six.to_string()),
        "{recorded:?}"
    );
    pbx.reply(&invite, "200 OK", from);
    let (ok, _) = caller.expect("SIP/2.0 200 ");
    let target = format!("sip:pbx@{}", pbx.address);
    caller.send(six, request("BYE", &target, caller.address, "x", ";tag=pbx", 2, &route_of(&ok)).as_bytes());
    let (bye, from) = pbx.expect("BYE ");
    assert!(!bye.contains("\r\nRoute:"), "both of our values are popped: {bye}");
    pbx.reply(&bye, "200 OK", from);
    caller.expect("SIP/2.0 200 ");
    wait_for("the channel is free", || in_use(&server) == 0);
    // And the other way: the PBX's own BYE would come in by IPv4 and leave by IPv6; the route is the same.
    server.stop();
}

#[test]
fn a_whole_64_kilobyte_datagram_passes() {
    let (caller, pbx) = (Peer::new("127.0.0.1"), Peer::new("127.0.0.1"));
    let server = Server::start(config("127.0.0.1:0", pbx.address, 2), None).expect("it starts");
    let gate = server.listen()[0];
    let body = "v".repeat(60_000);
    let text = request("MESSAGE", &format!("sip:100@{gate}"), caller.address, "big", "", 1, "")
        .replace("Content-Length: 0", "Content-Length: 60000")
        + &body;
    caller.send(gate, text.as_bytes());
    let (message, from) = pbx.expect("MESSAGE ");
    assert!(message.ends_with(&body));
    pbx.reply(&message, "200 OK", from);
    caller.expect("SIP/2.0 200 ");
}

#[test]
fn garbage_and_floods_harm_no_call() {
    let (caller, pbx, stranger) = (Peer::new("127.0.0.1"), Peer::new("127.0.0.1"), Peer::new("127.0.0.1"));
    let server = Server::start(config("127.0.0.1:0", pbx.address, 2), None).expect("it starts");
    let gate = server.listen()[0];
    for n in 0..20_000u32 {
        let junk: Vec<u8> = (0..n % 97).map(|at| (n.wrapping_mul(2_654_435_761) >> (at % 24)) as u8).collect();
        stranger.send(gate, &junk);
        if n % 64 == 0 {
            stranger.send(gate, b"INVITE sip:100@x SIP/2.0\r\nVia: SIP/2.0/UDP");
        }
    }
    call(&server, gate, &caller, &pbx, "after");
    assert!(server.is_alive());
}

#[test]
fn frequent_peers_get_a_socket_of_their_own_and_everybody_is_still_served() {
    let (caller, pbx) = (Peer::new("127.0.0.1"), Peer::new("127.0.0.1"));
    let server = Server::start(config("127.0.0.1:0", pbx.address, 2), None).expect("it starts");
    let gate = server.listen()[0];
    // Far beyond the number of datagrams that makes a peer frequent, then somebody new.
    for n in 0..100 {
        call(&server, gate, &caller, &pbx, &format!("often{n}"));
    }
    let other = Peer::new("127.0.0.1");
    for n in 0..3 {
        call(&server, gate, &other, &pbx, &format!("other{n}"));
        call(&server, gate, &caller, &pbx, &format!("again{n}"));
    }
    // A second node must not share the port without a word.
    let second = Server::start(config(&gate.to_string(), pbx.address, 2), None);
    assert!(second.is_err_and(|error| error.to_string().contains("another program has this port")));
}

#[test]
fn a_node_that_stops_frees_its_port() {
    let pbx = Peer::new("127.0.0.1");
    let server = Server::start(config("127.0.0.1:0", pbx.address, 2), None).expect("it starts");
    let gate = server.listen()[0];
    assert!(UdpSocket::bind(gate).is_err());
    assert!(server.node().is_ready());
    server.stop();
    UdpSocket::bind(gate).expect("the port is free again");
}
