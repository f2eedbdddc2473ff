//! Calls the gate ends, sessions that must be refreshed, and calls that give no sign of life.

use sipweir::proxy::Input;

use crate::world::*;

fn up_with(keys: &str, extra: &str) -> (World, usize) {
    let mut world = World::new(&format!("{}{extra}", config(1, &menu(keys))));
    let caller = world.answered("100");
    (world, caller)
}

/// The operator ends the oldest call.
fn end(world: &mut World) {
    let slot = world.slots.list(1, |_| true)[0].0;
    world.tell(Input::EndCall { slot });
    world.run();
}

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_default()
}

#[test]
fn a_call_ended_by_the_operator_gets_a_bye_to_both_sides_that_each_side_knows() {
    let (mut world, caller) = up_with("", "");
    // Each side has sent requests of its own, so the numbers are theirs to go on from.
    world.request(End::Caller, caller, "INFO");
    world.request(End::Callee, 0, "INFO");
    world.run();
    end(&mut world);
    assert_eq!((world.in_use(), world.ends()), (0, vec![("administrator", 1)]));
    let (at_pbx, at_caller) = (world.last_at(PBX, "BYE "), world.last_at(CALLER, "BYE "));
    let (caller, callee) = (&world.callers[caller], &world.callees[0]);
    assert!(at_pbx.starts_with(&format!("BYE sip:callee@{PBX} SIP/2.0\r\n")), "{at_pbx}");
    assert!(at_caller.starts_with(&format!("BYE sip:caller@{CALLER} SIP/2.0\r\n")), "{at_caller}");
    assert_eq!(line(&at_pbx, "From:"), format!("From: {}", caller.local));
    assert_eq!(line(&at_pbx, "To:"), format!("To: {}", caller.remote));
    assert_eq!(line(&at_caller, "From:"), format!("From: {}", callee.local));
    assert_eq!(line(&at_caller, "To:"), format!("To: {}", callee.remote));
    assert_eq!(line(&at_pbx, "CSeq:"), "CSeq: 3 BYE", "INVITE 1, INFO 2");
    assert_eq!(line(&at_caller, "CSeq:"), "CSeq: 102 BYE", "INFO 101");
    assert_eq!(line(&at_pbx, "Call-ID:"), format!("Call-ID: {}", caller.call_id));
    assert!(line(&at_pbx, "Reason:").contains("ended by the operator"), "{at_pbx}");
    assert!(!at_pbx.contains("\r\nRoute:") && !at_caller.contains("\r\nRoute:"));
    assert!(caller.over && callee.over);
    world.run_for(60_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_callee_that_challenges_our_bye_has_not_let_go() {
    let (mut world, _) = up_with("", "");
    world.deaf.push(at(PBX));
    end(&mut world);
    world.answer_last(PBX, "401 Unauthorized");
    assert_eq!((world.in_use(), world.ends()), (1, vec![]), "the PBX has its channel still");
    world.run_for(34_000);
    assert_eq!((world.in_use(), world.ends()), (0, vec![("administrator", 1)]), "which is not waited for for ever");
}

#[test]
fn a_bye_of_ours_goes_along_the_route_set_of_each_side() {
    let mut world = World::new(&config(1, &menu("")));
    let route = "Record-Route: <sip:198.51.100.9;lr>, <sip:198.51.100.10;lr>\r\n";
    let caller = world.invite_with("100", route);
    world.deaf.push(at(PBX));
    world.run();
    world.deaf.clear();
    // Behind us a hop of the PBX stays on the route, too.
    let invite = world.last_at(PBX, "INVITE ");
    let invite =
        if invite.is_empty() { world.sent.iter().find(|(to, _)| *to == at(PBX)).unwrap().1.clone() } else { invite };
    let kept: Vec<&str> = invite
        .split("\r\n")
        .filter(|line| {
            ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"].iter().any(|name| line.starts_with(name))
        })
        .collect();
    let ok = format!(
        "SIP/2.0 200 OK\r\nRecord-Route: <sip:10.0.0.8;lr>,<sip:10.0.0.7;lr>\r\n{}\r\nTo: <sip:100@{GATE}>;tag=t\r\nContact: <sip:ivr@10.0.0.6:5099>\r\nContent-Length: 0\r\n\r\n",
        kept.join("\r\n")
    );
    world.raw(PBX, ok.as_bytes());
    assert!(world.callers[caller].up);
    end(&mut world);
    let sent = |to: &str| {
        world
            .sent
            .iter()
            .rev()
            .find(|(at_, text)| *at_ == at(to) && text.starts_with("BYE "))
            .map(|(_, text)| text.clone())
    };
    let to_pbx = sent("10.0.0.7:5060").expect("to the first hop behind us");
    assert!(to_pbx.starts_with("BYE sip:ivr@10.0.0.6:5099 SIP/2.0\r\n"), "{to_pbx}");
    assert_eq!(line(&to_pbx, "Route:"), "Route: <sip:10.0.0.7;lr>, <sip:10.0.0.8;lr>");
    let to_caller = sent("198.51.100.9:5060").expect("to the nearest hop before us");
    assert_eq!(line(&to_caller, "Route:"), "Route: <sip:198.51.100.9;lr>, <sip:198.51.100.10;lr>");
}

#[test]
fn a_side_that_moved_is_found_where_it_went() {
    let (mut world, caller) = up_with("", "");
    let text = world
        .in_dialog(End::Caller, caller, "INVITE")
        .replace(&format!("<sip:x@{CALLER}>"), "<sip:x@198.51.100.77:5077>");
    world.raw(CALLER, text.as_bytes());
    assert!(world.last_at(CALLER, "SIP/2.0 200").contains("2 INVITE"));
    end(&mut world);
    assert!(
        world
            .sent
            .iter()
            .any(|(to, text)| *to == at("198.51.100.77:5077") && text.starts_with("BYE sip:x@198.51.100.77:5077 "))
    );
    assert!(world.last_at(PBX, "BYE ").starts_with(&format!("BYE sip:x@{PBX} ")), "the answer moved the PBX, too");
}

#[test]
fn the_table_shows_the_same_call_while_it_rings_when_it_is_up_and_when_a_side_moved() {
    // The To header says the number, something else, or a longer one.
    let all = [format!("<sip:100@{GATE}>"), "\"Hotline\" <sip:hotline@a>".into(), "<sip:1000100@a>".into()];
    for (which, to) in all.into_iter().enumerate() {
        let mut world = World::new(&config(1, &menu("")));
        let request = |method: &str, cseq: u32, to: &str, contact: &str| {
            format!(
                "{method} sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{method}\r\nMax-Forwards: 70\r\n\
                 From: \"Ann\" <sip:ann@{CALLER}>;tag=a\r\nTo: {to}\r\nCall-ID: shown\r\nCSeq: {cseq} {method}\r\n\
                 Contact: <{contact}>\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let shown = |world: &World| {
            let slot = world.slots.list(1, |_| true).remove(0).1;
            (slot.call_id(), slot.caller(), slot.number())
        };
        let expected = ("shown".to_owned(), format!("sip:ann@{CALLER}"), "100".to_owned());
        world.raw_unanswered(CALLER, request("INVITE", 1, &to, &format!("sip:ann@{CALLER}")).as_bytes());
        assert_eq!(shown(&world), expected, "while it rings: {to}");
        let ok = format!("200 OK\r\nContact: <sip:x@{PBX}>");
        if which == 2 {
            // A PBX that writes the From header anew, as RFC 4916 lets it.
            world.answer_last_with(PBX, &ok, |text| text.replace(&format!("<sip:ann@{CALLER}>"), "<sip:hidden@x>"));
        } else {
            world.answer_last(PBX, &ok);
        }
        assert_eq!(shown(&world), expected, "when it is up: {to}");
        let update =
            request("UPDATE", 2, &format!("{to};tag=answered"), "sip:a-much-longer-name-than-before@198.51.100.77");
        world.raw_unanswered(CALLER, update.as_bytes());
        world.answer_last(PBX, &format!("200 OK\r\nContact: <sip:y@{PBX}>"));
        assert_eq!(shown(&world), expected, "when both sides moved: {to}");
        end(&mut world);
        let byes = world.sent.iter().filter(|(_, text)| text.starts_with("BYE ")).map(|(_, text)| &text[..12]);
        assert_eq!(byes.collect::<Vec<_>>(), ["BYE sip:a-mu", "BYE sip:y@10"]);
    }
}

#[test]
fn a_dead_side_keeps_nobody_and_the_channel_waits_for_the_pbx() {
    // The caller is dead: the PBX has let go at once.
    let (mut world, _) = up_with("", "");
    world.deaf.push(at(CALLER));
    end(&mut world);
    assert_eq!(world.in_use(), 0);
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
    // The PBX is dead: its channel is counted until its BYE has timed out.
    let (mut world, caller) = up_with("", "");
    world.deaf.push(at(PBX));
    end(&mut world);
    assert_eq!((world.in_use(), world.callers[caller].over), (1, true));
    world.run_for(33_000);
    assert_eq!((world.in_use(), world.ends()), (0, vec![("administrator", 1)]));
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn a_call_that_rings_is_cancelled_by_the_operator_and_one_that_is_answered_meanwhile_is_ended() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    end(&mut world);
    assert_eq!((world.reached(PBX, "CANCEL"), world.final_answer(caller), world.in_use()), (1, 487, 0));
    let caller = world.invite("100");
    world.run();
    world.deaf.push(at(PBX));
    end(&mut world);
    world.deaf.clear();
    world.accept(1);
    world.run();
    assert!(world.callers[caller].over, "the 200 crossed the CANCEL, and a BYE follows it");
    assert_eq!((world.reached(PBX, "BYE"), world.in_use()), (1, 0));
    assert_eq!(world.ends(), [("administrator", 2)]);
}

#[test]
fn every_fork_of_a_call_is_ended() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Fork(3));
    world.invite("100");
    world.run();
    end(&mut world);
    assert_eq!((world.reached(PBX, "BYE"), world.reached(CALLER, "BYE"), world.in_use()), (3, 3, 0));
    assert!(world.callees.iter().all(|leg| leg.over));
}

#[test]
fn the_longest_call_and_a_missing_ack_end_the_call_on_both_sides() {
    let (mut world, caller) = up_with("longest_call_s = 600", "");
    world.run_for(601_000);
    assert!(world.callers[caller].over && world.callees[0].over);
    assert_eq!((world.in_use(), world.ends()), (0, vec![("longest_call", 1)]));
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.invite("100");
    world.deafen(caller);
    world.run_for(61_000);
    assert_eq!((world.reached(PBX, "BYE"), world.in_use(), world.ends()), (1, 0, vec![("ack_missing", 1)]));
}

// --- RFC 4028 ------------------------------------------------------------------------------------------------------------

const SESSION: &str = "[session]\nexpires_s = 300\n";

/// What the PBX was sent, and what the caller got for the PBX's answer, which has these lines.
fn exchange(lines: &str, answer: &str) -> (World, String, String) {
    let mut world = World::new(&format!("{SESSION}{}", config(1, &menu(""))));
    world.deaf.push(at(PBX));
    let caller = world.invite_with("100", lines);
    world.run();
    world.deaf.clear();
    let invite = world.sent.iter().find(|(to, _)| *to == at(PBX)).map(|(_, text)| text.clone()).unwrap_or_default();
    if !invite.is_empty() {
        let status = format!("200 OK\r\nContact: <sip:callee@{PBX}>{answer}");
        world.answer_last(PBX, &status);
    }
    let got = world.callers[caller].last.clone();
    (world, invite, got)
}

#[test]
fn a_session_timer_is_asked_for_and_the_callers_side_refreshes_when_the_pbx_knows_none() {
    let (_, invite, got) = exchange("Supported: timer\r\n", "");
    assert_eq!(line(&invite, "Session-Expires:"), "Session-Expires: 300");
    assert_eq!(line(&got, "Session-Expires:"), "Session-Expires: 300;refresher=uac");
    assert_eq!(line(&got, "Require:"), "Require: timer");
    // Neither knows it: no timer, and nothing is added for nobody to read.
    let (world, invite, got) = exchange("", "");
    assert_eq!((line(&invite, "Session-Expires:"), line(&got, "Session-Expires:")), ("Session-Expires: 300", ""));
    assert_eq!(world.in_use(), 1);
    // The PBX knows it: its word stands.
    let (_, _, got) = exchange("k: 100rel,timer\r\n", "\r\nRequire: timer\r\nx: 200;refresher=uas");
    assert_eq!((line(&got, "x:"), line(&got, "Session-Expires:")), ("x: 200;refresher=uas", ""));
}

#[test]
fn an_interval_is_lowered_to_ours_but_never_below_min_se() {
    for (lines, expires, min_se) in [
        ("Supported: timer\r\nSession-Expires: 1800\r\n", "Session-Expires: 300", ""),
        ("Supported: timer\r\nx: 1800;refresher=uac\r\n", "x: 300;refresher=uac", ""),
        ("Supported: timer\r\nSession-Expires: 1800\r\nMin-SE: 600\r\n", "Session-Expires: 600", "Min-SE: 600"),
        ("Supported: timer\r\nMin-SE: 900\r\n", "Session-Expires: 900", "Min-SE: 900"),
        ("Supported: timer\r\nSession-Expires: 200\r\n", "Session-Expires: 200", ""),
        // Too short, from somebody who would not understand a 422.
        ("Session-Expires: 30\r\n", "Session-Expires: 90", "Min-SE: 90"),
    ] {
        let (_, invite, _) = exchange(lines, "");
        let name = expires.split(':').next().unwrap();
        assert_eq!((line(&invite, &format!("{name}:")), line(&invite, "Min-SE:")), (expires, min_se), "{lines}");
    }
    let (_, invite, got) = exchange("Supported: timer\r\nSession-Expires: 60\r\n", "");
    assert!(invite.is_empty() && got.starts_with("SIP/2.0 422 Session Interval Too Small\r\n"), "{got}");
    assert_eq!(line(&got, "Min-SE:"), "Min-SE: 90");
}

#[test]
fn a_session_that_is_not_refreshed_is_over_and_no_bye_is_sent() {
    let (mut world, ..) = exchange("Supported: timer\r\n", "\r\nSession-Expires: 300;refresher=uas");
    world.run_for(331_000);
    assert_eq!(world.in_use(), 1, "300 seconds and the time a request may take");
    world.run_for(2_000);
    assert_eq!((world.in_use(), world.ends()), (0, vec![("session_lapsed", 1)]));
    assert_eq!(world.sent.iter().filter(|(_, text)| text.starts_with("BYE ")).count(), 0, "RFC 4028 8.3");
}

#[test]
fn a_session_whose_refresh_is_overdue_is_suspect_and_gives_way_to_who_needs_its_channel() {
    let suspect = |world: &World| world.slots.list(1, |_| true)[0].1.suspect;
    let (mut world, ..) = exchange("Supported: timer\r\n", "\r\nSession-Expires: 300;refresher=uas");
    world.run_for(299_000);
    assert!(!suspect(&world));
    world.run_for(2_000);
    assert!(suspect(&world));
    // A refresh that comes late is one all the same, and the whole interval begins again.
    let text = world.in_dialog(End::Caller, 0, "UPDATE");
    world.raw_unanswered(CALLER, text.as_bytes());
    world.answer_last(PBX, "200 OK\r\nSession-Expires: 300;refresher=uas");
    assert!(!suspect(&world));
    world.run_for(299_000);
    assert!(!suspect(&world));
    world.run_for(2_000);
    assert!(suspect(&world));
    while world.in_use() < world.view().pools[0].capacity {
        world.answered("100");
    }
    let caller = world.answered("100");
    assert!(world.callers[caller].up);
    assert_eq!(world.ends(), [("reclaimed", 1)]);
}

#[test]
fn a_refresh_of_either_side_keeps_the_session_and_one_without_a_timer_ends_the_watch() {
    let refresh = |world: &mut World, lines: &str| {
        let text = world.in_dialog(End::Caller, 0, "UPDATE");
        world.raw_unanswered(CALLER, text.as_bytes());
        world.answer_last(PBX, &format!("200 OK{lines}"));
    };
    let (mut world, ..) = exchange("Supported: timer\r\n", "\r\nSession-Expires: 300;refresher=uas");
    for _ in 0..5 {
        world.run_for(250_000);
        refresh(&mut world, "\r\nSession-Expires: 300;refresher=uas");
    }
    assert_eq!(world.in_use(), 1);
    refresh(&mut world, "");
    world.run_for(2_000_000);
    assert_eq!(world.in_use(), 1, "the last answer named no interval");
}

#[test]
fn without_session_rules_nothing_is_added_and_what_both_sides_agreed_is_watched() {
    let mut world = World::new(&config(1, &menu("")));
    world.deaf.push(at(PBX));
    world.invite_with("100", "Supported: timer\r\nSession-Expires: 60\r\n");
    world.run();
    world.deaf.clear();
    let invite = world.sent.iter().find(|(to, _)| *to == at(PBX)).map(|(_, text)| text.clone()).unwrap();
    assert_eq!(line(&invite, "Session-Expires:"), "Session-Expires: 60");
    world.answer_last(PBX, &format!("200 OK\r\nContact: <sip:callee@{PBX}>\r\nSession-Expires: 60;refresher=uac"));
    world.run_for(93_000);
    assert_eq!(world.ends(), [("session_lapsed", 1)]);
}

#[test]
fn without_session_rules_too_a_refresh_without_a_timer_ends_the_watch() {
    let mut world = World::new(&config(1, &menu("")));
    world.deaf.push(at(PBX));
    let caller = world.invite_with("100", "Supported: timer\r\n");
    world.run();
    world.deaf.clear();
    let ok = format!("200 OK\r\nContact: <sip:callee@{PBX}>\r\nSession-Expires: 90;refresher=uac");
    world.answer_last(PBX, &ok);
    world.run();
    let text = world.in_dialog(End::Caller, caller, "INVITE");
    world.raw_unanswered(CALLER, text.as_bytes());
    world.answer_last(PBX, &format!("200 OK\r\nContact: <sip:callee@{PBX}>"));
    world.run_for(2_000_000);
    assert_eq!((world.in_use(), world.ends()), (1, vec![]), "RFC 4028 §7.2: then there is no session expiration");
}

// --- signs of life -------------------------------------------------------------------------------------------------------

#[test]
fn a_callee_that_is_asked_and_knows_the_call_no_more_ends_it() {
    let (mut world, _) = up_with("ask_s = 60", "");
    world.run_for(61_000);
    let asked = world.last_at(PBX, "OPTIONS ");
    assert!(asked.starts_with(&format!("OPTIONS sip:callee@{PBX} SIP/2.0\r\n")), "{asked}");
    assert_eq!(line(&asked, "CSeq:"), "CSeq: 1 OPTIONS", "no number of the caller's is used up");
    assert_eq!(world.in_use(), 1);
    // The next request of the caller is still in order.
    world.request(End::Caller, 0, "INFO");
    world.run();
    assert_eq!(line(&world.last_at(PBX, "INFO "), "CSeq:"), "CSeq: 2 INFO");
    world.deaf.push(at(PBX));
    world.run_for(60_000);
    world.deaf.clear();
    world.answer_last(PBX, "481 Call/Transaction Does Not Exist");
    assert_eq!((world.in_use(), world.ends()), (0, vec![("dialog_lost", 1)]));
}

#[test]
fn c4_10_a_call_without_a_sign_of_life_is_suspect_and_gives_way_only_when_its_pool_is_full() {
    let (mut world, _) = up_with("ask_s = 60", "");
    let suspect = |world: &World| world.slots.list(1, |_| true)[0].1.suspect;
    world.deaf.push(at(PBX));
    world.run_for(60_000 + 33_000);
    assert!(!suspect(&world), "one question lost is no reason");
    world.run_for(60_000);
    assert!(suspect(&world));
    world.run_for(600_000);
    assert_eq!(world.in_use(), 1, "there is nobody who needs its channel");
    // It answers again: it is trusted again.
    world.deaf.clear();
    world.run_for(60_000);
    assert!(!suspect(&world));
    let refused = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(refused), 486);
    // Silent again, and now somebody needs the channel.
    world.deaf.push(at(PBX));
    world.run_for(200_000);
    assert!(suspect(&world));
    world.deaf.clear();
    let caller = world.answered("100");
    assert_eq!((world.in_use(), world.view().calls), (1, 1));
    assert!(world.callers[caller].up);
    assert_eq!(world.ends(), [("reclaimed", 1)]);
    assert!(world.callers[0].over, "who was left is told");
}

