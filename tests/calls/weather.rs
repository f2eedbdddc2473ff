//! Dialogs under all weathers: early dialogs, forks, refreshes that meet, answers that come too late.

use crate::world::*;

fn ringing() -> (World, usize) {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    (world, caller)
}

fn up() -> (World, usize) {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    (world, caller)
}

/// Answers a caller got, copies left out.
fn seen(world: &World, caller: usize) -> Vec<u16> {
    let mut answers = world.callers[caller].answers.clone();
    answers.dedup();
    answers
}

#[test]
fn several_early_dialogs_reach_the_caller_and_one_channel_serves_them() {
    let (mut world, caller) = ringing();
    for fork in 1..4 {
        let mut leg = world.callees[0].clone();
        leg.local = leg.local.replace("tag=", &format!("tag=f{fork}-"));
        world.callees.push(leg);
        world.callee_says(fork, "183 Session Progress");
    }
    world.run();
    assert_eq!(world.in_use(), 1);
    let tags = world.delivered.iter().filter(|(to, text)| *to == at(CALLER) && text.contains("183 Session")).count();
    assert_eq!(tags, 3, "each early dialog has its own answer");
    // The third fork answers; the others never do.
    world.accept(2);
    world.run();
    assert!(world.callers[caller].up);
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((world.reached(PBX, "BYE"), world.in_use()), (1, 0));
}

#[test]
fn prack_and_update_pass_within_an_early_dialog_and_end_nothing() {
    let (mut world, caller) = ringing();
    for (end, method, to) in [
        (End::Caller, "PRACK", PBX),
        (End::Caller, "UPDATE", PBX),
        (End::Callee, "UPDATE", CALLER),
        (End::Callee, "INFO", CALLER),
    ] {
        let id = if end == End::Caller { caller } else { 0 };
        world.request(end, id, method);
        world.run();
        assert_eq!(world.reached(to, method), 1, "{method}");
        assert_eq!((world.in_use(), world.callers[caller].over), (1, false), "{method}");
    }
    // A 481 within an early dialog ends nothing that is not up.
    let text = world.in_dialog(End::Caller, caller, "UPDATE");
    world.raw_unanswered(CALLER, text.as_bytes());
    world.answer_last(PBX, "481 Gone");
    assert_eq!(world.in_use(), 1);
    world.accept(0);
    world.run();
    assert!(world.callers[caller].up);
}

#[test]
fn reinvites_that_meet_get_491_both_and_the_call_stays_up() {
    let (mut world, caller) = up();
    let (one, two) = (world.in_dialog(End::Caller, caller, "INVITE"), world.in_dialog(End::Callee, 0, "INVITE"));
    world.raw_unanswered(CALLER, one.as_bytes());
    world.raw_unanswered(PBX, two.as_bytes());
    world.answer_last(CALLER, "491 Request Pending");
    world.answer_last(PBX, "491 Request Pending");
    assert!(world.last_at(CALLER, "SIP/2.0 491").contains("INVITE"));
    assert!(world.last_at(PBX, "SIP/2.0 491").contains("INVITE"));
    assert_eq!((world.in_use(), world.view().calls), (1, 1));
    world.run_for(40_000);
    world.hang_up(End::Caller, caller);
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn a_reinvite_and_a_bye_that_meet_leave_nothing_behind() {
    let (mut world, caller) = up();
    let reinvite = world.in_dialog(End::Callee, 0, "INVITE");
    world.deaf.push(at(CALLER));
    world.raw(PBX, reinvite.as_bytes());
    world.deaf.clear();
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!(world.in_use(), 0);
    world.answer_last(CALLER, "481 Gone");
    world.run_for(60_000);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_2xx_that_comes_after_the_call_was_given_up_is_absorbed_and_counts_nothing() {
    // The caller gave up and was told 487; the PBX answers another fork of it all the same. RFC 6026 figure 8: a transaction that
    // is completed absorbs it. Its sender hears no ACK and lets go (§13.3.1.4).
    let (mut world, caller) = ringing();
    world.cancel(caller);
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (487, 0));
    let mut leg = world.callees[0].clone();
    leg.local = leg.local.replace("tag=", "tag=late-");
    (leg.over, leg.up, leg.acks) = (false, false, 0);
    world.callees.push(leg);
    world.accept(1);
    world.run();
    assert_eq!(seen(&world, caller), [180, 487], "the caller was told already");
    world.run_for(60_000);
    assert_eq!(
        (world.in_use(), world.view().calls, world.callees[1].acks),
        (0, 0, 0),
        "nobody would end what is counted"
    );
    assert!(world.proxy.is_idle());
}

#[test]
fn c4_3_a_lost_ack_is_repaired_by_the_answer_that_comes_again() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.invite("100");
    world.deaf.push(at(CALLER));
    world.run();
    assert_eq!(world.callees[0].acks, 0);
    world.deaf.clear();
    world.run_for(1_000);
    assert!(world.callers[caller].up);
    assert!(world.callees[0].acks >= 1, "the 2xx was sent again by the PBX and passed on");
    assert_eq!(world.in_use(), 1);
}

