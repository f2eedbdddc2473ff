//! Calls that leave the PBX, over real sockets: transfers, replacements, redirections, refusals, sessions that end.

use sipweir::config::Config;
use sipweir::server::Server;
use std::net::{SocketAddr, TcpListener};

use super::streams::{Line, answer};
use super::{Peer, config_text, in_use, request, route_of, wait_for};

/// A node with one channel, its caller and its PBX.
struct Scene {
    server: Server,
    gate: SocketAddr,
    caller: Peer,
    pbx: Peer,
}

/// A call that is up.
struct Up {
    id: &'static str,
    /// Route set of the caller, and of the callee.
    routes: [String; 2],
    /// Where the callee's requests go.
    to: SocketAddr,
}

impl Scene {
    fn new(change: impl Fn(String) -> String) -> Self {
        let (caller, pbx) = (Peer::new("127.0.0.1"), Peer::new("127.0.0.1"));
        let text = change(config_text("127.0.0.1:0", pbx.address, 1));
        let config = Config::parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let server = Server::start(config, None).expect("it starts");
        Self { gate: server.listen()[0], server, caller, pbx }
    }

    fn invite(&self, caller: &Peer, id: &str, lines: &str) {
        let uri = format!("sip:100@{}", self.gate);
        caller.send(self.gate, request("INVITE", &uri, caller.address, id, "", 1, lines).as_bytes());
    }

    fn call(&self, id: &'static str, lines: &str) -> Up {
        self.invite(&self.caller, id, lines);
        let (invite, to) = self.pbx.expect("INVITE ");
        self.pbx.reply(&invite, "200 OK", to);
        let (ok, _) = self.caller.expect("SIP/2.0 200 ");
        let reversed: Vec<&str> = invite.split("\r\n").filter_map(|line| line.strip_prefix("Record-Route: ")).collect();
        let callee = reversed.iter().map(|value| format!("Route: {value}\r\n")).collect();
        let up = Up { id, routes: [route_of(&ok), callee], to };
        self.caller.send(self.gate, self.of_caller(&up, "ACK", 1, "").as_bytes());
        self.pbx.expect("ACK ");
        up
    }

    fn of_caller(&self, up: &Up, method: &str, cseq: u32, lines: &str) -> String {
        let target = format!("sip:pbx@{}", self.pbx.address);
        request(method, &target, self.caller.address, up.id, ";tag=pbx", cseq, &format!("{}{lines}", up.routes[0]))
            .replace("branch=z9hG4bK", &format!("branch=z9hG4bK{cseq}"))
    }

    fn of_pbx(&self, up: &Up, method: &str, cseq: u32, lines: &str) -> String {
        let target = format!("sip:a@{}", self.caller.address);
        let lines = format!("{}{lines}", up.routes[1]);
        request(method, &target, self.pbx.address, up.id, "", cseq, &lines)
            .replace("branch=z9hG4bK", &format!("branch=z9hG4bK{cseq}"))
            .replace(&format!("From: <sip:a@x>;tag=a{}", up.id), "From: <sip:100@x>;tag=pbx")
            .replace("To: <sip:100@x>", &format!("To: <sip:a@x>;tag=a{}", up.id))
    }

    /// A request within the call, and its answer.
    fn asks(&self, up: &Up, method: &str, cseq: u32, lines: &str, status: &str) -> String {
        self.pbx.send(up.to, self.of_pbx(up, method, cseq, lines).as_bytes());
        let (text, from) = self.caller.expect(&format!("{method} "));
        self.caller.reply(&text, status, from);
        self.pbx.expect(&format!("SIP/2.0 {}", &status[..3]));
        text
    }

    fn tells(&self, up: &Up, method: &str, cseq: u32, lines: &str, body: &str) {
        let text = self.of_caller(up, method, cseq, lines);
        let text = text.replace("Content-Length: 0", &format!("Content-Length: {}", body.len())) + body;
        self.caller.send(self.gate, text.as_bytes());
        let (text, from) = self.pbx.expect(&format!("{method} "));
        self.pbx.reply(&text, "200 OK", from);
        self.caller.expect("SIP/2.0 200 ");
    }
}

const SIPFRAG: &str = "Event: refer\r\nSubscription-State: active\r\nContent-Type: message/sipfrag\r\n";

