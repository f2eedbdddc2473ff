//! New calls a second: of a source, a trunk, to a service.

use crate::world::*;

fn world_with(trunk: &str, service: &str) -> World {
    let text = config(500, &menu(service)).replacen(
        "[[trunk]]\nname = \"carrier\"\n",
        &format!("[[trunk]]\nname = \"carrier\"\n{trunk}\n"),
        1,
    );
    World::new(&text)
}

/// So many calls at once; how many of them were answered, and what the others heard.
fn burst(world: &mut World, from: &str, number: &str, calls: usize) -> (usize, Vec<u16>) {
    let callers: Vec<usize> = (0..calls)
        .map(|_| {
            let name = format!("{}-{}", world.callers.len(), world.random.next());
            world.invite_as(from, number, &name, &name, 1, "")
        })
        .collect();
    world.run_for(200);
    let finals: Vec<u16> = callers.iter().map(|caller| world.final_answer(*caller)).collect();
    let answered = finals.iter().filter(|status| **status == 200).count();
    let mut others: Vec<u16> = finals.into_iter().filter(|status| *status != 200).collect();
    others.dedup();
    (answered, others)
}

fn refused(world: &World, label: &str) -> u64 {
    world.proxy.counters().refusals().find(|(refusal, _)| refusal.label() == label).map_or(0, |(_, count)| count)
}

#[test]
fn a_trunk_may_call_so_fast_and_no_faster() {
    let mut world = world_with("rate = 10\nburst = 20", "");
    assert_eq!(burst(&mut world, CALLER, "100", 30), (20, vec![480]));
    assert!(world.last_at(CALLER, "SIP/2.0 480").contains("Reason: Q.850;cause=42"));
    assert_eq!((refused(&world, "trunk_rate"), world.in_use()), (10, 20));
    world.run_for(1_000);
    assert_eq!(burst(&mut world, CALLER, "100", 30).0, 12, "1.2 s later");
    // What goes on within calls is nobody's new call.
    world.request(End::Caller, 0, "INVITE");
    world.hang_up(End::Caller, 1);
    world.run();
    assert!(world.callers[1].over && world.reached(PBX, "BYE") == 1);
}

#[test]
fn it_is_told_once_and_once_when_it_is_over() {
    let mut world = world_with("rate = 5", "");
    burst(&mut world, CALLER, "100", 30);
    world.run_for(3_000);
    burst(&mut world, CALLER, "100", 30);
    assert_eq!(world.event_labels(), ["rate_limit"]);
    assert_eq!(world.events[0].to_string(), "trunk carrier: calls come faster than 5 a second");
    for _ in 0..12 {
        world.run_for(1_000);
        world.tick();
    }
    assert_eq!(world.event_labels(), ["rate_limit", "rate_limit_over"]);
    assert_eq!(world.events[1].refused, refused(&world, "trunk_rate"));
}

#[test]
fn a_source_that_calls_too_fast_takes_nothing_from_the_others() {
    let mut world = world_with("source_rate = 1\nsource_burst = 3\nrate = 50", "");
    let other = "198.51.100.8:5060";
    assert_eq!(burst(&mut world, CALLER, "100", 10), (3, vec![480]));
    assert_eq!(burst(&mut world, other, "100", 2).0, 2);
    assert_eq!((refused(&world, "source_rate"), refused(&world, "trunk_rate")), (7, 0));
}

#[test]
fn a_service_that_is_called_too_fast_takes_its_plan_and_the_others_do_not() {
    let sales =
        "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\n";
    let mut world =
        world_with("", &format!("rate = 2\noverflow = [{{ wait = 60 }}, {{ route = \"voicemail\" }}]\n{sales}"));
    assert_eq!(burst(&mut world, CALLER, "100", 10).0, 10);
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (2, 8), "nobody waits for that");
    assert_eq!((world.in_use(), refused(&world, "service_rate")), (2, 8));
    assert_eq!(burst(&mut world, CALLER, "200", 5).0, 5);
    assert_eq!(world.view().services[0].refused, 8);
}

#[test]
fn who_is_refused_by_the_service_is_not_counted_in_the_trunk() {
    let mut world = world_with("rate = 4", "rate = 1\nburst = 2");
    assert_eq!(burst(&mut world, CALLER, "100", 20), (2, vec![486]));
    assert_eq!((refused(&world, "trunk_rate"), refused(&world, "service_rate")), (0, 18), "all or none");
}

#[test]
fn once_too_fast_a_trunk_comes_in_again_when_enough_of_its_burst_is_free() {
    let mut world = world_with("rate = 10\nburst = 10\nresume_percent = 80", "");
    assert_eq!(burst(&mut world, CALLER, "100", 12).0, 10);
    world.run_for(300);
    assert_eq!(burst(&mut world, CALLER, "100", 5).0, 0, "half of it is free");
    world.run_for(400);
    assert_eq!(burst(&mut world, CALLER, "100", 5).0, 5);
}

#[test]
fn copies_of_a_call_and_what_is_sent_again_count_once() {
    let mut world = world_with("rate = 1\nburst = 2", "");
    world.modes.insert(at(PBX), Mode::Ring);
    for _ in 0..5 {
        world.invite_as(CALLER, "100", "same", "same-tag", 1, "");
    }
    world.run_for(100);
    assert_eq!((refused(&world, "trunk_rate"), world.in_use()), (0, 1));
    assert_eq!(burst(&mut world, CALLER, "100", 2).1, [0, 480]);
}

#[test]
fn a_trunk_that_relays_is_held_to_its_rate_too() {
    let mut world = world_with("rate = 1\nburst = 1\nrelay = true", "");
    let mut statuses = Vec::new();
    for at in 0..2 {
        let name = format!("relayed-{at}");
        let caller = world.invite_as(CALLER, "100", &name, &name, 1, &format!("Route: <sip:{VOICEMAIL};lr>\r\n"));
        world.run();
        statuses.push(world.final_answer(caller));
    }
    assert_eq!(statuses, [200, 480]);
}

#[test]
fn a_new_configuration_changes_the_rate_at_once() {
    let mut world = world_with("rate = 1\nburst = 1", "");
    assert_eq!(burst(&mut world, CALLER, "100", 5).0, 1);
    world.reload(&config(500, &menu("")));
    assert_eq!(burst(&mut world, CALLER, "100", 5).0, 5);
}

#[test]
fn a_burst_that_is_made_smaller_is_not_paid_for_longer_than_it_lasts() {
    let mut world = world_with("rate = 1\nburst = 300", "");
    assert_eq!(burst(&mut world, CALLER, "100", 300).0, 300);
    world.reload(&config(500, &menu("")).replacen(
        "name = \"carrier\"\n",
        "name = \"carrier\"\nrate = 50\nburst = 50\n",
        1,
    ));
    burst(&mut world, CALLER, "100", 1);
    world.run_for(1_000);
    assert_eq!(burst(&mut world, CALLER, "100", 20).0, 20, "not after 300 s");
}

#[test]
fn who_replaces_a_call_too_fast_inherits_nothing() {
    let mut world = World::new(&config(1, &menu("rate = 1\nburst = 1\noverflow = [{ route = \"voicemail\" }]")));
    let first = world.answered("100");
    let leg = world.callers[first].clone();
    let tag = super::transfers::tag;
    let second = super::transfers::replacing(&mut world, &leg.call_id, tag(&leg.remote), tag(&leg.local));
    assert_eq!((world.callers[second].up, world.reached(VOICEMAIL, "INVITE")), (true, 1));
    world.run_for(100_000);
    assert_eq!((world.callers[first].over, world.in_use()), (false, 1), "who was to be replaced talks on");
}
