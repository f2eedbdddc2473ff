//! Telling the operators, with the programs they use: Alertmanager, promtool, snmptrapd, rsyslogd, a chat's webhook.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::gate::{Folder, Gate, TO_VOICEMAIL, config, port, run};

/// A program that ends with the test.
struct Server(Child);

impl Server {
    fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a log");
        let errors = log.try_clone().expect("a log");
        let child = Command::new(program).args(arguments).stdout(log).stderr(errors).stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error} (tests/run installs it)")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Looks again and again, for twenty seconds at most.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}");
}

/// Whether somebody has this UDP port, as the kernel tells it: trying to bind it could take it from whom we wait for.
fn udp_is_bound(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/udp").expect("the kernel's table of UDP sockets");
    table
        .lines()
        .any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}"))))
}

fn http_get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains(" 200 ").then(|| answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}

/// A caller, a PBX and a voicemail, each a socket.
struct Ends {
    caller: UdpSocket,
    pbx: UdpSocket,
    voicemail: UdpSocket,
    gate: SocketAddr,
}

impl Ends {
    fn of(gate: &Gate) -> Self {
        let bind = |port: u16| {
            let socket = UdpSocket::bind(("127.0.0.1", port)).expect("a port");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            socket
        };
        let address = ([127, 0, 0, 1], gate.sip).into();
        Self { caller: bind(0), pbx: bind(gate.pbx), voicemail: bind(gate.voicemail), gate: address }
    }

    fn call(&self, id: &str) {
        let from = self.caller.local_addr().expect("bound");
        let invite = format!(
            "INVITE sip:100@{} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:a@{from}>;tag=1\r\nTo: <sip:100@{}>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:a@{from}>\r\nContent-Length: 0\r\n\r\n",
            self.gate, self.gate
        );
        self.caller.send_to(invite.as_bytes(), self.gate).expect("sent");
    }

    /// The INVITE that comes to one of the two.
    fn invite(socket: &UdpSocket) -> String {
        let mut buffer = [0; 65_536];
        let (length, _) = socket.recv_from(&mut buffer).expect("an INVITE");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(text.starts_with("INVITE "), "{text}");
        text
    }

    fn refuse(&self, invite: &str) {
        let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
        let head: String = invite
            .split_inclusive("\r\n")
            .filter(|line| copied.iter().any(|name| line.starts_with(name)))
            .map(|line| if line.starts_with("To:") { line.replace("\r\n", ";tag=p\r\n") } else { line.to_owned() })
            .collect();
        let answer = format!("SIP/2.0 486 Busy Here\r\n{head}Content-Length: 0\r\n\r\n");
        self.pbx.send_to(answer.as_bytes(), self.gate).expect("sent");
    }
}

/// A web server that answers each POST with the next status (the last one for ever) and keeps what it got.
struct Hook {
    port: u16,
    got: Arc<Mutex<Vec<(String, String)>>>,
}

impl Hook {
    fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        std::thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
                let (mut head, mut line) = (String::new(), String::new());
                while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                    head += &std::mem::take(&mut line).to_lowercase();
                }
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).expect("a body");
                kept.lock().expect("kept").push((head, String::from_utf8_lossy(&body).into_owned()));
                let status = statuses[at.min(statuses.len() - 1)];
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nseen");
                stream.write_all(answer.as_bytes()).expect("answered");
            }
        });
        Self { port, got }
    }

    fn bodies(&self) -> Vec<String> {
        self.got.lock().expect("kept").iter().map(|(_, body)| body.clone()).collect()
    }
}

/// A gate with one channel and these sinks.
fn gate(sinks: impl Fn(&Folder) -> String) -> Gate {
    Gate::start_with(|ports, folder| {
        let node = format!("[node]\ndata_dir = {:?}\n", folder.0);
        format!("{}{}", config(1, ports, TO_VOICEMAIL).replace("[node]\n", &node), sinks(folder))
    })
}