#[test]
fn a_blind_transfer_frees_the_channel_when_the_caller_says_it_went_well() {
    let scene = Scene::new(|text| text);
    let up = scene.call("blind", "");
    scene.asks(&up, "REFER", 1, "Refer-To: <sip:agent@192.0.2.9>\r\n", "202 Accepted");
    scene.tells(&up, "NOTIFY", 2, SIPFRAG, "SIP/2.0 100 Trying\r\n");
    scene.tells(&up, "NOTIFY", 3, SIPFRAG, "SIP/2.0 486 Busy Here\r\n");
    assert_eq!(in_use(&scene.server), 1, "the agent was busy: the PBX has the caller back");
    scene.asks(&up, "REFER", 2, "Refer-To: <sip:agent@192.0.2.9>\r\n", "202 Accepted");
    scene.tells(&up, "NOTIFY", 4, SIPFRAG, "SIP/2.0 200 OK\r\n");
    wait_for("the channel is free", || in_use(&scene.server) == 0);
    // The next call has it while the first one still is there.
    scene.call("next", "");
    assert_eq!(in_use(&scene.server), 1);
    scene.server.stop();
}

#[test]
fn an_attended_transfer_hands_the_channel_on_and_a_forged_one_gets_none() {
    let scene = Scene::new(|text| text);
    let up = scene.call("first", "");
    let other = Peer::new("127.0.0.1");
    let replaces = |id: &str, tag: &str| format!("Replaces: {id};to-tag=pbx;from-tag={tag}\r\n");
    scene.invite(&other, "forged", &replaces("first", "guessed"));
    other.expect("SIP/2.0 486 ");
    scene.invite(&other, "agent", &replaces("first", "afirst"));
    let (invite, from) = scene.pbx.expect("INVITE ");
    scene.pbx.reply(&invite, "200 OK", from);
    let (ok, _) = other.expect("SIP/2.0 200 ");
    assert_eq!(in_use(&scene.server), 1, "one channel, two calls");
    let target = format!("sip:pbx@{}", scene.pbx.address);
    let ack = request("ACK", &target, other.address, "agent", ";tag=pbx", 1, &route_of(&ok));
    other.send(scene.gate, ack.as_bytes());
    scene.pbx.expect("ACK ");
    // The PBX hangs up on whom it replaced; the channel stays with the new call.
    scene.asks(&up, "BYE", 1, "", "200 OK");
    assert_eq!(in_use(&scene.server), 1);
    let bye = request("BYE", &target, other.address, "agent", ";tag=pbx", 2, &route_of(&ok));
    other.send(scene.gate, bye.as_bytes());
    let (bye, from) = scene.pbx.expect("BYE ");
    scene.pbx.reply(&bye, "200 OK", from);
    other.expect("SIP/2.0 200 ");
    wait_for("the channel is free", || in_use(&scene.server) == 0);
    scene.server.stop();
}

#[test]
fn a_redirection_is_followed_where_the_operator_wants_it_and_passed_where_not() {
    for follows in [true, false] {
        let agent = Peer::new("127.0.0.2");
        let scene = Scene::new(|text| {
            let follow = "name = \"pbx\"\nredirects = \"follow\"";
            if follows { text.replace("name = \"pbx\"", follow) } else { text }
        });
        scene.invite(&scene.caller, "moved", "");
        let (invite, from) = scene.pbx.expect("INVITE ");
        let away = format!("302 Moved Temporarily\r\nContact: <sip:agent@{}>", agent.address);
        let names = ["Via:", "From:", "Call-ID:", "CSeq:"];
        let kept: Vec<&str> =
            invite.split("\r\n").filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
        let text =
            format!("SIP/2.0 {away}\r\n{}\r\nTo: <sip:100@x>;tag=pbx\r\nContent-Length: 0\r\n\r\n", kept.join("\r\n"));
        scene.pbx.send(from, text.as_bytes());
        if follows {
            let (invite, from) = agent.expect(&format!("INVITE sip:agent@{} ", agent.address));
            agent.reply(&invite, "200 OK", from);
            scene.caller.expect("SIP/2.0 200 ");
        } else {
            scene.caller.expect("SIP/2.0 302 ");
        }
        // Where it went nobody needs a licence.
        wait_for("the channel is free", || in_use(&scene.server) == 0);
        scene.server.stop();
    }
}

