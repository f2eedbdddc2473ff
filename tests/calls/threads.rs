//! More of what users of other gates complained about: transfers, names, parsers, memory. Sockets' part of it is in
//! tests/shell.

use std::time::Duration;

use sipweir::proxy::{Answer, Input};
use sipweir::route::Found;
use sipweir::sip::Transport;

use super::transfers::{notify, refer, replacing, tag};
use crate::world::*;

fn two_up() -> World {
    let mut world = World::new(&config(2, &menu("")));
    world.answered("100");
    world.answered("100");
    world
}

// jambonz/sbc-outbound #226: after a REFER to another server the call stayed in the count for good, and nobody could end it.
#[test]
fn b5_a_call_referred_to_another_server_leaves_no_phantom() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    refer(&mut world, "202 Accepted");
    notify(&mut world, caller, CALLER, "200 OK");
    assert_eq!((world.in_use(), world.view().calls), (0, 1));
    // What is left is listed, and the operator can end it.
    let slot = world.slots.list(9, |_| true)[0].0;
    world.tell(Input::EndCall { slot });
    world.run_for(40_000);
    assert_eq!((world.view().calls, world.slots.len()), (0, 0));
    assert!(world.proxy.is_idle());
}

// signalwire/freeswitch #1619, OpenSIPS #2068: an attended transfer at the limit dropped the legs that were left.
#[test]
fn b5_an_attended_transfer_at_the_limit_drops_no_leg() {
    let mut world = World::new(&config(1, &menu("")));
    let first = world.answered("100");
    let leg = world.callers[first].clone();
    let second = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert!(world.callers[first].up && world.callers[second].up);
    assert_eq!((world.in_use(), world.reached(PBX, "BYE"), world.reached(CALLER, "BYE")), (1, 0, 0));
}

// siphon-sip PR #220: the early BYE of a transferor (Teams) after its 202 ended the call that should have survived.
#[test]
fn b5_a_transferors_early_bye_ends_its_own_dialog_only() {
    let mut world = two_up();
    refer(&mut world, "202 Accepted");
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!((world.in_use(), world.view().calls), (1, 1));
    assert!(world.callers[1].up && world.callees[1].up && world.callers[0].over);
}

// OpenSIPS #1763: the INVITE of a transfer came twice and was answered 482 as merged.
#[test]
fn b5_an_invite_that_comes_by_two_ways_is_one_call_and_no_482() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    world.invite_as(CALLER, "100", "twice", "same-tag", 1, "");
    world.invite_as(CALLER, "100", "twice", "same-tag", 1, "");
    world.run();
    assert_eq!((world.in_use(), world.view().calls), (1, 1));
    assert!(world.last_at(CALLER, "SIP/2.0 482").is_empty());
}

// drachtio-server #255: what ended a call after a CANCEL that came too late went past the route set; the far end stayed up.
#[test]
fn b5_a_bye_after_a_late_cancel_goes_along_the_route_set() {
    let mut world = World::new(&config(1, &menu("")));
    world.invite_with("100", "Record-Route: <sip:198.51.100.9;lr>\r\n");
    world.modes.insert(at(PBX), Mode::Ring);
    world.run();
    world.deaf.push(at(PBX));
    let slot = world.slots.list(9, |_| true)[0].0;
    world.tell(Input::EndCall { slot });
    world.run();
    assert!(world.sent.iter().any(|(_, text)| text.starts_with("CANCEL ")), "it rang");
    // The 200 was on its way already.
    let invite = world.sent.iter().rfind(|(_, text)| text.starts_with("INVITE ")).map(|(_, text)| text.clone());
    let invite = invite.expect("it was sent");
    let (_, fields) = invite.split_once("\r\n").expect("a start line");
    let ok = format!("SIP/2.0 200 OK\r\n{fields}")
        .replacen("\r\nMax-Forwards: 69", "", 1)
        .replacen(&format!("To: <sip:100@{GATE}>"), &format!("To: <sip:100@{GATE}>;tag=late"), 1)
        .replacen(&format!("Contact: <sip:caller@{CALLER}>"), &format!("Contact: <sip:x@{PBX}>"), 1)
        .replacen("Record-Route:", "Record-Route: <sip:10.0.0.9;lr>\r\nRecord-Route:", 1);
    assert!(ok.starts_with("SIP/2.0 200 OK\r\n") && ok.contains(";tag=late"), "{ok}");
    world.raw(PBX, ok.as_bytes());
    let byes: Vec<&String> = world.sent.iter().map(|(_, text)| text).filter(|text| text.starts_with("BYE ")).collect();
    assert!(byes.iter().any(|bye| bye.contains("Route: <sip:10.0.0.9;lr>")), "to the PBX: {byes:?}");
    assert!(byes.iter().any(|bye| bye.contains("Route: <sip:198.51.100.9;lr>")), "to the caller: {byes:?}");
}

