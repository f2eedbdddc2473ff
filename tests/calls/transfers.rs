//! Calls that leave the PBX (RFC 3515, 3891, 4488; seed 000: a channel is free when the call is "successfully transferred").

use sipweir::proxy::{Answer, Input};
use sipweir::route::Found;
use sipweir::sip::Transport;

use crate::world::*;

fn up() -> (World, usize) {
    up_with("")
}

/// A call that is up; the target `pbx` has these keys.
fn up_with(keys: &str) -> (World, usize) {
    let mut world = World::new(&text_with(keys));
    let caller = world.answered("100");
    (world, caller)
}

fn text_with(keys: &str) -> String {
    let text = config(1, &menu(""));
    let pbx = format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]");
    assert!(text.contains(&pbx));
    text.replace(&pbx, &format!("{pbx}\n{keys}"))
}

/// The PBX refers the caller elsewhere, and the caller answers so.
pub(crate) fn refer(world: &mut World, answer: &str) {
    let refer = world.in_dialog(End::Callee, 0, "REFER");
    world.raw_unanswered(
        PBX,
        refer.replace("Content-Length: 0", "Refer-To: <sip:agent@10.0.0.20>\r\nContent-Length: 0").as_bytes(),
    );
    world.answer_last(CALLER, answer);
}

/// The caller tells what became of it, from `source`.
pub(crate) fn notify(world: &mut World, caller: usize, source: &str, status: &str) {
    let id = world.callees[0].cseq;
    notify_of(world, caller, source, status, &format!("refer;id={id}"));
}