#[test]
fn a_session_gets_a_timer_that_is_told_to_both_and_none_below_the_shortest() {
    let session = "[session]\nexpires_s = 1800\nmin_se_s = 120\n";
    let scene = Scene::new(|text| format!("{session}{text}"));
    scene.invite(&scene.caller, "short", "Supported: timer\r\nSession-Expires: 90\r\n");
    assert!(scene.caller.expect("SIP/2.0 422 ").0.contains("Min-SE: 120\r\n"));
    scene.invite(&scene.caller, "none", "Supported: timer\r\n");
    let (invite, from) = scene.pbx.expect("INVITE ");
    assert!(invite.contains("Session-Expires: 1800"), "{invite}");
    // A PBX that knows nothing of it: the caller refreshes (RFC 4028 §8.2).
    scene.pbx.reply(&invite, "200 OK", from);
    let (ok, _) = scene.caller.expect("SIP/2.0 200 ");
    assert!(ok.contains("Session-Expires: 1800;refresher=uac") && ok.contains("Require: timer"), "{ok}");
    scene.server.stop();
}

/// The next request over TCP at the PBX' own port.
fn over_tcp(listener: &TcpListener) -> Line {
    let (socket, _) = listener.accept().expect("a connection");
    Line::over(socket, |socket| Box::new(socket))
}

const LARGE: usize = 1_400;

fn large(text: String) -> String {
    text.replace("Content-Length: 0", &format!("Content-Length: {LARGE}")) + &"v".repeat(LARGE)
}

#[test]
fn what_is_too_large_for_a_datagram_goes_over_tcp_where_somebody_listens_there() {
    let tcp = "[[listen]]\nuri = \"tcp:127.0.0.1:0\"\n";
    let scene = Scene::new(|text| format!("{text}{tcp}").replace("name = \"any\"", "name = \"any\"\nrelay = true"));
    let listener = TcpListener::bind(scene.pbx.address).expect("the same port");
    let up = scene.call("up", "");
    // Within a call.
    scene.caller.send(scene.gate, large(scene.of_caller(&up, "INFO", 2, "")).as_bytes());
    let mut line = over_tcp(&listener);
    let info = line.expect("INFO ");
    assert!(
        info.starts_with(&format!("INFO sip:pbx@{} ", scene.pbx.address)) && info.contains("SIP/2.0/TCP"),
        "{info}"
    );
    answer(&mut line, &info, "200 OK");
    scene.caller.expect("SIP/2.0 200 ");
    // To a service, without a call; and relayed. The connection is used again.
    for (uri, id) in
        [(format!("sip:100@{}", scene.gate), "service"), (format!("sip:x@{}", scene.pbx.address), "relayed")]
    {
        let text = large(request("MESSAGE", &uri, scene.caller.address, id, "", 1, ""));
        scene.caller.send(scene.gate, text.as_bytes());
        let message = line.expect("MESSAGE ");
        answer(&mut line, &message, "202 Accepted");
        scene.caller.expect("SIP/2.0 202 ");
    }
    // What says how it is to be reached is believed.
    let uri = format!("sip:x@{};transport=udp", scene.pbx.address);
    scene.caller.send(scene.gate, large(request("MESSAGE", &uri, scene.caller.address, "udp", "", 1, "")).as_bytes());
    let (message, from) = scene.pbx.expect("MESSAGE ");
    scene.pbx.reply(&message, "202 Accepted", from);
    scene.caller.expect("SIP/2.0 202 ");
    scene.server.stop();
}

#[test]
fn what_is_too_large_for_a_datagram_goes_in_one_all_the_same_where_nobody_listens() {
    let tcp = "[[listen]]\nuri = \"tcp:127.0.0.1:0\"\n";
    let scene = Scene::new(|text| format!("{text}{tcp}").replace("name = \"any\"", "name = \"any\"\nrelay = true"));
    let up = scene.call("up", "");
    for cseq in [2, 3] {
        scene.caller.send(scene.gate, large(scene.of_caller(&up, "INFO", cseq, "")).as_bytes());
        let (info, from) = scene.pbx.expect("INFO ");
        assert!(info.contains("SIP/2.0/UDP"), "{info}");
        scene.pbx.reply(&info, "200 OK", from);
        scene.caller.expect("SIP/2.0 200 ");
    }
    for (uri, id) in
        [(format!("sip:100@{}", scene.gate), "service"), (format!("sip:x@{}", scene.pbx.address), "relayed")]
    {
        scene.caller.send(scene.gate, large(request("MESSAGE", &uri, scene.caller.address, id, "", 1, "")).as_bytes());
        let (message, from) = scene.pbx.expect("MESSAGE ");
        scene.pbx.reply(&message, "202 Accepted", from);
        scene.caller.expect("SIP/2.0 202 ");
    }
    scene.asks(&up, "BYE", 1, "", "200 OK");
    wait_for("the channel is free", || in_use(&scene.server) == 0);
    scene.server.stop();
}