#[test]
fn a_full_pool_overflows_alertmanager_shows_it_and_it_resolves_when_the_pool_recovers() {
    let folder = Folder::new();
    let alertmanager = port();
    let file = folder.write("am.yml", "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n");
    let _server = Server::start(
        "prometheus-alertmanager",
        &[
            &format!("--config.file={}", file.display()),
            &format!("--storage.path={}", folder.0.join("am").display()),
            &format!("--web.listen-address=127.0.0.1:{alertmanager}"),
            "--cluster.listen-address=",
        ],
        &folder.0.join("am.log"),
    );
    eventually("Alertmanager", || http_get(alertmanager, "/-/ready"));
    let gate = gate(|_| {
        format!(
            "[[sink]]\nname = \"ops\"\ntype = \"alertmanager\"\nurl = \"http://127.0.0.1:{alertmanager}\"\nevents = [\"pool_*\"]\n"
        )
    });
    let ends = Ends::of(&gate);
    ends.call("one");
    let first = Ends::invite(&ends.pbx);
    ends.call("two");
    let second = Ends::invite(&ends.voicemail);
    assert!(second.contains("Call-ID: two\r\n"), "the surplus takes the service's own overflow route: {second}");
    let alerts = || -> Vec<Value> {
        let text = http_get(alertmanager, "/api/v2/alerts").unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let alert = eventually("the alert", || alerts().into_iter().next());
    let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (label("alertname"), label("subject"), label("severity")),
        ("pool_exhausted".into(), "ivr".into(), "critical".into())
    );
    assert_eq!(alert["annotations"]["summary"], "pool ivr: all 1 channels in use");
    ends.refuse(&first);
    eventually("its end", || alerts().is_empty().then_some(()));
    gate.wait_for("both are counted", |gate| {
        gate.metric("sipweir_sink_notices_total{sink=\"ops\",result=\"delivered\"}") == 2
    });
    assert_eq!(gate.stop(), 0);
}

#[test]
fn a_webhook_is_signed_retried_and_a_secret_is_never_seen() {
    let hook = Hook::start(&[503, 200]);
    let gate = gate(|folder| {
        let secret = folder.write("secret", "key\n");
        format!(
            "[[sink]]\nname = \"chat\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{}/hook\"\nseverity = \"info\"\nsecret_file = {secret:?}\n",
            hook.port
        )
    });
    let ends = Ends::of(&gate);
    ends.call("one");
    let first = Ends::invite(&ends.pbx);
    ends.refuse(&first);
    let bodies = eventually("three posts", || Some(hook.bodies()).filter(|bodies| bodies.len() >= 3));
    assert_eq!(bodies[0], bodies[1], "what was not taken is sent again");
    let told: Vec<Value> = bodies[1..].iter().map(|body| serde_json::from_str(body).expect("JSON")).collect();
    let said = |at: usize| (told[at]["event"].as_str().expect("text"), told[at]["status"].as_str().expect("text"));
    assert_eq!((said(0), said(1)), (("pool_exhausted", "raised"), ("pool_exhausted", "resolved")));
    let head = hook.got.lock().expect("kept")[0].0.clone();
    let signature = head.split("x-sipweir-signature: sha256=").nth(1).and_then(|rest| rest.lines().next());
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key");
    let expected: String =
        ring::hmac::sign(&key, bodies[0].as_bytes()).as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(signature, Some(expected.as_str()));
    let test = gate.sipweir(&["events", "test", "chat"]);
    assert!(String::from_utf8_lossy(&test.stdout).contains("200 OK: seen"), "{test:?}");
    let unknown = gate.sipweir(&["events", "test", "nobody"]);
    assert_eq!(unknown.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("known are chat"), "{unknown:?}");
    assert_eq!(gate.stop(), 0);
}

#[test]
fn what_a_sink_did_not_take_waits_over_a_restart() {
    let dead = port();
    let folder = Folder::new();
    let start = |to: u16| {
        Gate::start_with(|ports, _| {
            format!(
                "{}[[sink]]\nname = \"chat\"\ntype = \"webhook\"\ntemplate = \"slack\"\nurl = \"http://127.0.0.1:{to}/\"\n",
                config(0, ports, TO_VOICEMAIL).replace("[node]\n", &format!("[node]\ndata_dir = {:?}\n", folder.0))
            )
        })
    };
    let first = start(dead);
    let ends = Ends::of(&first);
    ends.call("one");
    Ends::invite(&ends.voicemail);
    let queue = folder.0.join("sinks/chat.jsonl");
    eventually("the queue on disk", || std::fs::read_to_string(&queue).ok().filter(|text| !text.is_empty()));
    drop((ends, first));
    let hook = Hook::start(&[200]);
    let _second = start(hook.port);
    let bodies = eventually("the letter", || Some(hook.bodies()).filter(|bodies| !bodies.is_empty()));
    assert_eq!(bodies[0], "{\"text\":\"[CRITICAL] test: pool ivr: all 0 channels in use\"}");
    eventually("an empty queue", || std::fs::read_to_string(&queue).ok().filter(String::is_empty));
}

