//! Whom a certificate must name when we open the connection: what was asked for, not where it led (RFC 5922 §7.3).

use std::net::{SocketAddr, TcpListener};

use super::names::NameServer;
use super::secure::{Certificates, dns};
use super::streams::{Line, UDP, answer, over, start, with_listeners};
use super::{Peer, request, wait_for};

/// What came of a connection of the gate, to a server with that certificate.
fn served(files: &Certificates, listener: &TcpListener, name: &str) -> Option<Line> {
    listener.set_nonblocking(true).expect("set");
    let mut accepted = None;
    wait_for("the gate connects", || listener.accept().map(|(socket, _)| accepted.replace(socket)).is_ok());
    let socket = accepted.expect("a connection");
    socket.set_nonblocking(false).expect("set");
    files.serve_over(socket, name)
}

fn signed(test: &str, names: &[&str]) -> Certificates {
    let files = Certificates::new(test);
    for name in names {
        files.sign(name.split('.').next().expect("a name"), vec![dns(name)]);
    }
    files
}

#[test]
fn two_targets_behind_one_address_are_two_hosts_each_with_its_own_name() {
    let files = signed("two", &["gate.example.net", "one.example.net", "two.example.net"]);
    let pbx = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = pbx.local_addr().expect("bound");
    let ca = format!("[tls]\nca = \"{}\"\n", files.file("ca.pem").display());
    let other = format!(
        "[[target]]\nname = \"other\"\nuri = [\"sip:{at};transport=tls\"]\ntls_name = \"two.example.net\"\n\
         [[service]]\nname = \"second\"\nkind = \"route\"\nnumbers = [\"200\"]\ntarget = \"other\"\n"
    );
    let listeners = format!("{ca}{UDP}{}", files.listener("tls", ""));
    let text = with_listeners(&listeners, &format!("\"sip:{at};transport=tls\""), "tls_name = \"one.example.net\"");
    let server = start(&format!("{text}{other}"));
    let gate = server.listen()[0];
    let caller = Peer::new("127.0.0.1");
    let call = |number: &str, id: &str| {
        let uri = format!("sip:{number}@{gate}");
        caller.send(gate, request("INVITE", &uri, caller.address, id, "", 1, "").as_bytes());
    };
    let busy = |line: &mut Line| {
        let invite = line.expect("INVITE ");
        answer(line, &invite, "486 Busy Here");
        line.expect("ACK ");
        caller.expect("SIP/2.0 486 ");
    };
    call("100", "a");
    let mut one = served(&files, &pbx, "one").expect("its name is right");
    busy(&mut one);
    call("200", "b");
    let mut two = served(&files, &pbx, "two").expect("its name is right");
    busy(&mut two);
    // Each connection is used again by its own calls.
    call("100", "c");
    busy(&mut one);
    call("200", "d");
    busy(&mut two);
    server.stop();
}

#[test]
fn a_sips_name_is_relayed_to_nobody_but_who_can_show_it() {
    let names = NameServer::start(&["--host-record=far.example.net,127.0.0.1".into()]);
    for (shown, is_right) in [("far", true), ("near", false)] {
        let files = signed(&format!("far-{shown}"), &["gate.example.net", "far.example.net", "near.example.net"]);
        let far = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = far.local_addr().expect("bound").port();
        let head = format!(
            "[tls]\nca = \"{}\"\n[dns]\nservers = [\"127.0.0.1:{}\"]\n",
            files.file("ca.pem").display(),
            names.port
        );
        let text = with_listeners(&format!("{head}{UDP}{}", files.listener("tls", "")), "\"sip:127.0.0.9\"", "");
        let server = start(&text.replace("name = \"any\"", "name = \"any\"\nrelay = true"));
        let gate = server.listen()[1];
        let mut caller = files.connect(gate, None);
        let uri = format!("sips:bob@far.example.net:{port}");
        caller.send(&over("tls", &request("INVITE", &uri, caller.address, "r", "", 1, "")));
        match served(&files, &far, shown) {
            Some(mut line) => {
                assert!(is_right);
                let invite = line.expect("INVITE sips:bob@far.example.net");
                answer(&mut line, &invite, "603 Decline");
                caller.expect("SIP/2.0 603 ");
            }
            None => {
                assert!(!is_right);
                caller.expect("SIP/2.0 500 ");
            }
        }
        server.stop();
    }
}

