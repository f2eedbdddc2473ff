use sipweir::proxy::Input;

use crate::world::*;

/// A target of three addresses; `keys` go into it, `uris` is its list.
fn config_of(uris: &str, keys: &str) -> String {
    let text = config(100, &menu("overflow = [{ route = \"voicemail\" }]"));
    let pbx = format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]");
    assert!(text.contains(&pbx));
    text.replace(&pbx, &format!("name = \"pbx\"\nuri = [{uris}]\n{keys}"))
}

fn uri(address: &str, keys: &str) -> String {
    format!("{{ uri = \"sip:{address}\", {keys} }}")
}

/// Calls that reached each of the PBX's two addresses when `count` came, each while the others are still up.
fn shares(world: &mut World, count: usize) -> (usize, usize) {
    let before = (world.reached(PBX, "INVITE"), world.reached(PBX2, "INVITE"));
    for _ in 0..count {
        world.answered("100");
    }
    (world.reached(PBX, "INVITE") - before.0, world.reached(PBX2, "INVITE") - before.1)
}

/// Calls in progress at each address of the target.
fn calls(world: &World) -> Vec<u32> {
    world.proxy.peers(world.now).iter().take(2).map(|peer| peer.calls).collect()
}

fn state(world: &World, address: &str) -> &'static str {
    let peers = world.proxy.peers(world.now);
    let peer = peers.iter().find(|peer| peer.address.ends_with(address)).expect("a peer");
    match (peer.is_drained, peer.is_up, peer.is_resting) {
        (true, ..) => "draining",
        (_, false, _) => "down",
        (_, _, true) => "resting",
        _ => "up",
    }
}

#[test]
fn calls_are_shared_by_weight_among_addresses_of_one_priority() {
    let uris = [uri(PBX, "priority = 1, weight = 3"), uri(PBX2, "priority = 1, weight = 1")].join(", ");
    let mut world = World::new(&config_of(&uris, ""));
    assert_eq!(shares(&mut world, 40), (30, 10));
    let uris = [uri(PBX, "priority = 1, weight = 0"), uri(PBX2, "priority = 1")].join(", ");
    let mut world = World::new(&config_of(&uris, ""));
    assert_eq!(shares(&mut world, 10), (0, 10), "a weight of 0 is for when there is nobody else");
}

#[test]
fn the_address_with_the_fewest_calls_for_its_weight_comes_first() {
    let uris = [uri(PBX, "priority = 1, weight = 1"), uri(PBX2, "priority = 1, weight = 2")].join(", ");
    let mut world = World::new(&config_of(&uris, "balance = \"calls\""));
    assert_eq!(shares(&mut world, 30), (10, 20));
    // The calls of one end: it gets the next ones until it has caught up.
    let ended: Vec<usize> =
        (0..world.callees.len()).filter(|id| world.callees[*id].address == Some(at(PBX2))).collect();
    for id in ended {
        world.hang_up(End::Callee, id);
    }
    world.run();
    assert_eq!(shares(&mut world, 15), (0, 15));
}

#[test]
fn a_lower_priority_is_tried_only_when_the_higher_fail() {
    let uris = [uri(PBX2, "priority = 2"), uri(PBX, "priority = 1")].join(", ");
    let mut world = World::new(&config_of(&uris, ""));
    assert_eq!(shares(&mut world, 5), (5, 0));
    world.unreachable.push(at(PBX));
    world.answered("100");
    assert_eq!(world.reached(PBX2, "INVITE"), 1);
}

#[test]
fn probes_take_an_address_down_and_bring_it_up_again_and_calls_do_not_wait_for_it() {
    let uris = format!("\"sip:{PBX}\", \"sip:{PBX2}\"");
    let mut world = World::new(&config_of(&uris, "probe_s = 10\nprobe_timeout_ms = 1000"));
    world.run_for(25_000);
    assert_eq!((world.reached(PBX, "OPTIONS"), world.reached(PBX2, "OPTIONS")), (3, 3));
    let probe = world.last_at(PBX, "OPTIONS ");
    assert!(probe.starts_with(&format!("OPTIONS sip:{PBX} SIP/2.0\r\n")), "{probe}");
    world.deaf.push(at(PBX));
    world.run_for(20_000);
    assert_eq!(state(&world, PBX), "up", "two probes lost are no reason");
    world.run_for(10_000);
    assert_eq!((state(&world, PBX), state(&world, PBX2)), ("down", "up"));
    let down = world.events.last().expect("an event");
    assert_eq!(down.kind.label(), "target_down");
    assert_eq!(
        down.to_string(),
        format!("target pbx sip:{PBX}: 3 failures in a row, the last: OPTIONS not answered within 1000 ms")
    );
    let invites = world.reached(PBX, "INVITE");
    world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(PBX2, "INVITE")), (invites, 1));
    world.deaf.clear();
    world.run_for(11_000);
    assert_eq!(state(&world, PBX), "down", "one answer is no proof");
    world.run_for(10_000);
    assert_eq!(state(&world, PBX), "up");
    assert_eq!(world.events.last().expect("an event").kind.label(), "target_up");
    assert_eq!(world.event_labels().iter().filter(|label| label.starts_with("target")).count(), 2, "each is said once");
}