#[test]
fn what_was_told_is_taken_back_when_the_node_is_started_again_or_the_sink_repaired() {
    let hook = Hook::start(&[200]);
    let folder = Folder::new();
    let text = |ports: [u16; 4], chat: u16| {
        let node = format!("[node]\ndata_dir = {:?}\n", folder.0);
        format!(
            "{}[[sink]]\nname = \"told\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{}/\"\n\
             [[sink]]\nname = \"chat\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{chat}/secret\"\n",
            config(1, ports, TO_VOICEMAIL).replace("[node]\n", &node),
            hook.port
        )
    };
    let dead = port();
    let told = |what: &str| {
        eventually(what, || hook.bodies().into_iter().find(|body| body.contains(what)));
    };
    let first = Gate::start_with(|ports, _| text(ports, dead));
    let ends = Ends::of(&first);
    ends.call("one");
    Ends::invite(&ends.pbx);
    told("\"event\":\"sink_failing\",\"severity\":\"warning\",\"status\":\"raised\"");
    let repaired = text([first.sip, first.admin, first.pbx, first.voicemail], hook.port);
    std::fs::write(&first.config, repaired).expect("a file");
    first.signal("HUP");
    told("\"event\":\"sink_failing\",\"severity\":\"warning\",\"status\":\"resolved\"");
    assert!(!hook.bodies().concat().contains("secret"), "the path of a chat's webhook is its secret");
    drop((ends, first));
    let _second = Gate::start_with(|ports, _| text(ports, hook.port));
    told("\"event\":\"pool_exhausted\",\"severity\":\"critical\",\"status\":\"resolved\"");
}

#[test]
fn snmptrapd_rsyslogd_and_a_file_get_what_they_understand() {
    let folder = Folder::new();
    let [trap, syslog] = [port(), port()];
    let traps = folder.0.join("traps.log");
    let mibs = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let trap_config = folder.write("snmptrapd.conf", "authCommunity log secret-community\ndisableAuthorization no\n");
    let _traps = Server::start(
        "snmptrapd",
        &[
            "-f",
            "-Lo",
            "-C",
            "-c",
            trap_config.to_str().expect("UTF-8"),
            "-M",
            &format!("+{}", mibs.display()),
            "-On",
            &format!("udp:127.0.0.1:{trap}"),
        ],
        &traps,
    );
    let lines = folder.0.join("syslog.log");
    let rsyslog = format!(
        "module(load=\"imtcp\")\ninput(type=\"imtcp\" port=\"{syslog}\" address=\"127.0.0.1\")\n\
         template(name=\"all\" type=\"string\" string=\"%pri%|%hostname%|%app-name%|%msgid%|%structured-data%|%msg%\\n\")\n\
         *.* action(type=\"omfile\" file=\"{}\" template=\"all\")\n",
        lines.display()
    );
    let rsyslog = folder.write("rsyslog.conf", &rsyslog);
    let _syslog = Server::start(
        "rsyslogd",
        &["-n", "-f", rsyslog.to_str().expect("UTF-8"), "-i", folder.0.join("rsyslog.pid").to_str().expect("UTF-8")],
        &folder.0.join("rsyslog.err"),
    );
    eventually("rsyslogd", || TcpStream::connect(("127.0.0.1", syslog)).ok());
    eventually("snmptrapd", || udp_is_bound(trap).then_some(()));
    let gate = gate(|folder| {
        let community = folder.write("community", "secret-community\n");
        format!(
            "[[sink]]\nname = \"traps\"\ntype = \"snmp\"\naddress = \"127.0.0.1:{trap}\"\ncommunity_file = {community:?}\n\
             [[sink]]\nname = \"log\"\ntype = \"syslog\"\naddress = \"tcp:127.0.0.1:{syslog}\"\n\
             [[sink]]\nname = \"file\"\ntype = \"file\"\npath = {:?}\n",
            folder.0.join("events.jsonl")
        )
    });
    let ends = Ends::of(&gate);
    ends.call("one");
    let first = Ends::invite(&ends.pbx);
    ends.refuse(&first);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let seen = eventually("two traps", || {
        Some(read(&traps)).filter(|text| text.contains("32473.1.0.1") && text.contains("32473.1.0.2"))
    });
    for part in
        ["1.3.6.1.4.1.32473.1.1.2.0 = STRING: \"pool_exhausted\"", "1.3.6.1.4.1.32473.1.1.4.0 = STRING: \"ivr\""]
    {
        assert!(seen.contains(part), "{part}\n{seen}");
    }
    let seen =
        eventually("two lines", || Some(read(&lines)).filter(|text| text.matches("pool_exhausted").count() >= 2));
    assert!(
        seen.contains("130|test|sipweir|pool_exhausted|[sipweir@32473 subject=\"ivr\" status=\"raised\""),
        "{seen}"
    );
    assert!(
        seen.contains("133|test|sipweir|pool_exhausted|[sipweir@32473 subject=\"ivr\" status=\"resolved\""),
        "{seen}"
    );
    let file = gate.folder.0.join("events.jsonl");
    let seen = eventually("two lines", || Some(read(&file)).filter(|text| text.lines().count() == 2));
    let last: Value = serde_json::from_str(seen.lines().last().expect("two")).expect("JSON");
    assert_eq!((&last["status"], &last["subject"]), (&"resolved".into(), &"ivr".into()));
    assert!(!gate.log().contains("secret-community"), "a secret in the log");
}

