use std::sync::Arc;

use sipweir::config::Config;
use sipweir::outbox::DomainId;
use sipweir::pool::{Gate, Slots};
use sipweir::proxy::{Input, Proxy};

use crate::world::*;

fn up() -> (World, usize) {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    (world, caller)
}

#[test]
fn c4_1_crossing_byes_free_the_channel_once() {
    let (mut world, caller) = up();
    world.faults.delay_ms = 50;
    world.hang_up(End::Caller, caller);
    world.hang_up(End::Callee, 0);
    world.run_for(1_000);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn copies_of_a_bye_are_absorbed() {
    let (mut world, caller) = up();
    let bye = world.in_dialog(End::Caller, caller, "BYE");
    for _ in 0..3 {
        world.raw(CALLER, bye.as_bytes());
    }
    assert_eq!((world.reached(PBX, "BYE"), world.in_use()), (1, 0));
    let answers = world.delivered.iter().filter(|(to, text)| *to == at(CALLER) && text.contains("BYE")).count();
    assert_eq!(answers, 3);
}

#[test]
fn a_challenged_bye_does_not_free_the_channel() {
    for status in ["401 Unauthorized", "407 Proxy Authentication Required"] {
        let (mut world, caller) = up();
        let bye = world.in_dialog(End::Caller, caller, "BYE");
        world.raw_unanswered(CALLER, bye.as_bytes());
        world.answer_last(PBX, status);
        assert_eq!(world.in_use(), 1);
        assert!(world.last_at(CALLER, &format!("SIP/2.0 {status}")).contains("BYE"));
    }
}

#[test]
fn a_bye_nobody_answers_frees_the_channel_when_it_times_out() {
    let (mut world, caller) = up();
    let bye = world.in_dialog(End::Caller, caller, "BYE");
    world.raw_unanswered(CALLER, bye.as_bytes());
    world.deaf.push(at(PBX));
    world.run_for(31_000);
    assert_eq!(world.in_use(), 1);
    world.run_for(2_000);
    assert_eq!(world.in_use(), 0);
    assert!(world.last_at(CALLER, "SIP/2.0 408").is_empty(), "RFC 4320: no 408 to a non-INVITE request");
    world.run_for(40_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_481_within_the_dialog_ends_the_call_and_one_of_a_subscription_does_not() {
    for (method, left) in [("UPDATE", 0), ("INVITE", 0), ("INFO", 0), ("NOTIFY", 1), ("REFER", 1)] {
        let (mut world, caller) = up();
        let text = world.in_dialog(End::Caller, caller, method);
        world.raw_unanswered(CALLER, text.as_bytes());
        world.answer_last(PBX, "481 Call/Transaction Does Not Exist");
        assert_eq!(world.in_use(), left, "{method}");
    }
}

#[test]
fn a_refused_reinvite_leaves_the_call_up() {
    let (mut world, caller) = up();
    let text = world.in_dialog(End::Caller, caller, "INVITE");
    world.raw_unanswered(CALLER, text.as_bytes());
    world.answer_last(PBX, "488 Not Acceptable Here");
    assert_eq!(world.in_use(), 1);
    assert!(!world.last_at(CALLER, "SIP/2.0 488").is_empty());
    assert_eq!(world.reached(PBX, "ACK"), 2, "the call's own, and that of the 488, which is hop by hop");
}

#[test]
fn an_early_bye_ends_with_the_invites_own_refusal() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    let bye = world.in_dialog(End::Caller, caller, "BYE");
    world.raw(CALLER, bye.as_bytes());
    assert_eq!((world.reached(PBX, "BYE"), world.in_use()), (1, 1), "the PBX has not let go of the INVITE");
    world.refuse(0, 487);
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (487, 0));
}

#[test]
fn an_early_bye_that_overtakes_the_2xx_leaves_no_ghost() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    let bye = world.in_dialog(End::Caller, caller, "BYE");
    world.raw(CALLER, bye.as_bytes());
    world.callees[0].over = false;
    world.accept(0);
    world.run();
    assert_eq!(world.in_use(), 0, "the BYE of this dialog was answered before");
}

#[test]
fn a_request_of_an_unknown_dialog_gets_481() {
    let mut world = World::new(&config(1, &menu("")));
    let text = format!(
        "BYE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKu\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: u\r\nCSeq: 2 BYE\r\n\r\n"
    );
    world.raw(CALLER, text.as_bytes());
    assert!(!world.last_at(CALLER, "SIP/2.0 481").is_empty());
}

