//! Names of targets and next hops (RFC 3263): the world is the name service.

use std::time::Duration;

use sipweir::outbox::DomainId;
use sipweir::proxy::{Answer, Input};
use sipweir::route::{Found, Question};
use sipweir::sip::Transport;

use crate::world::*;

/// The PBX by its name.
fn by_name(uri: &str) -> World {
    let text = config(9, &menu("overflow = [{ route = \"voicemail\" }]"));
    let pbx = format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]");
    assert!(text.contains(&pbx));
    let mut world = World::new(&text.replace(&pbx, &format!("name = \"pbx\"\nuri = [\"{uri}\"]")));
    world.run();
    world
}

fn found(address: &str, priority: u16, weight: u16) -> Found {
    Found { transport: Transport::Udp, address: at(address), priority, weight }
}

/// The name service answers the last question.
fn tell(world: &mut World, answer: Answer, ttl: u64) {
    let question = world.questions.last().expect("a question").clone();
    world.tell(Input::Resolved { question: &question, answer, ttl: Duration::from_secs(ttl) });
    world.run();
}

#[test]
fn a_target_is_asked_for_before_anybody_calls_and_again_when_its_time_is_over() {
    let mut world = by_name("sip:PBX.example.net");
    assert_eq!(
        world.questions,
        [Question { host: "pbx.example.net".into(), port: None, transport: None, is_secure: false }]
    );
    // Nobody waits for a name: until it is known the plan is taken.
    world.answered("100");
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 0));
    tell(&mut world, Answer::Found(vec![found(PBX, 1, 0)]), 60);
    world.answered("100");
    let seen = world.last_at(PBX, "INVITE ");
    assert!(
        seen.starts_with("INVITE sip:100@PBX.example.net SIP/2.0\r\n"),
        "the domain stays in the Request-URI: {seen}"
    );
    world.run_for(61_000);
    assert_eq!(world.questions.len(), 2);
    // It moved; calls in progress stay where they are.
    tell(&mut world, Answer::Found(vec![found(PBX2, 1, 0)]), 60);
    world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(PBX2, "INVITE")), (1, 1));
    world.hang_up(End::Caller, 1);
    world.run();
    assert_eq!(world.reached(PBX, "BYE"), 1);
}

#[test]
fn the_order_of_srv_records_is_followed_and_the_next_one_tried_with_a_new_branch() {
    let mut world = by_name("sip:pbx.example.net;transport=udp");
    assert_eq!(world.questions[0].transport, Some(Transport::Udp));
    tell(&mut world, Answer::Found(vec![found(PBX2, 2, 0), found(PBX, 1, 0)]), 3600);
    world.modes.insert(at(PBX), Mode::Refuse(503));
    let caller = world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(PBX2, "INVITE")), (1, 1));
    let branch = |text: &str| text.split("branch=").nth(1).unwrap().split(['\r', ';']).next().unwrap().to_owned();
    assert_ne!(branch(&world.last_at(PBX, "INVITE ")), branch(&world.last_at(PBX2, "INVITE ")));
    assert_eq!((world.final_answer(caller), world.in_use()), (200, 1));
    // Weights share the calls.
    tell_again(&mut world, vec![found(PBX, 1, 30), found(PBX2, 1, 10)]);
    world.modes.insert(at(PBX), Mode::Answer(0));
    let before = (world.reached(PBX, "INVITE"), world.reached(PBX2, "INVITE"));
    for _ in 0..8 {
        let caller = world.answered("100");
        world.hang_up(End::Caller, caller);
        world.run();
    }
    assert_eq!((world.reached(PBX, "INVITE") - before.0, world.reached(PBX2, "INVITE") - before.1), (6, 2));
}

fn tell_again(world: &mut World, all: Vec<Found>) {
    world.run_for(3_601_000);
    tell(world, Answer::Found(all), 3600);
}

#[test]
fn a_dead_name_service_costs_nothing_while_what_it_said_last_still_works() {
    let mut world = by_name("sip:pbx.example.net");
    tell(&mut world, Answer::Found(vec![found(PBX, 1, 0)]), 30);
    world.run_for(31_000);
    // It never answers: that is found out, told once, and tried again.
    world.run_for(60_000);
    assert!(world.questions.len() > 3, "{}", world.questions.len());
    let caller = world.answered("100");
    assert_eq!((world.final_answer(caller), world.reached(PBX, "INVITE")), (200, 1));
    let failing: Vec<String> = world.events.iter().map(ToString::to_string).collect();
    assert_eq!(failing, ["name pbx.example.net: the name service does not answer; what it said last is kept"]);
    tell(&mut world, Answer::Found(vec![found(PBX, 1, 0)]), 30);
    assert_eq!(world.event_labels(), ["name_failing", "name_resolved"]);
}