#[test]
fn when_every_address_is_down_calls_take_their_plan_at_once() {
    let mut world = World::new(&config_of(&format!("\"sip:{PBX}\""), "probe_s = 5\ndown_after = 1"));
    world.deaf.push(at(PBX));
    world.run_for(5_000);
    assert_eq!(state(&world, PBX), "down");
    world.answered("100");
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 0), "no channel is held for it");
}

#[test]
fn which_answers_say_that_an_address_lives_is_configuration() {
    for (accept, status, expected) in [
        ("", "404 Not Found", "up"),
        ("", "500 Server Internal Error", "down"),
        ("probe_accept = [200]", "404 Not Found", "down"),
        ("probe_accept = [503]", "503 Service Unavailable", "up"),
    ] {
        let keys = format!("probe_s = 5\ndown_after = 1\n{accept}");
        let mut world = World::new(&config_of(&format!("\"sip:{PBX}\""), &keys));
        world.deaf.push(at(PBX));
        world.run_for(100);
        world.deaf.clear();
        world.answer_last(PBX, status);
        assert_eq!(state(&world, PBX), expected, "{accept} {status}");
    }
}

#[test]
fn three_failed_calls_put_an_address_behind_the_others_until_one_call_succeeds_there() {
    let uris = format!("\"sip:{PBX}\", \"sip:{PBX2}\"");
    let mut world = World::new(&config_of(&uris, ""));
    world.unreachable.push(at(PBX));
    for _ in 0..3 {
        world.answered("100");
    }
    assert_eq!(state(&world, PBX), "down");
    world.unreachable.clear();
    let before = world.reached(PBX, "INVITE");
    world.answered("100");
    assert_eq!(world.reached(PBX, "INVITE"), before, "others come first");
    world.run_for(31_000);
    world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), state(&world, PBX)), (before + 1, "up"), "one call tried it");
    let labels: Vec<&str> = world.event_labels().into_iter().filter(|label| label.starts_with("target")).collect();
    assert_eq!(labels, ["target_down", "target_up"]);
    // Even if it is all there is, nobody is left without a way because of a guess.
    let mut world = World::new(&config_of(&format!("\"sip:{PBX}\""), ""));
    world.unreachable.push(at(PBX));
    for _ in 0..5 {
        world.answered("100");
    }
    world.unreachable.clear();
    world.answered("100");
    assert_eq!(world.in_use(), 1);
}

#[test]
fn a_503_with_retry_after_gives_the_address_peace_and_one_without_does_not() {
    let uris = format!("\"sip:{PBX}\", \"sip:{PBX2}\"");
    for (line, resting) in
        [("\r\nRetry-After: 60 (busy)", true), ("\r\nRetry-After: 86400;duration=9", true), ("", false)]
    {
        let mut world = World::new(&config_of(&uris, ""));
        world.deaf.push(at(PBX));
        let caller = world.invite("100");
        world.run();
        world.deaf.clear();
        world.answer_last(PBX, &format!("503 Service Unavailable{line}"));
        assert!(world.callers[caller].up, "the next address took it: {:?}", world.callers[caller].answers);
        assert_eq!(state(&world, PBX) == "resting", resting);
        let before = world.reached(PBX, "INVITE");
        world.answered("100");
        assert_eq!(world.reached(PBX, "INVITE") == before, resting);
        world.run_for(301_000);
        assert_eq!(state(&world, PBX), "up", "five minutes at most");
    }
}

#[test]
fn a_drained_address_gets_no_new_calls_and_keeps_those_it_has() {
    let uris = format!("\"sip:{PBX}\", \"sip:{PBX2}\"");
    let mut world = World::new(&config_of(&uris, ""));
    let caller = world.answered("100");
    let (target, uri_text) = ("pbx", format!("sip:{PBX}"));
    world.proxy.handle(world.now, Input::Drain { target, uri: &uri_text, is_drained: true });
    assert_eq!(shares(&mut world, 3), (0, 3));
    assert_eq!(state(&world, PBX), "draining");
    assert!(world.hang_up(End::Caller, caller));
    world.run();
    assert_eq!(world.reached(PBX, "BYE"), 1);
    assert_eq!(world.proxy.peers(world.now)[0].calls, 0);
    world.proxy.handle(world.now, Input::Drain { target, uri: &uri_text, is_drained: false });
    assert_eq!(shares(&mut world, 1), (1, 0));
    // By the configuration, too; calls and what is known of the addresses survive the reload.
    let drained = [uri(PBX, "priority = 1, drain = true"), uri(PBX2, "priority = 2")].join(", ");
    world.reload(&config_of(&drained, ""));
    assert_eq!(shares(&mut world, 2), (0, 2));
    assert_eq!(calls(&world), [1, 5]);
}

