//! SIPp on both sides of the binary. SIPp comes from Debian's `sip-tester`; `tests/run` installs it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::gate::{Gate, TO_VOICEMAIL, config, port, roomy_port, scenario};

/// SIPp as a callee; ends with the test.
pub(crate) struct Callee(Child);

impl Drop for Callee {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn sipp(gate: &Gate, scenario: &Path) -> Command {
    let mut command = Command::new("sipp");
    let media = roomy_port().to_string();
    command.arg("-sf").arg(scenario).args(["-i", "127.0.0.1", "-mp", &media, "-nostdin"]);
    command.current_dir(&gate.folder.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(crate) fn callee(gate: &Gate, name: &str, port: u16, talk_ms: u32) -> Callee {
    listening(gate, &scenario(name), port, talk_ms)
}

/// The same by a scenario of its own.
pub(crate) fn callee_of(gate: &Gate, scenario: &Path, port: u16) -> Callee {
    listening(gate, scenario, port, 0)
}

fn listening(gate: &Gate, scenario: &Path, port: u16, talk_ms: u32) -> Callee {
    // It answers OPTIONS besides.
    let child = sipp(gate, scenario).args(["-aa", "-p", &port.to_string(), "-d", &talk_ms.to_string()]).spawn();
    let child = child.expect("sipp is installed: see tests/run");
    let bound = format!("0100007F:{port:04X}");
    gate.wait_for("SIPp listens", |_| {
        std::fs::read_to_string("/proc/net/udp").is_ok_and(|table| table.contains(&bound))
    });
    Callee(child)
}

/// Runs SIPp as a caller to its end; true when every call went as its scenario says.
pub(crate) fn calls(gate: &Gate, name: &str, count: u32, rate: u32, talk_ms: u32) -> bool {
    start_calls(gate, name, count, rate, talk_ms, gate.sip).wait().expect("sipp ends").success()
}

pub(crate) fn start_calls(gate: &Gate, name: &str, count: u32, rate: u32, talk_ms: u32, to: u16) -> Child {
    start_scenario(gate, &scenario(name), count, rate, talk_ms, to)
}

/// The same by a scenario of its own.
pub(crate) fn start_scenario(gate: &Gate, scenario: &Path, count: u32, rate: u32, talk_ms: u32, to: u16) -> Child {
    let numbers = [count, rate, talk_ms].map(|number| number.to_string());
    let [count, rate, talk] = &numbers;
    let caller = port().to_string();
    let to = format!("127.0.0.1:{to}");
    sipp(gate, scenario)
        .args([
            "-s",
            "100",
            "-p",
            &caller,
            "-m",
            count,
            "-r",
            rate,
            "-d",
            talk,
            "-timeout",
            "60",
            "-timeout_error",
            &to,
        ])
        .spawn()
        .expect("sipp is installed: see tests/run")
}

fn overflows(gate: &Gate, step: &str) -> u64 {
    gate.metric(&format!("sipweir_overflows_total{{service=\"menu\",step=\"{step}\"}}"))
}

#[test]
fn calls_within_the_pool_all_reach_the_pbx() {
    let gate = Gate::start(50, TO_VOICEMAIL);
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    assert!(calls(&gate, "caller", 100, 50, 100));
    gate.wait_for("the last channel is free", |gate| gate.in_use() == 0);
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_answered_total") == 100);
    assert_eq!(gate.metric("sipweir_admissions_total{service=\"menu\"}"), 100);
    assert_eq!(overflows(&gate, "route"), 0);
    assert_eq!(gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}"), 100);
    assert_eq!(gate.metric("sipweir_answer_delay_seconds_count"), 100);
    assert_eq!(gate.stop(), 0);
}

#[test]
fn the_surplus_goes_to_the_voicemail_and_exactly_the_pool_to_the_pbx() {
    let gate = Gate::start(3, TO_VOICEMAIL);
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let _voicemail = callee(&gate, "pbx", gate.voicemail, 0);
    assert!(calls(&gate, "caller", 20, 200, 4_000));
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_answered_total") == 20);
    assert_eq!(gate.metric("sipweir_admissions_total{service=\"menu\"}"), 3);
    assert_eq!(overflows(&gate, "route"), 17);
    assert_eq!(gate.metric("sipweir_refusals_total{reason=\"pool_full\"}"), 17);
    assert_eq!(gate.metric("sipweir_pool_peak_channels{pool=\"ivr\"}"), 3);
    gate.wait_for("the last channel is free", |gate| gate.in_use() == 0);
    let events = gate.get("/api/v1/events").expect("events");
    assert_eq!(events.matches("\"pool_exhausted\"").count(), 1, "{events}");
    assert_eq!(events.matches("\"pool_recovered\"").count(), 1, "{events}");
    assert!(events.contains("17 calls refused meanwhile"), "{events}");
}

#[test]
fn without_room_and_without_a_plan_callers_hear_486() {
    let gate = Gate::start(0, "");
    assert!(calls(&gate, "caller-refused", 10, 50, 0));
    gate.wait_for("all are counted", |gate| overflows(gate, "reject") == 10);
    assert_eq!(gate.metric("sipweir_responses_total{direction=\"out\",method=\"INVITE\",status=\"486\"}"), 10);
}

#[test]
fn a_burst_of_five_hundred_on_ten_channels_admits_ten() {
    let gate = Gate::start(10, TO_VOICEMAIL);
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let _voicemail = callee(&gate, "pbx", gate.voicemail, 0);
    assert!(calls(&gate, "caller", 500, 5_000, 6_000));
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_answered_total") == 500);
    assert_eq!(gate.metric("sipweir_admissions_total{service=\"menu\"}"), 10);
    assert_eq!(overflows(&gate, "route"), 490);
}

#[test]
fn a_cancelled_call_frees_its_channel() {
    let gate = Gate::start(5, "");
    let _pbx = callee(&gate, "pbx-rings", gate.pbx, 0);
    assert!(calls(&gate, "caller-cancels", 5, 20, 200));
    gate.wait_for("the last channel is free", |gate| gate.in_use() == 0);
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"not_answered\"}") == 5);
    assert_eq!(gate.metric("sipweir_requests_total{direction=\"out\",method=\"CANCEL\"}"), 5);
}

#[test]
fn the_pbx_hangs_up_and_the_channels_are_free() {
    let gate = Gate::start(10, "");
    let _pbx = callee(&gate, "pbx-hangs-up", gate.pbx, 200);
    assert!(calls(&gate, "caller-waits", 10, 50, 0));
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"callee_bye\"}") == 10);
    assert_eq!(gate.in_use(), 0);
}

