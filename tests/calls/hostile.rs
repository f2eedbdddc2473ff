//! What a hostile or broken peer may try: nobody gets past the gate, nothing is left behind.

use crate::world::*;
fn raw_invite(lines: &str, vias: usize) -> String {
    let mut v = String::new();
    for n in 1..vias {
        v += &format!("Via: SIP/2.0/UDP h{n}.example;branch=z9hG4bKx{n}\r\n");
    }
    format!(
        "INVITE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKr;rport\r\n{v}Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: r\r\nCSeq: 1 INVITE\r\n{lines}Content-Length: 0\r\n\r\n"
    )
}
#[test]
fn a_request_with_too_many_header_fields_for_our_own_is_refused_and_leaves_nothing() {
    for (lines, status) in [(120, "513"), (105, "200")] {
        let mut w = World::new(&config(1, &menu("")));
        w.raw_unanswered(CALLER, raw_invite(&"X: y\r\n".repeat(lines), 1).as_bytes());
        if status == "513" {
            assert!(w.sent.last().unwrap().1.starts_with("SIP/2.0 513"));
        } else {
            w.answer_last(PBX, "180 Ringing");
        }
        w.run_for(100_000_000);
        assert_eq!((w.in_use(), w.proxy.load().servers, w.proxy.load().clients), (0, 0, 0));
    }
}

#[test]
fn a_request_with_too_many_vias_for_those_behind_us_is_refused() {
    let mut w = World::new(&config(1, &menu("")));
    w.raw_unanswered(CALLER, raw_invite("", 80).as_bytes());
    assert!(w.sent.last().unwrap().1.starts_with("SIP/2.0 513"));
    let mut w = World::new(&config(1, &menu("")));
    w.raw_unanswered(CALLER, raw_invite("", 70).as_bytes());
    w.answer_last(PBX, "200 OK");
    assert!(w.last_at(CALLER, "SIP/2.0 200").contains("h69.example"));
    assert_eq!(w.in_use(), 1);
}

