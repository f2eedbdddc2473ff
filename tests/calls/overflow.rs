use crate::world::*;

fn full(plan: &str) -> World {
    World::new(&config(0, &menu(plan)))
}

#[test]
fn the_surplus_takes_the_route_and_holds_no_channel() {
    let mut world = full("overflow = [{ route = \"voicemail\" }, { reject = 486 }]");
    let caller = world.answered("100");
    let seen = world.last_at(VOICEMAIL, "INVITE");
    assert!(seen.starts_with(&format!("INVITE sip:100@{VOICEMAIL} SIP/2.0\r\n")), "{seen}");
    assert!(seen.contains(&format!("Diversion: <sip:100@{GATE}>;reason=user-busy;counter=1\r\n")), "{seen}");
    assert!(
        seen.contains(&format!(
            "History-Info: <sip:100@{GATE}?Reason=Q.850%3Bcause%3D34>;index=1\r\nHistory-Info: <sip:100@{VOICEMAIL}>;index=1.1;mp=1\r\n"
        )),
        "{seen}"
    );
    assert_eq!((world.in_use(), world.view().trunks[0].calls), (0, 1));
    let overflows: Vec<(&str, u64)> =
        world.proxy.counters().overflows().map(|(_, step, count)| (step, count)).collect();
    assert_eq!(overflows, [("route", 1), ("redirect", 0), ("reject", 0), ("borrow", 0), ("wait", 0)]);
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!(world.view().trunks[0].calls, 0);
}

#[test]
fn the_route_may_rewrite_the_user_and_history_goes_on_counting() {
    let mut world = full("overflow = [{ route = \"voicemail\", user = \"9000\" }]");
    world.invite_with("100", "History-Info: <sip:1@x>;index=1,\r\n <sip:2@x>;index=1.2\r\n");
    world.run();
    let seen = world.last_at(VOICEMAIL, "INVITE");
    assert!(seen.starts_with(&format!("INVITE sip:9000@{VOICEMAIL} SIP/2.0\r\n")), "{seen}");
    let lines: Vec<&str> = seen.lines().filter(|line| line.starts_with("History-Info:")).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[1].ends_with(";index=1.2.1") && lines[2].ends_with(";index=1.2.1.1;mp=1.2.1"), "{lines:?}");
}

#[test]
fn history_and_diversion_can_be_switched_off_per_target() {
    let text = config(0, &menu("overflow = [{ route = \"voicemail\" }]")).replace(
        &format!("uri = [\"sip:{VOICEMAIL}\"]"),
        &format!("uri = [\"sip:{VOICEMAIL}\"]\nhistory_info = false\ndiversion = false\nrequest_uri = \"keep\""),
    );
    let mut world = World::new(&text);
    world.answered("100");
    let seen = world.last_at(VOICEMAIL, "INVITE");
    assert!(seen.starts_with(&format!("INVITE sip:100@{GATE} SIP/2.0\r\n")), "{seen}");
    assert!(!seen.contains("Diversion") && !seen.contains("History-Info"), "{seen}");
}

#[test]
fn a_redirect_names_its_contacts() {
    let mut world = full("overflow = [{ redirect = [\"sip:100@192.0.2.99\", \"sip:john.doe@example.com\"] }]");
    let caller = world.invite("100");
    world.run();
    let seen = world.callers[caller].last.clone();
    assert!(seen.starts_with("SIP/2.0 302 Moved Temporarily\r\n"), "{seen}");
    assert!(seen.contains("Contact: <sip:100@192.0.2.99>\r\nContact: <sip:john.doe@example.com>\r\n"), "{seen}");
}

#[test]
fn a_reject_says_why_and_when_to_come_back() {
    let mut world = full("overflow = [{ reject = 480, reason = \"Q.850;cause=17\", retry_after_s = 30 }]");
    let caller = world.invite("100");
    world.run();
    let seen = world.callers[caller].last.clone();
    assert!(seen.starts_with("SIP/2.0 480 Temporarily Unavailable\r\n"), "{seen}");
    assert!(seen.contains("Reason: Q.850;cause=17\r\nRetry-After: 30\r\n"), "{seen}");
}