#[test]
fn the_operator_ends_a_call_and_both_sides_hear_of_it() {
    let gate = Gate::start(2, "");
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let mut caller = start_calls(&gate, "caller-waits", 1, 10, 0, gate.sip);
    let number = |gate: &Gate| {
        let output = gate.sipweir(&["calls", "--json"]);
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let call = list["calls"].get(0)?.clone();
        (call["state"] == "answered").then(|| call["slot"].as_u64().expect("a number").to_string())
    };
    gate.wait_for("the call is up", |gate| number(gate).is_some());
    let slot = number(&gate).expect("it is up");
    let ended = gate.sipweir(&["calls", "end", &slot]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(caller.wait().expect("sipp ends").success(), "the caller has heard a BYE and answered it");
    gate.wait_for("the PBX has let go", |gate| gate.in_use() == 0);
    let counted = "sipweir_calls_ended_total{reason=\"administrator\"}";
    gate.wait_for("it is counted", |gate| gate.metric(counted) == 1);
    let again = gate.sipweir(&["calls", "end", &slot]);
    assert_eq!(again.status.code(), Some(6), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(gate.stop(), 0);
}

#[test]
fn the_operator_gives_a_channel_back_and_the_call_goes_on() {
    let gate = Gate::start(1, "");
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let mut caller = start_calls(&gate, "caller", 1, 10, 4_000, gate.sip);
    gate.wait_for("the call is up", |gate| gate.metric("sipweir_pool_channels{pool=\"ivr\",state=\"held\"}") == 1);
    let listed: serde_json::Value = serde_json::from_slice(&gate.sipweir(&["calls", "--json"]).stdout).expect("JSON");
    let slot = listed["calls"][0]["slot"].to_string();
    let told = gate.sipweir(&["calls", "explain", &slot]);
    let story = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(story.contains("a channel of pool ivr: held") && story.contains("s ago"), "{story}");
    let released = gate.sipweir(&["calls", "release", &slot]);
    assert!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
    gate.wait_for("it is free", |gate| gate.in_use() == 0);
    assert!(calls(&gate, "caller", 1, 10, 50), "another call has it");
    assert!(caller.wait().expect("sipp ends").success(), "the first went on and hung up itself");
    assert_eq!(gate.sipweir(&["calls", "release", "999999"]).status.code(), Some(6));
    gate.wait_for("both are counted", |gate| {
        gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 2
            && gate.metric("sipweir_calls_transferred_total") == 1
    });
    assert_eq!(gate.stop(), 0);
}

#[test]
fn a_node_without_descriptors_left_goes_on_with_its_calls_and_accepts_again_when_it_has_some() {
    let gate = Gate::start_with_files(64, |ports, _| {
        format!("[[listen]]\nuri = \"tcp:127.0.0.1:{}\"\n", ports[0]) + &config(20, ports, "")
    });
    assert!(gate.log().contains("LimitNOFILE=10256"), "the operator is told: {}", gate.log());
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let connect = || TcpStream::connect(("127.0.0.1", gate.sip)).expect("the kernel accepts");
    let many: Vec<TcpStream> = (0..80).map(|_| connect()).collect();
    assert!(calls(&gate, "caller", 5, 20, 100), "calls over UDP need none");
    drop(many);
    // The shard tells its counts once a second.
    let is_counted = |line: &str| line.starts_with("sipweir_accept_errors_total ") && !line.ends_with(" 0");
    gate.wait_for("it can be asked again, and has counted", |gate| {
        gate.get("/metrics").is_some_and(|text| text.lines().any(is_counted))
    });
    let mut line = connect();
    line.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let options = "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKo\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
                   To: <sip:127.0.0.1>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    line.write_all(options.as_bytes()).expect("sent");
    let mut answer = [0; 12];
    line.read_exact(&mut answer).expect("the listener lives");
    assert_eq!(&answer, b"SIP/2.0 200 ");
    assert_eq!(gate.stop(), 0);
}

/// A line between SIPp and the gate on which everything towards the gate arrives three times.
struct Echoing {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echoing {
    fn new(gate: &Gate) -> Self {
        let line = UdpSocket::bind("127.0.0.1:0").expect("a port");
        line.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let port = line.local_addr().expect("bound").port();
        let to = SocketAddr::from(([127, 0, 0, 1], gate.sip));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut caller) = (vec![0; 65_536], None);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = line.recv_from(&mut buffer) else { continue };
                if from == to {
                    let caller = caller.expect("the gate only answers");
                    line.send_to(&buffer[..length], caller).expect("sent");
                } else {
                    caller = Some(from);
                    for _ in 0..3 {
                        line.send_to(&buffer[..length], to).expect("sent");
                    }
                }
            }
        });
        Self { port, stop, thread: Some(thread) }
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[test]
fn a_line_that_trebles_every_request_counts_calls_once() {
    let gate = Gate::start(30, "");
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let line = Echoing::new(&gate);
    assert!(start_calls(&gate, "caller", 20, 20, 100, line.port).wait().expect("sipp ends").success());
    gate.wait_for("the last channel is free", |gate| gate.in_use() == 0);
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_retransmissions_total") >= 80);
    assert_eq!(gate.metric("sipweir_admissions_total{service=\"menu\"}"), 20);
    assert_eq!(gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}"), 20);
    assert_eq!(gate.metric("sipweir_requests_total{direction=\"out\",method=\"INVITE\"}"), 20);
    assert_eq!(gate.metric("sipweir_requests_total{direction=\"out\",method=\"BYE\"}"), 20);
}

#[test]
fn a_pbx_that_is_gone_is_overflowed() {
    // 64*T1 is 3.2 s here: then it is certain that the PBX took no channel.
    let gate = Gate::start(10, &format!("{TO_VOICEMAIL}\n[timers]\nt1_ms = 50\n"));
    let _voicemail = callee(&gate, "pbx", gate.voicemail, 0);
    assert!(calls(&gate, "caller", 3, 10, 100));
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_refusals_total{reason=\"target_failed\"}") == 3);
    assert_eq!(gate.in_use(), 0);
}