#[test]
fn a_199_is_one_more_provisional_answer() {
    let (mut world, caller) = ringing();
    world.callee_says(0, "199 Early Dialog Terminated");
    world.run();
    assert_eq!((seen(&world, caller), world.in_use()), (vec![180, 199], 1), "RFC 6228: the INVITE is still pending");
    world.accept(0);
    world.run();
    assert!(world.callers[caller].up);
}

#[test]
fn c4_1_a_481_or_408_ends_the_call_only_for_requests_of_its_own_usage() {
    // RFC 5057 §5.1: 481 and 408 destroy the usage; of an INVITE usage here, or the dialog, whatever asked.
    for (method, status, left) in [
        ("INVITE", "481 Gone", 0),
        ("INVITE", "408 Request Timeout", 0),
        ("UPDATE", "408 Request Timeout", 0),
        ("INFO", "481 Gone", 0),
        ("SUBSCRIBE", "481 Gone", 1),
        ("NOTIFY", "481 Gone", 1),
        ("REFER", "408 Request Timeout", 1),
        ("INVITE", "488 Not Acceptable Here", 1),
        ("INVITE", "500 Server Internal Error", 1),
        ("UPDATE", "404 Not Found", 1),
    ] {
        let (mut world, caller) = up();
        let text = world.in_dialog(End::Caller, caller, method);
        world.raw_unanswered(CALLER, text.as_bytes());
        world.answer_last(PBX, status);
        assert_eq!(world.in_use(), left, "{method} {status}");
    }
}

#[test]
fn a_request_nobody_answers_gets_no_408_unless_it_is_an_invite() {
    // RFC 4320 §4.2: a proxy sends no 408 for a non-INVITE request.
    for (method, answered) in [("INFO", false), ("OPTIONS", false), ("INVITE", true)] {
        let (mut world, caller) = up();
        let text = world.in_dialog(End::Caller, caller, method);
        world.deaf.push(at(PBX));
        world.raw(CALLER, text.as_bytes());
        world.run_for(40_000);
        assert_eq!(!world.last_at(CALLER, "SIP/2.0 408").is_empty(), answered, "{method}");
    }
}

#[test]
fn what_nobody_here_understands_passes_both_ways_unchanged() {
    let mut world = World::new(&config(1, &menu("")));
    let odd = "X-Odd:  two  blanks ; and=\"a, b\"\r\nP-Asserted-Identity: <sip:1@x>\r\nx-ODD: again\r\n";
    world.invite_with("100", odd);
    world.run();
    assert!(world.last_at(PBX, "INVITE ").contains(odd));
    assert!(world.last_at(CALLER, "SIP/2.0 200").contains("X-Callee: kept\r\n"));
}

#[test]
fn a_call_with_sipps_own_scenario_whose_bye_has_no_route_is_matched_by_its_dialog() {
    let (mut world, caller) = up();
    // SIPp's built-in uac sends ACK and BYE to the URI it called, without a Route.
    let leg = &mut world.callers[caller];
    (leg.routes, leg.target) = (Vec::new(), format!("sip:100@{GATE}"));
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((world.reached(PBX, "BYE"), world.in_use(), world.ends()), (1, 0, vec![("caller_bye", 1)]));
}