#[test]
fn c4_4_without_a_plan_the_answer_is_486_cause_34() {
    let mut world = full("");
    let caller = world.invite("100");
    world.run();
    let seen = world.callers[caller].last.clone();
    assert!(seen.starts_with("SIP/2.0 486 Busy Here\r\n") && seen.contains("Reason: Q.850;cause=34\r\n"), "{seen}");
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn a_target_that_answers_503_leads_to_its_next_uri_and_keeps_the_channel() {
    let mut world = World::new(&config(1, &menu("").replace("\"pbx\"\n", "\"pair\"\n")));
    world.modes.insert(at(PBX), Mode::Refuse(503));
    world.answered("100");
    assert_eq!((world.reached(PBX, "ACK"), world.reached(PBX2, "INVITE"), world.in_use()), (1, 1, 1));
    assert_eq!(world.view().pools[0].admitted, 1);
}

#[test]
fn a_silent_or_unreachable_target_leads_to_its_next_uri() {
    let pair = config(1, &menu("").replace("\"pbx\"\n", "\"pair\"\n"));
    let mut world = World::new(&pair);
    world.modes.insert(at(PBX), Mode::Silent);
    let caller = world.invite("100");
    world.run_for(5_200);
    assert!(world.callers[caller].up);
    let mut world = World::new(&pair);
    world.unreachable.push(at(PBX));
    world.answered("100");
    assert_eq!(world.reached(PBX2, "ACK"), 1);
}

#[test]
fn a_target_that_fails_altogether_leads_to_the_plan_without_its_channel() {
    for mode in [Mode::Refuse(503), Mode::Silent] {
        let keys = menu("overflow = [{ route = \"voicemail\" }]").replace("\"pbx\"\n", "\"pair\"\n");
        let mut world = World::new(&config(1, &keys));
        world.modes.insert(at(PBX), mode);
        world.modes.insert(at(PBX2), mode);
        let caller = world.invite("100");
        world.run_for(11_000);
        assert!(world.callers[caller].up, "{mode:?} {:?}", world.callers[caller].answers);
        let kept = u32::from(mode == Mode::Silent);
        assert_eq!((world.in_use(), world.reached(VOICEMAIL, "ACK")), (kept, 1));
        world.run_for(27_000 * u64::from(kept));
        assert_eq!((world.in_use(), world.view().calls), (0, 1), "the call goes on without a channel");
        let seen = world.last_at(VOICEMAIL, "INVITE");
        assert!(seen.contains("reason=unavailable") && seen.contains("cause%3D27"), "{seen}");
        world.hang_up(End::Caller, caller);
        world.run_for(40_000);
        assert!(world.proxy.is_idle());
    }
}

#[test]
fn a_failing_target_without_a_plan_gives_the_best_answer_and_never_its_503() {
    let mut world = World::new(&config(1, &menu("").replace("\"pbx\"\n", "\"pair\"\n")));
    world.modes.insert(at(PBX), Mode::Refuse(503));
    world.modes.insert(at(PBX2), Mode::Refuse(503));
    let caller = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (500, 0));
    assert!(world.callers[caller].last.contains("X-Callee: kept"), "but for its status it is the PBX's answer");
    world.modes.insert(at(PBX2), Mode::Silent);
    let caller = world.invite("100");
    world.run_for(6_000);
    assert_eq!(world.final_answer(caller), 408, "RFC 3261 §16.7 step 6: the lowest class");
}

#[test]
fn a_busy_pbx_is_an_answer_and_not_a_failure() {
    let mut world = World::new(&config(1, &menu("overflow = [{ route = \"voicemail\" }]")));
    world.modes.insert(at(PBX), Mode::Refuse(486));
    let caller = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(caller), world.reached(VOICEMAIL, "INVITE")), (486, 0));
}