fn bogus_bye(n: usize) -> String {
    format!(
        "BYE sip:100@{PBX} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKb{n};rport\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=ct\r\nTo: <sip:c@d>;tag=bogus{n}\r\nCall-ID: cid\r\nCSeq: {} BYE\r\nContent-Length: 0\r\n\r\n",
        n + 2
    )
}
#[test]
fn a_bogus_early_bye_does_not_spare_an_unacknowledged_call_its_timer() {
    let mut w = World::new(&config(1, &menu("")));
    w.modes.insert(at(PBX), Mode::Ring);
    let c = w.invite_as(CALLER, "100", "cid", "ct", 1, "");
    w.run();
    w.deaf.push(at(PBX));
    w.raw(CALLER, bogus_bye(0).as_bytes());
    w.answer_last(PBX, "481 No");
    w.deafen(c);
    w.accept(0);
    w.run_for(100_000_000);
    assert_eq!((w.in_use(), w.proxy.load().timers), (0, 0));
}
#[test]
fn bogus_early_byes_do_not_free_the_channel_of_a_call_that_comes_up() {
    let mut w = World::new(&config(1, &menu("")));
    w.modes.insert(at(PBX), Mode::Ring);
    w.invite_as(CALLER, "100", "cid", "ct", 1, "");
    w.run();
    w.deaf.push(at(PBX));
    for n in 0..16 {
        w.raw(CALLER, bogus_bye(n).as_bytes());
        w.answer_last(PBX, "481 No");
    }
    w.deaf.clear();
    w.accept(0);
    w.run();
    assert_eq!(w.in_use(), 1, "call is up");
}
#[test]
fn a_to_tag_is_neither_a_way_around_the_gate_nor_a_relay() {
    let mut w = World::new(&config(0, &menu("")));
    let t = raw_invite("", 1).replace("To: <sip:c@d>", "To: <sip:c@d>;tag=x");
    w.raw_unanswered(CALLER, t.replace(&format!("100@{GATE}"), "x@203.0.113.9").as_bytes());
    w.raw_unanswered(CALLER, t.replace(&format!("100@{GATE}"), &format!("100@{PBX}")).replace("bKr", "bKs").as_bytes());
    let to: Vec<_> = w.sent.iter().filter(|(_, t)| t.starts_with("INVITE")).map(|(a, _)| a.to_string()).collect();
    assert!(to.is_empty(), "{to:?}");
}
#[test]
fn a_pbx_that_rings_late_is_cancelled() {
    let mut w = World::new(&config(1, &menu("overflow = [{ route = \"voicemail\" }]")));
    w.modes.insert(at(PBX), Mode::Silent);
    w.invite("100");
    w.run_for(5_200);
    w.answer_last(PBX, "180 Ringing");
    w.run_for(60_000);
    assert_eq!((w.in_use(), w.reached(PBX, "CANCEL")), (0, 1), "PBX rings, nobody cancels");
}
#[test]
fn a_caller_who_poses_as_the_callee_frees_nothing() {
    let mut w = World::new(&config(1, &menu("")));
    w.answered("100");
    let l = w.callees[0].clone();
    let t = format!(
        "BYE sip:caller@{CALLER} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKq;rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 9 BYE\r\nContent-Length: 0\r\n\r\n",
        l.local, l.remote, l.call_id
    );
    w.raw(CALLER, t.as_bytes());
    assert_eq!((w.in_use(), w.reached(PBX, "BYE")), (1, 0));
}
#[test]
fn copies_of_an_invite_that_was_answered_get_no_call_for_nothing() {
    let mut w = World::new(&config(1, &menu("")));
    w.invite_as(CALLER, "100", "cid", "ct", 1, "");
    w.run();
    for _ in 0..5 {
        w.invite_as(CALLER, "100", "cid", "ct", 1, "");
        w.run();
    }
    // The later ones want channels of their own, and the pool has one.
    assert_eq!((w.in_use(), w.reached(PBX, "INVITE")), (1, 1));
}
#[test]
fn empty_route_lines_cost_nothing() {
    let mut w = World::new(&config(1, &menu("")));
    let c = w.answered("100");
    let t = w.in_dialog(End::Caller, c, "INFO").replace("Max-Forwards", &("Route:\r\n".repeat(20) + "Max-Forwards"));
    w.raw(CALLER, t.as_bytes());
}
#[test]
fn our_route_and_the_real_target_on_one_line_leave_no_empty_line() {
    let mut w = World::new(&config(1, &menu("")));
    let c = w.answered("100");
    let own = w.callers[c].routes[0].clone();
    let real = w.callers[c].target.clone();
    let l = &mut w.callers[c];
    l.target = own.trim_matches(['<', '>']).to_owned();
    l.routes = vec![format!("{own}, <{real}>")];
    w.request(End::Caller, c, "INFO");
    w.run();
    let s = w.last_at(PBX, "INFO");
    assert!(!s.contains("Route:"), "{s}");
}
#[test]
fn a_copy_that_fails_leaves_the_channel_to_the_one_that_is_up() {
    let two = "[[service]]\nname = \"two\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx2\"\noverflow = [{ reject = 486 }]\n[[target]]\nname=\"pbx2\"\nuri=[\"sip:10.0.0.11:5060\"]\n";
    let mut w = World::new(&config(2, &format!("{}{two}", menu("overflow = [{ reject = 486 }]"))));
    w.modes.insert(at(PBX), Mode::Silent);
    w.invite_as(CALLER, "100", "f", "t", 1, "");
    w.invite_as(CALLER, "200", "f", "t", 1, "");
    w.run_for(6_000);
    assert_eq!(w.in_use(), 1, "the copy is up at pbx2: busy {}", w.callees.iter().filter(|l| l.busy).count());
}

#[test]
fn blanks_behind_rport_before_the_next_via_stop_nobody() {
    let odd = raw_invite("", 1).replace(";rport\r\n", ";rport , SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKo\r\n");
    let mut world = World::new(&config(1, &menu("")));
    world.raw_unanswered("203.0.113.9:5060", odd.as_bytes());
    assert!(world.sent.last().unwrap().1.starts_with("SIP/2.0 403"), "an answer of ours: {:?}", world.sent.last());
    world.raw_unanswered(CALLER, odd.replace("z9hG4bKr", "z9hG4bKr2").as_bytes());
    let forwarded = &world.sent.iter().find(|(to, _)| *to == at(PBX)).expect("it goes on").1;
    assert!(forwarded.contains(&format!("Via: SIP/2.0/UDP {CALLER};branch=z9hG4bKr2;rport=5060")), "{forwarded}");
    assert!(forwarded.contains(" , SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKo\r\n"), "{forwarded}");
}

#[test]
fn a_strict_route_as_first_line_of_a_request_within_a_dialog_stops_nobody() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    let bye = world.in_dialog(End::Caller, caller, "BYE");
    let (start, rest) = bye.split_once("\r\n").expect("a start line");
    let rest: Vec<&str> = rest.split_inclusive("\r\n").filter(|line| !line.starts_with("Route:")).collect();
    let odd = format!("{start}\r\nRoute: <sip:{PBX}>\r\n{}", rest.concat());
    world.raw(CALLER, odd.as_bytes());
    let sent = world.last_at(PBX, "BYE");
    assert!(sent.starts_with(&format!("BYE sip:{PBX} SIP/2.0\r\n")), "{sent}");
    assert!(sent.contains("\r\nRoute: <sip:"), "the former Request-URI goes to the end of the route set: {sent}");
}
