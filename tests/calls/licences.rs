//! What licences do to calls: the capacity they give, and what becomes of calls without one.

use sipweir::licence::{Entitlement, EntitlementKind, Kind, Licence, Standing, Terms, Wall};

use crate::world::*;

const TOKEN: &str = "SW-HERE";
/// The day of the installation.
const DAY_0: Wall = Wall(20_000 * 86_400);

pub(super) fn licensed(keys: &str) -> String {
    let pool = "licence = \"advanced-queueing\"\ntrial_channels = 2";
    let node = "[node]\ndata_dir = \"/nowhere\"\n[[licence.issuer]]\nname = \"vendor\"\n\
                key = \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"\n";
    let queue =
        "[[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"ivr\"\ntarget = \"pbx\"\n";
    format!("{node}{}{queue}", config(0, &menu(keys)).replace("channels = 0", pool))
}

fn licence(code: &str, entitlements: Vec<Entitlement>) -> Licence {
    Licence {
        code: code.into(),
        issuer: "vendor".into(),
        customer: "customer".into(),
        kind: Kind::Permanent,
        issued: DAY_0,
        not_before: None,
        expires: None,
        server: None,
        entitlements,
        replaces: Vec::new(),
        revokes: Vec::new(),
    }
}

pub(super) fn channels(code: &str, number: u32) -> Licence {
    licence(code, vec![Entitlement::new(EntitlementKind::Capacity, "advanced-queueing", Some(number))])
}

pub(super) fn ivr() -> Licence {
    licence("IVR", vec![Entitlement::new(EntitlementKind::Feature, "ivr", None)])
}

pub(super) fn standing(licences: &[Licence], day: i64) -> Standing {
    let terms = Terms {
        licences,
        token: TOKEN,
        standby: false,
        grace_days: 0,
        platform: None,
        installed: DAY_0,
        trial_days: 30,
    };
    Standing::at(&terms, DAY_0.plus_days(day))
}

#[test]
fn licences_say_how_many_calls_fit_and_the_surplus_takes_the_plan() {
    let mut world = World::new(&licensed("overflow = [{ route = \"voicemail\" }]"));
    world.license(standing(&[channels("A", 1), ivr()], 40));
    world.answered("100");
    world.answered("100");
    assert_eq!((world.in_use(), world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (1, 1, 1));
    assert_eq!(world.view().pools[0].capacity, 1);
}

#[test]
fn another_licence_gives_room_at_once_without_touching_calls() {
    let mut world = World::new(&licensed(""));
    world.license(standing(&[channels("A", 1), ivr()], 40));
    let first = world.answered("100");
    let refused = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(refused), 486);
    world.license(standing(&[channels("A", 1), channels("B", 1), ivr()], 40));
    world.answered("100");
    assert_eq!((world.in_use(), world.view().pools[0].capacity), (2, 2));
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!(world.in_use(), 1);
}

#[test]
fn a_licence_below_the_calls_in_progress_lets_nobody_in_until_they_fit() {
    let mut world = World::new(&licensed(""));
    world.license(standing(&[channels("A", 2), ivr()], 40));
    let calls = [world.answered("100"), world.answered("100")];
    world.license(standing(&[channels("B", 1), ivr()], 40));
    assert_eq!((world.in_use(), world.view().pools[0].capacity), (2, 1));
    for (at, call) in calls.into_iter().enumerate() {
        let refused = world.invite("100");
        world.run();
        assert_eq!(world.final_answer(refused), 486, "with {} calls left", 2 - at);
        world.hang_up(End::Caller, call);
        world.run();
    }
    world.answered("100");
    assert_eq!(world.in_use(), 1);
}