// --- names ---------------------------------------------------------------------------------------------------------------

// kamailio #2081: a host that could not be resolved froze all of SIP.
#[test]
fn b7_a_name_nobody_answers_for_delays_no_other_call() {
    let relay = config(5, &menu("")).replacen("name = \"carrier\"", "name = \"carrier\"\nrelay = true", 1);
    let mut world = World::new(&relay);
    let text = format!(
        "INVITE sip:b@far.example.net SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKfar\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:b@far.example.net>\r\nCall-ID: far\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{CALLER}>\r\nContent-Length: 0\r\n\r\n"
    );
    world.raw_unanswered(CALLER, text.as_bytes());
    assert_eq!(world.questions.len(), 1, "it waits for the name");
    let began = world.now;
    for _ in 0..4 {
        world.answered("100");
    }
    assert!(world.now - began < Duration::from_secs(1), "and nobody else does");
    assert!(world.last_at(CALLER, "SIP/2.0 5").is_empty(), "it still waits");
    world.run_for(60_000);
    assert!(world.last_at(CALLER, "SIP/2.0 502").contains("Call-ID: far"));
    assert_eq!(world.in_use(), 4);
}

// kamailio #2651: with more than eight SRV records none was found.
#[test]
fn b7_thirty_srv_records_are_all_used() {
    let pbx = format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]");
    let text = config(1, &menu("")).replace(&pbx, "name = \"pbx\"\nuri = [\"sip:pbx.example.net\"]");
    let mut world = World::new(&text);
    world.run();
    let address = |n: u16| if n == 30 { PBX.to_owned() } else { format!("10.0.0.{}:5060", 100 + n) };
    let record = |n| Found { transport: Transport::Udp, address: at(&address(n)), priority: n, weight: 0 };
    let question = world.questions.last().expect("a question").clone();
    let answer = Answer::Found((1..=30).map(record).collect());
    world.tell(Input::Resolved { question: &question, answer, ttl: Duration::from_secs(600) });
    world.deaf.extend((1..30).map(|n| at(&address(n))));
    // Nobody but the last answers: each of the others is tried for its few seconds, and then left.
    let caller = world.invite("100");
    world.run_for(170_000);
    let tried: std::collections::BTreeSet<_> =
        world.sent.iter().filter(|(_, text)| text.starts_with("INVITE ")).map(|(to, _)| *to).collect();
    assert_eq!(tried.len(), 30, "{:?}", world.callers[caller].answers);
    assert!(world.callers[caller].up);
}

// kamailio #4911: one failed call poisoned a destination of NAPTR and SRV for everybody.
#[test]
fn b7_one_failed_call_poisons_a_destination_for_nobody() {
    let mut world = World::new(&config(2, &menu("").replace("target = \"pbx\"", "target = \"pair\"")));
    world.modes.insert(at(PBX), Mode::Refuse(503));
    world.answered("100");
    world.modes.insert(at(PBX), Mode::Answer(0));
    world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(PBX2, "INVITE")), (2, 1), "it gets the next call again");
}

// --- parsers -------------------------------------------------------------------------------------------------------------

