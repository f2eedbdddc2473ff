//! More calls than the node can serve: what is refused, and what never is.

use std::time::Duration;

use crate::world::*;
use sipweir::alert::EventKind;
use sipweir::pool::Refusal;

fn world() -> World {
    World::new(&config(10_000, &menu("")))
}

/// The shell reports rounds that leave no time, while calls to nobody come in, or rounds that leave all of it.
fn rounds(world: &mut World, ms: u64, is_busy: bool) {
    for _ in 0..ms {
        let began = world.now;
        for _ in 0..if is_busy { 3 } else { 0 } {
            world.invite("999");
        }
        world.run_for(1);
        let began = if is_busy { began } else { world.now };
        world.proxy.end_round(began, world.now, !is_busy);
    }
}

/// A call that may be answered or refused.
fn call(world: &mut World) -> usize {
    let caller = world.invite("100");
    world.run();
    caller
}

fn refused(world: &World) -> u64 {
    world.proxy.counters().refusals().find(|(refusal, _)| *refusal == Refusal::Overload).map_or(0, |(_, count)| count)
}

#[test]
fn an_overloaded_node_refuses_new_calls_with_503_and_a_pause_and_takes_no_channel_for_them() {
    let mut world = world();
    rounds(&mut world, 1_000, true);
    let before = refused(&world);
    let callers: Vec<usize> = (0..100).map(|_| call(&mut world)).collect();
    let of = |status| callers.iter().filter(|caller| world.final_answer(**caller) == status).count();
    assert!(of(503) > 80 && of(503) + of(200) == 100, "{} {}", of(503), of(200));
    assert_eq!(u64::from(world.in_use()), of(200) as u64, "only those let in hold a channel");
    assert_eq!((refused(&world) - before, world.reached(PBX, "INVITE")), (of(503) as u64, of(200)));
    let refusal = callers.iter().find(|caller| world.final_answer(**caller) == 503).expect("some were refused");
    assert!(world.callers[*refusal].last.contains("Retry-After: 1\r\n"), "{}", world.callers[*refusal].last);
}

#[test]
fn calls_in_progress_go_on_and_end_under_overload() {
    let mut world = world();
    let callers: Vec<usize> = (0..20).map(|_| world.answered("100")).collect();
    rounds(&mut world, 1_000, true);
    let before = refused(&world);
    for caller in callers {
        world.hang_up(End::Caller, caller);
    }
    world.run();
    assert_eq!((world.in_use(), refused(&world)), (0, before));
}

#[test]
fn a_copy_of_an_invite_already_taken_is_never_refused() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Ring);
    let callers: Vec<usize> = (0..20).map(|_| world.invite("100")).collect();
    world.run();
    rounds(&mut world, 1_000, true);
    let before = refused(&world);
    for caller in &callers {
        let invite = world.callers[*caller].invite.clone();
        world.raw(CALLER, invite.as_bytes());
    }
    assert_eq!(refused(&world), before);
    assert!(callers.iter().all(|caller| world.final_answer(*caller) == 0));
}

#[test]
fn the_copy_of_a_refused_invite_is_refused_again_and_its_ack_goes_no_further() {
    let mut world = world();
    rounds(&mut world, 1_000, true);
    let callers: Vec<usize> = (0..20).map(|_| call(&mut world)).collect();
    let before = refused(&world);
    let refusals: Vec<usize> = callers.into_iter().filter(|caller| world.final_answer(*caller) == 503).collect();
    for caller in &refusals {
        let invite = world.callers[*caller].invite.clone();
        world.raw(CALLER, invite.as_bytes());
    }
    assert_eq!(refused(&world), before + refusals.len() as u64);
    assert!(world.proxy.counters().dropped(sipweir::metrics::Drop::OwnAck) >= refusals.len() as u64);
    assert_eq!(world.proxy.counters().dropped(sipweir::metrics::Drop::StrayAck), 0);
}

#[test]
fn service_is_full_again_within_a_second_and_the_operators_are_told_of_both() {
    let mut world = world();
    rounds(&mut world, 1_000, true);
    let served = (0..100).filter(|_| {
        let caller = call(&mut world);
        world.final_answer(caller) == 200
    });
    assert!(served.count() < 20);
    rounds(&mut world, 900, false);
    assert!((0..100).all(|_| {
        let caller = call(&mut world);
        world.final_answer(caller) == 200
    }));
    rounds(&mut world, 1_200, false);
    let kinds: Vec<EventKind> = world.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Overload, EventKind::OverloadOver]);
    assert_eq!(world.events[1].refused, refused(&world));
    assert!(Duration::from_millis(world.events[1].lasted_ms) > Duration::from_secs(1));
}

#[test]
fn an_invite_let_in_after_its_copy_was_refused_is_cancelled_when_the_caller_acknowledges_the_refusal() {
    let mut world = world();
    world.modes.insert(at(PBX), Mode::Ring);
    rounds(&mut world, 1_000, true);
    let callers: Vec<usize> = (0..50).map(|_| call(&mut world)).collect();
    let refused = callers.into_iter().find(|caller| world.final_answer(*caller) == 503);
    let caller = refused.expect("some are refused");
    rounds(&mut world, 900, false);
    let tag = world.callers[caller].last.split(";tag=sw").nth(1).expect("our tag")[..16].to_owned();
    let before = world.in_use();
    let invite = world.callers[caller].invite.clone();
    world.raw(CALLER, invite.as_bytes());
    assert_eq!(world.in_use(), before + 1, "the copy was let in");
    let ack = invite.replacen("INVITE ", "ACK ", 1).replace(" INVITE\r\n", " ACK\r\n");
    let to = ack.split("\r\n").find(|line| line.starts_with("To: ")).expect("a To").to_owned();
    world.raw(CALLER, ack.replace(&to, &format!("{to};tag=sw{tag}")).as_bytes());
    assert_eq!((world.reached(PBX, "CANCEL"), world.in_use()), (1, before));
}

#[test]
fn an_overloaded_node_takes_every_emergency() {
    let sos = "[[service]]\nname = \"sos\"\nkind = \"ivr\"\nnumbers = [\"112\"]\npool = \"ivr\"\ntarget = \"pbx\"\nemergency = true\n";
    let mut world = World::new(&config(10_000, &format!("{}{sos}", menu(""))));
    rounds(&mut world, 1_000, true);
    let before = refused(&world);
    for _ in 0..100 {
        world.answered("112");
    }
    assert_eq!(refused(&world), before);
}
