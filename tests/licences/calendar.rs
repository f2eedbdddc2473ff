//! Stacking, terms, dependencies, trial, and what the operators hear.

use proptest::prelude::*;
use sipweir::alert::EventKind;
use sipweir::licence::plan::{Lack, WantedPool, WantedService};
use sipweir::licence::{Entitlement, EntitlementKind, Licence, Standing, Terms, Wanted, Watch};
use sipweir::time::Instant;

use super::*;

#[test]
fn licences_in_force_add_up_day_by_day() {
    let licences = [
        licence("BASE", vec![channels(20)]),
        between(50, 80, licence("DECEMBER", vec![channels(20)])),
        between(60, 70, licence("FAIR", vec![channels(5)])),
    ];
    let days = [0, 49, 50, 59, 60, 69, 70, 79, 80, 10_000];
    assert_eq!(days.map(|day| in_force(&licences, day)), [20, 20, 40, 40, 45, 45, 40, 40, 20, 20]);
    let seen = on(&licences, 65);
    assert_eq!(states(&seen), [("BASE", "in force"), ("DECEMBER", "in force"), ("FAIR", "in force")]);
    assert_eq!(states(&on(&licences, 75))[2], ("FAIR", "expired"));
    assert_eq!(states(&on(&licences, 10))[1], ("DECEMBER", "not yet"));
    assert_eq!(seen.next, Some(day(66)), "four days before FAIR ends is no warning, and DECEMBER warns 14 days before");
}

#[test]
fn channels_above_the_platform_do_not_work_and_are_shown_as_such() {
    let licences = [licence("A", vec![channels(20)]), licence("B", vec![channels(20)])];
    let standing = Standing::at(&Terms { platform: Some(32), ..terms(&licences) }, day(40));
    assert_eq!(standing.channels[QUEUE], 32);
    let shown: Vec<(u32, u32)> = standing.rows.iter().map(|row| (row.working, row.quantity)).collect();
    assert_eq!(shown, [(20, 20), (12, 20)]);
}

#[test]
fn a_feature_needs_its_capacity_on_the_same_server() {
    let needs = |products: &[&str]| Entitlement {
        requires: products.iter().map(|product| (*product).to_owned()).collect(),
        ..feature("ivr")
    };
    let alone = [licence("IVR", vec![needs(&[QUEUE])])];
    let standing = on(&alone, 40);
    assert!(!standing.features.contains("ivr"));
    assert_eq!(standing.rows[0].state.why(), "needs a capacity licence for advanced-queueing on this server");
    let elsewhere = Licence { server: Some("SW-THERE".into()), ..licence("Q", vec![channels(2)]) };
    assert!(!on(&[alone[0].clone(), elsewhere], 40).features.contains("ivr"));
    let both = [alone[0].clone(), between(0, 50, licence("Q", vec![channels(2)]))];
    assert!(on(&both, 49).features.contains("ivr"));
    assert!(!on(&both, 50).features.contains("ivr"), "with the capacity the feature ends");
    let circle = [licence("X", vec![Entitlement { requires: vec![QUEUE.into()], ..channels(5) }])];
    assert_eq!(in_force(&circle, 40), 0, "nothing meets its own needs");
}

#[test]
fn redundancy_licences_count_on_a_standby_node_only() {
    let spare = Entitlement { redundancy: true, ..channels(20) };
    let licences = [licence("RED", vec![spare])];
    assert_eq!((in_force(&licences, 1), states(&on(&licences, 1))), (0, vec![("RED", "standby only")]));
    let standby = Standing::at(&Terms { standby: true, ..terms(&licences) }, day(1));
    assert_eq!(standby.channels[QUEUE], 20);
}

#[test]
fn a_suite_stands_for_its_parts_as_often_as_it_is_there() {
    let suite = Entitlement {
        includes: vec![channels(10), feature("ivr"), Entitlement::new(EntitlementKind::Count, "service", Some(3))],
        ..Entitlement::new(EntitlementKind::Suite, "contact-centre", Some(2))
    };
    let standing = on(&[licence("S", vec![suite])], 40);
    assert_eq!((standing.channels[QUEUE], standing.counts["service"]), (20, 6));
    assert!(standing.features.contains("ivr"));
    let products: Vec<&str> = standing.rows.iter().map(|row| row.product.as_str()).collect();
    assert_eq!(products, [QUEUE, "ivr", "service"]);
}

