//! A soft phone calls another through the gate: baresip, from Debian's `baresip-core`; `tests/run` installs it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::gate::{Folder, Gate, config, port, roomy_port};

/// A phone that runs; ends with the test.
struct Phone(Child);

impl Drop for Phone {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// An authority in `ca.pem`, and a certificate of it for 127.0.0.1 in `NAME.pem`, `NAME.key` and, both in one, `NAME.both`.
fn certify(folder: &Folder, names: &[&str]) {
    let mut authority = CertificateParams::new(Vec::new()).expect("valid");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signed");
    folder.write("ca.pem", &authority.pem());
    for name in names {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("valid");
        let certificate = params.signed_by(&key, &authority).expect("signed").pem();
        folder.write(&format!("{name}.pem"), &certificate);
        folder.write(&format!("{name}.key"), &key.serialize_pem());
        folder.write(&format!("{name}.both"), &(certificate + &key.serialize_pem()));
    }
}

/// Where Debian puts what baresip loads.
fn modules() -> PathBuf {
    let known = ["/usr/lib/baresip/modules", "/usr/lib/x86_64-linux-gnu/baresip/modules"];
    known.into_iter().map(PathBuf::from).find(|path| path.is_dir()).expect("baresip is installed: see tests/run")
}

/// Starts a phone with that user, for so many seconds; it ends its calls before it goes.
fn phone(folder: &Folder, name: &str, user: &str, port: u16, transport: &str, seconds: u32, command: &[&str]) -> Phone {
    controlled(folder, name, user, (port, None), transport, seconds, command)
}

/// The same, which takes orders at a TCP port.
fn controlled(
    folder: &Folder,
    name: &str,
    user: &str,
    (port, control): (u16, Option<u16>),
    transport: &str,
    seconds: u32,
    command: &[&str],
) -> Phone {
    let home = folder.0.join(format!("phone-{name}"));
    std::fs::create_dir_all(&home).expect("a folder");
    let settings = format!(
        "sip_listen 127.0.0.1:{port}\nsip_certificate {folder}/{name}.both\nsip_cafile {folder}/ca.pem\nnet_interface 127.0.0.1\n\
         module_path {modules}\nmodule g711.so\nmodule aubridge.so\nmodule_tmp account.so\nmodule_app menu.so\n\
         audio_player aubridge,{name}\naudio_source aubridge,{name}\naudio_alert aubridge,{name}-alert\n",
        folder = folder.0.display(),
        modules = modules().display()
    );
    let control =
        control.map_or(String::new(), |port| format!("module_app ctrl_tcp.so\nctrl_tcp_listen 127.0.0.1:{port}\n"));
    std::fs::write(home.join("config"), settings + &control).expect("written");
    let account = format!("<sip:{user}@127.0.0.1:{port};transport={transport}>;regint=0;answermode=auto\n");
    std::fs::write(home.join("accounts"), account).expect("written");
    let log = std::fs::File::create(home.join("log")).expect("a log");
    let mut phone = Command::new("baresip");
    phone.arg("-4").arg("-f").arg(&home).args(["-t", &seconds.to_string()]).args(command);
    phone.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    Phone(phone.spawn().expect("baresip is installed: see tests/run"))
}

#[test]
fn a_soft_phone_calls_another_over_udp_tcp_and_tls() {
    for transport in ["udp", "tcp", "tls"] {
        // Which takes the one above it, too.
        let callee = roomy_port();
        let gate = Gate::start_with(|ports, folder| {
            certify(folder, &["gate", "caller", "callee"]);
            let file = |name: &str| folder.0.join(name).display().to_string();
            let [sip, _, pbx, _] = ports;
            // baresip takes the port above its own for TLS.
            let pbx_uri = format!("sip:127.0.0.1:{};transport={transport}", callee + u16::from(transport == "tls"));
            let (tls, ca) = if transport == "tls" {
                let pair = format!("certificate = \"{}\"\nkey = \"{}\"\n", file("gate.pem"), file("gate.key"));
                (pair, format!("[tls]\nca = \"{}\"\n", file("ca.pem")))
            } else {
                Default::default()
            };
            // The voicemail is reached by UDP.
            let udp = if transport == "udp" { "" } else { "[[listen]]\nuri = \"udp:127.0.0.1:0\"\n" };
            let listen = format!("[[listen]]\nuri = \"{transport}:127.0.0.1:{sip}\"\n{tls}{udp}{ca}");
            config(2, ports, "")
                .replace(&format!("[[listen]]\nuri = \"udp:127.0.0.1:{sip}\"\n"), &listen)
                .replace(&format!("sip:127.0.0.1:{pbx}\""), &format!("{pbx_uri}\""))
        });
        let _callee = phone(&gate.folder, "callee", "100", callee, transport, 30, &[]);
        let table = if transport == "udp" { "udp" } else { "tcp" };
        let bound = format!("0100007F:{:04X}", callee + u16::from(transport == "tls"));
        gate.wait_for("the phone listens", |_| {
            std::fs::read_to_string(format!("/proc/net/{table}")).is_ok_and(|table| table.contains(&bound))
        });
        let dial = format!("/dial sip:100@127.0.0.1:{}", gate.sip);
        let mut caller = phone(&gate.folder, "caller", "caller", roomy_port(), transport, 4, &["-e", &dial]);
        gate.wait_for("the call is up", |gate| gate.metric("sipweir_pool_channels{pool=\"ivr\",state=\"held\"}") == 1);
        if transport == "tls" {
            let file = gate.folder.0.join("gate.pem").display().to_string();
            let ends = format!("sipweir_certificate_expires_timestamp_seconds{{file=\"{file}\"}}");
            // The shard tells once a second. The year 4096 is rcgen's own choice.
            gate.wait_for("its end is told", |gate| gate.metric(&ends) == 67_090_118_400);
        }
        // It hangs up when its time is over.
        assert!(caller.0.wait().expect("it ends").success());
        gate.wait_for("it has hung up", |gate| gate.metric("sipweir_calls_ended_total{reason=\"caller_bye\"}") == 1);
        assert_eq!(gate.in_use(), 0, "{transport}");
        assert_eq!(gate.stop(), 0);
    }
}

/// An order to a phone (baresip's ctrl_tcp: JSON in netstrings).
fn order(control: u16, command: &str, parameters: &str) {
    let mut line = TcpStream::connect(("127.0.0.1", control)).expect("the phone takes orders");
    let text = format!("{{\"command\":\"{command}\",\"params\":\"{parameters}\"}}");
    write!(line, "{}:{text},", text.len()).expect("sent");
    line.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    // It answers when it has done so.
    let answered = line.read(&mut [0; 64]).expect("an answer");
    assert!(answered > 0);
}

fn is_bound(port: u16) -> bool {
    std::fs::read_to_string("/proc/net/udp").is_ok_and(|table| table.contains(&format!("0100007F:{port:04X}")))
}

#[test]
fn the_pbx_transfers_a_caller_to_an_agents_phone_and_its_channel_is_free() {
    let (pbx, agent, control) = (roomy_port(), roomy_port(), port());
    let gate = Gate::start_with(|ports, folder| {
        certify(folder, &["agent", "pbx", "caller"]);
        config(1, [ports[0], ports[1], pbx, ports[3]], "")
    });
    let _agent = phone(&gate.folder, "agent", "agent", agent, "udp", 30, &[]);
    let _pbx = controlled(&gate.folder, "pbx", "100", (pbx, Some(control)), "udp", 30, &[]);
    gate.wait_for("both phones listen", |_| is_bound(agent) && is_bound(pbx));
    let dial = format!("/dial sip:100@127.0.0.1:{}", gate.sip);
    let mut caller = phone(&gate.folder, "caller", "caller", roomy_port(), "udp", 8, &["-e", &dial]);
    gate.wait_for("the call is up", |gate| gate.metric("sipweir_pool_channels{pool=\"ivr\",state=\"held\"}") == 1);
    order(control, "transfer", &format!("sip:agent@127.0.0.1:{agent}"));
    gate.wait_for("the caller took it", |gate| {
        gate.metric("sipweir_requests_total{direction=\"out\",method=\"REFER\"}") >= 1
    });
    gate.wait_for("the channel is free", |gate| gate.in_use() == 0);
    gate.wait_for("it is known why", |gate| gate.metric("sipweir_calls_transferred_total") == 1);
    assert!(caller.0.wait().expect("it ends").success());
    assert_eq!(gate.stop(), 0);
}
