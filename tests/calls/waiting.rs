//! Calls that wait at the gate for a channel (the overflow plan's step `wait`).

use sipweir::metrics::WaitEnd;

use super::licences::{channels, ivr, licensed, standing};
use crate::world::*;

const PLAN: &str = "overflow = [{ wait = 60 }, { route = \"voicemail\" }]";

fn world_with(channels: u32, keys: &str, more: &str) -> World {
    World::new(&config(channels, &format!("{}{more}", menu(keys))))
}

fn full(keys: &str) -> (World, usize) {
    let mut world = world_with(1, keys, "");
    let first = world.answered("100");
    (world, first)
}

/// A call that waits.
fn waits(world: &mut World, number: &str) -> usize {
    let caller = world.invite(number);
    world.run();
    assert_eq!(world.callers[caller].answers, [182], "it waits");
    caller
}

fn waiting(world: &World) -> u32 {
    world.view().services.iter().map(|service| service.waiting).sum()
}

fn ended(world: &World, end: WaitEnd) -> u64 {
    world.proxy.counters().waits().filter(|(_, how, _)| *how == end).map(|(.., count)| count).sum()
}

/// The reason phrase of the last 182 to this caller.
fn said(world: &World, caller: usize) -> String {
    let id = format!("Call-ID: {}\r\n", world.callers[caller].call_id);
    let last = world.sent.iter().rev().find(|(_, text)| text.starts_with("SIP/2.0 182") && text.contains(&id));
    last.and_then(|(_, text)| text.lines().next()).unwrap_or_default().to_owned()
}

#[test]
fn who_finds_no_channel_waits_and_gets_the_first_one_given_back() {
    let (mut world, first) = full(PLAN);
    let second = waits(&mut world, "100");
    assert_eq!(said(&world, second), "SIP/2.0 182 Queued; position 1");
    assert!(world.last_at(CALLER, "SIP/2.0 182").contains(";tag=sw"), "RFC 3261 §8.2.6.2");
    assert_eq!((world.in_use(), waiting(&world), world.view().calls), (1, 1, 2));
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (1, 0));
    assert!(world.slots.list(9, |slot| slot.waiting && slot.pool.is_none()).len() == 1);
    world.run_for(5_000);
    world.hang_up(End::Caller, first);
    world.run();
    assert!(world.callers[second].up);
    assert_eq!((world.in_use(), waiting(&world), world.reached(PBX, "INVITE")), (1, 0, 2));
    let invite = world.last_at(PBX, "INVITE ");
    assert!(!invite.contains("History-Info") && !invite.contains("Diversion"), "it goes where it was called: {invite}");
    assert!(world.slots.list(9, |slot| slot.waiting).is_empty());
    world.hang_up(End::Caller, second);
    world.run_for(40_000);
    assert_eq!((world.in_use(), world.view().calls), (0, 0));
    assert!(world.proxy.is_idle());
    assert_eq!(ended(&world, WaitEnd::Admitted), 1);
    let steps: Vec<_> = world.proxy.counters().steps().filter(|(_, times)| times.count() > 0).collect();
    assert_eq!((steps.len(), steps[0].0), (1, "wait"));
    assert!((5_000_000..6_000_000).contains(&steps[0].1.sum_micros()), "the time at the gate alone");
}

#[test]
fn those_who_wait_hear_again_and_again_where_they_stand() {
    let (mut world, first) = full(PLAN);
    let callers: Vec<usize> = (0..3).map(|_| waits(&mut world, "100")).collect();
    let phrases = |world: &World| callers.iter().map(|caller| said(world, *caller)).collect::<Vec<_>>();
    assert_eq!(phrases(&world), [1, 2, 3].map(|at| format!("SIP/2.0 182 Queued; position {at}")));
    world.run_for(10_000 - 400);
    world.hang_up(End::Caller, first);
    // The next round of answers tells what was learnt: one went in after ten seconds.
    world.run_for(15_000);
    assert!(world.callers[callers[0]].up);
    let heard = phrases(&world);
    assert_eq!(heard[1], "SIP/2.0 182 Queued; position 1; expected wait 11 s");
    assert_eq!(heard[2], "SIP/2.0 182 Queued; position 2; expected wait 21 s");
    assert_eq!(world.callers[callers[2]].answers, [182, 182]);
}

