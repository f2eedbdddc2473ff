//! Targets of several addresses, with SIPp as each of them.

use std::path::{Path, PathBuf};

use crate::gate::{Gate, TO_VOICEMAIL, config, port};
use crate::sipp::{Callee, callee, callee_of, calls, start_calls, start_scenario};

/// A scenario for tests alone.
fn local(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/program/scenarios/{name}.xml"))
}

/// A gate whose PBX has two addresses, probed each second; the second one's port.
fn two(keys: &str) -> (Gate, u16) {
    let second = port();
    let gate = Gate::start_with(|ports, _| {
        let pbx = format!("uri = [\"sip:127.0.0.1:{}\"]", ports[2]);
        let both = format!(
            "uri = [{{ uri = \"sip:127.0.0.1:{}\", priority = 1 }}, {{ uri = \"sip:127.0.0.1:{second}\", priority = 1 }}]\n{keys}",
            ports[2]
        );
        config(50, ports, "").replace(&pbx, &both)
    });
    (gate, second)
}

/// SIPp as a PBX that answers OPTIONS besides.
fn pbx(gate: &Gate, port: u16) -> Callee {
    callee(gate, "pbx", port, 0)
}

/// What `sipweir targets` says of each address of the PBX.
fn states(gate: &Gate) -> Vec<String> {
    let output = gate.sipweir(&["targets", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of_pbx = list.as_array().expect("a list").iter().filter(|target| target["target"] == "pbx");
    of_pbx.map(|target| target["state"].as_str().expect("a state").to_owned()).collect()
}

fn calls_at(gate: &Gate, port: u16) -> u64 {
    gate.metric(&format!("sipweir_target_calls{{target=\"pbx\",address=\"udp:127.0.0.1:{port}\"}}"))
}

#[test]
fn an_address_that_stops_answering_probes_gets_no_calls_until_it_answers_again() {
    let (gate, second) = two("probe_s = 1\nprobe_timeout_ms = 300\ndown_after = 1\nup_after = 1");
    let first = pbx(&gate, gate.pbx);
    gate.wait_for("the one that is missing is down", |gate| states(gate) == ["up", "down"]);
    assert!(calls(&gate, "caller", 10, 50, 50), "nobody waits for it");
    let other = pbx(&gate, second);
    gate.wait_for("it is back", |gate| states(gate) == ["up", "up"]);
    drop(first);
    gate.wait_for("the other one is gone", |gate| states(gate) == ["down", "up"]);
    let explained =
        || serde_json::from_slice::<serde_json::Value>(&gate.sipweir(&["explain", "carrier", "100", "--json"]).stdout);
    let one = explained().expect("JSON");
    assert!(one["verdict"] == "admit" && one["steps"].to_string().contains("is down: no new calls go there"), "{one}");
    assert!(calls(&gate, "caller", 10, 50, 50));
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 20);
    let events = gate.get("/api/v1/events").expect("events");
    assert!(events.contains("target_down") && events.contains("target_up"), "{events}");
    drop(other);
    gate.wait_for("nobody is left", |gate| states(gate) == ["down", "down"]);
    let none = explained().expect("JSON");
    assert_eq!((&none["verdict"], &none["refusal"]), (&"overflow".into(), &"target_failed".into()), "{none}");
    assert_eq!(gate.stop(), 0);
}

#[test]
fn a_drained_address_gets_no_new_calls_and_keeps_those_it_has() {
    let (gate, second) = two("");
    let _pbxs = [pbx(&gate, gate.pbx), pbx(&gate, second)];
    let mut early = start_calls(&gate, "caller", 4, 50, 6_000, gate.sip);
    gate.wait_for("each has its share", |gate| (calls_at(gate, gate.pbx), calls_at(gate, second)) == (2, 2));
    let uri = format!("sip:127.0.0.1:{}", gate.pbx);
    let drained = gate.sipweir(&["targets", "drain", "pbx", &uri]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    gate.wait_for("it is known", |gate| states(gate) == ["draining", "up"]);
    let mut late = start_calls(&gate, "caller", 4, 50, 3_000, gate.sip);
    gate.wait_for("all go to the other", |gate| calls_at(gate, second) == 6);
    assert_eq!(calls_at(&gate, gate.pbx), 2);
    assert!(early.wait().expect("sipp ends").success() && late.wait().expect("sipp ends").success(), "nobody was cut");
    assert!(gate.sipweir(&["targets", "undrain", "pbx", &uri]).status.success());
    gate.wait_for("it takes calls again", |gate| states(gate) == ["up", "up"]);
    let wrong = gate.sipweir(&["targets", "drain", "pbx", "sip:127.0.0.9"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains(&uri), "it says which there are: {said}");
    assert_eq!(gate.stop(), 0);
}

#[test]
fn a_pbx_that_says_503_is_passed_over_for_the_next_and_for_the_voicemail_when_all_do() {
    let (gate, second) = two("");
    let full = callee_of(&gate, &local("pbx-full"), gate.pbx);
    let other = pbx(&gate, second);
    assert!(calls(&gate, "caller", 10, 50, 50), "no caller hears of it");
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 10);
    assert!(gate.metric("sipweir_responses_total{direction=\"in\",method=\"INVITE\",status=\"503\"}") > 0);
    drop((full, other));
    assert_eq!(gate.stop(), 0);
    let gate = Gate::start(5, TO_VOICEMAIL);
    let _full = callee_of(&gate, &local("pbx-full"), gate.pbx);
    let _voicemail = callee(&gate, "pbx", gate.voicemail, 0);
    assert!(calls(&gate, "caller", 5, 50, 50));
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_refusals_total{reason=\"target_failed\"}") == 5);
    assert_eq!(gate.in_use(), 0);
}

#[test]
fn a_pbx_that_redirects_is_followed_and_its_channels_are_free() {
    let gate = Gate::start_with(|ports, _| {
        // The voicemail is no place where channels are used.
        let pbx = format!("name = \"pbx\"\nuri = [\"sip:127.0.0.1:{}\"]", ports[2]);
        config(1, ports, "").replace(&pbx, &format!("{pbx}\nredirects = \"follow\""))
    });
    let away = format!("sip:agent@127.0.0.1:{}", gate.voicemail);
    let text = std::fs::read_to_string(local("pbx-redirects")).expect("a scenario").replace("[away]", &away);
    let _pbx = callee_of(&gate, &gate.folder.write("redirects.xml", &text), gate.pbx);
    let _agent = callee(&gate, "pbx", gate.voicemail, 0);
    // One after the other: until its 302 a call holds the only channel.
    let talking: Vec<_> = (1..=3)
        .map(|nth| {
            let caller = start_calls(&gate, "caller", 1, 50, 4_000, gate.sip);
            gate.wait_for("it is up", |gate| gate.metric("sipweir_calls_answered_total") == nth);
            caller
        })
        .collect();
    assert_eq!(gate.in_use(), 0, "three calls over a pool of one: each left it at once");
    for mut caller in talking {
        assert!(caller.wait().expect("sipp ends").success());
    }
}

#[test]
fn a_caller_whose_session_is_too_short_learns_what_is_long_enough() {
    let gate =
        Gate::start_with(|ports, _| "[session]\nexpires_s = 1800\nmin_se_s = 120\n".to_owned() + &config(5, ports, ""));
    let _pbx = pbx(&gate, gate.pbx);
    let caller = local("caller-with-session");
    assert!(start_scenario(&gate, &caller, 3, 20, 100, gate.sip).wait().expect("sipp ends").success());
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 3);
    assert_eq!(gate.metric("sipweir_responses_total{direction=\"out\",method=\"INVITE\",status=\"422\"}"), 3);
}