#[test]
fn a_failing_overflow_target_leads_to_the_next_step() {
    let mut world = full("overflow = [{ route = \"voicemail\" }, { reject = 600 }]");
    world.modes.insert(at(VOICEMAIL), Mode::Refuse(503));
    let caller = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(caller), 600);
    assert_eq!(world.view().calls, 0);
}

#[test]
fn a_pbx_that_answers_late_has_its_channel_until_it_lets_go() {
    let mut world = World::new(&config(1, &menu("overflow = [{ route = \"voicemail\" }]")));
    world.modes.insert(at(PBX), Mode::Silent);
    world.modes.insert(at(VOICEMAIL), Mode::Ring);
    let caller = world.invite("100");
    world.run_for(6_000);
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 1));
    // The PBX picks up after all, while the voicemail still rings: every 2xx goes to the caller.
    world.callees[0].busy = true;
    world.accept(0);
    world.run_for(100_000);
    assert!(world.callers[caller].up && world.callees[0].acks > 0);
    assert_eq!((world.in_use(), world.view().pools[0].held), (1, 1), "the PBX has the call");
    world.hang_up(End::Caller, caller);
    world.run();
    world.run_for(400_000);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_call_that_was_there_before_is_not_sent_there_again() {
    let mut world = full("overflow = [{ route = \"voicemail\" }, { reject = 480 }]");
    let host = VOICEMAIL.replace(":5060", "");
    for (history, expected) in [
        (format!("<sip:100@{VOICEMAIL}>;index=1"), 480),
        (format!("<sip:1@h>;index=1,<sip:100@{VOICEMAIL}?Reason=Q.850%3Bcause%3D34;x=y>;index=1.1"), 480),
        (format!("<sip:101@{VOICEMAIL}>;index=1"), 200),
        (format!("<sip:100@{host}:5070>;index=1"), 200),
        ((1..=9).map(|at| format!("<sip:{at}@h>;index={at}")).collect::<Vec<_>>().join(","), 200),
        ((1..=10).map(|at| format!("<sip:{at}@h>;index={at}")).collect::<Vec<_>>().join(","), 480),
        ("broken, <<>>, <tel:100>".to_owned(), 200),
    ] {
        let caller = world.invite_with("100", &format!("History-Info: {history}\r\n"));
        world.run();
        assert_eq!(world.final_answer(caller), expected, "{history}");
    }
    assert_eq!(world.proxy.counters().overflow_loops, 3);
}

#[test]
fn a_call_that_comes_back_from_its_overflow_target_is_not_sent_there_again() {
    // The voicemail sends what it does not know on to another number of ours, and that is full as well.
    let sales = "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\n\
                 overflow = [{ route = \"voicemail\" }, { reject = 480 }]\n";
    let mut world = World::new(&config(1, &format!("{}{sales}", menu("overflow = [{ route = \"voicemail\" }]"))));
    world.answered("100");
    world.deaf.push(at(VOICEMAIL));
    world.invite("100");
    world.run();
    world.deaf.clear();
    let sent = world.sent.iter().rev().find(|(to, _)| *to == at(VOICEMAIL)).expect("it overflows").1.clone();
    let on = sent.replacen(&format!("INVITE sip:100@{VOICEMAIL}"), &format!("INVITE sip:200@{GATE}"), 1).replacen(
        "Via:",
        &format!("Via: SIP/2.0/UDP {VOICEMAIL};branch=z9hG4bKon\r\nVia:"),
        1,
    );
    // What History-Info says is lost on the way.
    let on: Vec<&str> = on.split("\r\n").filter(|line| !line.starts_with("History-Info")).collect();
    world.raw(VOICEMAIL, on.join("\r\n").as_bytes());
    assert!(!world.last_at(VOICEMAIL, "SIP/2.0 480").is_empty(), "{:?}", world.sent.last());
    assert_eq!((world.proxy.counters().overflow_loops, world.reached(VOICEMAIL, "INVITE")), (1, 0));
}