#[test]
fn who_stands_still_longer_than_usual_is_not_told_the_usual() {
    let (mut world, first) = full("overflow = [{ wait = 600 }]");
    let callers = [waits(&mut world, "100"), waits(&mut world, "100")];
    world.hang_up(End::Caller, first);
    world.run_for(50_000);
    assert!(world.callers[callers[0]].up);
    assert_eq!(said(&world, callers[1]), "SIP/2.0 182 Queued; position 1; expected wait 40 s");
}

#[test]
fn a_caller_waits_as_long_as_the_plan_says_and_then_takes_the_next_step() {
    let (mut world, _) = full(PLAN);
    let caller = waits(&mut world, "100");
    world.run_for(59_000);
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), waiting(&world)), (0, 1));
    world.run_for(2_000);
    assert!(world.callers[caller].up);
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), waiting(&world)), (1, 0));
    assert!(world.last_at(VOICEMAIL, "INVITE ").contains("Diversion"));
    assert_eq!(ended(&world, WaitEnd::TimedOut), 1);
    let steps: Vec<_> = world.proxy.counters().overflows().filter(|(.., count)| *count > 0).collect();
    assert_eq!(steps.iter().map(|(_, step, count)| (*step, *count)).collect::<Vec<_>>(), [("route", 1), ("wait", 1)]);
}

#[test]
fn who_waited_in_vain_and_has_no_other_step_hears_486() {
    let (mut world, _) = full("overflow = [{ wait = 10 }]");
    let caller = waits(&mut world, "100");
    world.run_for(11_000);
    assert_eq!((world.final_answer(caller), world.view().calls), (486, 1));
    assert!(world.last_at(CALLER, "SIP/2.0 486").contains("Reason: Q.850;cause=34"));
}

#[test]
fn a_full_queue_takes_nobody_and_is_told_once() {
    let (mut world, first) = full("overflow = [{ wait = 60, length = 2 }, { route = \"voicemail\" }]");
    let waiters = [waits(&mut world, "100"), waits(&mut world, "100")];
    for at in 1..=3 {
        world.answered("100");
        assert_eq!(world.reached(VOICEMAIL, "INVITE"), at);
    }
    assert_eq!(ended(&world, WaitEnd::QueueFull), 3);
    assert_eq!(world.event_labels(), ["pool_exhausted", "queue_full"]);
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!(waiting(&world), 1);
    let over = world.events.last().expect("an event").clone();
    assert_eq!((over.kind.label(), over.refused, over.in_use, over.capacity), ("queue_recovered", 3, 1, 2));
    assert!(world.callers[waiters[0]].up && !world.callers[waiters[1]].up);
}

#[test]
fn who_cancels_is_answered_at_once_and_the_channel_goes_to_the_next() {
    let (mut world, first) = full(PLAN);
    let waiters = [waits(&mut world, "100"), waits(&mut world, "100")];
    assert!(world.cancel(waiters[0]));
    // In the same moment the channel becomes free.
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!(world.final_answer(waiters[0]), 487);
    assert!(world.callers[waiters[1]].up);
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(PBX, "CANCEL"), waiting(&world)), (2, 0, 0));
    assert_eq!((ended(&world, WaitEnd::GaveUp), ended(&world, WaitEnd::Admitted)), (1, 1));
}

#[test]
fn a_channel_that_was_already_given_to_who_cancels_goes_on_to_the_next() {
    let (mut world, first) = full(PLAN);
    world.modes.insert(at(PBX), Mode::Ring);
    let waiters = [waits(&mut world, "100"), waits(&mut world, "100")];
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!((world.callers[waiters[0]].answers.last(), world.in_use()), (Some(&180), 1));
    assert!(world.cancel(waiters[0]));
    world.run();
    assert_eq!((world.final_answer(waiters[0]), world.callers[waiters[1]].answers.last()), (487, Some(&180)));
    assert_eq!((world.in_use(), waiting(&world)), (1, 0));
}

#[test]
fn who_wants_no_queue_or_insists_on_acknowledging_182_does_not_wait() {
    let (mut world, _) = full(PLAN);
    let lines = [
        "Request-Disposition: fork, no-queue\r\n",
        "d: No-Queue\r\n",
        "Request-Disposition: proxy\r\nRequest-Disposition: no-queue\r\n",
        "Require: timer, 100rel\r\n",
    ];
    for (at, lines) in lines.iter().enumerate() {
        world.invite_with("100", lines);
        world.run();
        assert_eq!((world.reached(VOICEMAIL, "INVITE"), waiting(&world)), (at + 1, 0), "{lines}");
    }
    assert_eq!(ended(&world, WaitEnd::Declined), 4);
    world.invite_with("100", "Request-Disposition: queue\r\nSupported: 100rel\r\n");
    world.run();
    assert_eq!(waiting(&world), 1);
}