/// A certificate for 127.0.0.1 and the authority that signed it: `ca.pem`, `cert.pem` and `key.pem` in the folder.
fn certificates(folder: &Folder) {
    folder.write("san", "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n");
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 \
                  -subj /CN=test-ca && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem \
                  -out cert.csr -subj /CN=127.0.0.1 && openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key \
                  -CAcreateserial -out cert.pem -days 2 -extfile san";
    let output = Command::new("sh").args(["-c", script]).current_dir(&folder.0).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn mail_and_syslog_travel_over_tls_to_those_whose_certificate_is_trusted() {
    let folder = Folder::new();
    certificates(&folder);
    let path = |name: &str| folder.0.join(name).to_str().expect("UTF-8").to_owned();
    let [smtp, syslog] = [port(), port()];
    let smtp_listen = format!("127.0.0.1:{smtp}");
    let mails = folder.0.join("mails.log");
    let _smtp = Server::start(
        "/usr/bin/python3",
        &[
            "-u",
            "-m",
            "aiosmtpd",
            "-n",
            "-l",
            &smtp_listen,
            "--tlscert",
            &path("cert.pem"),
            "--tlskey",
            &path("key.pem"),
            "-c",
            "aiosmtpd.handlers.Debugging",
            "stdout",
        ],
        &mails,
    );
    let rsyslog = format!(
        "global(DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{}\"\n\
         DefaultNetstreamDriverCertFile=\"{}\" DefaultNetstreamDriverKeyFile=\"{}\")\n\
         module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"anon\")\n\
         input(type=\"imtcp\" port=\"{syslog}\" address=\"127.0.0.1\")\n\
         template(name=\"all\" type=\"string\" string=\"%msgid%|%msg%\\n\")\n\
         *.* action(type=\"omfile\" file=\"{}\" template=\"all\")\n",
        path("ca.pem"),
        path("cert.pem"),
        path("key.pem"),
        path("syslog.log"),
    );
    let rsyslog = folder.write("rsyslog.conf", &rsyslog);
    let _syslog = Server::start(
        "rsyslogd",
        &["-n", "-f", rsyslog.to_str().expect("UTF-8"), "-i", &path("rsyslog.pid")],
        &folder.0.join("rsyslog.err"),
    );
    for port in [smtp, syslog] {
        eventually("both servers", || TcpStream::connect(("127.0.0.1", port)).ok());
    }
    let ca = path("ca.pem");
    let gate = gate(|_| {
        format!(
            "[[sink]]\nname = \"mail\"\ntype = \"mail\"\nserver = \"{smtp_listen}\"\nca_file = {ca:?}\n\
             from = \"sipweir <gate@example.net>\"\nto = [\"operators@example.net\"]\n\
             [[sink]]\nname = \"log\"\ntype = \"syslog\"\naddress = \"tls:127.0.0.1:{syslog}\"\nca_file = {ca:?}\n\
             [[sink]]\nname = \"distrusting\"\ntype = \"mail\"\nserver = \"{smtp_listen}\"\n\
             from = \"gate@example.net\"\nto = [\"operators@example.net\"]\nevents = [\"overload\"]\n"
        )
    });
    let ends = Ends::of(&gate);
    ends.call("one");
    let first = Ends::invite(&ends.pbx);
    ends.refuse(&first);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let seen =
        eventually("two mails", || Some(read(&mails)).filter(|text| text.matches("MESSAGE FOLLOWS").count() == 2));
    for part in [
        "From: sipweir <gate@example.net>",
        "To: operators@example.net",
        "Subject: [CRITICAL] test: pool ivr: all 1 channels in use (pool_exhausted)",
        "What to do: see who holds them",
        "Subject: [RESOLVED] test: pool ivr: 0 of 1 channels in use again",
    ] {
        assert!(seen.contains(part), "{part}\n{seen}");
    }
    let log = folder.0.join("syslog.log");
    eventually("two lines", || Some(read(&log)).filter(|text| text.matches("pool_exhausted|").count() == 2));
    let refused = gate.sipweir(&["events", "test", "distrusting"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("certificate"), "{said}");
}

#[test]
fn the_mib_and_the_rules_are_what_their_readers_accept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let check = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(root).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error} (tests/run installs it)"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        said
    };
    check("promtool", &["check", "config", "deploy/prometheus/prometheus.yml"]);
    check("promtool", &["check", "rules", "--lint=all", "deploy/prometheus/alerts.yml"]);
    check("promtool", &["test", "rules", "deploy/prometheus/alerts.test.yml"]);
    check("amtool", &["check-config", "deploy/prometheus/alertmanager.yml"]);
    // Debian ships no base MIBs, so the module alone is looked at: every number a trap carries has a name there.
    let mib = std::fs::read_to_string(root.join("deploy/SIPWEIR-MIB.txt")).expect("the MIB");
    for object in 1..=7 {
        assert!(mib.contains(&format!("::= {{ sipweirObjects {object} }}")), "object {object}");
    }
    for notification in 1..=3 {
        assert!(mib.contains(&format!("::= {{ sipweirNotifications {notification} }}")), "notification {notification}");
    }
    let catalogue = String::from_utf8_lossy(&run(&["events", "list", "--catalogue", "--json"]).stdout).into_owned();
    let catalogue: Value = serde_json::from_str(&catalogue).expect("JSON");
    assert!(catalogue.as_array().is_some_and(|events| events.len() > 10));
}

