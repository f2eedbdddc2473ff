//! Emergency calls: no rung of the ladder refuses them.

use super::licences::{ivr, licensed, standing};
use crate::world::*;

const SOS: &str = "[[service]]\nname = \"emergency\"\nkind = \"ivr\"\nnumbers = [\"112\", \"urn:service:sos\", \"urn:service:sos.*\"]\n\
                   pool = \"ivr\"\ntarget = \"pbx\"\noverflow = [{ wait = 60 }, { reject = 486 }]\n";

fn text(channels: u32, trunk: &str, menu_keys: &str) -> String {
    config(channels, &format!("{}{SOS}", menu(menu_keys))).replacen(
        "[[trunk]]\nname = \"carrier\"\n",
        &format!("[[trunk]]\nname = \"carrier\"\n{trunk}\n"),
        1,
    )
}

/// A call to any Request-URI.
fn call_uri(world: &mut World, uri: &str, id: &str, lines: &str) {
    let invite = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};rport;branch=z9hG4bK-{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@h>;tag={id}\r\nTo: <{uri}>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:a@{CALLER}>\r\n{lines}Content-Length: 0\r\n\r\n"
    );
    world.raw(CALLER, invite.as_bytes());
}

fn beyond(world: &World) -> (u64, u64) {
    let service =
        world.view().services.iter().find(|service| &*service.name == "emergency").cloned().expect("configured");
    (service.emergencies, service.beyond)
}

#[test]
fn a_full_pool_takes_an_emergency_and_nobody_else_until_the_calls_fit_again() {
    let mut world = World::new(&text(1, "", ""));
    let first = world.answered("100");
    let emergency = world.answered("112");
    assert_eq!((world.in_use(), beyond(&world)), (2, (1, 1)), "one of one channels is two");
    let told =
        world.events.iter().find(|event| event.kind.label() == "emergency_call").expect("it is told").to_string();
    assert!(
        told.contains("emergency call to emergency from trunk carrier, though the pool has no free channel"),
        "{told}"
    );
    assert_eq!(world.slots.list(9, |slot| slot.emergency).len(), 1);
    world.hang_up(End::Caller, first);
    world.run();
    let refused = world.invite("100");
    world.run();
    assert_eq!((world.final_answer(refused), world.in_use()), (486, 1), "the emergency has the channel");
    world.hang_up(End::Caller, emergency);
    world.run();
    world.answered("100");
    assert_eq!(world.in_use(), 1);
    (0..20).for_each(|_| world.tick());
    assert!(!world.event_labels().contains(&"count_drift"));
}

#[test]
fn no_limit_of_trunk_service_node_or_rate_refuses_an_emergency() {
    let limits = "[limits]\ncalls = 1\n";
    let mut world =
        World::new(&(text(1, "max_calls = 1\nrate = 1\nburst = 1\nsource_rate = 1\nsource_burst = 1", "") + limits));
    world.answered("100");
    for _ in 0..5 {
        world.answered("112");
    }
    let refused = world.invite("100");
    world.run();
    assert_ne!(world.final_answer(refused), 200);
    assert_eq!((world.in_use(), world.view().calls, beyond(&world)), (6, 6, (5, 5)));
}

#[test]
fn a_service_without_a_licence_takes_emergencies() {
    let sos = licensed("").replace("name = \"menu\"\n", "name = \"menu\"\nemergency = true\n");
    let mut world = World::new(&sos);
    world.license(standing(&[ivr()], 400));
    world.answered("100");
    assert_eq!((world.in_use(), world.view().services[0].beyond), (1, 1));
    let refused = world.invite("200");
    world.run();
    assert_eq!(world.final_answer(refused), 486);
}

