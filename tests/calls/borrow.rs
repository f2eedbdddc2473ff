//! A full pool borrows a channel of another (the overflow plan's first steps).

use crate::world::*;

const TWO_POOLS: &str = r#"
[[pool]]
name = "queues"
channels = 2
[[service]]
name = "sales"
kind = "queue"
numbers = ["200"]
pool = "queues"
target = "pbx"
"#;
const PLAN: &str = "overflow = [{ borrow = \"queues\" }, { route = \"voicemail\" }]";

fn world_with(ivr: u32, menu_keys: &str, more: &str) -> World {
    World::new(&config(ivr, &format!("{}{TWO_POOLS}{more}", menu(menu_keys))))
}

/// In use of `ivr` and `queues`, and lent by each.
fn used(world: &World) -> [(u32, u32); 2] {
    let view = world.view();
    [0, 1].map(|at| (view.pools[at].in_use(), view.pools[at].lent))
}

#[test]
fn a_full_pool_borrows_and_gives_back_where_it_took() {
    let mut world = world_with(1, PLAN, "");
    world.answered("100");
    assert_eq!(used(&world), [(1, 0), (0, 0)]);
    let second = world.answered("100");
    let third = world.answered("100");
    assert_eq!(used(&world), [(1, 0), (2, 2)]);
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (3, 0));
    let invite = world.last_at(PBX, "INVITE ");
    assert!(!invite.contains("History-Info") && !invite.contains("Diversion"), "it goes where it was called: {invite}");
    // Nothing is left anywhere: the next step.
    world.answered("100");
    let refused = world.invite("200");
    world.run();
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.final_answer(refused)), (1, 486));
    world.hang_up(End::Caller, second);
    world.run();
    assert_eq!(used(&world), [(1, 0), (1, 1)]);
    world.answered("200");
    assert_eq!(used(&world), [(1, 0), (2, 1)]);
    // A channel of its own again, before one of another.
    world.hang_up(End::Caller, 0);
    world.run();
    world.answered("100");
    assert_eq!(used(&world), [(1, 0), (2, 1)]);
    world.hang_up(End::Caller, third);
    world.run_for(40_000);
    assert_eq!(used(&world), [(1, 0), (1, 0)]);
    let steps: Vec<_> = world.proxy.counters().overflows().filter(|(.., count)| *count > 0).collect();
    assert_eq!(
        steps.iter().map(|(_, step, count)| (*step, *count)).collect::<Vec<_>>(),
        [("route", 1), ("borrow", 2), ("reject", 1)]
    );
    let service = &world.view().services[0];
    assert_eq!((service.admitted, service.refused), (4, 1), "who borrowed was not refused");
}

#[test]
fn what_the_lender_has_set_aside_for_its_own_is_not_lent() {
    let mut world = world_with(0, PLAN, "reserve = 1\n");
    world.answered("100");
    world.answered("100");
    assert_eq!(used(&world), [(0, 0), (1, 1)]);
    assert_eq!(world.reached(VOICEMAIL, "INVITE"), 1);
    world.answered("200");
    assert_eq!(used(&world), [(0, 0), (2, 1)]);
}

#[test]
fn copies_of_a_call_that_borrowed_count_once() {
    let mut world = world_with(0, PLAN, "");
    world.modes.insert(at(PBX), Mode::Ring);
    for _ in 0..2 {
        world.invite_as(CALLER, "100", "same", "same-tag", 1, "");
    }
    world.run();
    assert_eq!((used(&world), world.view().calls), ([(0, 0), (1, 1)], 1));
}

#[test]
fn a_borrowed_channel_goes_back_when_the_target_fails_and_the_call_goes_on() {
    let mut world = world_with(0, PLAN, "");
    world.modes.insert(at(PBX), Mode::Refuse(503));
    let caller = world.invite("100");
    world.run();
    assert!(world.callers[caller].up);
    assert_eq!((used(&world), world.reached(VOICEMAIL, "INVITE")), ([(0, 0), (0, 0)], 1));
}

#[test]
fn who_replaces_a_call_that_borrowed_gets_its_channel() {
    let mut world = world_with(0, PLAN, "");
    let first = world.answered("100");
    world.answered("200");
    let leg = world.callers[first].clone();
    let tag = super::transfers::tag;
    let second = super::transfers::replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert!(world.callers[second].up, "though no channel is left: {:?}", world.callers[second].answers);
    world.hang_up(End::Callee, 0);
    world.run();
    assert_eq!(used(&world), [(0, 0), (2, 1)]);
    world.hang_up(End::Caller, second);
    world.run();
    assert_eq!(used(&world), [(0, 0), (1, 0)]);
}

#[test]
fn who_can_borrow_nowhere_and_has_no_other_step_hears_486() {
    let mut world = world_with(0, "overflow = [{ borrow = \"queues\" }]", "");
    world.answered("200");
    world.answered("200");
    let caller = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(caller), 486);
    assert!(world.last_at(CALLER, "SIP/2.0 486").contains("Reason: Q.850;cause=34"));
    assert_eq!(world.view().calls, 2);
}

#[test]
fn a_service_that_moves_into_the_pool_it_borrowed_from_stays_counted() {
    let mut world = world_with(0, PLAN, "reserve = 1\n");
    let caller = world.answered("100");
    let moved = config(
        0,
        &format!("{}{TWO_POOLS}reserve = 1\n", menu("reserve = 1").replace("\"ivr\"\ntarget", "\"queues\"\ntarget")),
    );
    world.reload(&moved);
    assert_eq!(world.view().pools[1].set_aside, 2, "its reserve is for calls to come");
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!((used(&world)[1], world.view().pools[1].set_aside), ((0, 0), 2));
    world.answered("100");
    world.answered("200");
    assert_eq!((used(&world)[1], world.view().pools[1].set_aside), ((2, 0), 0));
}