#[test]
fn prometheus_scrapes_a_node_and_understands_every_panel_of_the_dashboard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::new();
    let gate = gate(|_| String::new());
    let prometheus = port();
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: sipweir\n    static_configs:\n      - targets: [\"127.0.0.1:{}\"]\n",
        gate.admin
    );
    let file = folder.write("prometheus.yml", &text);
    let _server = Server::start(
        "prometheus",
        &[
            &format!("--config.file={}", file.display()),
            &format!("--storage.tsdb.path={}", folder.0.join("data").display()),
            &format!("--web.listen-address=127.0.0.1:{prometheus}"),
        ],
        &folder.0.join("prometheus.log"),
    );
    let query = |expression: &str| -> Option<Value> {
        let encoded: String = expression.bytes().map(|octet| format!("%{octet:02X}")).collect();
        serde_json::from_str(&http_get(prometheus, &format!("/api/v1/query?query={encoded}"))?).ok()
    };
    eventually("a scrape", || {
        let answer = query("sipweir_pool_capacity_channels{pool=\"ivr\"}")?;
        (answer["data"]["result"][0]["value"][1] == "1").then_some(())
    });
    let dashboard = std::fs::read_to_string(root.join("deploy/grafana/sipweir.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().expect("text").replace("$instance", ".*")).collect();
    assert!(expressions.len() > 15, "{expressions:?}");
    for expression in expressions {
        let answer = query(&expression).unwrap_or_else(|| panic!("refused: {expression}"));
        assert_eq!(answer["status"], "success", "{expression}");
    }
}

#[test]
fn a_secret_in_the_configuration_and_other_mistakes_are_named() {
    let folder = Folder::new();
    let sinks = "[[sink]]\nname = \"a b\"\ntype = \"webhook\"\nurl = \"ftp://x\"\nsecret = \"hush\"\n\
                 [[sink]]\nname = \"c\"\ntype = \"pager\"\n\
                 [[sink]]\nname = \"d\"\ntype = \"syslog\"\naddress = \"192.0.2.1\"\nevents = [\"pool_full\"]\nseverity = \"loud\"\n";
    let text = config(1, [5060, 8060, 5080, 5090], TO_VOICEMAIL) + sinks;
    let path = folder.write("bad.toml", &text);
    let output = run(&["check", "--config", path.to_str().expect("UTF-8")]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [
        "sink[0].name: \"a b\" cannot name a file",
        "sink[0].url: \"ftp://x\" is no URL",
        "sink[0].secret: is written into the configuration; write secret_file",
        "sink[1].type: \"pager\" is unknown",
        "sink[2].address: \"192.0.2.1\" is no address of a syslog server",
        "sink[2].events: \"pool_full\" names no event",
        "sink[2].severity: \"loud\" is unknown",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
    assert!(!message.contains("hush"), "{message}");
}