#[test]
fn early_dialogs_glare_a_lost_ack_and_crossing_byes_pass_over_real_sockets() {
    let scene = Scene::new(|text| text);
    scene.invite(&scene.caller, "early", "Supported: 100rel\r\n");
    let (invite, to) = scene.pbx.expect("INVITE ");
    scene.pbx.reply(&invite, "183 Session Progress", to);
    let (progress, _) = scene.caller.expect("SIP/2.0 183 ");
    let recorded = invite.split("\r\n").filter_map(|line| line.strip_prefix("Record-Route: "));
    let callee = recorded.map(|value| format!("Route: {value}\r\n")).collect();
    let up = Up { id: "early", routes: [route_of(&progress), callee], to };
    // Another fork rings as well.
    let fork = invite.replace("To: <sip:100@x>", "To: <sip:100@x>;tag=fork");
    scene.pbx.reply(&fork, "180 Ringing", to);
    assert!(scene.caller.expect("SIP/2.0 180 ").0.contains("tag=fork"));
    scene.tells(&up, "PRACK", 2, "RAck: 1 1 INVITE\r\n", "");
    scene.pbx.send(up.to, scene.of_pbx(&up, "UPDATE", 1, "").as_bytes());
    let (update, from) = scene.caller.expect("UPDATE ");
    scene.caller.reply(&update, "200 OK", from);
    scene.pbx.expect("SIP/2.0 200 ");
    assert_eq!(in_use(&scene.server), 1);
    scene.pbx.reply(&invite, "200 OK", to);
    scene.caller.expect("SIP/2.0 200 ");
    // The ACK is lost; the PBX says it again.
    scene.pbx.reply(&invite, "200 OK", to);
    scene.caller.expect("SIP/2.0 200 ");
    scene.caller.send(scene.gate, scene.of_caller(&up, "ACK", 1, "").as_bytes());
    scene.pbx.expect("ACK ");
    // Both want to change the session at once.
    scene.caller.send(scene.gate, scene.of_caller(&up, "INVITE", 3, "").as_bytes());
    scene.pbx.send(up.to, scene.of_pbx(&up, "INVITE", 2, "").as_bytes());
    let both = [&scene.caller, &scene.pbx];
    let came = both.map(|peer| peer.expect("INVITE "));
    both.iter().zip(&came).for_each(|(peer, (invite, from))| peer.reply(invite, "491 Request Pending", *from));
    for (peer, start) in [(0, "ACK "), (0, "SIP/2.0 491 "), (1, "SIP/2.0 491 "), (1, "ACK ")] {
        both[peer].expect(start);
    }
    assert_eq!(in_use(&scene.server), 1);
    // And both hang up at once.
    scene.caller.send(scene.gate, scene.of_caller(&up, "BYE", 4, "").as_bytes());
    scene.pbx.send(up.to, scene.of_pbx(&up, "BYE", 3, "").as_bytes());
    let came = both.map(|peer| peer.expect("BYE "));
    both.iter().zip(&came).for_each(|(peer, (bye, from))| peer.reply(bye, "200 OK", *from));
    for peer in both {
        peer.expect("SIP/2.0 200 ");
    }
    assert_eq!(in_use(&scene.server), 0);
    scene.server.stop();
}

#[test]
fn the_longest_call_ends_though_the_pbx_says_nothing() {
    let scene = Scene::new(|text| format!("[timers]\nt1_ms = 10\nt2_ms = 40\n{text}longest_call_s = 1\n"));
    let _up = scene.call("long", "");
    let (bye, from) = scene.caller.expect("BYE ");
    scene.caller.reply(&bye, "200 OK", from);
    scene.pbx.expect("BYE ");
    wait_for("the channel is free", || in_use(&scene.server) == 0);
    scene.server.stop();
}
