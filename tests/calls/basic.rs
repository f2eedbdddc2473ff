use crate::world::*;
use sipweir::metrics::Drop;

fn world() -> World {
    World::new(&config(2, &menu("")))
}

#[test]
fn a_call_is_set_up_held_and_ended() {
    let mut world = world();
    let caller = world.answered("100");
    assert_eq!(world.callers[caller].answers, [180, 200]);
    assert_eq!(world.in_use(), 1);
    assert_eq!(world.view().pools[0].held, 1);
    assert_eq!(world.reached(PBX, "ACK"), 1);
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.reached(PBX, "BYE"), 1);
    world.run_for(40_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
    assert!(world.slots.is_empty());
}

#[test]
fn the_channel_is_reserved_while_it_rings_and_held_when_answered() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Answer(5_000));
    let caller = world.invite("100");
    world.run();
    assert_eq!((world.view().pools[0].reserved, world.view().pools[0].held), (1, 0));
    world.run_for(5_000);
    assert!(world.callers[caller].up);
    assert_eq!((world.view().pools[0].reserved, world.view().pools[0].held), (0, 1));
    let (_, slot) = &world.slots.list(10, |_| true)[0];
    assert_eq!((slot.call_id().as_str(), slot.number().as_str(), slot.answered), ("call-1", "100", true));
    assert_eq!(slot.caller(), format!("sip:caller@{CALLER}"));
}

#[test]
fn a_trying_leaves_at_once_and_the_pbxs_own_is_not_forwarded() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Stuck);
    let caller = world.invite("100");
    world.run();
    assert_eq!(world.callers[caller].answers, [100]);
}

#[test]
fn what_is_forwarded_is_what_came_but_for_the_proxys_own_lines() {
    let mut world = world();
    world.invite_with("100", "X-Odd:  two  blanks\r\nsubject: \u{e9}\r\n folded\r\nX-Empty:\r\n");
    world.run();
    let seen = world.last_at(PBX, "INVITE");
    assert!(
        seen.starts_with(&format!("INVITE sip:100@{PBX} SIP/2.0\r\nVia: SIP/2.0/UDP {GATE};branch=z9hG4bK")),
        "{seen}"
    );
    assert!(seen.contains("X-Odd:  two  blanks\r\nsubject: \u{e9}\r\n folded\r\nX-Empty:\r\n"), "{seen}");
    assert!(seen.contains("Max-Forwards: 69\r\n"), "{seen}");
    assert!(seen.contains(&format!("Record-Route: <sip:{GATE};lr;sw=")), "{seen}");
    assert!(seen.contains(";rport=5060;branch=z9hG4bK-2;received=198.51.100.7\r\n"), "{seen}");
    let answer = world.callers[0].last.clone();
    assert!(answer.contains("X-Callee: kept\r\n") && !answer.contains(&format!("UDP {GATE}")), "{answer}");
}

#[test]
fn the_pbx_ends_the_call_and_the_channel_is_free_with_its_request() {
    let mut world = world();
    world.answered("100");
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.reached(CALLER, "BYE"), 1);
    assert!(world.callees[0].last.starts_with("SIP/2.0 200"));
}

#[test]
fn the_callers_bye_frees_the_channel_only_when_the_pbx_has_answered_it() {
    let mut world = world();
    let caller = world.answered("100");
    world.modes.insert(at(PBX), Mode::Silent);
    // The PBX never sees the BYE: it still has the call up.
    world.faults.lost = 1000;
    world.hang_up(End::Caller, caller);
    world.faults.lost = 0;
    world.run_for(400);
    assert_eq!(world.in_use(), 1);
    world.run_for(200);
    assert_eq!(world.in_use(), 0, "the copy of the BYE arrived and was answered");
}

#[test]
fn a_silent_pbx_gives_408_and_the_channel_back() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Silent);
    let caller = world.invite("100");
    world.run_for(4_900);
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE")), (1, 4));
    world.run_for(200);
    assert_eq!((world.in_use(), world.final_answer(caller)), (1, 408), "the PBX may have taken a channel all the same");
    world.run_for(27_000);
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE")), (0, 4), "64*T1 after the INVITE it has not");
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn a_refused_call_gives_its_channel_back_with_the_refusal() {
    for status in [302, 403, 404, 486, 500, 603] {
        let mut world = world();
        world.modes.insert(at(PBX), Mode::Refuse(status));
        let caller = world.invite("100");
        world.run();
        assert_eq!((world.final_answer(caller), world.in_use()), (status, 0));
        assert_eq!(world.callees[0].acks, 1, "the PBX's refusal is acknowledged hop by hop");
        world.run_for(40_000);
        assert!(world.proxy.is_idle());
    }
}