#[test]
fn a_caller_that_follows_no_route_set_is_matched_by_dialog() {
    let (mut world, caller) = up();
    world.callers[caller].routes.clear();
    world.callers[caller].target = format!("sip:100@{GATE}");
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((world.reached(PBX, "BYE"), world.in_use()), (1, 0));
}

#[test]
fn somebody_elses_cookie_ends_nobodys_call() {
    let mut world = World::new(&config(2, &menu("")));
    let (one, two) = (world.answered("100"), world.answered("100"));
    let stolen = world.callers[one].routes.clone();
    let leg = &mut world.callers[two];
    (leg.routes, leg.local) = (stolen, "<sip:evil@x>;tag=evil".into());
    let bye = world.in_dialog(End::Caller, two, "BYE");
    world.raw(CALLER, bye.as_bytes());
    assert_eq!(world.in_use(), 2);
    let forged = bye.replace(";sw=", ";sw=0").replace("z9hG4bK-", "z9hG4bK-f");
    world.raw(CALLER, forged.as_bytes());
    assert_eq!(world.in_use(), 2);
}

#[test]
fn strict_routers_before_and_behind_us_are_served() {
    let (mut world, caller) = up();
    // Before us: the Request-URI is our own Record-Route value, the real target comes last in Route.
    let own = world.callers[caller].routes[0].trim_matches(['<', '>']).to_owned();
    let real = world.callers[caller].target.clone();
    let leg = &mut world.callers[caller];
    (leg.routes, leg.target) = (vec![format!("<{real}>")], own);
    world.request(End::Caller, caller, "INFO");
    world.run();
    let seen = world.last_at(PBX, "INFO");
    assert!(seen.starts_with(&format!("INFO {real} SIP/2.0\r\n")) && !seen.contains("Route:"), "{seen}");

    // Behind us: a route without lr becomes the Request-URI, and the former one goes to the end of the Route set.
    let (mut world, caller) = up();
    world.callers[caller].routes.push(format!("<sip:{PBX2}>"));
    world.request(End::Caller, caller, "INFO");
    world.run();
    let seen = world.last_at(PBX2, "INFO");
    assert!(seen.starts_with(&format!("INFO sip:{PBX2} SIP/2.0\r\n")), "{seen}");
    assert!(seen.contains(&format!("Route: <sip:callee@{PBX}>\r\n")), "{seen}");

    // And a loose one is just the next hop.
    let (mut world, caller) = up();
    world.callers[caller].routes.push(format!("<sip:{PBX2};lr>"));
    world.request(End::Caller, caller, "INFO");
    world.run();
    let seen = world.last_at(PBX2, "INFO");
    assert!(seen.starts_with(&format!("INFO sip:callee@{PBX} SIP/2.0\r\n")), "{seen}");
    assert!(seen.contains(&format!("Route: <sip:{PBX2};lr>\r\n")), "{seen}");
}

#[test]
fn a_request_within_a_call_that_must_be_secure_goes_by_nothing_else() {
    let tls = "[[listen]]\nuri = \"tls:192.0.2.1:5061\"\ncertificate = \"/a\"\nkey = \"/b\"\n";
    let mut world = World::new(&config(1, &format!("{tls}{}", menu(""))));
    let caller = world.answered("100");
    let info = world.in_dialog(End::Caller, caller, "INFO");
    let secure = info.replacen(&format!("INFO sip:callee@{PBX}"), "INFO sips:callee@pbx.example.net", 1);
    assert_ne!(info, secure);
    let secure = secure.replace("SIP/2.0/UDP", "SIP/2.0/TLS");
    world.tell(Input::Stream {
        listener: 1,
        source: at(CALLER),
        identities: &[],
        domain: DomainId::NONE,
        payload: secure.as_bytes(),
    });
    let sent: Vec<&str> = world.sent.iter().map(|(_, text)| &text[..12]).collect();
    assert!(!sent.contains(&"INFO sips:ca") && sent.last() == Some(&"SIP/2.0 502 "), "{sent:?}");
}

