//! Help, errors, exit codes, JSON.

use std::net::UdpSocket;
use std::process::Output;

use serde_json::Value;

use crate::gate::{Folder, Gate, TO_VOICEMAIL, config, port, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = text(&run(&["--help"]).stdout);
    for word in [
        "run",
        "check",
        "demo",
        "pools",
        "calls",
        "events",
        "explain",
        "licence",
        "completions",
        "Exit codes: 0 success",
    ] {
        assert!(help.contains(word), "{word}\n{help}");
    }
    assert_eq!(code(&run(&["frobnicate"])), 2);
    assert_eq!(code(&run(&["run"])), 2);
    assert!(text(&run(&["completions", "bash"]).stdout).contains("_sipweir"));
}

#[test]
fn check_reports_every_problem_at_once() {
    let folder = Folder::new();
    let good = folder.write("good.toml", &config(3, [5060, 8060, 5080, 5090], TO_VOICEMAIL));
    let output = run(&["check", "--config", good.to_str().expect("UTF-8")]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("1 pools with 3 channels"), "{}", text(&output.stdout));

    let bad = config(3, [5060, 8060, 5080, 5090], "overflow = [{ route = \"nowhere\" }]\ncolour = 1")
        .replace("channels = 3", "channels = -3");
    let bad = folder.write("bad.toml", &bad);
    let path = bad.to_str().expect("UTF-8");
    let output = run(&["check", "--config", path]);
    assert_eq!(code(&output), 3);
    let message = text(&output.stderr);
    assert!(message.contains("has 3 problems:"), "{message}");
    for part in [
        "pool[0].channels: -3",
        "service[0].overflow[0].route: \"nowhere\" is no target",
        "service[0].colour: is no known key",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let output = run(&["check", "--json", "--config", path]);
    assert_eq!((code(&output), json(&output)["problems"].as_array().map(Vec::len)), (3, Some(3)));
    assert_eq!(code(&run(&["run", "--config", path])), 3);

    let output = run(&["check", "--config", "/nonexistent/sipweir.toml"]);
    assert_eq!(code(&output), 3);
    assert!(text(&output.stderr).contains("cannot read /nonexistent/sipweir.toml"), "{}", text(&output.stderr));
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let used = taken.local_addr().expect("bound").port();
    let busy_port = used;
    let folder = Folder::new();
    let path = |name: &str, text: &str| folder.write(name, text).to_str().expect("UTF-8").to_owned();
    let busy = path("busy.toml", &config(1, [used, port(), 5080, 5090], ""));
    let output = run(&["run", "--config", &busy]);
    assert_eq!(code(&output), 4);
    let message = text(&output.stderr);
    assert!(message.contains(&format!("listen[0].uri: cannot listen on udp:127.0.0.1:{used}")), "{message}");
    assert!(message.contains("stop it, or choose another port"), "{message}");

    let admin = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let used = admin.local_addr().expect("bound").port();
    let output = run(&["run", "--config", &path("admin.toml", &config(1, [port(), used, 5080, 5090], ""))]);
    assert_eq!(code(&output), 4);
    assert!(text(&output.stderr).contains("admin.listen: cannot listen on"), "{}", text(&output.stderr));

    // Both at once: both are told.
    let both = path("both.toml", &config(1, [busy_port, used, 5080, 5090], ""));
    let message = text(&run(&["run", "--config", &both]).stderr);
    assert!(message.contains("listen[0].uri") && message.contains("admin.listen"), "{message}");

    // A file where the directory should be: unwritable for everybody, root included.
    let file = path("file", "");
    let text_with = config(1, [port(), port(), 5080, 5090], "")
        .replace("[node]\n", &format!("[node]\ndata_dir = \"{file}/data\"\n"));
    let output = run(&["run", "--config", &path("dir.toml", &text_with)]);
    assert_eq!(code(&output), 4);
    assert!(text(&output.stderr).contains("node.data_dir: cannot write to"), "{}", text(&output.stderr));
}

#[test]
fn without_a_node_the_views_say_so() {
    let admin = format!("http://127.0.0.1:{}", port());
    for command in [&["pools"][..], &["calls"], &["events"], &["explain", "carrier", "100"]] {
        let output = run(&[command, &["--admin", &admin]].concat());
        assert_eq!(code(&output), 5, "{command:?}");
        assert!(text(&output.stderr).contains("no node answers at"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_views_show_a_running_node() {
    let gate = Gate::start(2, TO_VOICEMAIL);
    // One call, set up by hand and left ringing: the PBX's port is a socket that stays silent.
    let _pbx = UdpSocket::bind(("127.0.0.1", gate.pbx)).expect("free");
    let caller = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let local = caller.local_addr().expect("bound");
    let invite = format!(
        "INVITE sip:100@127.0.0.1:{} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKv\r\nMax-Forwards: 70\r\nFrom: <sip:+4420@x>;tag=1\r\n\
         To: <sip:100@x>\r\nCall-ID: view-1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
        gate.sip
    );
    caller.send_to(invite.as_bytes(), ("127.0.0.1", gate.sip)).expect("sent");
    gate.wait_for("the call is there", |gate| gate.in_use() == 1);

    let pools = gate.sipweir(&["pools"]);
    assert!(text(&pools.stdout).contains("POOL  IN USE  OF"), "{}", text(&pools.stdout));
    let view = json(&gate.sipweir(&["pools", "--json"]));
    assert_eq!(
        (&view["pools"][0]["in_use"], &view["pools"][0]["reserved"], &view["calls"]),
        (&1.into(), &1.into(), &1.into())
    );
    let calls = json(&gate.sipweir(&["calls", "--json"]));
    assert_eq!(
        (calls["calls"][0]["call_id"].as_str(), calls["calls"][0]["number"].as_str()),
        (Some("view-1"), Some("100"))
    );
    assert_eq!((calls["calls"][0]["pool"].as_str(), calls["calls"][0]["state"].as_str()), (Some("ivr"), Some("setup")));
    assert_eq!(json(&gate.sipweir(&["calls", "--json", "--pool", "other"]))["calls"].as_array().map(Vec::len), Some(0));
    assert!(text(&gate.sipweir(&["calls"]).stdout).contains("1 of 1 calls"));

    let explained = gate.sipweir(&["explain", "carrier", "100"]);
    let lines = text(&explained.stdout);
    assert!(lines.starts_with("admit\n") && lines.contains("pool ivr: 1 of 2 channels in use"), "{lines}");
    assert_eq!(
        json(&gate.sipweir(&["explain", "carrier", "999", "--json"]))["refusal"].as_str(),
        Some("unknown_service")
    );
    let unknown = gate.sipweir(&["explain", "nobody", "100"]);
    assert_eq!(code(&unknown), 6);
    assert!(
        text(&unknown.stderr).contains("there is no trunk \"nobody\"; known are carrier"),
        "{}",
        text(&unknown.stderr)
    );

    gate.rewrite(1, TO_VOICEMAIL);
    gate.signal("HUP");
    gate.wait_for("one of one", |gate| gate.metric("sipweir_pool_capacity_channels{pool=\"ivr\"}") == 1);
    let lines = text(&gate.sipweir(&["explain", "carrier", "100"]).stdout);
    assert!(
        lines.starts_with("overflow\n") && lines.contains("overflow plan: route to voicemail, then reject 486"),
        "{lines}"
    );
    let events = text(&gate.sipweir(&["events"]).stdout);
    assert!(events.contains("pool_exhausted") && events.contains("config_reloaded"), "{events}");
}

#[test]
fn explain_can_ask_a_file() {
    let folder = Folder::new();
    let path = folder.write("sipweir.toml", &config(0, [5060, 8060, 5080, 5090], ""));
    let output = run(&["explain", "carrier", "100", "--config", path.to_str().expect("UTF-8")]);
    let lines = text(&output.stdout);
    assert!(lines.starts_with("overflow\n") && lines.contains("reject 486 (the default)"), "{lines}");
}

#[test]
fn the_short_form_prints_a_configuration_that_reads_back() {
    let arguments = [
        "run",
        "--listen",
        "udp:127.0.0.1:5060",
        "--pbx",
        "sip:127.0.0.1:5080",
        "--channels",
        "30",
        "--overflow",
        "sip:127.0.0.1:5090",
        "--print-config",
    ];
    let output = run(&arguments);
    assert_eq!(code(&output), 0);
    let folder = Folder::new();
    let path = folder.write("short.toml", &text(&output.stdout));
    let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("with 30 channels"), "{}", text(&output.stdout));
}

#[test]
fn the_demo_ends_by_itself_and_overflows() {
    let output = run(&["demo", "--seconds", "5", "--channels", "3", "--rate", "5", "--json"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let stream = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let last = stream.map(|value| value.expect("JSON")).last().expect("at least one");
    assert_eq!((last["capacity"].as_u64(), last["peak"].as_u64()), (Some(3), Some(3)));
    assert!(last["answered_by_voicemail"].as_u64() > Some(0), "{last}");
}

#[test]
fn health_readiness_metrics_and_json_are_served() {
    let gate = Gate::start(2, "");
    for (path, part) in [
        ("/healthz", "ok"),
        ("/readyz", "ready"),
        ("/metrics", "# TYPE sipweir_pool_channels gauge"),
        ("/api/v1/pools", "\"pools\":[{\"name\":\"ivr\""),
        ("/api/v1/calls", "\"total\":0"),
        ("/api/v1/events", "[]"),
        ("/", "/metrics"),
    ] {
        let answer = gate.get(path).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(part), "{path}\n{answer}");
    }
    assert!(gate.get("/nowhere").expect("an answer").starts_with("HTTP/1.1 404"));
    assert_eq!(gate.stop(), 0);
}

#[test]
fn every_sample_configuration_is_valid() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let examples =
        std::fs::read_dir(folder.join("examples")).expect("examples").map(|entry| entry.expect("one").path());
    let files: Vec<std::path::PathBuf> = examples.chain([folder.join("sipweir.toml")]).collect();
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        if let Err(problems) = sipweir::config::Config::parse(&text) {
            panic!("{}: {problems:#?}", file.display());
        }
    }
}

#[test]
fn check_names_a_certificate_that_cannot_be_used() {
    let text = include_str!("../../deploy/examples/carrier-by-tls.toml");
    let file = std::env::temp_dir().join(format!("sipweir-check-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("written");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_sipweir"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    std::fs::remove_file(&file).expect("removed");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("listen[0].certificate: /etc/sipweir/gate.pem") && said.contains("tls.ca"), "{said}");
}

#[test]
fn check_names_every_way_to_borrow_wrongly_and_explain_says_where_a_channel_comes_from() {
    let gate = Gate::start_with(|ports, _| {
        let spare = "[[pool]]\nname = \"spare\"\nchannels = 1\n";
        config(0, ports, "overflow = [{ borrow = \"spare\" }, { route = \"voicemail\" }]") + spare
    });
    let output = gate.sipweir(&["explain", "carrier", "100"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("one of spare is borrowed") && text.contains("admitted: to target pbx"), "{text}");
    assert!(text.contains("if the target fails: route to voicemail"), "{text}");
    assert_eq!(gate.stop(), 0);
    let folder = Folder::new();
    for (plan, problem) in [
        ("overflow = [{ borrow = \"nobody\" }]", "is no pool"),
        ("overflow = [{ borrow = \"ivr\" }]", "its own pool"),
        ("overflow = [{ route = \"voicemail\" }, { borrow = \"spare\" }]", "comes too late"),
        ("overflow = [{ borrow = \"spare\" }, { borrow = \"spare\" }]", "is in the plan already"),
        ("unlicensed = [{ borrow = \"spare\" }]", "what has no licence borrows no channel"),
    ] {
        let spare = "[[pool]]\nname = \"spare\"\nchannels = 1\n";
        let path = folder.write("wrong.toml", &(config(1, [5060, 8060, 5080, 5090], plan) + spare));
        let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(problem), "{plan}: {said}");
    }
}

#[test]
fn explain_says_what_happens_to_a_call_once_it_is_admitted() {
    let folder = Folder::new();
    let keys =
        "redirects = \"follow\"\nuses_channel = false\nreleased_by = \"X-Left: yes\"\nreleased_by_contact = true";
    let config = "[session]\nexpires_s = 600\n".to_owned()
        + &config(1, [5060, 8060, 5080, 5090], "ask_s = 60\nlongest_call_s = 7200").replacen(
            "name = \"pbx\"\nuri",
            &format!("name = \"pbx\"\n{keys}\nuri"),
            1,
        );
    let path = folder.write("sipweir.toml", &config);
    let output = run(&["explain", "carrier", "100", "--config", path.to_str().expect("UTF-8")]);
    let lines = text(&output.stdout);
    for part in [
        "a 3xx of pbx is followed here",
        "at pbx the call uses no channel",
        "a request of pbx with X-Left: yes gives its channel back",
        "a Contact of pbx elsewhere gives its channel back",
        "its session must be refreshed every 600 s at least; one below 90 s gets 422",
        "pbx is asked every 60 s whether it knows the call",
        "it is ended 7200 s after the answer",
    ] {
        assert!(lines.contains(part), "{part}: {lines}{}", text(&output.stderr));
    }
}

#[test]
fn check_and_explain_know_rates() {
    let folder = Folder::new();
    let with = |trunk: &str, service: &str| {
        config(1, [5060, 8060, 5080, 5090], service).replacen(
            "name = \"carrier\"\n",
            &format!("name = \"carrier\"\n{trunk}\n"),
            1,
        )
    };
    let path = folder.write("sipweir.toml", &with("rate = 20\nburst = 50\nsource_rate = 2", "rate = 7"));
    let output = run(&["explain", "carrier", "100", "--config", path.to_str().expect("UTF-8")]);
    let lines = text(&output.stdout);
    for part in [
        "trunk carrier: at most 20 new calls a second, 50 at once",
        "each address of trunk carrier: at most 2 new calls a second, 2 at once",
        "service menu: at most 7 new calls a second, 7 at once",
    ] {
        assert!(lines.contains(part), "{part}: {lines}{}", text(&output.stderr));
    }
    for (trunk, service, problem) in [
        ("rate = 0", "", "trunk[0].rate"),
        ("burst = 9", "", "trunk[0].burst: says nothing without rate"),
        ("source_burst = 9", "", "says nothing without source_rate"),
        ("", "resume_percent = 50", "resume_percent: says nothing without a rate"),
        ("", "rate = 5\nresume_percent = 101", "service[0].resume_percent"),
    ] {
        let path = folder.write("wrong.toml", &with(trunk, service));
        let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(problem), "{trunk} {service}: {said}");
    }
}

#[test]
fn check_and_explain_know_emergencies() {
    let folder = Folder::new();
    let with = |keys: &str, more: &str| config(0, [5060, 8060, 5080, 5090], keys) + more;
    let path =
        folder.write("sipweir.toml", &with("emergency = true", "[emergency]\nresource_priority = [\"ets.0\"]\n"));
    let output = run(&["explain", "carrier", "100", "--config", path.to_str().expect("UTF-8")]);
    let lines = text(&output.stdout);
    assert!(lines.starts_with("admit\n") && lines.contains("an emergency: whatever is full or unlicensed"), "{lines}");
    let path = folder.write("wrong.toml", &with("", "[emergency]\nresource_priority = [\"ets\"]\n"));
    let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("emergency.resource_priority: \"ets\" is no resource priority"), "{said}");
}

#[test]
fn check_names_every_way_to_wait_wrongly_and_explain_says_how_a_call_would_wait() {
    let gate = Gate::start_with(|ports, _| {
        config(0, ports, "overflow = [{ wait = 30, length = 5, expected_s = 20 }, { route = \"voicemail\" }]")
    });
    let output = gate.sipweir(&["explain", "carrier", "100"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let plan = "wait up to 30 s for a channel (0 of at most 5 wait now; at once the next step where more than 20 s are expected), then route to voicemail";
    assert!(text.starts_with("overflow\n") && text.contains(plan), "{text}");
    assert_eq!(gate.stop(), 0);
    let folder = Folder::new();
    for (plan, problem) in [
        ("overflow = [{ wait = 0 }]", "overflow[0].wait"),
        ("overflow = [{ wait = 30, length = 0 }]", "overflow[0].length"),
        ("overflow = [{ wait = 30, expected_s = 30 }]", "overflow[0].expected_s: is not less than wait"),
        ("overflow = [{ wait = 30, priority = 10 }]", "overflow[0].priority"),
        ("overflow = [{ wait = 30, route = \"voicemail\" }]", "names 2 of borrow, wait, route, redirect and reject"),
        ("unlicensed = [{ wait = 30 }]", "what has no licence waits for no channel"),
        ("[waiting]\nrepeat_s = 61", "waiting.repeat_s"),
        ("[waiting]\nageing = 1", "waiting.ageing"),
    ] {
        let path = folder.write("wrong.toml", &config(1, [5060, 8060, 5080, 5090], plan));
        let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(problem), "{plan}: {said}");
    }
    let route = config(1, [5060, 8060, 5080, 5090], "overflow = [{ wait = 30 }]");
    let route = route.replace("kind = \"ivr\"", "kind = \"route\"").replace("pool = \"ivr\"\n", "");
    let path = folder.write("wrong.toml", &route);
    let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("there is nothing to wait for"), "{said}");
}

#[test]
fn check_tells_of_certificates_that_have_ended() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    for (year, says) in [(2020, "ended on 2020-02-01; nobody takes it"), (4000, "")] {
        let mut params = rcgen::CertificateParams::new(vec!["gate.example.net".into()]).expect("valid");
        params.not_after = rcgen::date_time_ymd(year, 2, 1);
        let certificate = folder.write("gate.pem", &params.self_signed(&key).expect("signed").pem());
        let key = folder.write("gate.key", &key.serialize_pem());
        let listen = format!(
            "[tls]\nca = {certificate:?}\n[[listen]]\nuri = \"tls:127.0.0.1:5061\"\ncertificate = {certificate:?}\nkey = {key:?}\n"
        );
        let file = folder.write("sipweir.toml", &(listen + &config(1, [1, 2, 3, 4], "")));
        let output = run(&["check", "--config", file.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let told = text(&output.stdout);
        let line = told.lines().find(|line| line.starts_with("certificate ")).unwrap_or_default();
        assert!(line.ends_with(&format!("{says}: renew it")) || (says.is_empty() && line.is_empty()), "{told}");
    }
}
