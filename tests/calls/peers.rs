//! What users of other gates complained about, each thread a test (the thread in its name's comment).

use crate::world::*;

// jambonz/sbc-inbound #177, sbc-outbound #151; OpenSIPS #2102, #1937: BYE from both sides counted down twice.
#[test]
fn b1_byes_from_both_sides_never_count_below_zero() {
    for seed in 0..50 {
        let mut world = World::seeded(&config(3, &menu("")), seed);
        let callers: Vec<usize> = (0..3).map(|_| world.answered("100")).collect();
        world.faults = Faults { lost: 100, doubled: 300, delay_ms: 80 };
        for (callee, caller) in callers.into_iter().enumerate() {
            world.hang_up(End::Caller, caller);
            world.hang_up(End::Callee, callee);
        }
        world.run_for(80_000);
        let view = world.view();
        assert_eq!(
            (view.pools[0].in_use(), view.calls, view.services[0].calls, view.trunks[0].calls),
            (0, 0, 0, 0),
            "seed {seed}"
        );
        assert!(world.proxy.is_idle(), "seed {seed}");
    }
}

// jambonz/sbc-inbound #151: the alert reported the limit instead of the count.
#[test]
fn b1_the_event_tells_the_count_and_the_limit_apart() {
    let mut world = World::new(&config(10, &menu("")));
    for _ in 0..8 {
        world.answered("100");
    }
    let event = &world.events[0];
    assert_eq!((event.in_use, event.capacity), (8, 10));
    assert_eq!(event.to_string(), "pool ivr: 8 of 10 channels in use");
}

// OpenSIPS #1748, #2266, #2923; kamailio #2322, #4046: after a day of load the count is not zero when no call is up.
#[test]
fn b1_after_many_calls_of_every_kind_nothing_is_left() {
    let mut world = World::seeded(&config(5, &menu("overflow = [{ route = \"voicemail\" }]")), 9);
    let modes =
        [Mode::Answer(0), Mode::Refuse(486), Mode::Refuse(503), Mode::Ring, Mode::Silent, Mode::Fork(2), Mode::Stuck];
    for round in 0..140 {
        world.modes.insert(at(PBX), modes[round % modes.len()]);
        let caller = world.invite("100");
        world.run();
        if !world.hang_up(End::Caller, caller) {
            world.cancel(caller);
        }
        world.run_for(3_000);
    }
    for leg in 0..world.callers.len() {
        world.hang_up(End::Caller, leg);
    }
    world.run_for(400_000);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

// kamailio #4047, #4040; cgrates #954; GlomarGadaffi/pocket-dial #115; kazoo PR #495: one more than the limit gets in.
#[test]
fn b2_the_call_beyond_the_limit_never_reaches_the_pbx() {
    for limit in [1, 2, 8] {
        let mut world = World::new(&config(limit, &menu("")));
        for _ in 0..limit + 5 {
            world.invite("100");
        }
        world.run();
        assert_eq!(world.reached(PBX, "INVITE") as u32, limit);
        assert_eq!(world.busy_peak as u32, limit);
    }
}

// redis-cell #41, FreeSWITCH hiredis, kamailio #800, #2297: a limit of zero that means none, or crashes.
#[test]
fn b2_a_limit_of_zero_means_zero_everywhere() {
    let trunk =
        config(5, &menu("")).replace("from = [\"198.51.100.0/24\"]", "from = [\"198.51.100.0/24\"]\nmax_calls = 0");
    for text in [config(0, &menu("")), config(5, &menu("limit = 0")), trunk] {
        let mut world = World::new(&text);
        let caller = world.invite("100");
        world.run();
        assert_eq!((world.final_answer(caller), world.reached(PBX, "INVITE")), (486, 0));
    }
}

// OpenSIPS #1388, #2867: CANCEL and 200 cross, and an answered call stays that nobody ends.
#[test]
fn b3_cancel_against_200_in_any_order_leaves_no_channel_behind() {
    for seed in 0..100 {
        let mut world = World::seeded(&config(1, &menu("")), seed);
        world.faults.delay_ms = 60;
        world.modes.insert(at(PBX), Mode::Answer(200));
        let caller = world.invite("100");
        world.run_for(150 + seed % 100);
        world.cancel(caller);
        world.run_for(2_000);
        world.hang_up(End::Caller, caller);
        world.run_for(80_000);
        assert_eq!(world.in_use(), 0, "seed {seed}");
        assert!(world.proxy.is_idle(), "seed {seed}");
    }
}

// kamailio #545, #1274: dialogs stuck for ever when the proxy calls itself.
#[test]
fn b3_a_call_to_ourselves_is_a_loop_and_leaves_nothing() {
    let text = config(2, &menu("").replace("\"pbx\"\n", "\"self\"\n"))
        + &format!("[[target]]\nname = \"self\"\nuri = [\"sip:{GATE_ALIAS}\"]\nrequest_uri = \"keep\"\n")
        + "";
    let text = text.replace("[\"10.0.0.0/24\"]", "[\"10.0.0.0/24\", \"192.0.2.1\"]");
    let mut world = World::new(&text);
    let caller = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (482, 0));
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

// OpenSIPS #2530, #3123: a lost BYE holds the channel for ever.
#[test]
fn b3_a_lost_bye_ends_with_the_longest_call() {
    let mut world = World::new(&config(1, &menu("longest_call_s = 3600")));
    let caller = world.answered("100");
    world.callers[caller].over = true;
    world.run_for(3_601_000);
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.slots.len(), 0);
}