#[test]
fn a_request_within_the_call_is_a_sign_of_life() {
    let (mut world, caller) = up_with("ask_s = 60", "");
    world.deaf.push(at(PBX));
    world.run_for(160_000);
    world.deaf.clear();
    assert!(world.slots.list(1, |_| true)[0].1.suspect);
    world.request(End::Callee, 0, "INFO");
    world.run();
    assert!(!world.slots.list(1, |_| true)[0].1.suspect, "and is no longer shown as one without");
    let refused = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(refused), world.callers[caller].over), (486, false));
}

#[test]
fn our_bye_comes_behind_what_either_side_said_before_the_answer() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    for (end, id, method) in
        [(End::Caller, caller, "PRACK"), (End::Caller, caller, "UPDATE"), (End::Callee, 0, "UPDATE")]
    {
        world.request(end, id, method);
        world.run();
    }
    world.accept(0);
    world.run();
    end(&mut world);
    assert_eq!(line(&world.last_at(PBX, "BYE "), "CSeq:"), "CSeq: 4 BYE", "INVITE 1, PRACK 2, UPDATE 3");
    assert_eq!(line(&world.last_at(CALLER, "BYE "), "CSeq:"), "CSeq: 102 BYE", "UPDATE 101");
}

#[test]
fn the_caller_is_told_also_when_the_callee_never_said_where_it_is() {
    let mut world = World::new(&config(1, &menu("")));
    world.deaf.push(at(PBX));
    let caller = world.invite("100");
    world.run();
    world.deaf.clear();
    world.answer_last(PBX, "200 OK");
    assert!(world.callers[caller].up);
    end(&mut world);
    assert_eq!((world.reached(CALLER, "BYE"), world.in_use()), (1, 0));
}