#[test]
fn a_urn_is_a_number_and_the_pbx_is_asked_by_one_it_knows() {
    let mut world = World::new(&text(0, "", ""));
    for (at, urn) in ["urn:service:sos", "URN:service:SOS", "urn:service:sos.fire"].into_iter().enumerate() {
        call_uri(&mut world, urn, &format!("sos-{at}"), "");
        assert!(world.last_at(PBX, "INVITE ").starts_with(&format!("INVITE sip:112@{PBX} ")), "{urn}");
        assert_eq!(world.in_use() as usize, at + 1);
    }
    for wrong in ["urn:service:counseling", "urn:service:sosx", "urn:isbn:1"] {
        call_uri(&mut world, wrong, wrong, "");
        assert!(!world.last_at(CALLER, "SIP/2.0 416").is_empty(), "{wrong}");
        assert_eq!(world.in_use(), 3);
    }
}

#[test]
fn a_trusted_trunk_says_what_else_is_an_emergency_and_others_do_not() {
    let emergency = "[emergency]\nresource_priority = [\"ets.0\", \"ESNET.1\"]\n";
    let lines = [
        "Priority: psap-callback\r\n",
        "Resource-Priority: dsn.flash, ETS.0\r\n",
        "Resource-Priority: q735.3\r\nResource-Priority: esnet.1\r\n",
    ];
    let mut world = World::new(&(text(0, "trusted = true", "") + emergency));
    for line in lines {
        let caller = world.invite_with("100", line);
        world.run();
        assert_eq!(world.final_answer(caller), 200, "{line}");
    }
    for line in ["Priority: emergency\r\n", "Resource-Priority: ets.1\r\n", "Resource-Priority: ,\r\n"] {
        let caller = world.invite_with("100", line);
        world.run();
        assert_eq!(world.final_answer(caller), 486, "{line}");
    }
    let mut world = World::new(&(text(0, "", "") + emergency));
    for line in lines {
        let caller = world.invite_with("100", line);
        world.run();
        assert_eq!(world.final_answer(caller), 486, "{line}: anybody can write that");
    }
}

#[test]
fn many_emergencies_make_one_event_a_second_and_none_is_lost_to_the_count() {
    let mut world = World::new(&text(0, "", ""));
    for _ in 0..50 {
        world.invite("112");
    }
    world.run_for(1_500);
    world.answered("112");
    let told: Vec<_> = world.events.iter().filter(|event| event.kind.label() == "emergency_call").collect();
    assert_eq!(told.iter().map(|event| event.refused).collect::<Vec<_>>(), [0, 49]);
    assert_eq!(beyond(&world), (51, 51));
}

#[test]
fn an_emergency_whose_target_fails_takes_the_plan() {
    let sos = SOS.replace("{ reject = 486 }", "{ route = \"voicemail\" }");
    let mut world = World::new(&text(0, "", "").replace(SOS, &sos));
    world.modes.insert(at(PBX), Mode::Refuse(503));
    world.answered("112");
    assert_eq!((world.reached(VOICEMAIL, "INVITE"), world.in_use()), (1, 0));
}

#[test]
fn a_stranger_makes_no_emergency_call() {
    let mut world = World::new(&text(0, "", ""));
    let caller = world.invite_as("203.0.113.9:5060", "112", "stranger", "stranger", 1, "");
    world.run();
    assert_eq!(world.final_answer(caller), 403);
}

#[test]
fn a_urn_that_goes_to_another_target_leaves_a_history_that_can_be_read() {
    let sos = SOS.replace("{ reject = 486 }", "{ route = \"voicemail\" }");
    let mut world = World::new(&text(0, "", "").replace(SOS, &sos));
    world.modes.insert(at(PBX), Mode::Refuse(503));
    call_uri(&mut world, "urn:service:sos", "sos", "");
    let invite = world.last_at(VOICEMAIL, "INVITE ");
    let history: Vec<&str> = invite.lines().filter_map(|line| line.strip_prefix("History-Info: ")).collect();
    assert_eq!(history[0], format!("<sip:sos@{GATE}?Reason=Q.850%3Bcause%3D27>;index=1"));
    assert!(history[1].starts_with(&format!("<sip:112@{VOICEMAIL}>")), "{history:?}");
}