/// A call over TLS whose caller's connection is gone when its answer comes: what the gate finds at the port in Via.
fn reopened(shown: &str, via: impl Fn(SocketAddr) -> String, trunk: &str) -> Option<Line> {
    let files = signed(
        &format!("again-{shown}-{}", trunk.len()),
        &["gate.example.net", "carrier.example.net", "thief.example.net"],
    );
    let (pbx, home) = (Peer::new("127.0.0.1"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let ca = files.file("ca.pem").display().to_string();
    let mutual = format!("client_ca = \"{ca}\"\nclient_auth = \"request\"");
    let listeners = format!("[tls]\nca = \"{ca}\"\n{UDP}{}", files.listener("tls", &mutual));
    let text = with_listeners(&listeners, &format!("\"sip:{}\"", pbx.address), "");
    let server = start(&text.replace("from = [\"127.0.0.0/8\"]", trunk));
    let gate = server.listen()[1];
    let mut caller = files.connect(gate, trunk.contains("tls").then_some("carrier"));
    let invite = over("tls", &request("INVITE", &format!("sip:100@{gate}"), caller.address, "g", "", 1, ""));
    let address = home.local_addr().expect("bound");
    caller.send(&invite.replace(&format!("TLS {};rport", caller.address), &format!("TLS {}", via(address))));
    let (invite, from) = pbx.expect("INVITE ");
    // On loopback its end is there before what is sent afterwards.
    drop(caller);
    pbx.reply(&invite, "486 Busy Here", from);
    let line = served(&files, &home, shown);
    server.stop();
    line
}

#[test]
fn an_answer_whose_connection_is_gone_goes_to_nobody_but_who_asked() {
    let certified = "tls = [\"carrier.example.net\"]";
    let by_address = |home: SocketAddr| home.to_string();
    let mut right = reopened("carrier", by_address, certified).expect("who proved that name proves it again");
    right.expect("SIP/2.0 486 ");
    assert!(reopened("thief", by_address, certified).is_none());
    // Of a trunk known by its address the name in Via is asked for.
    let by_name = |home: SocketAddr| format!("carrier.example.net:{}", home.port());
    let known = "from = [\"127.0.0.0/8\"]";
    let mut right = reopened("carrier", by_name, known).expect("it has the name it gives itself");
    right.expect("SIP/2.0 486 ");
    assert!(reopened("thief", by_name, known).is_none());
}

#[test]
fn no_call_goes_to_whoever_connects_from_the_targets_port() {
    let files = signed("port", &["gate.example.net", "pbx.example.net"]);
    for name in ["tls_name = \"pbx.example.net\"", ""] {
        // The PBX is down, and somebody else has its port.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let ca = format!("[tls]\nca = \"{}\"\n", files.file("ca.pem").display());
        let uri = format!("\"sip:127.0.0.1:{port};transport=tls\"");
        let server = start(&with_listeners(&format!("{ca}{UDP}{}", files.listener("tls", "")), &uri, name));
        let (gate, tls) = (server.listen()[0], server.listen()[1]);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("the port is free");
        socket.connect(&tls.into()).expect("connected");
        let mut rogue = files.over(socket.into());
        rogue.send("\r\n\r\n");
        rogue.expect("\r\n");
        let caller = Peer::new("127.0.0.1");
        let uri = format!("sip:100@{gate}");
        caller.send(gate, request("INVITE", &uri, caller.address, "rogue", "", 1, "").as_bytes());
        let (answer, _) = caller.expect("SIP/2.0 5");
        assert!(answer.contains("Call-ID: rogue"), "{name}");
        server.stop();
    }
}