#[test]
fn calls_that_fail_over_are_counted_where_they_end_up() {
    let uris = format!("\"sip:{PBX}\", \"sip:{PBX2}\"");
    let mut world = World::new(&config_of(&uris, ""));
    world.modes.insert(at(PBX), Mode::Refuse(503));
    let caller = world.answered("100");
    assert_eq!(calls(&world), [0, 1]);
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!(calls(&world), [0, 0]);
    world.run_for(60_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn what_is_known_of_an_address_survives_a_reload_that_puts_another_before_it() {
    let keys = "probe_s = 10\nprobe_timeout_ms = 1000\ndown_after = 1";
    let mut world = World::new(&config_of(&format!("\"sip:{PBX}\""), keys));
    world.deaf.push(at(PBX));
    world.run_for(2_000);
    assert_eq!(state(&world, PBX), "down");
    let both = format!("\"sip:{PBX2}\", \"sip:{PBX}\"");
    world.reload(&config_of(&both, keys));
    assert_eq!((state(&world, PBX), state(&world, PBX2)), ("down", "up"));
    // Each is still probed once in ten seconds, whatever came and went meanwhile.
    world.deaf.clear();
    for _ in 0..3 {
        world.reload(&config_of(&format!("\"sip:{PBX2}\""), keys));
        world.reload(&config_of(&both, keys));
    }
    let before = world.reached(PBX2, "OPTIONS");
    world.run_for(60_000);
    assert_eq!(world.reached(PBX2, "OPTIONS") - before, 6);
    assert_eq!((state(&world, PBX), state(&world, PBX2)), ("up", "up"));
}

#[test]
fn a_silent_address_keeps_its_share_of_the_channel_when_the_next_one_refuses() {
    let uris = format!("\"sip:{PBX}\", \"sip:{PBX2}\"");
    let mut world = World::new(&config_of(&uris, "silence_ms = 1000"));
    world.modes.insert(at(PBX), Mode::Silent);
    world.modes.insert(at(PBX2), Mode::Refuse(503));
    world.invite("100");
    world.run_for(3_000);
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 1), "the first may have taken a channel");
    world.run_for(40_000);
    assert_eq!(world.in_use(), 0);
}

/// A SUBSCRIBE to the service, from the carrier.
fn subscribe(world: &mut World, mark: &str) -> String {
    let text = format!(
        "SUBSCRIBE sip:100@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{mark}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@{CALLER}>;tag=a{mark}\r\nTo: <sip:100@{GATE}>\r\nCall-ID: {mark}\r\nCSeq: 1 SUBSCRIBE\r\n\
         Event: presence\r\nContact: <sip:a@{CALLER}>\r\nContent-Length: 0\r\n\r\n"
    );
    world.send_raw(CALLER, text.as_bytes());
    world.run_for(100);
    text
}

/// How many each address of the PBX was sent.
fn asked(world: &World) -> (usize, usize) {
    let count =
        |address| world.sent.iter().filter(|(to, text)| *to == at(address) && text.starts_with("SUBSCRIBE ")).count();
    (count(PBX), count(PBX2))
}

#[test]
fn a_request_that_opens_no_call_tries_the_next_address_when_one_refuses_or_cannot_be_reached() {
    let uris = [uri(PBX, "priority = 1"), uri(PBX2, "priority = 2")].join(", ");
    let mut world = World::new(&config_of(&uris, ""));
    world.deaf = vec![at(PBX), at(PBX2)];
    subscribe(&mut world, "one");
    assert_eq!(asked(&world), (1, 0));
    world.answer_last(PBX, "503 Service Unavailable");
    world.run_for(100);
    assert_eq!(asked(&world), (1, 1));
    world.answer_last(PBX2, "202 Accepted");
    world.run_for(100);
    assert!(world.last_at(CALLER, "SIP/2.0 ").starts_with("SIP/2.0 202 "));
    // When all have refused, the last refusal is the answer: a 500, since 503 would speak for us (§16.7).
    subscribe(&mut world, "two");
    world.answer_last(PBX, "503 Service Unavailable");
    world.run_for(100);
    world.answer_last(PBX2, "503 Service Unavailable");
    world.run_for(100);
    assert!(world.last_at(CALLER, "SIP/2.0 ").starts_with("SIP/2.0 500 "));
    // What the PBX decided is no reason to ask another.
    subscribe(&mut world, "three");
    world.answer_last(PBX, "489 Bad Event");
    world.run_for(100);
    assert!(world.last_at(CALLER, "SIP/2.0 ").starts_with("SIP/2.0 489 "));
    assert_eq!(asked(&world), (3, 2));
    // Nobody listens there.
    world.unreachable.push(at(PBX));
    subscribe(&mut world, "four");
    assert_eq!(asked(&world), (4, 3));
}