// siphon-sip PR #139: the ACK of a 2xx relayed once per fork branch.
#[test]
fn b5_each_ack_goes_to_its_own_dialog_once() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Fork(2));
    world.invite("100");
    world.run();
    assert_eq!(world.callees.iter().map(|leg| leg.acks).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(world.reached(PBX, "ACK"), 2);
}

// siphon-sip PR #191: a request within a dialog whose Request-URI names the proxy got 482, its ACK was dropped.
#[test]
fn b5_an_in_dialog_request_uri_that_names_the_proxy_is_no_loop() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    world.callers[caller].target = format!("sip:100@{GATE}");
    world.request(End::Caller, caller, "INVITE");
    world.run();
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(PBX, "ACK")), (2, 2));
    assert!(world.last_at(CALLER, "SIP/2.0 482").is_empty());
}

// drachtio-server #261: forked INVITEs of one Call-ID with other branches rejected as duplicates.
#[test]
fn b5_an_invite_forked_upstream_reaches_both_numbers_on_one_channel() {
    let two =
        "[[service]]\nname = \"two\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"voicemail\"\n";
    let mut world = World::new(&config(2, &format!("{}{two}", menu(""))));
    world.modes.insert(at(PBX), Mode::Ring);
    world.modes.insert(at(VOICEMAIL), Mode::Ring);
    world.invite_as(CALLER, "100", "forked", "same-tag", 1, "");
    world.invite_as(CALLER, "200", "forked", "same-tag", 1, "");
    world.run();
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 1, 1));
}

// sipgo #201, PR #197; OpenSIPS #3128: two copies of one INVITE both create a transaction.
#[test]
fn b5_two_copies_at_once_make_one_transaction() {
    let mut world = World::new(&config(5, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    world.faults.doubled = 1000;
    world.invite("100");
    world.run();
    assert_eq!((world.in_use(), world.proxy.load().servers, world.view().pools[0].admitted), (1, 1, 1));
}

// siphon-sip PR #110: a REFER within the dialog bounced until 483.
#[test]
fn b5_an_in_dialog_refer_is_sent_once_to_the_other_side() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    world.request(End::Caller, caller, "REFER");
    world.run();
    assert_eq!(world.reached(PBX, "REFER"), 1);
    assert!(world.last_at(CALLER, "SIP/2.0 483").is_empty());
}

// siphon-sip PR #220, drachtio-server #125: a transferor's early BYE, or the end of a REFER's subscription, ended the call.
#[test]
fn b5_the_end_of_a_refer_subscription_does_not_end_the_call() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.answered("100");
    world.request(End::Caller, caller, "REFER");
    world.run();
    world.request(End::Callee, 0, "NOTIFY");
    world.run();
    assert_eq!(world.in_use(), 1);
    assert!(world.callers[caller].up);
}

// ivozprovider PR #736: a bounced call is one call on the line and two in the books.
#[test]
fn b5_a_call_that_comes_back_through_us_is_no_loop_when_its_number_changed() {
    let two =
        "[[service]]\nname = \"two\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"voicemail\"\n";
    let mut world = World::new(&config(1, &format!("{}{two}", menu(""))));
    world.modes.insert(at(PBX), Mode::Ring);
    world.invite("100");
    world.run();
    let bounced = world
        .last_at(PBX, "INVITE")
        .replacen(&format!("sip:100@{PBX}"), &format!("sip:200@{GATE}"), 1)
        .replacen("\r\nVia:", &format!("\r\nVia: SIP/2.0/UDP {PBX};branch=z9hG4bKb\r\nVia:"), 1);
    world.raw(PBX, bounced.as_bytes());
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 1), "one call, one channel, of a pool of one");
}