#[test]
fn an_expired_licence_counts_through_its_grace_and_no_longer() {
    let licences = [between(0, 50, licence("A", vec![channels(20)]))];
    let with_grace = Terms { grace_days: 10, ..terms(&licences) };
    let days = [49, 50, 59, 60];
    assert_eq!(days.map(|at| Standing::at(&with_grace, day(at)).has_capacity(QUEUE)), [true, true, true, false]);
    assert_eq!(states(&Standing::at(&with_grace, day(55))), [("A", "grace")]);
}

#[test]
fn a_licence_that_replaces_or_revokes_acts_from_its_first_day_and_only_on_its_issuers() {
    let bought = licence("OLD", vec![channels(20)]);
    let smaller = Licence { replaces: vec!["OLD".into()], ..licence("NEW", vec![channels(8)]) };
    let later = Licence { not_before: Some(day(60)), ..smaller.clone() };
    assert_eq!([59, 60].map(|day| in_force(&[bought.clone(), later.clone()], day)), [20, 8]);
    let foreign = Licence { issuer: "somebody".into(), ..smaller };
    assert_eq!(in_force(&[bought.clone(), foreign], 60), 28);
    let revoked = Licence { revokes: vec!["OLD".into()], ..licence("R", Vec::new()) };
    assert_eq!(states(&on(&[bought, revoked], 1)), [("OLD", "revoked")]);
}

#[test]
fn the_trial_period_is_thirty_days_of_everything_with_the_configurations_channels() {
    let wanted = wanted(None);
    for (days, channels, lacks) in [(0, 7, None), (29, 7, None), (30, 0, Some(Lack::Capacity))] {
        let standing = on(&[], days);
        assert_eq!(Wanted::channels(&wanted.pools[0], &standing), channels, "day {days}");
        assert_eq!(wanted.lacks(&standing)[0], lacks, "day {days}");
    }
    let bought = [licence("A", vec![channels(20)])];
    assert_eq!(Wanted::channels(&wanted.pools[0], &on(&bought, 5)), 20, "what was bought counts from the first day");
    assert_eq!(wanted.lacks(&on(&bought, 5)), [None, None], "and the trial of the feature goes on");
    assert_eq!(wanted.lacks(&on(&bought, 31)), [Some(Lack::Feature), None]);
}

#[test]
fn more_services_than_licensed_are_unlicensed_in_the_order_of_the_configuration() {
    let wanted = wanted(Some("queue-service"));
    let with = |number| {
        let count = Entitlement::new(EntitlementKind::Count, "queue-service", Some(number));
        wanted.lacks(&on(&[licence("A", vec![channels(9), feature("ivr"), count])], 40))
    };
    assert_eq!(with(2), [None, None]);
    assert_eq!(with(1), [None, Some(Lack::Count)]);
}

/// A pool of 7 trial channels, an IVR service and a queue.
fn wanted(counted: Option<&str>) -> Wanted {
    let service = |name: &str, feature: Option<&str>| WantedService {
        name: name.into(),
        capacity: Some(QUEUE.into()),
        reserve: 3,
        feature: feature.map(Into::into),
        counted: counted.map(Into::into),
    };
    Wanted {
        pools: vec![WantedPool { name: "p".into(), product: QUEUE.into(), trial_channels: 7 }],
        services: vec![service("menu", Some("ivr")), service("sales", None)],
    }
}

/// What the operators hear on each day, a look an hour.
fn heard(licences: &[Licence], grace_days: u32, days: std::ops::Range<i64>) -> Vec<(i64, EventKind, String)> {
    let (mut watch, wanted) = (Watch::default(), wanted(None));
    let mut heard = Vec::new();
    for hour in days.start * 24..days.end * 24 {
        let at = Wall(DAY_0.0 + hour * 3600);
        let standing = Standing::at(&Terms { grace_days, ..terms(licences) }, at);
        let events = watch.look(Instant::ZERO, &standing, &wanted);
        heard.extend(events.into_iter().map(|event| (hour / 24, event.kind, event.subject.into_string())));
    }
    heard
}

#[test]
fn the_end_of_the_trial_is_told_of_in_good_time_and_then_what_is_missing() {
    use EventKind::{LicenceExpired, LicenceExpiring, LicenceMissing};
    let said = heard(&[], 0, 0..60);
    let trial = |day, kind| (day, kind, "trial period".to_owned());
    assert_eq!(
        said,
        [
            trial(16, LicenceExpiring),
            trial(23, LicenceExpiring),
            trial(29, LicenceExpiring),
            trial(30, LicenceExpired),
            (30, LicenceMissing, QUEUE.into()),
            (30, LicenceMissing, "ivr".into()),
        ]
    );
}