#[test]
fn a_capacity_that_is_raised_wakes_those_who_wait_in_order() {
    let (mut world, _) = full(PLAN);
    let waiters: Vec<usize> = (0..4).map(|_| waits(&mut world, "100")).collect();
    world.reload(&config(3, &menu(PLAN)));
    world.run();
    assert_eq!(waiters.iter().map(|caller| world.callers[*caller].up).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!((world.in_use(), waiting(&world)), (3, 2));
}

#[test]
fn a_licence_that_is_loaded_wakes_those_who_wait() {
    let mut world = World::new(&licensed(PLAN));
    world.license(standing(&[channels("A", 1), ivr()], 40));
    world.answered("100");
    let waiters = [waits(&mut world, "100"), waits(&mut world, "100")];
    world.license(standing(&[channels("A", 1), channels("B", 1), ivr()], 40));
    world.run();
    assert_eq!(waiters.map(|caller| world.callers[caller].up), [true, false]);
    // The feature goes: there is nothing to wait for any more.
    world.license(standing(&[channels("A", 1), channels("B", 1)], 40));
    world.run();
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), ended(&world, WaitEnd::Refused), waiting(&world)), (1, 1, 0));
}

#[test]
fn a_thousand_who_wait_all_go_in_when_there_is_room_for_them() {
    let plan = "overflow = [{ wait = 60, length = 1000 }]";
    let mut world = world_with(0, plan, "");
    for _ in 0..1000 {
        world.invite("100");
    }
    world.run();
    assert_eq!(waiting(&world), 1000);
    world.reload(&config(999, &menu(plan)));
    // So many at a time, with what else is due in between.
    world.run_for(1_000);
    assert_eq!((world.in_use(), waiting(&world), world.reached(PBX, "INVITE")), (999, 1, 999));
}

/// `menu` and `sales` on one pool.
fn two_services(channels: u32, menu_plan: &str, sales_plan: &str, more: &str) -> World {
    let sales = format!(
        "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\n{sales_plan}\n"
    );
    world_with(channels, menu_plan, &format!("{sales}{more}"))
}

#[test]
fn priority_goes_first_until_the_others_have_waited_long_enough() {
    let sales = "overflow = [{ wait = 600, priority = 2 }]";
    let mut world = two_services(1, "overflow = [{ wait = 600 }]", sales, "[waiting]\nageing_s = 30\n");
    let mut up = world.answered("100");
    let old = waits(&mut world, "100");
    world.run_for(50_000);
    let young = waits(&mut world, "100");
    let urgent = waits(&mut world, "200");
    world.run_for(15_000);
    // Two priorities are worth a minute: who came 50 s before waits on, though 65 s have passed.
    let late = waits(&mut world, "200");
    for next in [urgent, old, late, young] {
        world.hang_up(End::Caller, up);
        world.run();
        assert!(world.callers[next].up, "{:?}", [old, young, urgent, late].map(|caller| world.callers[caller].up));
        up = next;
    }
}

#[test]
fn who_would_wait_too_long_goes_on_at_once() {
    let (mut world, first) = full("overflow = [{ wait = 600, expected_s = 25 }, { route = \"voicemail\" }]");
    // Nothing is known yet.
    let waiters = [waits(&mut world, "100"), waits(&mut world, "100")];
    world.run_for(10_000);
    world.hang_up(End::Caller, first);
    world.run();
    assert!(world.callers[waiters[0]].up);
    waits(&mut world, "100");
    world.answered("100");
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), ended(&world, WaitEnd::TooLong), waiting(&world)), (1, 1, 2));
}

#[test]
fn a_copy_of_a_call_that_waits_gets_no_second_place() {
    let (mut world, first) = full(PLAN);
    let one = world.invite_as(CALLER, "100", "same", "same-tag", 1, "");
    world.run();
    let other = world.invite_as(CALLER, "100", "same", "same-tag", 1, "");
    world.run();
    assert_eq!((waiting(&world), world.view().calls), (1, 2));
    assert!(world.callers[other].answers.contains(&482) || world.callers[one].answers.contains(&482));
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE")), (1, 2));
}