#[test]
fn a_name_that_is_gone_takes_its_addresses_with_it() {
    let mut world = by_name("sip:pbx.example.net");
    tell(&mut world, Answer::Found(vec![found(PBX, 1, 0)]), 30);
    world.run_for(31_000);
    tell(&mut world, Answer::NotFound, 60);
    world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (0, 1));
    assert_eq!(world.event_labels(), ["name_failing"]);
    let asked = world.questions.len();
    world.run_for(59_000);
    assert_eq!(world.questions.len(), asked, "that there is nothing is believed for its time, too");
    world.run_for(2_000);
    assert_eq!(world.questions.len(), asked + 1);
}

/// A world whose carrier may relay.
fn relaying() -> World {
    World::new(&config(1, &menu("")).replacen("name = \"carrier\"", "name = \"carrier\"\nrelay = true", 1))
}

fn invite_to(world: &mut World, host: &str, call: &str) {
    world.raw(CALLER, invite_text(host, call).as_bytes());
}

fn invite_text(host: &str, call: &str) -> String {
    format!(
        "INVITE sip:bob@{host} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{call}\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:bob@{host}>\r\n\
         Call-ID: {call}\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{CALLER}>\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_request_to_a_name_waits_for_it_and_tries_its_addresses_in_turn() {
    let mut world = relaying();
    invite_to(&mut world, "elsewhere.example", "one");
    assert_eq!((world.questions.len(), world.reached(PBX, "INVITE")), (1, 0));
    world.run_for(1_000);
    assert!(world.last_at(CALLER, "SIP/2.0 100").contains("Call-ID: one"), "the caller is not left without a word");
    // Others wait for the same question; who needs no name waits for nobody.
    invite_to(&mut world, "ELSEWHERE.example", "two");
    assert_eq!(world.questions.len(), 1);
    world.answered("100");
    world.modes.insert(at(PBX2), Mode::Refuse(503));
    tell(&mut world, Answer::Found(vec![found(PBX2, 1, 0), found(VOICEMAIL, 2, 0)]), 60);
    assert_eq!((world.reached(PBX2, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (2, 2));
    assert!(
        world.delivered.iter().filter(|(to, text)| *to == at(CALLER) && text.starts_with("SIP/2.0 200")).count() >= 2
    );
    // What is known needs no question.
    invite_to(&mut world, "elsewhere.example", "three");
    assert_eq!((world.questions.len(), world.reached(VOICEMAIL, "INVITE")), (1, 3));
    world.run_for(61_000);
    invite_to(&mut world, "elsewhere.example", "four");
    assert_eq!(world.questions.len(), 2, "and is forgotten in its time");
}

#[test]
fn a_name_nobody_knows_is_an_answer_and_a_dead_name_service_is_one_after_ten_seconds() {
    let mut world = relaying();
    invite_to(&mut world, "nowhere.example", "one");
    tell(&mut world, Answer::NotFound, 30);
    assert!(world.last_at(CALLER, "SIP/2.0 502").contains("Call-ID: one"));
    invite_to(&mut world, "nowhere.example", "two");
    assert!(world.last_at(CALLER, "SIP/2.0 502").contains("Call-ID: two"), "known to be unknown");
    assert_eq!(world.questions.len(), 1);
    invite_to(&mut world, "dead.example", "three");
    world.run_for(11_000);
    assert!(world.last_at(CALLER, "SIP/2.0 502").contains("Call-ID: three"));
    assert_eq!(world.view().calls, 0);
    world.run_for(100_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_call_cancelled_while_it_waits_for_a_name_goes_nowhere() {
    let mut world = relaying();
    invite_to(&mut world, "elsewhere.example", "one");
    let cancel = format!(
        "CANCEL sip:bob@elsewhere.example SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKone\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:bob@elsewhere.example>\r\n\
         Call-ID: one\r\nCSeq: 1 CANCEL\r\nContent-Length: 0\r\n\r\n"
    );
    world.raw(CALLER, cancel.as_bytes());
    tell(&mut world, Answer::Found(vec![found(PBX2, 1, 0)]), 60);
    assert_eq!(world.reached(PBX2, "INVITE"), 0);
    assert!(world.last_at(CALLER, "SIP/2.0 487").contains("Call-ID: one"));
    assert_eq!(world.view().calls, 0);
}

#[test]
fn questions_and_those_who_wait_have_a_bound() {
    let mut world = relaying();
    for call in 0..300 {
        let text = invite_text("one.example", &format!("same{call}"));
        let (listener, source) = (0, at(CALLER));
        world.tell(Input::Datagram { listener, source, payload: text.as_bytes() });
    }
    world.run();
    let refused = world.delivered.iter().filter(|(_, text)| text.starts_with("SIP/2.0 502")).count();
    assert_eq!((world.questions.len(), refused), (1, 300 - 256));
}

#[test]
fn another_request_than_invite_to_a_silent_name_ends_with_its_own_timer() {
    let mut world = relaying();
    let text = invite_text("elsewhere.example", "msg").replace("INVITE", "MESSAGE");
    world.raw(CALLER, text.as_bytes());
    world.deaf.extend([at(PBX), at(PBX2)]);
    tell(&mut world, Answer::Found(vec![found(PBX2, 1, 0), found(PBX, 2, 0)]), 5);
    world.run_for(200_000);
    assert_eq!(world.reached(PBX2, "CANCEL"), 0);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_request_that_waited_for_a_name_is_still_from_the_trunk_its_certificate_said() {
    let listen = "[[listen]]\nuri = \"tls:192.0.2.1:5061\"\ncertificate = \"/a\"\nkey = \"/b\"\nclient_ca = \"/c\"\n";
    let trunk = "[[trunk]]\nname = \"partner\"\ntls = [\"partner.example\"]\nrelay = true\n";
    let stranger = "203.0.113.50:40000";
    let info = |id: &str| {
        format!(
            "INFO sip:b@far.example SIP/2.0\r\nVia: SIP/2.0/TLS {stranger};branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:c@d>;tag=2\r\nCall-ID: {id}\r\nCSeq: 7 INFO\r\nContent-Length: 0\r\n\r\n"
        )
    };
    for (names, expected) in [(&[Box::from("partner.example")][..], "INFO sip:b@far.example"), (&[][..], "")] {
        let mut world = World::new(&config(1, &format!("{listen}{trunk}{}", menu(""))));
        world.run();
        let text = info("certified");
        let input = Input::Stream {
            listener: 1,
            source: at(stranger),
            identities: names,
            domain: DomainId::NONE,
            payload: text.as_bytes(),
        };
        world.tell(input);
        if !expected.is_empty() {
            let found = Found { transport: Transport::Udp, address: at("203.0.113.9:5060"), priority: 1, weight: 0 };
            tell(&mut world, Answer::Found(vec![found]), 60);
        }
        let sent: Vec<&str> = world.sent.iter().map(|(_, text)| text.as_str()).collect();
        let passed = sent.iter().any(|text| text.starts_with("INFO sip:b@far.example"));
        assert_eq!(passed, !expected.is_empty(), "{names:?}: {sent:?}");
    }
}

#[test]
fn a_name_that_leads_to_a_known_address_first_is_no_way_to_any_other() {
    let mut world = World::new(&config(1, &menu("")));
    world.run();
    // From a trunk that may not relay, along a route of ours, within a dialog nobody here knows.
    let text = format!(
        "INFO sip:x@evil.example SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKevil\r\nRoute: <sip:{GATE};lr>\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: evil\r\nCSeq: 7 INFO\r\nContent-Length: 0\r\n\r\n"
    );
    world.raw_unanswered(CALLER, text.as_bytes());
    world.deaf.push(at(PBX2));
    tell(&mut world, Answer::Found(vec![found(PBX2, 1, 0), found("203.0.113.9:5060", 2, 0)]), 60);
    world.answer_last(PBX2, "503 Service Unavailable");
    assert!(world.sent.iter().all(|(to, _)| *to != at("203.0.113.9:5060")), "{:?}", world.sent.last());
    assert!(world.last_at(CALLER, "SIP/2.0 403").contains("Call-ID: evil"), "{}", world.last_at(CALLER, "SIP"));
    // One that leads elsewhere alone goes nowhere either.
    let text = text.replace("evil", "worse");
    world.raw_unanswered(CALLER, text.as_bytes());
    tell(&mut world, Answer::Found(vec![found("203.0.113.9:5060", 2, 0)]), 60);
    assert!(world.sent.iter().all(|(to, _)| *to != at("203.0.113.9:5060")));
}

#[test]
fn an_address_of_the_pbx_that_nobody_here_reaches_is_still_the_pbxs() {
    let mut world = by_name("sip:pbx.example.net");
    let text = config(9, &menu("")).replace(
        &format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]"),
        "name = \"pbx\"\nuri = [\"sip:pbx.example.net\"]\nreleased_by_contact = true",
    );
    world.reload(&text);
    let six = Found { transport: Transport::Udp, address: at("[2001:db8::10]:5060"), priority: 1, weight: 0 };
    tell(&mut world, Answer::Found(vec![found(PBX, 1, 0), six]), 600);
    world.answered("100");
    assert_eq!(world.proxy.peers(world.now).len(), 4, "the PBX' own that is reached, the pair's two, the voicemail's");
    let moves =
        world.in_dialog(End::Callee, 0, "INVITE").replace(&format!("<sip:x@{PBX}>"), "<sip:ivr@[2001:db8::10]>");
    assert!(moves.contains("2001:db8"), "{moves}");
    world.raw_unanswered(PBX, moves.as_bytes());
    world.answer_last(CALLER, &format!("200 OK\r\nContact: <sip:caller@{CALLER}>"));
    assert_eq!(world.in_use(), 1, "it has not gone away");
}

/// A call that is up, whose callee gave a name as its Contact.
fn up_at_a_name() -> (World, usize) {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    world.accept_at(0, "sip:callee@cluster.example.net");
    world.run();
    assert!(world.callers[caller].up);
    assert_eq!(world.callers[caller].target, "sip:callee@cluster.example.net");
    (world, caller)
}

#[test]
fn within_a_call_the_name_in_a_contact_leads_on_when_the_server_that_took_the_call_is_gone() {
    let (mut world, caller) = up_at_a_name();
    // While it is there, nobody needs to be asked for it.
    world.request(End::Caller, caller, "INFO");
    world.run();
    assert_eq!((world.reached(PBX, "INFO"), world.questions.len()), (1, 0));
    world.deaf.push(at(PBX2));
    world.unreachable.push(at(PBX));
    world.request(End::Caller, caller, "INFO");
    world.run();
    assert_eq!(world.questions.len(), 1);
    let before = world.sent.len();
    tell(&mut world, Answer::Found(vec![found(PBX, 1, 0), found(PBX2, 2, 0)]), 60);
    assert!(world.sent[before..].iter().all(|(to, _)| *to != at(PBX)), "it is not tried twice");
    world.answer_last(PBX2, "200 OK");
    // From now on the callee is there.
    let before = world.sent.len();
    world.hang_up(End::Caller, caller);
    world.run();
    let sent: Vec<_> = world.sent[before..].iter().map(|(to, text)| (*to, text.get(..4))).collect();
    assert_eq!(sent, [(at(PBX2), Some("BYE "))]);
    world.answer_last(PBX2, "200 OK");
    assert_eq!((world.in_use(), world.ends()), (0, vec![("caller_bye", 1)]));
}

#[test]
fn who_refuses_within_a_call_is_there_and_no_other_is_asked() {
    let (mut world, caller) = up_at_a_name();
    world.deaf.push(at(PBX));
    world.request(End::Caller, caller, "INFO");
    world.run();
    world.answer_last(PBX, "503 Service Unavailable");
    assert!(world.last_at(CALLER, "SIP/2.0 500").contains("INFO"));
    assert_eq!((world.questions.len(), world.in_use()), (0, 1), "the call lives");
}

#[test]
fn no_request_leads_a_call_to_a_name_its_other_side_never_gave() {
    let (mut world, caller) = up_at_a_name();
    world.callers[caller].target = "sip:x@evil.example".into();
    world.unreachable.push(at(PBX));
    world.request(End::Caller, caller, "INFO");
    world.run();
    assert_eq!(world.questions.len(), 0);
    assert!(world.last_at(CALLER, "SIP/2.0 500").contains("INFO"));
}

#[test]
fn a_bye_whose_name_leads_nowhere_ends_the_call_all_the_same() {
    let (nothing, six) = ("10.0.0.99:5060", "[2001:db8::10]:5060");
    let unreached = Found { address: at(six), ..found(nothing, 1, 0) };
    let answers = [
        Some(Answer::NotFound),
        Some(Answer::Failed),
        None,
        Some(Answer::Found(vec![unreached])),
        Some(Answer::Found(vec![found(PBX, 1, 0)])),
    ];
    for answer in answers {
        let (mut world, caller) = up_at_a_name();
        world.unreachable.push(at(PBX));
        world.hang_up(End::Caller, caller);
        world.run();
        assert_eq!((world.questions.len(), world.in_use()), (1, 1));
        match answer.clone() {
            Some(answer) => tell(&mut world, answer, 60),
            None => world.run_for(11_000),
        }
        assert_eq!((world.in_use(), world.view().calls), (0, 0), "{answer:?}");
        world.run_for(100_000);
        assert!(world.proxy.is_idle(), "{answer:?}: {:?}", world.proxy.load());
    }
}