#[test]
fn a_slow_answer_to_another_request_than_invite_is_a_100_at_t2_and_no_other_provisional_goes_back() {
    let request = |world: &mut World| {
        let text = format!(
            "MESSAGE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKmsg\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:100@{GATE}>\r\nCall-ID: msg\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        );
        world.raw_unanswered(CALLER, text.as_bytes());
    };
    let mut world = World::new(&config(1, &menu("")));
    request(&mut world);
    // RFC 4320 §4.1: nothing but 100, and that not before timer E has come to T2.
    world.answer_last(PBX, "183 Session Progress");
    assert!(world.last_at(CALLER, "SIP/2.0").is_empty());
    let udp = config(1, &menu(""));
    // "Without regard to transport": where nothing is sent again, the time is the same.
    let tcp = config(1, &format!("[[listen]]\nuri = \"tcp:{GATE}\"\n{}", menu("")));
    let tcp = tcp.replace(&format!("[\"sip:{PBX}\"]"), &format!("[\"sip:{PBX};transport=tcp\"]"));
    for (text, copies, is_heard) in [(&udp, 3, false), (&tcp, 0, false), (&tcp, 0, true)] {
        let mut world = World::new(text);
        request(&mut world);
        if is_heard {
            // The next hop's own 100 is for us.
            world.answer_last(PBX, "100 Trying");
        }
        world.deaf.push(at(PBX));
        world.run_for(3_000);
        assert!(world.last_at(CALLER, "SIP/2.0").is_empty());
        world.run_for(1_000);
        assert!(world.last_at(CALLER, "SIP/2.0").starts_with("SIP/2.0 100 Trying\r\n"), "{copies} {is_heard}");
        if !is_heard {
            let sent = world.sent.iter().filter(|(to, text)| *to == at(PBX) && text.starts_with("MESSAGE ")).count();
            assert_eq!(sent, 1 + copies);
        }
        // §4.2: no 408, whoever made it.
        world.answer_last(PBX, "408 Request Timeout");
        world.run_for(60_000);
        assert!(world.last_at(CALLER, "SIP/2.0 408").is_empty());
        assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
    }
}

#[test]
fn a_408_to_a_bye_ends_the_call_and_goes_no_further() {
    let (mut world, caller) = up();
    let bye = world.in_dialog(End::Caller, caller, "BYE");
    world.raw_unanswered(CALLER, bye.as_bytes());
    world.answer_last(PBX, "408 Request Timeout");
    assert_eq!(world.in_use(), 0);
    assert!(world.last_at(CALLER, "SIP/2.0 408").is_empty());
}

#[test]
fn a_cancel_nobody_answers_over_a_stream_brings_no_100_after_the_180() {
    let tcp = config(1, &format!("[[listen]]\nuri = \"tcp:{GATE}\"\n{}", menu("")));
    let mut world = World::new(&tcp.replace(&format!("[\"sip:{PBX}\"]"), &format!("[\"sip:{PBX};transport=tcp\"]")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    world.deaf.push(at(PBX));
    assert!(world.cancel(caller));
    world.run_for(5_000);
    let answers: Vec<u16> = seen(&world, caller);
    assert!(
        !answers.contains(&100) || answers.iter().position(|it| *it == 100) < answers.iter().position(|it| *it == 180),
        "{answers:?}"
    );
    assert_eq!(answers.iter().filter(|it| **it == 100).count(), usize::from(answers.contains(&100)), "{answers:?}");
}

/// What the caller hears of a call that rings at the PBX, is refused there with that status and goes to the voicemail.
fn heard_of_overflow(lines: &str, status: u16, keys: &str) -> (World, usize) {
    let text = config(1, &menu("overflow = [{ route = \"voicemail\" }]"));
    let pbx = format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]");
    let mut world = World::new(&text.replace(&pbx, &format!("{pbx}\n{keys}")));
    world.modes.insert(at(PBX), Mode::Ring);
    world.modes.insert(at(VOICEMAIL), Mode::Ring);
    let caller = world.invite_with("100", lines);
    world.run();
    world.refuse(0, status);
    world.run();
    (world, caller)
}

#[test]
fn a_caller_who_asked_for_it_hears_by_199_that_an_early_dialog_ended_elsewhere() {
    let (world, caller) = heard_of_overflow("Supported: timer, 199\r\n", 503, "");
    assert_eq!(seen(&world, caller), [180, 199, 180]);
    let told = world.last_at(CALLER, "SIP/2.0 199 ");
    let early = world.callees[0].local.split(";tag=").nth(1).unwrap();
    assert!(told.contains(&format!(";tag={early}\r\n")) && told.contains("Reason: SIP;cause=503\r\n"), "{told}");
    assert!(!told.contains("Contact:") && !told.contains("Record-Route:"), "RFC 6228 6: {told}");
    assert_eq!(world.in_use(), 0);
    // Who did not, and whose provisional answers must be acknowledged, hear nothing of it.
    for lines in ["", "Supported: 199\r\nRequire: 100rel\r\n"] {
        let (world, caller) = heard_of_overflow(lines, 503, "");
        assert_eq!(seen(&world, caller), [180], "{lines}");
    }
    // Where the refusal itself goes to the caller it says enough.
    let (world, caller) = heard_of_overflow("Supported: 199\r\n", 486, "");
    assert_eq!((seen(&world, caller), world.final_answer(caller)), (vec![180, 486], 486));
}

#[test]
fn a_199_of_the_pbx_is_not_said_again() {
    let text = config(1, &menu("overflow = [{ route = \"voicemail\" }]"));
    let mut world = World::new(&text);
    world.modes.insert(at(PBX), Mode::Ring);
    world.modes.insert(at(VOICEMAIL), Mode::Ring);
    let caller = world.invite_with("100", "Supported: 199\r\n");
    world.run();
    world.callee_says(0, "199 Early Dialog Terminated");
    world.run();
    world.refuse(0, 503);
    world.run();
    assert_eq!(seen(&world, caller), [180, 199, 180]);
}