#[test]
fn a_subscription_warns_four_times_ends_once_and_is_missed_until_renewed() {
    use EventKind::{LicenceExpired, LicenceExpiring, LicenceInForce, LicenceMissing};
    let licences = [
        between(0, 100, licence("YEAR-1", vec![channels(20)])),
        licence("IVR", vec![feature("ivr")]),
        between(110, 500, licence("YEAR-2", vec![channels(20)])),
    ];
    let said = heard(&licences, 0, 40..130);
    let about = |day, kind, subject: &str| (day, kind, subject.to_owned());
    assert_eq!(
        said,
        [
            about(70, LicenceExpiring, "YEAR-1"),
            about(86, LicenceExpiring, "YEAR-1"),
            about(93, LicenceExpiring, "YEAR-1"),
            about(99, LicenceExpiring, "YEAR-1"),
            about(100, LicenceExpired, "YEAR-1"),
            about(100, LicenceMissing, QUEUE),
            about(110, LicenceInForce, QUEUE),
        ]
    );
}

#[test]
fn in_grace_the_operators_are_told_every_day() {
    let licences = [between(0, 100, licence("A", vec![channels(20), feature("ivr")]))];
    let said = heard(&licences, 3, 99..110);
    let days: Vec<(i64, EventKind)> = said.iter().map(|(day, kind, _)| (*day, *kind)).collect();
    use EventKind::{LicenceExpired, LicenceExpiring, LicenceMissing};
    assert_eq!(
        days,
        [
            (99, LicenceExpiring),
            (100, LicenceExpired),
            (101, LicenceExpired),
            (102, LicenceExpired),
            (103, LicenceExpired),
            (103, LicenceMissing),
            (103, LicenceMissing),
        ]
    );
}

fn any_licence() -> impl Strategy<Value = Licence> {
    (0..12u32, 0..100i64, 1..60i64, 1..50u32, 0..4u8, proptest::option::of(0..12u32)).prop_map(
        |(code, from, length, number, special, replaces)| {
            let line = Entitlement { redundancy: special == 1, ..channels(number) };
            let one = between(from, from + length, licence(&format!("L{code}"), vec![line]));
            Licence {
                server: (special == 2).then(|| "SW-THERE".into()),
                replaces: replaces
                    .filter(|other| special == 3 && *other != code)
                    .map(|o| format!("L{o}"))
                    .into_iter()
                    .collect(),
                ..one
            }
        },
    )
}

proptest! {
    /// What counts is the sum of what is shown as working, never more than the platform, and nothing counts out of its
    /// term, on another server, or on the wrong node.
    #[test]
    fn what_is_shown_is_what_counts(
        licences in proptest::collection::vec(any_licence(), 0..20),
        at in 0..200i64,
        platform in proptest::option::of(1..100u32),
    ) {
        let standing = Standing::at(&Terms { platform, ..terms(&licences) }, day(at));
        let working: u32 = standing.rows.iter().map(|row| row.working).sum();
        prop_assert_eq!(standing.channels.get(QUEUE).copied().unwrap_or(0), working);
        prop_assert!(platform.is_none_or(|most| working <= most));
        for (row, licence) in standing.rows.iter().zip(&licences) {
            let in_term = licence.start() <= day(at) && licence.expires.is_none_or(|end| day(at) < end);
            let is_ours = licence.server.is_none() && !licence.entitlements[0].redundancy;
            prop_assert!(row.working == 0 || (in_term && is_ours));
            prop_assert_eq!(row.working > 0 || platform.is_some(), row.state.counts() || platform.is_some());
        }
    }

    /// Between two moments named by `next` nothing changes, so a node may sleep from one to the other.
    #[test]
    fn nothing_changes_before_the_moment_that_is_named(
        licences in proptest::collection::vec(any_licence(), 0..8),
        at in 0..200i64,
        grace_days in 0..5u32,
    ) {
        let terms = Terms { grace_days, ..terms(&licences) };
        let now = Standing::at(&terms, day(at));
        let until = now.next.unwrap_or_else(|| day(at + 400));
        for moment in [until.0 - 1, (day(at).0 + until.0) / 2] {
            let then = Standing::at(&terms, Wall(moment));
            prop_assert_eq!((&then.rows, &then.channels, then.trial_until), (&now.rows, &now.channels, now.trial_until));
        }
    }

    /// Licences that neither replace nor revoke add up whatever their order.
    #[test]
    fn order_does_not_matter(mut licences in proptest::collection::vec(any_licence(), 0..20), at in 0..200i64) {
        let before = in_force(&licences, at);
        licences.reverse();
        prop_assert_eq!(in_force(&licences, at), before);
    }
}
