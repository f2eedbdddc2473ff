//! A running binary, and a look at it from outside.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_sipweir");

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let unique = format!("sipweir-{}-{}", std::process::id(), port());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A port nobody has now: below the system's ephemeral ports, each given out once by this process.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 40) as u16 * 250;
    for _ in 0..10_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A port for who takes some of those above it, too (SIPp for media, baresip for TLS): from a range of its own, so that none is
/// anybody's, nor one of the load recipe's (16000 to 18000).
pub(crate) fn roomy_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 40) as u16 * 200;
    10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(8)) % 5_900
}

/// The gate under test and the ports around it.
pub(crate) struct Gate {
    child: Child,
    pub(crate) folder: Folder,
    pub(crate) config: PathBuf,
    pub(crate) sip: u16,
    pub(crate) admin: u16,
    pub(crate) pbx: u16,
    pub(crate) voicemail: u16,
}

pub(crate) fn config(channels: u32, [sip, admin, pbx, voicemail]: [u16; 4], plan: &str) -> String {
    format!(
        r#"
[node]
name = "test"
domains = ["127.0.0.1"]
[[listen]]
uri = "udp:127.0.0.1:{sip}"
[admin]
listen = "127.0.0.1:{admin}"
[[trunk]]
name = "carrier"
from = ["127.0.0.0/8"]
[[target]]
name = "pbx"
uri = ["sip:127.0.0.1:{pbx}"]
[[target]]
name = "voicemail"
uri = ["sip:127.0.0.1:{voicemail}"]
[[pool]]
name = "ivr"
channels = {channels}
[[service]]
name = "menu"
kind = "ivr"
numbers = ["100"]
pool = "ivr"
target = "pbx"
{plan}
"#
    )
}

pub(crate) const TO_VOICEMAIL: &str = "overflow = [{ route = \"voicemail\" }, { reject = 486 }]";

impl Gate {
    pub(crate) fn start(channels: u32, plan: &str) -> Self {
        Self::start_with(|ports, _| config(channels, ports, plan))
    }

    /// Starts with the configuration made for these ports and this folder.
    pub(crate) fn start_with(config: impl Fn([u16; 4], &Folder) -> String) -> Self {
        Self::start_by(Command::new(BINARY), config)
    }

    /// The same where the system gives it so many open files.
    pub(crate) fn start_with_files(files: u32, config: impl Fn([u16; 4], &Folder) -> String) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh", &files.to_string(), BINARY]);
        Self::start_by(command, config)
    }

    fn start_by(mut command: Command, config: impl Fn([u16; 4], &Folder) -> String) -> Self {
        let ports = [port(), port(), port(), port()];
        let folder = Folder::new();
        let path = folder.write("sipweir.toml", &config(ports, &folder));
        let log = std::fs::File::create(folder.0.join("log")).expect("a log");
        let child = command
            .args(["run", "--config"])
            .arg(&path)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let [sip, admin, pbx, voicemail] = ports;
        let gate = Self { child, folder, config: path, sip, admin, pbx, voicemail };
        gate.wait_for("it is ready", |gate| gate.get("/readyz").is_some_and(|answer| answer.contains("200 OK")));
        gate
    }

    pub(crate) fn rewrite(&self, channels: u32, plan: &str) {
        let text = config(channels, [self.sip, self.admin, self.pbx, self.voicemail], plan);
        std::fs::write(&self.config, text).expect("a file");
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill exists").success());
    }

    /// The answer to a GET, head and body; `None` when nobody listens.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// A metric's value; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").expect("metrics");
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(key, _)| key == name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or(0.0) as u64
    }

    pub(crate) fn in_use(&self) -> u64 {
        self.metric("sipweir_pool_channels{pool=\"ivr\",state=\"held\"}")
            + self.metric("sipweir_pool_channels{pool=\"ivr\",state=\"reserved\"}")
    }

    /// Looks again and again, for ten seconds at most.
    pub(crate) fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is_so(self) {
            assert!(Instant::now() < end, "waited in vain until {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    pub(crate) fn sipweir(&self, arguments: &[&str]) -> Output {
        let admin = format!("http://127.0.0.1:{}", self.admin);
        Command::new(BINARY).args(arguments).args(["--admin", &admin]).output().expect("the binary runs")
    }

    /// Its resident memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Asks it to end, and gives its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.child.wait().expect("it ends").code().unwrap_or(-1)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().expect("the binary runs")
}

pub(crate) fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/sipp/{name}.xml"))
}
