//! Licences as an issuer and an operator meet them: the commands, and a running node that takes them over.

use std::process::Output;

use serde_json::Value;

use crate::gate::{Folder, Gate, TO_VOICEMAIL, config, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// An issuer with a key of their own.
struct Issuer {
    folder: Folder,
    public: String,
}

impl Issuer {
    fn new() -> Self {
        let folder = Folder::new();
        let key = folder.0.join("issuer.key");
        let output = run(&["licence", "keygen", "--out", key.to_str().expect("UTF-8")]);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        let public = text.split("key = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a key").to_owned();
        Self { folder, public }
    }

    fn issue(&self, code: &str, arguments: &[&str]) -> String {
        let key = self.folder.0.join("issuer.key");
        let key = key.to_str().expect("UTF-8");
        let fixed =
            ["licence", "issue", "--key", key, "--issuer", "vendor", "--customer", "Customer 1", "--code", code];
        let output = run(&[&fixed[..], arguments].concat());
        assert!(output.status.success(), "{}", said(&output));
        let file = self.folder.write(code, &text(&output.stdout));
        file.to_str().expect("UTF-8").to_owned()
    }

    /// The configuration of a node whose pool is licensed.
    fn node(&self, ports: [u16; 4], folder: &Folder) -> String {
        let public = &self.public;
        let licensing = format!("data_dir = {:?}\n[[licence.issuer]]\nname = \"vendor\"\nkey = \"{public}\"", folder.0);
        config(1, ports, TO_VOICEMAIL)
            .replace("channels = 1", "licence = \"advanced-queueing\"\ntrial_channels = 1")
            .replace("[node]\n", &format!("[node]\n{licensing}\n[node2]\n"))
            .replace("[node2]\nname = \"test\"\ndomains = [\"127.0.0.1\"]\n", "")
    }
}

#[test]
fn an_installed_licence_is_in_force_within_seconds_and_the_operators_hear_of_it() {
    let issuer = Issuer::new();
    let gate = Gate::start_with(|ports, folder| issuer.node(ports, folder));
    let path = gate.config.to_str().expect("UTF-8").to_owned();
    let licence = |arguments: &[&str]| run(&[&["licence"], arguments, &["--config", &path]].concat());
    assert_eq!(gate.metric("sipweir_pool_capacity_channels{pool=\"ivr\"}"), 1, "the trial period");
    assert!(
        said(&licence(&["status"])).contains("trial period  full function up to"),
        "{}",
        said(&licence(&["status"]))
    );

    let token = text(&licence(&["token"]).stdout).trim().to_owned();
    assert!(token.starts_with("SW-"), "{token}");
    let wrong = issuer.issue("WRONG", &["--capacity", "advanced-queueing=5", "--server", "SW-ELSE-WHER-E000-0000"]);
    let refused = licence(&["install", &wrong]);
    assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
    let message = said(&refused);
    assert!(message.contains("SW-ELSE-WHER-E000-0000") && message.contains(&token), "both tokens: {message}");

    let terms = ["--kind", "subscription", "--last-day", "2099-12-31", "--server", &token];
    let good =
        issuer.issue("QUEUE-20", &[&["--capacity", "advanced-queueing=20", "--feature", "ivr"], &terms[..]].concat());
    let dry = licence(&["diff", &good]);
    assert!(said(&dry).contains("QUEUE-20 would be installed"), "{}", said(&dry));
    assert!(said(&dry).contains("1 channel") && said(&dry).contains("20 channels"), "{}", said(&dry));
    let done = licence(&["install", &good]);
    assert!(done.status.success(), "{}", said(&done));
    gate.wait_for("20 channels are there", |gate| {
        gate.metric("sipweir_pool_capacity_channels{pool=\"ivr\"}") == 20
            && gate.metric("sipweir_licence_channels{product=\"advanced-queueing\"}") == 20
    });
    assert_eq!(gate.metric("sipweir_licence_expires_timestamp_seconds{licence=\"QUEUE-20\"}"), 4_102_444_800);
    gate.wait_for("both are told", |gate| {
        let events = gate.get("/api/v1/events").expect("an answer");
        events.contains("licence WRONG refused: wrong_server") && events.contains("licence QUEUE-20 installed")
    });
    let page: Value = serde_json::from_slice(&licence(&["status", "--json"]).stdout).expect("JSON");
    assert_eq!(page["applications"][0]["product"], "advanced-queueing");
    assert_eq!((&page["applications"][0]["used"], &page["applications"][0]["total"]), (&0.into(), &20.into()));
    assert_eq!(page["licences"][0]["last_day"], "2099-12-31");

    let gone = licence(&["remove", "QUEUE-20"]);
    assert!(gone.status.success(), "{}", said(&gone));
    gate.wait_for("the trial's channel is back", |gate| {
        gate.metric("sipweir_pool_capacity_channels{pool=\"ivr\"}") == 1
    });
    assert_eq!(licence(&["remove", "QUEUE-20"]).status.code(), Some(6));
    assert_eq!(gate.stop(), 0);
}

#[test]
fn a_licence_can_be_read_by_people_and_checked_without_a_node() {
    let issuer = Issuer::new();
    let folder = Folder::new();
    let text_of = issuer.node([5060, 8060, 5080, 5090], &folder);
    let path = folder.write("sipweir.toml", &text_of);
    let path = path.to_str().expect("UTF-8");
    let file = issuer
        .issue("A", &["--capacity", "advanced-queueing=20", "--feature", "ivr", "--requires", "advanced-queueing"]);
    let shown = run(&["licence", "inspect", &file, "--config", path]);
    let words = said(&shown);
    for part in [
        "code        A",
        "issuer      vendor",
        "customer    Customer 1",
        "last day    never",
        "grants      20 channels of advanced-queueing",
        "grants      feature ivr, needs advanced-queueing",
        "signature   good",
    ] {
        assert!(words.contains(part), "{part}\n{words}");
    }
    let claims = folder.write("claims.json", &text(&run(&["licence", "inspect", &file, "--json"]).stdout));
    let key = issuer.folder.0.join("issuer.key");
    let again =
        run(&["licence", "issue", "--key", key.to_str().expect("UTF-8"), "--claims", claims.to_str().expect("UTF-8")]);
    assert_eq!(text(&again.stdout), std::fs::read_to_string(&file).expect("a file"), "EdDSA signs alike twice");
    let other = Issuer::new();
    let refused = run(&["licence", "inspect", &other.issue("A", &["--feature", "ivr"]), "--config", path]);
    assert_eq!(refused.status.code(), Some(7));
    assert!(said(&refused).contains("the signature of issuer \"vendor\" does not fit"), "{}", said(&refused));
}

#[test]
fn a_node_whose_trial_is_over_starts_refuses_by_plan_and_says_so_in_explain() {
    let issuer = Issuer::new();
    let gate = Gate::start_with(|ports, folder| {
        let licences = folder.0.join("licences");
        std::fs::create_dir_all(&licences).expect("a folder");
        let state = "{ \"installed\": 1700000000, \"latest\": 1700000000, \"trials\": [] }";
        std::fs::write(licences.join("state.json"), state).expect("a file");
        issuer.node(ports, folder)
    });
    assert_eq!(gate.metric("sipweir_service_unlicensed{service=\"menu\"}"), 1);
    let explained = said(&gate.sipweir(&["explain", "carrier", "100"]));
    assert!(explained.contains("no capacity licence"), "{explained}");
    let path = gate.config.to_str().expect("UTF-8");
    let offline = said(&run(&["explain", "carrier", "100", "--config", path]));
    assert!(offline.contains("no capacity licence"), "{offline}");
    let checked = said(&run(&["check", "--config", path]));
    assert!(checked.contains("pool ivr: no licence for advanced-queueing is in force"), "{checked}");
    gate.wait_for("it is told", |gate| {
        gate.get("/api/v1/events").expect("an answer").contains("no licence for advanced-queueing is in force")
    });
}