#[test]
fn a_refresh_within_a_call_nobody_here_knows_is_left_alone() {
    let mut world = World::new(&format!("{SESSION}{}", config(1, &menu(""))));
    let text = format!(
        "UPDATE sip:callee@{PBX} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKold\r\nRoute: <sip:{GATE};lr>\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:c@d>;tag=2\r\nCall-ID: old\r\nCSeq: 7 UPDATE\r\nSupported: timer\r\nContact: <sip:a@{CALLER}>\r\nContent-Length: 0\r\n\r\n"
    );
    world.raw_unanswered(CALLER, text.as_bytes());
    world.answer_last(PBX, "200 OK\r\nSession-Expires: 600;refresher=uas");
    let got = world.last_at(CALLER, "SIP/2.0 200");
    assert_eq!(got.matches("Session-Expires:").count(), 1, "{got}");
}

#[test]
fn nobody_is_reclaimed_where_the_channel_is_kept_for_others() {
    let sales = "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\nreserve = 1\nask_s = 60\n";
    let mut world = World::new(&config(2, &format!("{}{sales}", menu("ask_s = 60"))));
    let (kept, other) = (world.answered("200"), world.answered("100"));
    world.deaf.push(at(PBX));
    world.run_for(200_000);
    world.deaf.clear();
    assert!(world.slots.list(2, |slot| slot.suspect).len() == 2);
    // Menu's own suspect gives way to menu; that of sales would bring nobody in.
    world.answered("100");
    assert_eq!((world.callers[other].over, world.callers[kept].over), (true, false));
    let refused = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(refused), world.callers[kept].over, world.in_use()), (486, false, 2));
}