// emiago/sipgo #251, kamailio #2837: header lines folded by real carriers; pjsip/pjproject #188: compact forms.
#[test]
fn b7_a_whole_call_in_folded_lines_and_compact_forms() {
    let mut world = World::new(&config(1, &menu("")));
    let text = |method: &str, cseq: u32, branch: &str, to: &str, lines: &str| {
        format!(
            "{method} sip:100@{GATE} SIP/2.0\r\nv: SIP/2.0/UDP\r\n {CALLER};branch=z9hG4bK{branch}\r\nMax-Forwards:\r\n\t70\r\n\
             f: \"Folded\r\n  Caller\" <sip:a@{CALLER}>\r\n ;tag=f\r\nt: <sip:100@{GATE}>{to}\r\ni: folded\r\n\
             CSeq: {cseq}\r\n   {method}\r\nm: <sip:a@{CALLER}>\r\n{lines}l: 0\r\n\r\n"
        )
    };
    world.raw_unanswered(CALLER, text("INVITE", 1, "one", "", "").as_bytes());
    let sent = world.sent.iter().rfind(|(to, _)| *to == at(PBX)).map(|(_, text)| text.clone()).expect("it passes");
    assert!(sent.contains("\r\n  Caller\" <sip:a@"), "as it came: {sent}");
    let tagged = sent.replacen(&format!("t: <sip:100@{GATE}>"), &format!("t: <sip:100@{GATE}>;tag=p"), 1);
    let (_, fields) = tagged.split_once("\r\n").expect("a start line");
    world.raw(PBX, format!("SIP/2.0 200 OK\r\n{}", fields.replace("Max-Forwards:\r\n\t69\r\n", "")).as_bytes());
    assert!(world.last_at(CALLER, "SIP/2.0 200").contains(";tag=p"));
    assert_eq!(world.in_use(), 1);
    world.raw_unanswered(CALLER, text("ACK", 1, "ack", "\r\n ;tag=p", "").as_bytes());
    world.raw_unanswered(CALLER, text("BYE", 2, "bye", "\r\n ;tag=p", "").as_bytes());
    assert!(world.sent.iter().any(|(to, text)| *to == at(PBX) && text.starts_with("ACK ")));
    let bye =
        world.sent.iter().rfind(|(to, text)| *to == at(PBX) && text.starts_with("BYE ")).expect("it passes").1.clone();
    let (_, fields) = bye.split_once("\r\n").expect("a start line");
    world.raw(PBX, format!("SIP/2.0 200 OK\r\n{fields}").as_bytes());
    assert_eq!((world.in_use(), world.ends()), (0, vec![("caller_bye", 1)]));
}

// kamailio #1582: a header cut off before its line end was read beyond.
#[test]
fn b7_a_message_cut_anywhere_goes_nowhere_and_harms_nothing() {
    let mut world = World::new(&config(1, &menu("")));
    let text = format!(
        "INVITE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKcut\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:100@{GATE}>\r\nCall-ID: cut\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{CALLER}>\r\nContent-Length: 4\r\n\r\nbody"
    );
    for length in 0..text.len() {
        world.raw_unanswered(CALLER, &text.as_bytes()[..length]);
        assert_eq!((world.reached(PBX, "INVITE"), world.in_use()), (0, 0), "{length}");
    }
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
    world.answered("100");
}

// kamailio #4926: a malformed Contact was stored, and harmed later.
#[test]
fn b7_a_malformed_contact_harms_nothing_when_it_is_used() {
    for contact in
        ["<sip:", "<", "\"", "sip:@", "<sip:a@[::1>", "<tel:1>", "*", "<sip:a@b:99999>", "<sip:%@%%>;x=\"", ","]
    {
        let mut world = World::new(&config(1, &menu("")));
        let text = format!(
            "INVITE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKodd\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:100@{GATE}>\r\nCall-ID: odd\r\nCSeq: 1 INVITE\r\nContact: {contact}\r\nContent-Length: 0\r\n\r\n"
        );
        world.raw_unanswered(CALLER, text.as_bytes());
        if world.in_use() == 1 {
            world.answer_last(PBX, &format!("200 OK\r\nContact: {contact}"));
            let slot = world.slots.list(9, |_| true)[0].0;
            world.tell(Input::EndCall { slot });
        }
        world.run_for(80_000);
        assert_eq!((world.in_use(), world.slots.len()), (0, 0), "{contact}");
        assert!(world.proxy.is_idle(), "{contact}: {:?}", world.proxy.load());
    }
}