#[test]
fn an_unacknowledged_refusal_is_sent_again_until_timer_h() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Refuse(486));
    let caller = world.invite("100");
    world.deafen(caller);
    world.run_for(31_900);
    let copies =
        world.delivered.iter().filter(|(to, text)| *to == at(CALLER) && text.starts_with("SIP/2.0 486")).count();
    assert_eq!(copies, 11, "0.5 + 1 + 2 + 4 s and then every 4 s");
    world.run_for(5_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn every_in_dialog_method_is_relayed_both_ways() {
    let mut world = world();
    let caller = world.answered("100");
    for method in
        ["INVITE", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY", "MESSAGE", "OPTIONS", "SUBSCRIBE", "FROBNICATE"]
    {
        world.request(End::Caller, caller, method);
        world.request(End::Callee, 0, method);
        world.run();
        assert_eq!(world.reached(PBX, method), 1 + usize::from(method == "INVITE"), "{method}");
        assert_eq!(world.reached(CALLER, method), 1, "{method}");
        assert!(world.callees[0].last.starts_with("SIP/2.0 200"), "{method}");
    }
    assert_eq!(world.in_use(), 1, "nothing within the dialog takes or frees a channel");
    let seen = world.last_at(PBX, "FROBNICATE");
    assert!(!seen.contains("Route:"), "our own Route is popped: {seen}");
}

#[test]
fn requests_outside_a_dialog_reach_the_service_and_take_no_channel() {
    for method in ["OPTIONS", "MESSAGE", "SUBSCRIBE", "REGISTER", "PUBLISH", "FROBNICATE"] {
        let mut world = world();
        let text = format!(
            "{method} sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKo\r\nMax-Forwards: 9\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:100@{GATE}>\r\nCall-ID: o\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        world.raw(CALLER, text.as_bytes());
        assert_eq!(world.reached(PBX, method), 1, "{method}");
        assert_eq!(world.in_use(), 0);
        assert_eq!(world.last_at(PBX, method).contains("Record-Route"), method == "SUBSCRIBE");
        assert!(!world.last_at(CALLER, "SIP/2.0 ").is_empty(), "{method}");
        world.run_for(40_000);
        assert!(world.proxy.is_idle());
    }
}

#[test]
fn options_to_the_proxy_itself_are_answered_also_when_the_pool_is_full() {
    let mut world = World::new(&config(0, &menu("")));
    let text = |from: &str| {
        format!(
            "OPTIONS sip:{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKo\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:{GATE}>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\n\r\n"
        )
    };
    for from in [CALLER, PBX] {
        world.raw(from, text(from).as_bytes());
        let answer = world.last_at(from, "SIP/2.0 200 OK");
        assert!(answer.contains("Allow: INVITE, ACK, BYE, CANCEL"), "{answer}");
    }
}

#[test]
fn stray_and_altered_responses_go_nowhere() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Ring);
    world.invite("100");
    world.run();
    let ringing = world.sent.len();
    let ok = world.callees[0].clone();
    let vias: String =
        ok.invite.lines().filter(|line| line.starts_with("Via:")).map(|line| format!("{line}\r\n")).collect();
    let response = |vias: &str, call_id: &str, cseq: &str| {
        format!(
            "SIP/2.0 200 OK\r\n{vias}From: {}\r\nTo: {}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n\r\n",
            ok.remote, ok.local
        )
    };
    world.raw(PBX, response(&vias, "other", "1 INVITE").as_bytes());
    world.raw(PBX, response(&vias, &ok.call_id, "2 INVITE").as_bytes());
    world.raw(PBX, response(&vias, &ok.call_id, "1 BYE").as_bytes());
    assert_eq!(world.dropped(Drop::AlteredResponse), 3);
    world.raw(PBX, response(&vias.replacen("z9hG4bK0", "z9hG4bK1", 1), &ok.call_id, "1 INVITE").as_bytes());
    world.raw(PBX, response("Via: SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKx\r\n", &ok.call_id, "1 INVITE").as_bytes());
    world.raw(PBX, response(&vias, &ok.call_id, "1 CANCEL").as_bytes());
    assert_eq!(world.dropped(Drop::StrayResponse), 3);
    assert_eq!(world.sent.len(), ringing, "nothing was forwarded");
    let ours: String = vias.lines().next().map(|line| format!("{line}\r\n")).unwrap();
    world.raw(PBX, response(&ours, &ok.call_id, "1 INVITE").as_bytes());
    assert_eq!(world.dropped(Drop::NoNextVia), 1);
}

#[test]
fn a_pbx_that_rings_at_once_spares_the_caller_the_100() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run_for(1_000);
    assert_eq!(world.callers[caller].answers, [180]);
}

#[test]
fn a_caller_whom_the_pbx_leaves_waiting_gets_a_100_within_200_ms_and_sends_no_copy() {
    for mode in [Mode::Silent, Mode::Stuck] {
        let mut world = world();
        world.modes.insert(at(PBX), mode);
        let caller = world.invite("100");
        world.run_for(90);
        assert!(world.callers[caller].answers.is_empty(), "{mode:?}");
        world.run_for(110);
        assert_eq!(world.callers[caller].answers, [100], "{mode:?}");
        world.run_for(1_000);
        assert_eq!(world.callers[caller].answers, [100], "{mode:?}");
    }
}

#[test]
fn a_copy_of_the_invite_gets_the_100_at_once_and_only_one_comes_by_the_timer() {
    let mut world = World::new(&config(2, &format!("{}[timers]\ntrying_ms = 190\n", menu(""))));
    world.modes.insert(at(PBX), Mode::Silent);
    let caller = world.invite("100");
    world.run_for(10);
    let invite = world.callers[caller].invite.clone();
    world.raw(CALLER, invite.as_bytes());
    assert_eq!(world.callers[caller].answers, [100]);
    world.run_for(1_000);
    assert_eq!(world.callers[caller].answers, [100]);
    world.raw(CALLER, invite.as_bytes());
    assert_eq!(world.callers[caller].answers, [100, 100], "a copy of the 100 for a copy of the INVITE");
    assert_eq!(world.proxy.counters().retransmissions, 2);
}

#[test]
fn the_100_comes_first_where_the_operator_wants_it_so() {
    let mut world = World::new(&config(2, &format!("{}[timers]\ntrying_ms = 0\n", menu(""))));
    let caller = world.answered("100");
    assert_eq!(world.callers[caller].answers, [100, 180, 200]);
}