#[test]
fn the_trial_ends_in_the_middle_of_a_call_and_the_next_call_is_refused_while_the_first_goes_on() {
    let mut world = World::new(&licensed("unlicensed = [{ route = \"voicemail\" }]\noverflow = [{ reject = 600 }]"));
    world.license(standing(&[], 29));
    assert_eq!(world.view().pools[0].capacity, 2, "the trial's channels are those of the configuration");
    let first = world.answered("100");
    world.license(standing(&[], 30));
    assert_eq!(world.in_use(), 1, "calls in progress are never cut");
    world.answered("100");
    assert_eq!((world.reached(PBX, "INVITE"), world.reached(VOICEMAIL, "INVITE")), (1, 1));
    let seen = world.last_at(VOICEMAIL, "INVITE");
    assert!(seen.contains(";reason=unavailable;counter=1\r\n"), "{seen}");
    world.request(End::Caller, first, "INVITE");
    world.run();
    assert_eq!(world.reached(PBX, "INVITE"), 2, "a re-INVITE meets no ladder");
    world.hang_up(End::Caller, first);
    world.run();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn without_an_unlicensed_plan_the_overflow_plan_is_taken_and_says_why() {
    let mut world = World::new(&licensed(""));
    world.license(standing(&[], 31));
    let caller = world.invite("100");
    world.run();
    let seen = world.callers[caller].last.clone();
    assert!(seen.starts_with("SIP/2.0 486 ") && seen.contains("Reason: Q.850;cause=50\r\n"), "{seen}");
    assert_eq!(world.view().services[0].lacks.as_deref(), Some("no capacity licence (advanced-queueing)"));
}

#[test]
fn without_the_ivr_feature_the_queue_goes_on_and_the_ivr_does_not() {
    let mut world = World::new(&licensed(""));
    world.license(standing(&[channels("A", 5)], 31));
    let caller = world.invite("100");
    world.run();
    assert_eq!(world.final_answer(caller), 486);
    world.answered("200");
    let lacks: Vec<Option<Box<str>>> = world.view().services.into_iter().map(|service| service.lacks).collect();
    assert_eq!(lacks, [Some("no feature licence (ivr)".into()), None]);
}

#[test]
fn a_million_unlicensed_calls_make_one_event_and_the_licence_says_how_many_there_were() {
    let mut world = World::new(&licensed(""));
    world.license(standing(&[], 31));
    for _ in 0..1000 {
        world.invite("100");
        world.run();
    }
    assert_eq!(world.event_labels(), ["service_unlicensed"]);
    world.license(standing(&[channels("A", 5), ivr()], 31));
    assert_eq!(world.event_labels(), ["service_unlicensed", "service_licensed"]);
    assert_eq!(world.events[1].refused, 1000);
    world.answered("100");
    assert_eq!(world.events.len(), 2);
}

#[test]
fn a_full_pool_that_is_taken_away_is_no_longer_said_to_be_full() {
    let mut world = World::new(&config(1, &menu("")));
    world.answered("100");
    assert_eq!(world.event_labels(), ["pool_exhausted"]);
    world.reload(
        &config(1, &menu("")).replace("\"ivr\"\n", "\"other\"\n").replace("kind = \"other\"", "kind = \"ivr\""),
    );
    assert_eq!(world.event_labels(), ["pool_exhausted", "pool_recovered"]);
    assert_eq!(world.view().pools[0].condition, "normal");
    let mut world = World::new(&licensed(""));
    world.license(standing(&[channels("A", 1), ivr()], 40));
    world.answered("100");
    world.license(standing(&[], 40));
    assert_eq!(world.event_labels(), ["pool_exhausted", "pool_recovered"]);
}

#[test]
fn a_reload_keeps_what_licences_allow() {
    let mut world = World::new(&licensed(""));
    world.license(standing(&[channels("A", 1), ivr()], 31));
    world.answered("100");
    world.reload(&licensed("overflow = [{ route = \"voicemail\" }]"));
    world.answered("100");
    assert_eq!((world.in_use(), world.reached(VOICEMAIL, "INVITE")), (1, 1));
    world.reload(&config(3, &menu("")));
    world.answered("100");
    assert_eq!((world.in_use(), world.view().pools[0].capacity), (2, 3));
}