// --- memory --------------------------------------------------------------------------------------------------------------

// asterisk/asterisk #1965: a malformed 200 to a re-INVITE leaked the call.
#[test]
fn b7_a_malformed_200_to_a_reinvite_leaks_nothing() {
    for cut in ["CSeq:", "Call-ID:", "From:", "To:", "Via:"] {
        let mut world = World::new(&config(1, &menu("")));
        let caller = world.answered("100");
        let reinvite = world.in_dialog(End::Caller, caller, "INVITE");
        world.raw_unanswered(CALLER, reinvite.as_bytes());
        let sent = world.sent.iter().rfind(|(to, _)| *to == at(PBX)).map(|(_, text)| text.clone()).expect("it passes");
        let (_, fields) = sent.split_once("\r\n").expect("a start line");
        let kept: Vec<&str> = fields.split("\r\n").filter(|line| !line.starts_with(cut)).collect();
        world.raw(PBX, format!("SIP/2.0 200 OK\r\n{}", kept.join("\r\n")).as_bytes());
        world.run_for(40_000);
        world.hang_up(End::Callee, 0);
        world.run_for(80_000);
        assert_eq!((world.in_use(), world.slots.len()), (0, 0), "without {cut}");
        assert!(world.proxy.is_idle(), "without {cut}: {:?}", world.proxy.load());
    }
}

// signalwire/freeswitch #3132: legs that fall silent leak.
#[test]
fn b7_legs_that_fall_silent_at_any_moment_leak_nothing() {
    for seed in 0..60 {
        let mut world = World::seeded(&config(3, &menu("longest_call_s = 600")), seed);
        world.modes.insert(at(PBX), Mode::Answer(seed * 7 % 300));
        for _ in 0..3 {
            world.invite("100");
        }
        world.run_for(seed * 13 % 500);
        world.deaf.extend(if seed % 2 == 0 { vec![at(PBX)] } else { vec![at(PBX), at(CALLER)] });
        for caller in 0..3 {
            if !world.hang_up(End::Caller, caller) {
                world.cancel(caller);
            }
        }
        world.run_for(800_000);
        assert_eq!((world.in_use(), world.slots.len()), (0, 0), "seed {seed}");
        assert!(world.proxy.is_idle(), "seed {seed}: {:?}", world.proxy.load());
    }
}

// asterisk/asterisk #2166: one attended transfer in 179,000 calls stopped all of SIP.
#[test]
fn b7_attended_transfers_that_cross_byes_in_any_order_stop_nothing() {
    for seed in 0..300 {
        let mut world = World::seeded(&config(1, &menu("longest_call_s = 600")), seed);
        let first = world.answered("100");
        let leg = world.callers[first].clone();
        world.faults = Faults { lost: 50, doubled: 100, delay_ms: 120 };
        world.modes.insert(at(PBX), Mode::Answer(seed % 90));
        world.hang_up_later(End::Callee, 0, seed * 3 % 200);
        world.hang_up_later(End::Caller, first, seed * 7 % 250);
        let line = format!("Replaces: {};to-tag={};from-tag={}\r\n", leg.call_id, tag(&leg.remote), tag(&leg.local));
        let second = world.invite_with("100", &line);
        world.run_for(2_000);
        assert!(world.in_use() <= 1, "seed {seed}");
        if !world.hang_up(End::Caller, second) {
            world.cancel(second);
        }
        world.run_for(800_000);
        assert_eq!((world.in_use(), world.slots.len()), (0, 0), "seed {seed}");
        assert!(world.proxy.is_idle(), "seed {seed}: {:?}", world.proxy.load());
        world.faults = Faults::default();
        world.modes.insert(at(PBX), Mode::Answer(0));
        world.answered("100");
    }
}