#[test]
fn the_operator_ends_a_call_that_waits() {
    let (mut world, _) = full(PLAN);
    let caller = waits(&mut world, "100");
    let (slot, _) = world.slots.list(1, |slot| slot.waiting)[0];
    world.tell(sipweir::proxy::Input::EndCall { slot });
    world.run();
    assert_eq!((world.final_answer(caller), waiting(&world), world.view().calls), (487, 0, 1));
    assert_eq!(world.ends(), [("administrator", 1)]);
}

#[test]
fn who_waits_has_a_place_in_its_trunk() {
    let text = config(1, &menu(PLAN)).replacen(
        "[[trunk]]\nname = \"carrier\"\n",
        "[[trunk]]\nname = \"carrier\"\nmax_calls = 2\n",
        1,
    );
    let mut world = World::new(&text);
    world.answered("100");
    waits(&mut world, "100");
    let third = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(third), waiting(&world)), (486, 1));
}

#[test]
fn a_target_that_fails_after_the_wait_is_followed_by_what_comes_after_it() {
    let (mut world, first) = full(PLAN);
    let caller = waits(&mut world, "100");
    world.modes.insert(at(PBX), Mode::Refuse(503));
    world.hang_up(End::Caller, first);
    world.run();
    assert!(world.callers[caller].up);
    assert_eq!((world.in_use(), waiting(&world), world.reached(VOICEMAIL, "INVITE")), (0, 0, 1));
}

#[test]
fn nobody_waits_for_a_channel_when_the_target_failed() {
    let mut world = world_with(1, PLAN, "");
    world.modes.insert(at(PBX), Mode::Refuse(503));
    world.answered("100");
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), waiting(&world), ended(&world, WaitEnd::TimedOut)), (1, 0, 0));
}

#[test]
fn who_waits_takes_a_channel_of_a_lender_too() {
    let lender = "[[pool]]\nname = \"queues\"\nchannels = 1\n[[service]]\nname = \"sales\"\nkind = \"queue\"\n\
                  numbers = [\"200\"]\npool = \"queues\"\ntarget = \"pbx\"\n";
    let mut world = world_with(1, "overflow = [{ borrow = \"queues\" }, { wait = 60 }]", lender);
    world.answered("100");
    let sale = world.answered("200");
    let caller = waits(&mut world, "100");
    world.hang_up(End::Caller, sale);
    world.run();
    assert!(world.callers[caller].up);
    assert_eq!((world.view().pools[1].in_use(), world.view().pools[1].lent), (1, 1));
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((world.in_use(), world.view().pools[1].in_use()), (1, 0));
}

#[test]
fn who_waits_for_its_service_s_limit_goes_in_when_a_call_of_it_ends() {
    let mut world = two_services(2, "limit = 1\noverflow = [{ wait = 60 }]", "overflow = [{ wait = 60 }]", "");
    let first = world.answered("100");
    let second = waits(&mut world, "100");
    // The pool has room for others meanwhile.
    world.answered("200");
    let third = waits(&mut world, "200");
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!([second, third].map(|caller| world.callers[caller].up), [true, false]);
}

#[test]
fn a_call_that_gives_no_sign_of_life_makes_room_for_one_that_waits() {
    let (mut world, first) = full("ask_s = 60\noverflow = [{ wait = 600 }]");
    let waiter = waits(&mut world, "100");
    // The PBX is silent; the second question in a row goes unanswered.
    world.deaf.push(at(PBX));
    world.run_for(160_000);
    let id = format!("Call-ID: {}\r\n", world.callers[waiter].call_id);
    let sent =
        world.sent.iter().filter(|(to, text)| *to == at(PBX) && text.starts_with("INVITE") && text.contains(&id));
    assert!(sent.count() > 0);
    assert_eq!((world.ends(), waiting(&world), world.callers[first].over), (vec![("reclaimed", 1)], 0, true));
}

#[test]
fn a_queue_that_was_slow_once_takes_calls_again() {
    let (mut world, first) = full("overflow = [{ wait = 600, expected_s = 25 }, { route = \"voicemail\" }]");
    let slow = waits(&mut world, "100");
    world.run_for(60_000);
    world.hang_up(End::Caller, first);
    world.run();
    assert!(world.callers[slow].up);
    // Nobody is before him: how long others stood there says nothing of him.
    let next = waits(&mut world, "100");
    world.hang_up(End::Caller, slow);
    world.run();
    assert!(world.callers[next].up);
}