// OpenSIPS #3135, #3621: memory that grows with the calls that were, until the process dies.
#[test]
fn b7_calls_that_are_over_leave_no_memory_behind() {
    let gate = Gate::start(50, &format!("{TO_VOICEMAIL}\n[timers]\nt1_ms = 50\n"));
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let _voicemail = callee(&gate, "pbx", gate.voicemail, 0);
    let idle = |gate: &Gate| {
        ["server", "client"].iter().all(|side| gate.metric(&format!("sipweir_transactions{{side=\"{side}\"}}")) == 0)
    };
    let wave = || {
        assert!(calls(&gate, "caller", 1_500, 400, 200));
        gate.wait_for("its transactions are over, too", idle);
        gate.memory()
    };
    let first = wave();
    wave();
    let third = wave();
    assert_eq!(gate.in_use(), 0);
    // A kilobyte a call would be three times as much.
    assert!(third < first + 1_024, "{first} KiB after 1,500 calls, {third} KiB after 4,500");
}

#[test]
fn lowering_the_capacity_by_sighup_cuts_no_call() {
    let gate = Gate::start(5, "");
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let mut talking = start_calls(&gate, "caller", 5, 50, 8_000, gate.sip);
    gate.wait_for("five talk", |gate| gate.in_use() == 5);
    gate.rewrite(1, "");
    gate.signal("HUP");
    gate.wait_for("it is reloaded", |gate| gate.metric("sipweir_pool_capacity_channels{pool=\"ivr\"}") == 1);
    assert_eq!(gate.in_use(), 5);
    assert!(calls(&gate, "caller-refused", 1, 1, 0));
    assert!(talking.wait().expect("sipp ends").success(), "nobody was cut");
    gate.wait_for("the last channel is free", |gate| gate.in_use() == 0);
    // A file with a problem changes nothing, and says so.
    gate.rewrite(1, "limit = -3");
    gate.signal("HUP");
    gate.wait_for("it is refused", |gate| gate.metric("sipweir_events_total{event=\"config_refused\"}") == 1);
    assert!(gate.log().contains("service[0].limit: -3 is no whole number"), "{}", gate.log());
    assert!(calls(&gate, "caller", 1, 1, 10));
}

