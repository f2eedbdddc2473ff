use sipweir::pool::{Ask, ServiceId, TrunkId};

use crate::world::*;

#[test]
fn c4_2_five_hundred_at_once_on_ten_free_channels_admit_exactly_ten() {
    let mut world = World::new(&config(10, &menu("overflow = [{ route = \"voicemail\" }]")));
    for _ in 0..500 {
        world.invite("100");
    }
    world.run();
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (10, 10, 490));
    assert!(world.callers.iter().all(|caller| caller.up));
    for caller in 0..500 {
        world.hang_up(End::Caller, caller);
    }
    world.run_for(40_000);
    assert_eq!((world.in_use(), world.busy_peak), (0, 10));
    assert!(world.proxy.is_idle());
}

#[test]
fn c4_6_retransmitted_invites_count_once() {
    let mut world = World::new(&config(5, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    let invite = world.callers[caller].invite.clone();
    for _ in 0..5 {
        world.raw(CALLER, invite.as_bytes());
    }
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE")), (1, 1));
    world.accept(0);
    world.run();
    world.raw(CALLER, invite.as_bytes());
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE")), (1, 1), "a late copy is absorbed (RFC 6026)");
    assert_eq!(world.view().pools[0].admitted, 1);
}

#[test]
fn c4_6_a_challenged_invite_counts_once_in_all() {
    let mut world = World::new(&config(1, &menu("")));
    for (mode, status) in [(Mode::Refuse(401), 401), (Mode::Refuse(407), 407), (Mode::Answer(0), 200)] {
        world.modes.insert(at(PBX), mode);
        let cseq = u32::from(status) - 190;
        let caller = world.invite_as(CALLER, "100", "challenged", "same-tag", cseq, "");
        world.run();
        assert_eq!(world.final_answer(caller), status);
        assert_eq!(world.in_use(), u32::from(status == 200));
    }
}

#[test]
fn c4_6_merged_copies_count_once() {
    let mut world = World::new(&config(3, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    world.invite_as(CALLER, "100", "merged", "same-tag", 1, "");
    world.invite_as(CALLER, "100", "merged", "same-tag", 1, "");
    world.run();
    assert_eq!((world.reached(PBX, "INVITE"), world.in_use()), (2, 1), "the PBX decides about the second (482)");
    world.refuse(1, 482);
    world.run();
    assert_eq!(world.in_use(), 1, "the first goes on");
    world.accept(0);
    world.run();
    assert_eq!(world.view().pools[0].held, 1);
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_call_id_used_again_while_the_first_call_is_up_is_a_call_of_its_own() {
    let mut world = World::new(&config(2, &menu("")));
    for cseq in [1, 2, 3] {
        world.invite_as(CALLER, "100", "again", "same-tag", cseq, "");
        world.run();
    }
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE")), (2, 2), "nobody gets two calls out of one channel");
}

#[test]
fn c4_6_a_spiral_through_the_pbx_counts_once_in_a_pool_and_once_in_the_other() {
    let services = "[[pool]]\nname = \"second\"\nchannels = 1\n\
        [[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"voicemail\"\n\
        [[service]]\nname = \"other\"\nkind = \"queue\"\nnumbers = [\"300\"]\npool = \"second\"\ntarget = \"voicemail\"\n";
    for (number, second) in [("200", 0), ("300", 1)] {
        let mut world = World::new(&config(2, &format!("{}{services}", menu(""))));
        world.modes.insert(at(PBX), Mode::Ring);
        let caller = world.invite("100");
        world.run();
        // The PBX sends the call back through the gate to another number, with its own Via on top.
        let invite = world.last_at(PBX, "INVITE");
        let spiral = invite.replacen(&format!("sip:100@{PBX}"), &format!("sip:{number}@{GATE}"), 1).replacen(
            "\r\nVia:",
            &format!("\r\nVia: SIP/2.0/UDP {PBX};branch=z9hG4bKpbx\r\nVia:"),
            1,
        );
        world.raw(PBX, spiral.as_bytes());
        assert_eq!(world.reached(VOICEMAIL, "INVITE"), 1);
        let view = world.view();
        assert_eq!((view.pools[0].in_use(), view.pools[1].in_use()), (1, second), "{number}");
        // The answer goes back through both.
        let ok = world.last_at(PBX, "SIP/2.0 200");
        let back = ok.replacen(&format!("Via: SIP/2.0/UDP {PBX};branch=z9hG4bKpbx"), "X: y", 1);
        let back: String = back
            .split("\r\n")
            .filter(|line| *line != "X: y" && !line.starts_with("X: y;"))
            .collect::<Vec<_>>()
            .join("\r\n");
        world.raw(PBX, back.as_bytes());
        assert!(world.callers[caller].up, "{back}");
        world.hang_up(End::Caller, caller);
        world.run_for(80_000);
        let view = world.view();
        assert_eq!((view.pools[0].in_use(), view.pools[1].in_use(), view.calls), (0, 0, 0));
    }
}

#[test]
fn c4_3_forked_answers_hold_one_channel_until_the_last_is_gone() {
    let mut world = World::new(&config(3, &menu("")));
    world.modes.insert(at(PBX), Mode::Fork(3));
    let caller = world.invite("100");
    world.run();
    let answers = world.callers[caller].answers.iter().filter(|status| **status == 200).count();
    assert_eq!((answers, world.callers.len(), world.in_use()), (3, 3, 1), "every 2xx is forwarded");
    assert!(world.callees.iter().all(|leg| leg.acks == 1), "every ACK went to its own dialog");
    for leg in [2, 0] {
        world.hang_up(End::Caller, leg);
        world.run();
        assert_eq!(world.in_use(), 1);
    }
    world.hang_up(End::Caller, 1);
    world.run();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn capacity_zero_refuses_all_and_raising_it_lets_calls_in() {
    let mut world = World::new(&config(0, &menu("")));
    let caller = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(caller), world.reached(PBX, "INVITE")), (486, 0));
    world.reload(&config(1, &menu("")));
    world.answered("100");
}

#[test]
fn lowering_the_capacity_by_reload_cuts_no_call() {
    let mut world = World::new(&config(3, &menu("")));
    let callers: Vec<usize> = (0..3).map(|_| world.answered("100")).collect();
    world.reload(&config(1, &menu("")));
    assert_eq!(world.in_use(), 3);
    for (left, caller) in callers.into_iter().enumerate() {
        let refused = world.invite("100");
        world.run();
        assert_eq!(world.final_answer(refused), 486, "{left} have left");
        assert!(world.hang_up(End::Caller, caller));
        world.run();
    }
    world.answered("100");
}

#[test]
fn limits_of_service_and_trunk_hold_and_a_reserve_is_kept() {
    let two = "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\nreserve = 2\n";
    let mut world = World::new(&config(5, &format!("{}{two}", menu("limit = 2"))));
    let mut take = |number: &str, times: usize| {
        (0..times)
            .filter(|_| {
                let caller = world.invite(number);
                world.run();
                world.final_answer(caller) == 200
            })
            .count()
    };
    assert_eq!((take("100", 4), take("200", 4), take("100", 1)), (2, 3, 0));
    assert_eq!(world.in_use(), 5);

    let text =
        config(5, &menu("")).replace("from = [\"198.51.100.0/24\"]", "from = [\"198.51.100.0/24\"]\nmax_calls = 1");
    let mut world = World::new(&text);
    let first = world.answered("100");
    let second = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(second), 486);
    world.hang_up(End::Caller, first);
    world.run();
    world.answered("100");
}

#[test]
fn a_node_that_is_full_refuses_with_503_and_counts_it() {
    let mut world = World::new(&format!("[limits]\ncalls = 1\n{}", config(5, &menu(""))));
    world.answered("100");
    let second = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(second), 503);
    let counted = world.proxy.counters().refusals().find(|(refusal, _)| refusal.label() == "node_full").unwrap().1;
    assert_eq!(counted, 1);
}

#[test]
fn without_room_for_a_transaction_a_request_is_told_to_come_back() {
    let mut world = World::new(&format!("[limits]\ntransactions = 2\n{}", config(5, &menu(""))));
    world.modes.insert(at(PBX), Mode::Ring);
    for _ in 0..4 {
        world.invite("100");
    }
    world.run();
    let statuses: Vec<u16> = (0..4).map(|caller| world.final_answer(caller)).collect();
    assert_eq!(statuses, [0, 0, 503, 503]);
    assert!(world.last_at(CALLER, "SIP/2.0 503").contains("Retry-After: 1\r\n"));
    assert_eq!(world.in_use(), 2);
}

#[test]
fn a_call_whose_ack_never_comes_is_given_up() {
    let mut world = World::new(&config(1, &menu("")));
    let caller = world.invite("100");
    world.deafen(caller);
    world.run_for(59_000);
    assert_eq!(world.in_use(), 1);
    world.run_for(2_000);
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.ends(), [("ack_missing", 1)]);
}

#[test]
fn the_longest_call_is_given_up() {
    let mut world = World::new(&config(1, &menu("longest_call_s = 600")));
    world.answered("100");
    world.run_for(599_000);
    assert_eq!(world.in_use(), 1);
    world.run_for(1_000);
    assert_eq!((world.in_use(), world.reached(PBX, "BYE")), (0, 1));
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn operators_are_told_once_when_it_fills_overflows_and_recovers() {
    let mut world = World::new(&config(10, &menu("")));
    let callers: Vec<usize> = (0..7).map(|_| world.answered("100")).collect();
    assert!(world.event_labels().is_empty());
    world.answered("100");
    assert_eq!(world.event_labels(), ["pool_near_full"]);
    for _ in 0..7 {
        world.invite("100");
        world.run();
    }
    assert_eq!(world.event_labels(), ["pool_near_full", "pool_exhausted"]);
    world.run_for(10_000);
    for caller in callers {
        world.hang_up(End::Caller, caller);
        world.run();
    }
    assert_eq!(world.event_labels(), ["pool_near_full", "pool_exhausted", "pool_recovered"]);
    let recovered = world.events.last().unwrap();
    assert_eq!((recovered.refused, recovered.in_use, recovered.capacity), (5, 6, 10));
    assert!(recovered.lasted_ms > 10_000, "{recovered}");
}

#[test]
fn a_call_that_rings_longer_than_the_longest_call_keeps_its_channel() {
    let mut world = World::new(&config(1, &menu("longest_call_s = 10")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run_for(60_000);
    assert_eq!(world.in_use(), 1, "the PBX rings on a channel");
    world.accept(0);
    world.run_for(9_000);
    assert!(world.callers[caller].up);
    assert_eq!(world.in_use(), 1, "the longest call is counted from the answer");
    world.run_for(2_000);
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.ends(), [("longest_call", 1)]);
}

#[test]
fn a_pool_that_recovers_says_whose_calls_it_refused() {
    let sales =
        "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\n";
    let mut world = World::new(&config(1, &format!("{}{sales}", menu(""))));
    for _ in 0..2 {
        world.events.clear();
        let caller = world.answered("100");
        for number in ["200", "100", "200", "200"] {
            world.invite(number);
            world.run();
        }
        world.hang_up(End::Caller, caller);
        world.run();
        assert_eq!(world.event_labels(), ["pool_exhausted", "pool_recovered"]);
        let said = world.events[1].to_string();
        assert!(said.ends_with("4 calls refused meanwhile, most of sales 3, menu 1"), "{said}");
    }
}

#[test]
fn a_trunk_at_its_limit_is_told_once_and_once_when_it_is_over() {
    let text = config(9, &menu("")).replacen(
        "[[trunk]]\nname = \"carrier\"\n",
        "[[trunk]]\nname = \"carrier\"\nmax_calls = 2\n",
        1,
    );
    let mut world = World::new(&text);
    let calls = [world.answered("100"), world.answered("100")];
    for _ in 0..5 {
        let refused = world.invite("100");
        world.run();
        assert_eq!(world.final_answer(refused), 486);
    }
    assert_eq!(world.event_labels(), ["trunk_limit"]);
    world.hang_up(End::Caller, calls[0]);
    world.run();
    assert_eq!(world.event_labels(), ["trunk_limit", "trunk_limit_over"]);
    assert_eq!((world.events[1].refused, world.events[1].in_use), (5, 1));
    world.answered("100");
    world.reload(&text.replace("max_calls = 2", "max_calls = 1"));
    world.invite("100");
    world.run();
    world.reload(&text.replace("max_calls = 2\n", ""));
    assert_eq!(world.event_labels()[2..], ["trunk_limit", "trunk_limit_over"]);
}

/// So many seconds of the shell's.
fn ticks(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.run_for(1_000);
        world.tick();
    }
}

#[test]
fn a_count_that_drifts_is_found_and_told_once_and_once_when_it_is_right_again() {
    let mut world = World::new(&config(5, &menu("overflow = [{ wait = 60 }]")));
    world.answered("100");
    ticks(&mut world, 30);
    assert!(world.events.is_empty(), "{:?}", world.events);
    // Somebody takes a channel and is no call.
    let ask = Ask { trunk: TrunkId(0), service: ServiceId(0), is_known: true };
    let stray = world.gate.admit(world.now, ask, &mut Vec::new()).expect("room");
    ticks(&mut world, 40);
    assert_eq!(world.event_labels(), ["count_drift"]);
    assert!(
        world.events[0]
            .to_string()
            .contains("pool ivr: [2, 1, 0] in use, held and lent are counted, calls have [1, 1, 0]")
    );
    world.gate.release(world.now, stray, &mut Vec::new());
    ticks(&mut world, 20);
    assert_eq!(world.event_labels(), ["count_drift", "count_right"]);
    // A call that is counted and listed nowhere.
    let stray = world.gate.admit_to_trunk(TrunkId(0), false).expect("room");
    ticks(&mut world, 20);
    assert!(world.events[2].to_string().contains("1 calls are known, 1 listed and 2 counted"), "{}", world.events[2]);
    world.gate.release(world.now, stray, &mut Vec::new());
}

#[test]
fn every_story_of_a_call_says_what_it_holds_and_why() {
    let mut world = World::new(&config(1, &menu("ask_s = 60\nlongest_call_s = 600\noverflow = [{ wait = 60 }]")));
    let story = |world: &World, at: usize| {
        let (slot, _) = world.slots.list(9, |_| true)[at].clone();
        world.proxy.story(world.now, slot).expect("it is there")
    };
    world.modes.insert(at(PBX), Mode::Answer(2_000));
    let caller = world.invite("100");
    world.run();
    let lines = story(&world, 0).lines.join("; ");
    assert!(
        lines.contains("pool ivr: reserved") && lines.contains("1 INVITEs or attempts of it have no final"),
        "{lines}"
    );
    world.run_for(10_000);
    let waits = world.invite("100");
    world.run();
    let told = story(&world, 0);
    let lines = told.lines.join("; ");
    assert!(lines.contains("pool ivr: held") && lines.contains("a place in trunk carrier"), "{lines}");
    assert!(lines.contains("1 of its dialogs is up") && lines.contains("it ends in 591 s at the latest"), "{lines}");
    assert!(lines.contains("the PBX is asked whether it knows the call in 51 s"), "{lines}");
    assert_eq!((told.age_s, told.heard_s), (10, 8));
    let lines = story(&world, 1).lines.join("; ");
    assert!(lines.contains("no channel; it waits for a channel at position 1, 59 s more at most"), "{lines}");
    world.request(End::Caller, caller, "INFO");
    world.run();
    assert_eq!(story(&world, 0).heard_s, 0);
    world.cancel(waits);
    world.deaf.push(at(PBX));
    world.run_for(200_000);
    let lines = story(&world, 0).lines.join("; ");
    assert!(lines.contains("2 questions in a row were not answered") && lines.contains("it is suspect"), "{lines}");
    let (slot, _) = world.slots.list(1, |_| true)[0].clone();
    world.tell(sipweir::proxy::Input::EndCall { slot });
    let lines = story(&world, 0).lines.join("; ");
    assert!(lines.contains("it is being ended: ended by the operator; the PBX has not answered"), "{lines}");
    assert_eq!(world.proxy.story(world.now, 999), None);
}