#[test]
fn two_copies_that_overflowed_before_either_waited_share_one_channel() {
    let plan = "overflow = [{ route = \"voicemail\" }, { wait = 60 }]";
    let (mut world, first) = full(plan);
    world.modes.insert(at(VOICEMAIL), Mode::Silent);
    for _ in 0..2 {
        world.invite_as(CALLER, "100", "same", "same-tag", 1, "");
    }
    world.run_for(5_500);
    assert_eq!(waiting(&world), 2);
    world.modes.insert(at(PBX), Mode::Ring);
    world.reload(&config(3, &menu(plan)));
    world.run();
    assert_eq!((world.in_use(), waiting(&world)), (2, 0), "I3");
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!(world.in_use(), 1);
}

#[test]
fn who_waits_goes_where_its_service_leads_now() {
    let (mut world, first) = full(PLAN);
    let caller = waits(&mut world, "100");
    world.reload(&config(1, &menu(PLAN).replace("target = \"pbx\"", "target = \"voicemail\"")));
    world.hang_up(End::Caller, first);
    world.run();
    assert!(world.callers[caller].up);
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 1));
    // And the plan that follows is the one in force.
    let (mut world, _) = full(PLAN);
    let caller = waits(&mut world, "100");
    world.reload(&config(1, &menu("overflow = [{ wait = 60 }, { reject = 480 }]")));
    world.run_for(61_000);
    assert_eq!((world.final_answer(caller), world.reached(VOICEMAIL, "INVITE")), (480, 0));
}

#[test]
fn nobody_leaves_the_queue_for_a_pbx_that_is_down() {
    let text = config(1, &menu("overflow = [{ wait = 600 }]")).replacen(
        "name = \"pbx\"\nuri",
        "name = \"pbx\"\nprobe_s = 5\nprobe_timeout_ms = 500\ndown_after = 1\nup_after = 1\nuri",
        1,
    );
    let mut world = World::new(&text);
    world.run_for(6_000);
    let first = world.answered("100");
    let callers = [waits(&mut world, "100"), waits(&mut world, "100")];
    world.deaf.push(at(PBX));
    world.run_for(12_000);
    world.hang_up(End::Callee, 0);
    world.run_for(5_000);
    assert_eq!((world.in_use(), waiting(&world), world.callers[first].over), (0, 2, true), "the PBX restarts");
    world.deaf.clear();
    world.run_for(12_000);
    assert!(world.callers[callers[0]].up, "{:?}", world.callers[callers[0]].answers);
    assert_eq!((world.in_use(), waiting(&world)), (1, 1));
}

#[test]
fn a_call_to_another_service_is_no_copy_of_one_that_waits() {
    let mut world = two_services(1, "overflow = [{ wait = 60 }]", "limit = 1\noverflow = [{ reject = 480 }]", "");
    world.answered("100");
    world.invite_as(CALLER, "100", "same", "same-tag", 1, "");
    world.run();
    let other = world.invite_as(CALLER, "200", "same", "same-tag", 1, "");
    world.run();
    assert_eq!((waiting(&world), world.final_answer(other)), (1, 480), "its own service says");
}

#[test]
fn who_waited_in_vain_is_not_sent_back_to_a_target_that_failed_before() {
    let (mut world, _) = full("overflow = [{ route = \"voicemail\" }, { wait = 10 }, { reject = 480 }]");
    world.modes.insert(at(VOICEMAIL), Mode::Refuse(503));
    let caller = world.invite("100");
    world.run();
    assert_eq!(waiting(&world), 1);
    world.modes.insert(at(VOICEMAIL), Mode::Answer(0));
    world.run_for(11_000);
    assert_eq!((world.final_answer(caller), world.reached(VOICEMAIL, "INVITE")), (480, 1));
}

#[test]
fn a_channel_that_goes_from_hand_to_hand_is_no_recovery_of_its_pool() {
    let (mut world, mut up) = full(PLAN);
    let callers: Vec<usize> = (0..4).map(|_| waits(&mut world, "100")).collect();
    for next in callers {
        world.hang_up(End::Caller, up);
        world.run();
        assert!(world.callers[next].up);
        up = next;
    }
    assert_eq!(world.event_labels(), ["pool_exhausted"]);
    world.hang_up(End::Caller, up);
    world.run();
    assert_eq!(world.event_labels(), ["pool_exhausted", "pool_recovered"]);
}
