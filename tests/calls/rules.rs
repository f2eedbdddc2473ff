//! RFC 3261 §16.3 and the border: what is refused, and how.

use crate::world::*;
use sipweir::metrics::Drop;

fn world() -> World {
    World::new(&config(2, &menu("")))
}

fn invite(uri: &str, lines: &str) -> String {
    format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKr;rport\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: r\r\nCSeq: 1 INVITE\r\n{lines}Content-Length: 0\r\n\r\n"
    )
}

fn answer(world: &mut World, text: &str) -> String {
    world.raw(CALLER, text.as_bytes());
    let answer = world.last_at(CALLER, "SIP/2.0 ");
    assert_eq!(world.in_use(), 0);
    answer
}

#[test]
fn each_check_has_its_status() {
    let uri = format!("sip:100@{GATE}");
    let cases = [
        (invite("nobody:x", ""), "416"),
        (invite("sips:100@gate.example", ""), "416"),
        (invite(&uri, "").replace("Max-Forwards: 70", "Max-Forwards: 0"), "483"),
        (invite(&uri, "").replace("INVITE sip", "INVITE  sip"), "400"),
        (invite(&uri, "").replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"), "505"),
        (invite(&uri, "").replace("CSeq: 1 INVITE\r\n", ""), "400"),
        (invite(&uri, "").replace("Content-Length: 0", "Content-Length: 10"), "400"),
        (invite("sip:100@gate?Route=x", ""), "400"),
        (invite(&format!("sip:999@{GATE}"), ""), "404"),
        (invite("sip:100@elsewhere.example", ""), "403"),
        (invite("sip:100@10.0.0.10", ""), "403"),
        (invite(&uri, "Route: <sip:203.0.113.5;lr>\r\n"), "403"),
    ];
    for (text, status) in cases {
        let mut world = world();
        let seen = answer(&mut world, &text);
        assert!(seen.starts_with(&format!("SIP/2.0 {status} ")), "{text}\n{seen}");
        assert!(seen.contains("To: <sip:c@d>;tag=sw"), "{seen}");
        assert_eq!((world.reached(PBX, "INVITE"), world.view().calls), (0, 0));
        world.run_for(1_000);
        assert!(world.proxy.is_idle() || status == "404");
    }
}

#[test]
fn every_unsupported_option_is_listed() {
    let text =
        invite(&format!("sip:100@{GATE}"), "Proxy-Require: one, two\r\nProxy-Require: three\r\nRequire: foo\r\n");
    let seen = answer(&mut world(), &text);
    assert!(
        seen.starts_with("SIP/2.0 420 Bad Extension\r\n") && seen.contains("Unsupported: one, two, three\r\n"),
        "{seen}"
    );
}

#[test]
fn a_faulty_request_is_told_what_is_wrong() {
    let text = invite(&format!("sip:100@{GATE}"), "").replace("Call-ID: r\r\n", "");
    let mut world = world();
    let seen = answer(&mut world, &text);
    assert!(seen.contains("Warning: 399 sipweir \"no Call-ID header\"\r\n"), "{seen}");
    assert!(world.proxy.counters().drops().any(|(reason, count)| reason == "missing_header" && count == 1));
}

#[test]
fn our_own_route_before_the_request_uri_is_popped_and_no_relay() {
    let mut world = world();
    let text = invite(&format!("sip:100@{GATE}"), &format!("Route: <sip:{GATE};lr>\r\n"));
    world.raw(CALLER, text.as_bytes());
    assert_eq!(world.reached(PBX, "INVITE"), 1);
    assert!(!world.last_at(PBX, "INVITE").contains("\r\nRoute:"));
}

#[test]
fn a_trunk_that_may_relay_reaches_other_hosts() {
    let text =
        config(2, &menu("")).replace("from = [\"198.51.100.0/24\"]", "from = [\"198.51.100.0/24\"]\nrelay = true");
    let mut world = World::new(&text);
    world.raw(CALLER, invite(&format!("sip:555@{PBX2}"), "").as_bytes());
    let seen = world.last_at(PBX2, "INVITE");
    assert!(seen.starts_with(&format!("INVITE sip:555@{PBX2} SIP/2.0\r\n")) && seen.contains("Record-Route"), "{seen}");
    assert_eq!((world.in_use(), world.view().trunks[0].calls), (0, 1));
    let mut world = World::new(&text);
    world.raw(CALLER, invite("sip:555@name.example", &format!("Route: <sip:{PBX2};lr>\r\n")).as_bytes());
    assert!(world.last_at(PBX2, "INVITE").starts_with("INVITE sip:555@name.example SIP/2.0\r\n"));
    let mut world = World::new(&text);
    // A name nobody looks up for ten seconds is no way.
    world.raw(CALLER, invite("sip:555@name.example", "").as_bytes());
    world.run_for(10_000);
    let seen = world.last_at(CALLER, "SIP/2.0 5");
    assert!(seen.starts_with("SIP/2.0 502 "), "{seen}");
    assert_eq!(world.dropped(Drop::Unresolved), 1);
}

#[test]
fn configured_domains_are_ours() {
    let mut world = World::new(&format!("[node]\ndomains = [\"pbx.example\"]\n{}", config(2, &menu(""))));
    world.raw(CALLER, invite("sip:100@PBX.example;user=phone", "").as_bytes());
    assert!(world.last_at(PBX, "INVITE").starts_with(&format!("INVITE sip:100@{PBX};user=phone SIP/2.0\r\n")));
}

#[test]
fn a_telephone_uri_is_routed_by_its_number() {
    let mut world = World::new(&config(2, &menu("").replace("\"100\"", "\"+44207946*\"")));
    world.raw(CALLER, invite("tel:+44-20-7946-0100;phone-context=x", "").as_bytes());
    let seen = world.last_at(PBX, "INVITE");
    assert!(
        seen.starts_with(&format!("INVITE sip:+44-20-7946-0100;phone-context=x@{PBX};user=phone SIP/2.0\r\n")),
        "{seen}"
    );
}

#[test]
fn strangers_are_refused_or_met_with_silence() {
    let stranger = "203.0.113.66:5060";
    let text = invite(&format!("sip:100@{GATE}"), "");
    let mut rejecting = world();
    rejecting.raw(stranger, text.as_bytes());
    assert!(rejecting.last_at(stranger, "SIP/2.0 403 ").contains("To:"));
    let mut silent = World::new(&format!("[node]\nunknown_source = \"drop\"\n{}", config(2, &menu(""))));
    for bytes in [
        text.clone(),
        text.replace("Call-ID: r\r\n", ""),
        text.replace("INVITE", "OPTIONS"),
        text.replace("sip:100", "x:100"),
    ] {
        silent.raw(stranger, bytes.as_bytes());
    }
    assert!(silent.sent.is_empty(), "{:?}", silent.sent);
    assert_eq!(silent.dropped(Drop::UnknownSource), 4);
    assert!(silent.proxy.is_idle());
}

#[test]
fn answers_go_where_the_request_came_from() {
    let mut world = world();
    let text = invite("nobody:x", "");
    world.raw("198.51.100.7:33333", text.as_bytes());
    assert_eq!(world.sent.last().unwrap().0, at("198.51.100.7:33333"), "rport (RFC 3581)");
    world.raw("198.51.100.9:33333", text.replace(";rport", "").as_bytes());
    assert_eq!(world.sent.last().unwrap().0, at("198.51.100.9:5060"), "the source's address and sent-by's port");
    assert!(world.sent.last().unwrap().1.contains(";received=198.51.100.9"));
}

#[test]
fn rfc_2543_callers_are_matched_without_a_branch() {
    let mut world = world();
    let text = invite(&format!("sip:100@{GATE}"), "")
        .replace(";branch=z9hG4bKr;rport", "")
        .replace(";tag=1", "")
        .replace("Max-Forwards: 70\r\n", "");
    world.modes.insert(at(PBX), Mode::Refuse(486));
    world.raw(CALLER, text.as_bytes());
    world.raw(CALLER, text.as_bytes());
    assert_eq!(world.reached(PBX, "INVITE"), 1);
    assert!(world.last_at(PBX, "INVITE").contains("Max-Forwards: 70\r\n"));
    let refusals = |world: &World| {
        world.delivered.iter().filter(|(to, text)| *to == at(CALLER) && text.starts_with("SIP/2.0 486")).count()
    };
    let before = refusals(&world);
    let ack = text.replace("INVITE", "ACK").replace("To: <sip:c@d>", "To: <sip:c@d>;tag=callee-1");
    world.raw(CALLER, ack.as_bytes());
    world.run_for(10_000);
    assert_eq!(refusals(&world), before, "the ACK stopped the copies");
    // And a CANCEL finds its INVITE the same way.
    world.modes.insert(at(PBX), Mode::Ring);
    let second = text.replace("CSeq: 1", "CSeq: 2");
    world.raw(CALLER, second.as_bytes());
    world.raw(CALLER, second.replace("INVITE", "CANCEL").as_bytes());
    assert_eq!(world.reached(PBX, "CANCEL"), 1);
}

#[test]
fn garbage_is_dropped_and_counted() {
    let mut world = world();
    let mut random = Random(3);
    let long = vec![b'a'; 65_507];
    let mut inputs: Vec<Vec<u8>> =
        vec![b"\r\n\r\n".to_vec(), b"\0".to_vec(), b"hello".to_vec(), long, b"INVITE".to_vec(), vec![0xff; 1400]];
    for _ in 0..2_000 {
        inputs.push((0..random.below(300)).map(|_| random.next() as u8).collect());
    }
    for bytes in &inputs {
        world.raw(CALLER, bytes);
    }
    let dropped: u64 = world.proxy.counters().drops().map(|(_, count)| count).sum();
    assert_eq!(dropped, inputs.len() as u64);
    assert!(world.sent.is_empty() && world.proxy.is_idle());
}

#[test]
fn a_message_cut_or_changed_anywhere_harms_nothing() {
    let mut world = world();
    let text = invite(&format!("sip:100@{GATE}"), "Supported: timer\r\nX: \"y\" <z>\r\n");
    let mut random = Random(5);
    for cut in 0..text.len() {
        world.raw(CALLER, &text.as_bytes()[..cut]);
    }
    for _ in 0..3_000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        world.raw(CALLER, &bytes);
    }
    // Whatever got through ends like any call whose caller is gone.
    world.run_for(50_000_000);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_64_kilobyte_message_passes_whole() {
    let mut world = world();
    let body = vec![b'v'; 60_000];
    let mut bytes =
        invite(&format!("sip:100@{GATE}"), "").replace("Content-Length: 0", "Content-Length: 60000").into_bytes();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"and this is beyond Content-Length");
    world.raw(CALLER, &bytes);
    let seen = world.last_at(PBX, "INVITE");
    assert!(seen.ends_with(&"v".repeat(60_000)));
    assert!(!seen.contains("beyond"));
}