#[test]
fn the_load_recipe_of_the_deploy_folder_says_what_became_of_the_calls() {
    let gate = Gate::start(2, TO_VOICEMAIL);
    let ports = [port(), gate.pbx, gate.voicemail].map(|port| port.to_string());
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sipp/load"))
        .args(["-r", "20", "-t", "2", "-d", "300", "-p", &ports[0], "-P", &ports[1], "-O", &ports[2]])
        .arg(format!("127.0.0.1:{}", gate.sip))
        .current_dir(&gate.folder.0)
        .output()
        .expect("the recipe runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("calls 40, good 40, failed 0, sent again 0, seconds "), "{text}");
    assert!(overflows(&gate, "route") > 0, "two channels are too few for six calls at a time");
}

/// SIPp's own scenarios, over that transport (`u1`, `t1`).
fn built_in(gate: &Gate, role: &str, transport: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sipp");
    let media = roomy_port().to_string();
    command.args(["-sn", role, "-t", transport, "-i", "127.0.0.1", "-mp", &media, "-nostdin"]).args(arguments);
    command.current_dir(&gate.folder.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn sipps_own_scenarios_pass_over_udp_and_tcp_although_their_bye_has_no_route() {
    for (transport, parameter, table) in [("u1", "", "udp"), ("t1", ";transport=tcp", "tcp")] {
        let gate = Gate::start_with(|ports, _| {
            let pbx = format!("sip:127.0.0.1:{}", ports[2]);
            let tcp = format!("[[listen]]\nuri = \"tcp:127.0.0.1:{}\"\n", ports[0]);
            tcp + &config(20, ports, "").replace(&format!("\"{pbx}\""), &format!("\"{pbx}{parameter}\""))
        });
        let uas = built_in(&gate, "uas", transport, &["-p", &gate.pbx.to_string()]).spawn().expect("sipp is installed");
        let _uas = Callee(uas);
        let bound = format!("0100007F:{:04X}", gate.pbx);
        gate.wait_for("SIPp listens", |_| {
            std::fs::read_to_string(format!("/proc/net/{table}")).is_ok_and(|table| table.contains(&bound))
        });
        let (caller, to) = (port().to_string(), format!("127.0.0.1:{}", gate.sip));
        let arguments =
            ["-p", &caller, "-s", "100", "-m", "40", "-r", "20", "-d", "200", "-timeout", "60", "-timeout_error", &to];
        let calls = built_in(&gate, "uac", transport, &arguments).status().expect("sipp is installed");
        assert!(calls.success(), "{transport}");
        gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 40);
        assert_eq!(gate.in_use(), 0, "{transport}");
        assert_eq!(gate.stop(), 0);
    }
}

#[test]
fn callers_wait_at_the_gate_and_each_gets_the_channel_in_turn() {
    let gate = Gate::start(1, "overflow = [{ wait = 60 }, { reject = 486 }]");
    let _pbx = callee(&gate, "pbx", gate.pbx, 0);
    let mut callers = start_calls(&gate, "caller", 5, 50, 300, gate.sip);
    gate.wait_for("some wait", |gate| gate.metric("sipweir_service_waiting_calls{service=\"menu\"}") > 0);
    let listed = gate.sipweir(&["calls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("waiting"), "{}", String::from_utf8_lossy(&listed.stdout));
    assert!(callers.wait().expect("sipp ends").success(), "all five were served");
    gate.wait_for("all are counted", |gate| gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 5);
    assert_eq!(gate.metric("sipweir_waits_total{service=\"menu\",end=\"admitted\"}"), 4);
    assert_eq!(gate.metric("sipweir_overflow_step_seconds_count{step=\"wait\"}"), 4);
    assert_eq!(gate.metric("sipweir_pool_peak_channels{pool=\"ivr\"}"), 1);
    assert_eq!(gate.stop(), 0);
}
