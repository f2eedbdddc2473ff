//! The folder: install, remove, refuse, remember.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use sipweir::config::Config;
use sipweir::licence::{Entitlement, EntitlementKind, Kind};
use sipweir::vault::{Clock, Done, Held, Vault, VaultError};

use super::documents::{PUBLIC, licensing, signed};
use super::*;

/// A folder that goes with the test, and the configuration of a node that keeps its licences there.
struct Place {
    folder: PathBuf,
    config: Config,
}

impl Place {
    /// Services `menu` (IVR, three channels kept) and `sales` (queue), both counted.
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("sipweir-licences-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let text = format!(
            "[node]\ndata_dir = {folder:?}\n[[listen]]\nuri = \"udp:192.0.2.1:5060\"\n[[trunk]]\nname = \"a\"\n\
             from = [\"198.51.100.0/24\"]\n[[target]]\nname = \"pbx\"\nuri = [\"sip:10.0.0.10\"]\n\
             [[pool]]\nname = \"p\"\nlicence = \"{QUEUE}\"\ntrial_channels = 7\n\
             [[licence.issuer]]\nname = \"vendor\"\nkey = \"{PUBLIC}\"\n\
             [[service]]\nname = \"menu\"\nkind = \"ivr\"\nnumbers = [\"100\"]\npool = \"p\"\ntarget = \"pbx\"\nreserve = 3\ncounted = \"service\"\n\
             [[service]]\nname = \"sales\"\nkind = \"queue\"\nnumbers = [\"200\"]\npool = \"p\"\ntarget = \"pbx\"\ncounted = \"service\"\n"
        );
        Self { config: Config::parse(&text).expect("valid"), folder }
    }

    fn open(&self, days: i64) -> Vault {
        Vault::open(&self.config, day(days)).expect("a folder")
    }

    fn install(&self, vault: &mut Vault, licence: &Licence, days: i64) -> Result<Done, String> {
        let done = vault.install(&signed(licence), &self.config, day(days), false);
        done.map_err(|error| match error {
            VaultError::Rejected(rejection) => rejection.label().to_owned(),
            error @ (VaultError::Files { .. } | VaultError::Damaged { .. } | VaultError::NoDataDir) => {
                panic!("{error}")
            }
        })
    }

    fn installed(&self, vault: &Vault) -> Vec<String> {
        let licences = vault.licences(&self.config.licensing).expect("readable").good;
        licences.into_iter().map(|installed| installed.licence.code).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn services(number: u32) -> Entitlement {
    Entitlement::new(EntitlementKind::Count, "service", Some(number))
}

#[test]
fn the_token_belongs_to_the_folder_and_stays() {
    let (one, two) = (Place::new(), Place::new());
    let token = one.open(0).token().to_owned();
    assert_eq!(one.open(400).token(), token);
    assert_ne!(two.open(0).token(), token);
    std::fs::write(one.folder.join("licences/server.key"), "nonsense").expect("written");
    let error = Vault::open(&one.config, day(1)).map(|_| ()).expect_err("no key").to_string();
    assert!(error.contains("server.key: is no private key"), "{error}");
}

#[test]
fn an_installed_licence_is_there_after_a_restart_and_the_dry_run_said_what_it_does() {
    let place = Place::new();
    let mut vault = place.open(40);
    let bought = licence("A", vec![channels(20), feature("ivr"), services(2)]);
    let dry = vault.install(&signed(&bought), &place.config, day(40), true).expect("loads");
    assert!(place.installed(&vault).is_empty());
    let done = place.install(&mut vault, &bought, 40).expect("loads");
    assert_eq!(dry.changes, done.changes);
    // In the trial, which began on day 40, nothing was missing.
    let changes: Vec<String> =
        done.changes.iter().map(|change| format!("{}: {} -> {}", change.what, change.before, change.after)).collect();
    assert_eq!(changes, ["pool p: 7 channels -> 20 channels"]);
    assert_eq!(place.installed(&place.open(41)), ["A"]);
    assert_eq!(place.install(&mut vault, &bought, 41).map(drop), Err("duplicate".into()));
}

#[test]
fn what_does_not_load_says_why_and_changes_nothing() {
    let place = Place::new();
    let mut vault = place.open(0);
    let bound = Licence { server: Some("SW-THERE".into()), ..licence("B", vec![channels(1)]) };
    assert_eq!(place.install(&mut vault, &bound, 1).map(drop), Err("wrong_server".into()));
    let over = between(0, 50, licence("C", vec![channels(1)]));
    assert_eq!(place.install(&mut vault, &over, 50).map(drop), Err("expired".into()));
    let revoker = Licence { revokes: vec!["D".into()], ..licence("R", Vec::new()) };
    place.install(&mut vault, &revoker, 1).expect("loads");
    assert_eq!(place.install(&mut vault, &licence("D", vec![channels(1)]), 1).map(drop), Err("revoked".into()));
    assert_eq!(place.installed(&vault), ["R"]);
    let (records, _) = vault.history(0).expect("readable");
    let seen: Vec<(&str, &str)> = records.iter().map(|record| (record.action.as_str(), record.code.as_str())).collect();
    assert_eq!(seen, [("refused", "B"), ("refused", "C"), ("installed", "R"), ("refused", "D")]);
    assert!(records[0].why.starts_with("wrong_server: it is bound to server SW-THERE"), "{}", records[0].why);
}

#[test]
fn a_trial_licence_loads_once_for_a_server_even_after_it_was_removed() {
    let place = Place::new();
    let mut vault = place.open(0);
    let trial = |code: &str, token: &str| Licence {
        kind: Kind::Trial,
        expires: Some(day(100)),
        server: Some(token.into()),
        ..licence(code, vec![channels(20)])
    };
    let token = vault.token().to_owned();
    place.install(&mut vault, &licence("A", vec![channels(5)]), 40).expect("loads");
    place.install(&mut vault, &trial("T1", &token), 40).expect("loads");
    assert_eq!(place.install(&mut vault, &trial("T2", &token), 40).map(drop), Err("trial_used".into()));
    vault.remove("T1", &place.config, day(41), false).expect("removed");
    assert_eq!(place.install(&mut place.open(42), &trial("T1", &token), 42).map(drop), Err("trial_used".into()));
}

#[test]
fn a_licence_that_leaves_less_than_is_configured_is_refused_with_what_must_be_freed() {
    let place = Place::new();
    let mut vault = place.open(0);
    place.install(&mut vault, &licence("A", vec![channels(20), feature("ivr"), services(2)]), 40).expect("loads");
    let smaller =
        Licence { replaces: vec!["A".into()], ..licence("B", vec![channels(2), feature("ivr"), services(1)]) };
    let refused = vault.install(&signed(&smaller), &place.config, day(40), false).map(drop).expect_err("too little");
    assert_eq!(
        refused.to_string(),
        "it leaves less than is configured; free this first:\n  \
         pool p: 2 channels, and services reserve 3 (menu 3): lower reserve by 1\n  \
         service: 1 licensed, and 2 configured (menu, sales): remove 1"
    );
    let later = Licence { not_before: Some(day(70)), ..smaller.clone() };
    assert_eq!(place.install(&mut vault, &later, 40).map(drop), Err("too_little".into()), "not even for later");
    assert!(vault.remove("A", &place.config, day(40), false).is_err());
    let enough = Licence { entitlements: vec![channels(3), feature("ivr"), services(2)], ..smaller };
    let done = place.install(&mut vault, &enough, 40).expect("loads");
    assert_eq!((&*done.changes[0].before, &*done.changes[0].after), ("20 channels", "3 channels"));
}

#[test]
fn a_clock_set_back_is_noticed_and_gives_nobody_more_time() {
    let place = Place::new();
    let mut vault = place.open(40);
    vault.begin().expect("written");
    let clock = |vault: &mut Vault, at: Wall| vault.clock(at).expect("readable");
    assert_eq!(clock(&mut vault, day(40)), Clock { counts: day(40), set_back_to: None });
    let small_step = Wall(day(40).0 - 600);
    assert_eq!(clock(&mut vault, small_step), Clock { counts: day(40), set_back_to: None });
    let mut vault = place.open(40);
    assert_eq!(
        clock(&mut vault, day(10)),
        Clock { counts: day(40), set_back_to: Some(day(10)) },
        "after a restart too"
    );
    assert_eq!(clock(&mut vault, day(41)), Clock { counts: day(41), set_back_to: None });
    let over = between(0, 40, licence("C", vec![channels(1)]));
    assert_eq!(place.install(&mut vault, &over, 10).map(drop), Err("expired".into()));
}

#[test]
fn a_clock_that_starts_in_a_wrong_year_leaves_no_mark_once_it_is_set_right() {
    let place = Place::new();
    let mut vault = place.open(0);
    vault.begin().expect("written");
    let clock = |vault: &mut Vault, at: Wall| vault.clock(at).expect("readable");
    assert_eq!(clock(&mut vault, day(20_000)).counts, day(20_000), "licences are judged by what it says");
    assert_eq!(clock(&mut vault, Wall(day(20_000).0 + 600)).set_back_to, None);
    assert_eq!(clock(&mut vault, day(1)), Clock { counts: day(1), set_back_to: None }, "set right ten minutes later");
    assert_eq!(clock(&mut place.open(1), day(2)), Clock { counts: day(2), set_back_to: None });
    // A node that was off for a month, and runs on.
    assert_eq!(clock(&mut vault, day(40)).counts, day(40));
    assert_eq!(clock(&mut vault, Wall(day(40).0 + 3600)).counts, Wall(day(40).0 + 3600));
    assert_eq!(clock(&mut place.open(0), day(30)).set_back_to, Some(day(30)), "an hour later it is believed");
}

#[test]
fn a_lost_memory_gives_no_second_trial() {
    let place = Place::new();
    let mut vault = place.open(0);
    place.install(&mut vault, &licence("A", vec![channels(20)]), 1).expect("loads");
    assert!(vault.standing(&[], &licensing(), day(2)).trial_until.is_some());
    std::fs::remove_file(place.folder.join("licences/state.json")).expect("removed");
    let vault = place.open(2);
    assert!(vault.standing(&[], &licensing(), day(2)).trial_until.is_none());
}

#[test]
fn a_refused_licence_before_the_first_start_costs_no_trial() {
    let place = Place::new();
    let mut vault = place.open(0);
    let bound = Licence { server: Some("SW-THERE".into()), ..licence("B", vec![channels(1)]) };
    assert_eq!(place.install(&mut vault, &bound, 0).map(drop), Err("wrong_server".into()));
    assert!(place.open(2).standing(&[], &licensing(), day(2)).trial_until.is_some());
}

#[test]
fn looking_is_not_starting() {
    let place = Place::new();
    let mut vault = place.open(0);
    vault.clock(day(1)).expect("readable");
    assert!(!place.folder.join("licences/state.json").exists());
    let mut vault = place.open(100);
    vault.begin().expect("written");
    assert!(place.open(129).standing(&[], &licensing(), day(129)).trial_until.is_some());
    assert!(place.open(130).standing(&[], &licensing(), day(130)).trial_until.is_none());
}

#[test]
fn no_licence_is_ever_written_over_another() {
    let place = Place::new();
    let mut vault = place.open(0);
    place.install(&mut vault, &licence("A", vec![channels(20)]), 1).expect("loads");
    std::fs::write(place.folder.join("licences/vendor.jws"), signed(&licence("B", vec![channels(1)])))
        .expect("written");
    place.install(&mut vault, &licence("C", vec![channels(1)]), 1).expect("loads");
    let mut codes = place.installed(&vault);
    codes.sort();
    assert_eq!(codes, ["A", "B", "C"]);
}

#[test]
fn a_file_that_is_no_licence_harms_none_of_the_others() {
    let place = Place::new();
    let mut vault = place.open(0);
    place.install(&mut vault, &licence("A", vec![channels(20)]), 1).expect("loads");
    std::fs::write(place.folder.join("licences/000000.jws"), "eyJ nonsense").expect("written");
    std::fs::write(place.folder.join("licences/000008.jws"), [0xff, 0xfe, 0x80]).expect("written");
    std::fs::create_dir(place.folder.join("licences/folder.jws")).expect("made");
    place.install(&mut vault, &licence("B", vec![channels(20)]), 1).expect("loads");
    let Held { good, bad } = vault.licences(&licensing()).expect("readable");
    let codes: Vec<&str> = good.iter().map(|installed| installed.licence.code.as_str()).collect();
    assert_eq!((codes, bad.len()), (vec!["A", "B"], 3));
}