#[test]
fn a_bye_to_a_secure_name_still_frees_the_channel_of_a_call_whose_caller_is_heard_by_udp() {
    let tls = "[[listen]]\nuri = \"tls:192.0.2.1:5061\"\ncertificate = \"/a\"\nkey = \"/b\"\n";
    let mut world = World::new(&config(1, &format!("{tls}{}", menu(""))));
    world.answered("100");
    let bye = world.in_dialog(End::Callee, 0, "BYE");
    let (_, rest) = bye.split_once(" SIP/2.0\r\n").expect("a start line");
    let bye = format!("BYE sips:x@caller.example SIP/2.0\r\n{}", rest.replace("SIP/2.0/UDP", "SIP/2.0/TLS"));
    world.tell(Input::Stream {
        listener: 1,
        source: at(PBX),
        identities: &[],
        domain: DomainId::NONE,
        payload: bye.as_bytes(),
    });
    assert_eq!((world.in_use(), world.reached(CALLER, "BYE")), (0, 0), "freed at once");
    world.run();
    assert_eq!(world.ends(), [("callee_bye", 1)]);
}

#[test]
fn a_caller_behind_nat_is_reached_where_it_was_heard() {
    for (contact, reached) in
        [("192.168.1.5:5070", CALLER), ("100.64.0.9:5070", CALLER), ("203.0.113.44:5070", "203.0.113.44:5070")]
    {
        let mut world = World::new(&config(1, &menu("")));
        let invite = format!(
            "INVITE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.5:5070;rport;branch=z9hG4bK-nat\r\nMax-Forwards: 70\r\n\
             From: <sip:a@home>;tag=nat\r\nTo: <sip:100@{GATE}>\r\nCall-ID: nat\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:a@{contact}>\r\nContent-Length: 0\r\n\r\n"
        );
        world.deaf.extend([CALLER, contact].map(at));
        world.raw(CALLER, invite.as_bytes());
        assert_eq!(world.sent.last().expect("an answer").0, at(CALLER));
        world.hang_up(End::Callee, 0);
        world.run();
        let bye = world.sent.iter().find(|(_, text)| text.starts_with("BYE ")).expect("it goes on");
        assert_eq!(bye.0, at(reached), "{contact}");
        assert!(bye.1.starts_with(&format!("BYE sip:a@{contact} ")), "the Request-URI is the caller's own: {}", bye.1);
    }
}

/// The node dies, and another begins without a memory of its calls.
fn restart(world: &mut World, text: &str) {
    let config = Arc::new(Config::parse(text).expect("valid"));
    (world.gate, world.slots) = (Arc::new(Gate::new(&config.settings())), Arc::new(Slots::default()));
    world.proxy = Proxy::new(config, Arc::clone(&world.gate), Arc::clone(&world.slots), [8; 16]);
}

#[test]
fn c4_8_calls_from_before_a_restart_end_on_both_sides_and_nothing_is_given_back_twice() {
    let text = config(1, &menu(""));
    for end in [End::Caller, End::Callee] {
        let mut world = World::new(&text);
        let caller = world.answered("100");
        restart(&mut world, &text);
        let id = if end == End::Caller { caller } else { 0 };
        world.request(end, id, "INFO");
        world.hang_up(end, id);
        world.run();
        let other = if end == End::Caller { PBX } else { CALLER };
        assert_eq!((world.reached(other, "INFO"), world.reached(other, "BYE")), (1, 1), "{end:?}");
        assert!(world.callers[caller].over && world.callees[0].over);
        assert_eq!((world.in_use(), world.view().calls), (0, 0));
        world.answered("100");
        let refused = world.invite("100");
        world.run();
        assert_eq!((world.final_answer(refused), world.in_use()), (486, 1), "the pool has what it had, no more");
    }
}

#[test]
fn c4_8_a_call_that_rang_during_a_restart_is_not_answered_into_nothing() {
    let text = config(1, &menu(""));
    let mut world = World::new(&text);
    world.modes.insert(at(PBX), Mode::Answer(2_000));
    let caller = world.invite("100");
    world.run();
    restart(&mut world, &text);
    world.run_for(70_000);
    // RFC 6026 §7.3: a stray 2xx goes no further, so the PBX hears no ACK and lets go; nothing is counted meanwhile.
    assert!(!world.callers[caller].up && !world.callees[0].busy);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.proxy.is_idle());
}

#[test]
fn c4_9_a_node_asks_about_and_ends_no_calls_but_its_own() {
    let text = config(1, &menu("ask_s = 60\nlongest_call_s = 600"));
    let mut world = World::new(&text);
    let caller = world.answered("100");
    restart(&mut world, &text);
    let sent = world.sent.len();
    world.run_for(1_000_000);
    assert_eq!(world.sent.len(), sent, "no questions, no BYE: it is not its call");
    world.request(End::Callee, 0, "UPDATE");
    world.run_for(1_000_000);
    assert_eq!((world.in_use(), world.view().calls, world.ends()), (0, 0, vec![]));
    assert!(world.callers[caller].up && world.callees[0].up);
}