/// The same of a REFER of that name.
fn notify_of(world: &mut World, caller: usize, source: &str, status: &str, event: &str) {
    let body = format!("SIP/2.0 {status}\r\n");
    let lines = format!(
        "Event: {event}\r\nSubscription-State: active\r\nContent-Type: message/sipfrag\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let text = world.in_dialog(End::Caller, caller, "NOTIFY").replace("Content-Length: 0\r\n\r\n", &lines);
    world.raw(source, text.as_bytes());
}

#[test]
fn a_blind_transfer_frees_the_channel_when_the_caller_says_that_it_went_well() {
    let (mut world, caller) = up();
    refer(&mut world, "202 Accepted");
    assert_eq!(world.in_use(), 1, "accepted is not done");
    notify(&mut world, caller, CALLER, "100 Trying");
    assert_eq!(world.in_use(), 1);
    notify(&mut world, caller, CALLER, "200 OK");
    assert_eq!((world.in_use(), world.view().calls), (0, 1), "the dialog lives on without its channel");
    assert_eq!(world.reached(PBX, "NOTIFY"), 2);
    // The channel serves somebody else while the first call is still up.
    world.answered("100");
    assert_eq!((world.in_use(), world.view().calls), (1, 2));
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!((world.in_use(), world.view().calls), (1, 1), "nothing is given back twice");
    assert_eq!(world.proxy.counters().transfers, 1);
}

#[test]
fn a_transfer_that_fails_frees_nothing() {
    for status in ["486 Busy Here", "603 Decline"] {
        let (mut world, caller) = up();
        refer(&mut world, "202 Accepted");
        notify(&mut world, caller, CALLER, status);
        assert_eq!(world.in_use(), 1, "{status}");
        // That transfer is over: what is said of it afterwards means nothing.
        notify(&mut world, caller, CALLER, "200 OK");
        assert_eq!(world.in_use(), 1, "{status}");
        // A new one may go better.
        refer(&mut world, "202 Accepted");
        notify(&mut world, caller, CALLER, "200 OK");
        assert_eq!(world.in_use(), 0);
    }
}

#[test]
fn of_two_transfers_at_a_time_each_has_its_own_end() {
    let (mut world, caller) = up();
    refer(&mut world, "202 Accepted");
    let first = world.callees[0].cseq;
    refer(&mut world, "202 Accepted");
    let second = world.callees[0].cseq;
    notify_of(&mut world, caller, CALLER, "200 OK", &format!("refer;id={}", second + 7));
    assert_eq!(world.in_use(), 1, "nobody knows that one");
    notify_of(&mut world, caller, CALLER, "486 Busy Here", &format!("refer; ID={first}"));
    notify_of(&mut world, caller, CALLER, "200 OK", &format!("refer;id={first}"));
    assert_eq!(world.in_use(), 1, "the first has failed");
    notify_of(&mut world, caller, CALLER, "200 OK", &format!("refer;id={second}"));
    assert_eq!((world.in_use(), world.proxy.counters().transfers), (0, 1));
    // Of the first REFER the number may be left out (RFC 3515 2.4.6).
    let (mut world, caller) = up();
    refer(&mut world, "202 Accepted");
    notify_of(&mut world, caller, CALLER, "200 OK", "refer");
    assert_eq!(world.in_use(), 0);
    // More than are kept: the oldest is forgotten.
    let (mut world, caller) = up();
    (0..5).for_each(|_| refer(&mut world, "202 Accepted"));
    notify_of(&mut world, caller, CALLER, "200 OK", "refer;id=101");
    assert_eq!(world.in_use(), 1);
    notify_of(&mut world, caller, CALLER, "200 OK", "refer;id=102");
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_refer_that_is_refused_frees_nothing() {
    let (mut world, caller) = up();
    refer(&mut world, "603 Decline");
    notify(&mut world, caller, CALLER, "200 OK");
    assert_eq!(world.in_use(), 1);
}

#[test]
fn a_bye_of_the_transferor_right_after_the_202_frees_the_channel_once() {
    let (mut world, caller) = up();
    refer(&mut world, "202 Accepted");
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    notify(&mut world, caller, CALLER, "200 OK");
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_notify_that_never_comes_leaves_the_channel_until_the_pbx_hangs_up() {
    let (mut world, _) = up();
    refer(&mut world, "202 Accepted");
    world.run_for(60_000);
    assert_eq!(world.in_use(), 1);
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn without_a_subscription_nothing_tells_but_the_bye() {
    let (mut world, caller) = up();
    refer(&mut world, "202 Accepted\r\nRefer-Sub: false");
    assert_eq!(world.in_use(), 1, "RFC 4488: nobody says that it went well");
    notify(&mut world, caller, CALLER, "200 OK");
    assert_eq!(world.in_use(), 1, "and who does has not been asked");
}

#[test]
fn a_forged_notify_frees_nothing() {
    // Without a REFER.
    let (mut world, caller) = up();
    notify(&mut world, caller, CALLER, "200 OK");
    assert_eq!(world.in_use(), 1);
    // From elsewhere, with the right tags.
    refer(&mut world, "202 Accepted");
    for elsewhere in ["10.0.0.66:5060", "203.0.113.66:5060"] {
        notify(&mut world, caller, elsewhere, "200 OK");
        assert_eq!(world.in_use(), 1, "{elsewhere}");
    }
    // From the transferor itself.
    let body = "SIP/2.0 200 OK\r\n";
    let lines =
        format!("Event: refer\r\nContent-Type: message/sipfrag\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let text = world.in_dialog(End::Callee, 0, "NOTIFY").replace("Content-Length: 0\r\n\r\n", &lines);
    world.raw(PBX, text.as_bytes());
    assert_eq!(world.in_use(), 1);
    // Of another event package.
    let text = world
        .in_dialog(End::Caller, caller, "NOTIFY")
        .replace("Content-Length: 0\r\n\r\n", &lines.replace("refer", "dialog"));
    world.raw(CALLER, text.as_bytes());
    assert_eq!(world.in_use(), 1);
}

#[test]
fn a_notify_from_another_address_of_the_carrier_frees_the_channel() {
    let (mut world, caller) = up();
    refer(&mut world, "202 Accepted");
    notify(&mut world, caller, "198.51.100.66:5060", "200 OK");
    assert_eq!(world.in_use(), 0);
}

pub(crate) fn tag(value: &str) -> &str {
    value.split(";tag=").nth(1).unwrap()
}

/// An INVITE that says it replaces a dialog with these names.
pub(crate) fn replacing(world: &mut World, call_id: &str, to_tag: &str, from_tag: &str) -> usize {
    let caller = world.invite_with("100", &format!("Replaces: {call_id};to-tag={to_tag};from-tag={from_tag}\r\n"));
    world.run();
    caller
}

#[test]
fn c4_7_an_attended_transfer_inherits_the_slot_of_the_call_it_replaces() {
    let (mut world, first) = up();
    let leg = world.callers[first].clone();
    let second = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert!(
        world.callers[second].up,
        "the pool is full, and no new channel is needed: {:?}",
        world.callers[second].answers
    );
    assert_eq!((world.in_use(), world.view().calls), (1, 2));
    // The replaced leg is hung up by who was replaced: the channel stays with the new call.
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!((world.in_use(), world.view().calls), (1, 1));
    assert_eq!(world.slots.list(9, |slot| slot.pool.is_some()).len(), 1);
    world.hang_up(End::Caller, second);
    world.run();
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.view().services[0].calls == 0);
}

#[test]
fn the_replaced_call_may_end_before_the_new_one_is_answered() {
    let (mut world, first) = up();
    world.modes.insert(at(PBX), Mode::Ring);
    let leg = world.callers[first].clone();
    // Named from the other side of the dialog.
    let second = replacing(&mut world, &leg.call_id, tag(&leg.local), tag(&leg.remote));
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!(world.in_use(), 1, "the heir has it");
    world.accept(1);
    world.run();
    assert!(world.callers[second].up);
    let refused = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(refused), world.in_use()), (486, 1));
}

#[test]
fn a_replacement_that_fails_changes_nothing() {
    let (mut world, first) = up();
    world.modes.insert(at(PBX), Mode::Refuse(486));
    let leg = world.callers[first].clone();
    let second = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert_eq!((world.final_answer(second), world.in_use(), world.view().calls), (486, 1, 1));
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn c4_7_a_forged_replaces_gets_no_channel() {
    let (mut world, first) = up();
    let leg = world.callers[first].clone();
    for (call_id, to, from) in [
        (leg.call_id.as_str(), "guess", tag(&leg.local)),
        (leg.call_id.as_str(), tag(&leg.remote), "guess"),
        ("other", tag(&leg.remote), tag(&leg.local)),
    ] {
        let second = replacing(&mut world, call_id, to, from);
        assert_eq!((world.final_answer(second), world.in_use()), (486, 1), "{call_id} {to} {from}");
    }
    // Two at a time cannot inherit one slot.
    world.modes.insert(at(PBX), Mode::Ring);
    let second = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    let third = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert_eq!((world.final_answer(second), world.final_answer(third)), (0, 486));
}

#[test]
fn a_redirection_by_the_pbx_frees_the_channel_whoever_follows_it() {
    let moved = |keys: &str| {
        let mut world = World::new(&text_with(keys));
        world.deaf.push(at(PBX));
        let caller = world.invite("100");
        world.run();
        world.deaf.clear();
        let contacts = format!(
            "302 Moved Temporarily\r\nContact: <sip:low@{PBX2}>;q=0.2, \"Agent, 7\" <sip:agent@{VOICEMAIL}>;q=0.9, <sip:loop@{GATE}>"
        );
        world.answer_last(PBX, &contacts);
        (world, caller)
    };
    let (world, caller) = moved("");
    assert_eq!((world.final_answer(caller), world.in_use()), (302, 0), "the caller follows it");
    let (mut world, caller) = moved("redirects = \"follow\"");
    assert!(world.callers[caller].up, "{:?}", world.callers[caller].answers);
    assert_eq!((world.in_use(), world.view().calls), (0, 1));
    let seen = world.last_at(VOICEMAIL, "INVITE ");
    assert!(seen.starts_with(&format!("INVITE sip:agent@{VOICEMAIL} SIP/2.0\r\n")), "the best first: {seen}");
    assert_eq!(world.reached(PBX2, "INVITE"), 0);
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((world.reached(VOICEMAIL, "BYE"), world.view().calls), (1, 0));
}

/// Phones the PBX sends calls to.
const PHONES: [&str; 3] = ["203.0.113.5:5060", "203.0.113.6:5060", "203.0.113.7:5060"];

/// The PBX sends a call to these contacts, and what answers there does as it is told.
fn sent_to(contacts: &str, modes: [Mode; 3]) -> (World, usize) {
    let mut world = World::new(&text_with("redirects = \"follow\"\nsilence_ms = 1000"));
    for (phone, mode) in PHONES.iter().zip(modes) {
        world.modes.insert(at(phone), mode);
    }
    world.deaf.push(at(PBX));
    let caller = world.invite("100");
    world.run();
    world.deaf.clear();
    world.answer_last(PBX, &format!("302 Moved Temporarily\r\n{contacts}"));
    (world, caller)
}

#[test]
fn a_contact_that_is_busy_or_unknown_is_followed_by_the_next_one() {
    let [first, second, third] = PHONES;
    let contacts = format!("Contact: <sip:a@{first}>;q=0.9, <sip:b@{second}>;q=0.8, <sip:c@{third}>;q=0.7");
    let (world, caller) = sent_to(&contacts, [Mode::Refuse(486), Mode::Refuse(404), Mode::Answer(0)]);
    assert!(world.callers[caller].up, "{:?}", world.callers[caller].answers);
    assert_eq!(world.in_use(), 0);
    let (mut world, caller) = sent_to(&contacts, [Mode::Refuse(486), Mode::Refuse(500), Mode::Refuse(404)]);
    assert!(matches!(world.final_answer(caller), 486 | 404), "the best: {:?}", world.callers[caller].answers);
    assert_eq!(PHONES.map(|phone| world.reached(phone, "ACK")), [1, 1, 1]);
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
    // §16.7 step 5: a 6xx speaks for all of them; a challenge is for the caller.
    for status in [603, 401] {
        let (world, caller) = sent_to(&contacts, [Mode::Refuse(status), Mode::Answer(0), Mode::Answer(0)]);
        assert_eq!((world.final_answer(caller), world.reached(second, "INVITE")), (status, 0));
    }
}

#[test]
fn a_contact_that_redirects_comes_before_those_that_were_left() {
    let [first, second, third] = PHONES;
    let contacts = format!("Contact: <sip:a@{first}>;q=0.9, <sip:b@{second}>;q=0.8");
    let (mut world, caller) = sent_to(&contacts, [Mode::Silent, Mode::Answer(0), Mode::Refuse(486)]);
    world.answer_last(first, &format!("302 Moved Temporarily\r\nContact: <sip:c@{third}>"));
    world.run();
    assert_eq!(PHONES.map(|phone| world.reached(phone, "INVITE")), [1, 1, 1]);
    assert!(world.callers[caller].up, "{:?}", world.callers[caller].answers);
}

#[test]
fn of_many_contacts_the_best_are_followed() {
    let [first, second, third] = PHONES;
    let low: String = (0..6).map(|at| format!("<sip:low{at}@{first}>;q=0.1, ")).collect();
    let contacts = format!("Contact: {low}<sip:b@{second}>;q=0.2, <sip:c@{third}>");
    let (mut world, caller) = sent_to(&contacts, [Mode::Refuse(480), Mode::Refuse(480), Mode::Refuse(480)]);
    world.run();
    assert_eq!(PHONES.map(|phone| world.reached(phone, "INVITE")), [3, 1, 1], "five in all");
    assert_eq!(world.final_answer(caller), 480);
    let order: Vec<_> =
        world.sent.iter().filter(|(_, text)| text.starts_with("INVITE sip:")).map(|(to, _)| *to).collect();
    assert_eq!(order[1..4], [third, second, first].map(at));
}

#[test]
fn every_address_of_a_contact_s_name_gets_its_chance() {
    let mut world = World::new(&text_with("redirects = \"follow\""));
    world.modes.insert(at(PHONES[0]), Mode::Refuse(503));
    world.modes.insert(at(PHONES[1]), Mode::Answer(0));
    world.deaf.push(at(PBX));
    let caller = world.invite("100");
    world.run();
    world.deaf.clear();
    world.answer_last(PBX, "302 Moved\r\nContact: <sip:agent@phones.example>");
    let question = world.questions.last().expect("it is asked for").clone();
    let found = |at: usize| Found {
        transport: Transport::Udp,
        address: PHONES[at].parse().expect("an address"),
        priority: at as u16,
        weight: 0,
    };
    let answer = Answer::Found(vec![found(0), found(1)]);
    world.tell(Input::Resolved { question: &question, answer, ttl: std::time::Duration::from_secs(60) });
    world.run();
    assert!(world.callers[caller].up, "{:?}", world.callers[caller].answers);
    assert_eq!([0, 1].map(|at| world.reached(PHONES[at], "INVITE")), [1, 1]);
}

#[test]
fn a_redirection_to_where_channels_are_used_keeps_the_channel_and_nobody_comes_there_without_one() {
    let redirected = |keys: &str, contacts: &str| {
        let mut world = World::new(&text_with(&format!("redirects = \"follow\"\n{keys}")));
        world.deaf.push(at(PBX));
        let caller = world.invite("100");
        world.run();
        world.deaf = vec![at("10.0.0.10:5099")];
        world.answer_last(PBX, &format!("302 Moved Temporarily\r\nContact: {contacts}"));
        (world, caller)
    };
    // Another queue of the same PBX.
    let (mut world, caller) = redirected("", &format!("<sip:queue7@{PBX}>"));
    assert!(world.callers[caller].up && world.last_at(PBX, "INVITE ").starts_with("INVITE sip:queue7@"));
    assert_eq!((world.in_use(), world.view().calls), (1, 1));
    let refused = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(refused), 486, "the pool is full");
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!(world.in_use(), 0);
    // The same host at another port is the same PBX; a voicemail that is written down is not.
    let (world, _) = redirected("", "<sip:queue7@10.0.0.10:5099>");
    assert_eq!(world.in_use(), 1);
    // Where the operator says so, nothing there uses a channel.
    let (world, caller) = redirected("uses_channel = false", &format!("<sip:announcement@{PBX}>"));
    assert_eq!((world.callers[caller].up, world.in_use(), world.view().calls), (true, 0, 1));
    // Away first, which fails, then back: the channel is gone by then.
    let (mut world, caller) = {
        let mut world = World::new(&text_with("redirects = \"follow\""));
        world.deaf.push(at(PBX));
        world.modes.insert(at(VOICEMAIL), Mode::Refuse(503));
        let caller = world.invite("100");
        world.run();
        world.deaf.clear();
        world.answer_last(PBX, &format!("302 Moved Temporarily\r\nContact: <sip:a@{VOICEMAIL}>, <sip:queue7@{PBX}>"));
        (world, caller)
    };
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 0));
    assert!(!world.callers[caller].up && world.sent.iter().all(|(_, text)| !text.starts_with("INVITE sip:queue7@")));
    world.run_for(40_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_replacement_the_pbx_redirects_away_inherits_nothing_and_one_redirected_within_it_does() {
    for (contact, is_away) in [(format!("<sip:agent@{VOICEMAIL}>"), true), (format!("<sip:queue7@{PBX}>"), false)] {
        let mut world = World::new(&text_with("redirects = \"follow\""));
        let first = world.answered("100");
        let leg = world.callers[first].clone();
        world.deaf.push(at(PBX));
        let second = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
        world.deaf.clear();
        world.answer_last(PBX, &format!("302 Moved Temporarily\r\nContact: {contact}"));
        assert!(world.callers[second].up, "{contact}: {:?}", world.callers[second].answers);
        assert_eq!((world.in_use(), world.view().calls), (1, 2), "{contact}");
        world.hang_up(End::Callee, 0);
        world.run();
        let left = if is_away { 0 } else { 1 };
        assert_eq!(
            (world.in_use(), world.view().calls),
            (left, 1),
            "{contact}: what the first had is free, or the second's"
        );
    }
}

#[test]
fn contacts_that_fail_lead_to_the_next_and_then_to_the_plan() {
    let text = text_with("redirects = \"follow\"")
        .replace("target = \"pbx\"", "target = \"pbx\"\noverflow = [{ reject = 480 }]");
    let mut world = World::new(&text);
    world.deaf.push(at(PBX));
    world.modes.insert(at(PBX2), Mode::Refuse(503));
    world.modes.insert(at(VOICEMAIL), Mode::Refuse(503));
    let caller = world.invite("100");
    world.run();
    world.deaf.clear();
    world.answer_last(PBX, &format!("300 Choices\r\nContact: <sip:a@{PBX2}>, <sip:b@{VOICEMAIL}>"));
    assert_eq!((world.reached(PBX2, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (1, 1));
    assert_eq!((world.final_answer(caller), world.in_use()), (480, 0));
}

#[test]
fn the_sign_a_pbx_is_configured_to_give_frees_the_channel() {
    for (sign, line, left) in [
        ("released_by = \"X-Call-State: transferred\"", "X-Call-State: Transferred", 0),
        ("released_by = \"X-Call-State: transferred\"", "X-Call-State: queued", 1),
        ("released_by = \"X-Left\"", "x-left: anything", 0),
        ("", "X-Left: 1", 1),
    ] {
        let (mut world, caller) = up_with(sign);
        // From the caller it means nothing.
        let text = world
            .in_dialog(End::Caller, caller, "INFO")
            .replace("Content-Length", &format!("{line}\r\nContent-Length"));
        world.raw(CALLER, text.as_bytes());
        assert_eq!(world.in_use(), 1);
        let text =
            world.in_dialog(End::Callee, 0, "INFO").replace("Content-Length", &format!("{line}\r\nContent-Length"));
        world.raw(PBX, text.as_bytes());
        assert_eq!((world.in_use(), world.view().calls), (left, 1), "{sign} {line}");
    }
}

#[test]
fn a_reinvite_of_the_pbx_that_names_another_place_frees_the_channel_where_it_is_so_configured() {
    for (keys, contact, left) in [
        ("released_by_contact = true", "<sip:agent@192.0.2.200>", 0),
        // The same host; a target that uses no channel, or does.
        ("released_by_contact = true", "<sip:ivr@10.0.0.10:5066>", 1),
        ("released_by_contact = true", "<sip:box@10.0.0.20:5060>", 0),
        (
            "released_by_contact = true\n[[target]]\nname = \"b\"\nuri = [\"sip:10.0.0.40\"]\nuses_channel = true",
            "<sip:ivr@10.0.0.40>",
            1,
        ),
        ("", "<sip:agent@192.0.2.200>", 1),
    ] {
        let (mut world, _) = up_with(keys);
        let text = world.in_dialog(End::Callee, 0, "INVITE").replace(&format!("<sip:x@{PBX}>"), contact);
        world.raw(PBX, text.as_bytes());
        assert_eq!(world.in_use(), left, "{keys} {contact}");
    }
}

#[test]
fn the_operator_gives_a_channel_back_and_the_call_goes_on() {
    let (mut world, caller) = up();
    let slot = world.slots.list(1, |_| true)[0].0;
    world.tell(Input::Release { slot });
    world.tell(Input::Release { slot });
    assert_eq!((world.in_use(), world.view().calls), (0, 1));
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((world.reached(PBX, "BYE"), world.view().calls), (1, 0));
}

#[test]
fn a_contact_with_a_name_is_followed_once_the_name_is_known() {
    for is_known in [true, false] {
        let text = text_with("redirects = \"follow\"")
            .replace("target = \"pbx\"", "target = \"pbx\"\noverflow = [{ reject = 480 }]");
        let mut world = World::new(&text);
        world.deaf.push(at(PBX));
        let caller = world.invite("100");
        world.run();
        world.deaf.clear();
        world.answer_last(PBX, "302 Moved\r\nContact: <sip:agent@phones.example>");
        let question = world.questions.last().expect("it is asked for").clone();
        assert_eq!((&*question.host, world.in_use()), ("phones.example", 1), "where that is nobody knows yet");
        let found = Found { transport: Transport::Udp, address: at(VOICEMAIL), priority: 0, weight: 0 };
        let answer = if is_known { Answer::Found(vec![found]) } else { Answer::NotFound };
        world.tell(Input::Resolved { question: &question, answer, ttl: std::time::Duration::from_secs(60) });
        world.run();
        let expected = if is_known { 200 } else { 480 };
        assert_eq!((world.final_answer(caller), world.reached(VOICEMAIL, "INVITE")), (expected, usize::from(is_known)));
        assert_eq!(world.in_use(), 0);
    }
}

#[test]
fn a_replaced_call_that_nobody_hangs_up_is_ended_and_one_channel_carries_no_chain_of_calls() {
    let (mut world, first) = up();
    let leg = world.callers[first].clone();
    let second = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    // A PBX that does not know Replaces has both up now. A third cannot follow as long as that is so.
    let leg = world.callers[second].clone();
    let third = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert_eq!((world.final_answer(third), world.in_use(), world.view().calls), (486, 1, 2));
    world.run_for(33_000);
    assert!(world.callers[first].over && !world.callers[second].over);
    assert_eq!((world.in_use(), world.view().calls, world.ends()), (1, 1, vec![("replaced", 1)]));
    let third = replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert!(world.callers[third].up);
}

#[test]
fn a_sign_from_elsewhere_and_a_contact_with_a_name_say_nothing() {
    let (mut world, _) = up_with("released_by = \"X-Left\"\nreleased_by_contact = true");
    // The caller knows both tags, and another address of its own.
    let text = world.in_dialog(End::Callee, 0, "INFO").replace("Content-Length", "X-Left: 1\r\nContent-Length");
    world.raw("198.51.100.66:5060", text.as_bytes());
    let bye = world.in_dialog(End::Callee, 0, "BYE");
    world.deaf.push(at(CALLER));
    world.raw("198.51.100.66:5060", bye.as_bytes());
    world.deaf.clear();
    assert_eq!(world.in_use(), 1, "not before the caller has believed it");
    let (mut world, _) = up_with("released_by_contact = true");
    let text = world.in_dialog(End::Callee, 0, "INVITE").replace(&format!("<sip:x@{PBX}>"), "<sip:x@pbx.example.net>");
    world.raw(PBX, text.as_bytes());
    assert_eq!(world.in_use(), 1);
}
