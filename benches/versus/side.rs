//! The proxies compared: how each is started, and what the kernel charges it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::wire::Transport;
use crate::{Outcome, PROXY};

/// Which proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Sipweir,
    Kamailio,
    Relay,
}

impl Kind {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Sipweir => "sipweir",
            Self::Kamailio => "Kamailio",
            Self::Relay => "relay",
        }
    }
}

/// A proxy that runs, alone on the first core.
pub(crate) struct Side {
    child: Child,
    folder: PathBuf,
    transport: Transport,
}

impl Side {
    pub(crate) fn start(kind: Kind, transport: Transport, sipweir: &Path) -> Outcome<Self> {
        if is_bound(transport) {
            return Err(format!("{PROXY} is in use").into());
        }
        let folder = std::env::temp_dir().join(format!("sipweir-versus-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let place = folder.display().to_string();
        let fill = |text: &str, streams: &str, tls: &str| {
            let tls = if transport == Transport::Tls { tls.replace("@DIR@", &place) } else { String::new() };
            text.replace("@TRANSPORT@", &transport.label().to_lowercase())
                .replace("@PARAMETER@", transport.parameter())
                .replace("@STREAMS@", if transport == Transport::Udp { "disable_tcp=yes" } else { streams })
                .replace("@TLS@", &tls)
                .replace("@DIR@", &place)
        };
        if transport == Transport::Tls {
            certify(&folder)?;
        }
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "nice", "-n", "-20"]);
        match kind {
            Kind::Sipweir => {
                let file = folder.join("sipweir.toml");
                let tls = "certificate = \"@DIR@/certificate.pem\"\nkey = \"@DIR@/key.pem\"\n\n[tls]\nca = \"@DIR@/ca.pem\"\n";
                fs::write(&file, fill(include_str!("sipweir.toml"), "", tls))?;
                command.arg(sipweir).arg("run").arg("--config").arg(file);
            }
            Kind::Kamailio => {
                let file = folder.join("kamailio.cfg");
                let streams = match transport {
                    Transport::Tls => "tcp_children=2\nenable_tls=yes",
                    Transport::Udp | Transport::Tcp => "tcp_children=2",
                };
                let tls = "loadmodule \"tls.so\"\nmodparam(\"tls\", \"tls_method\", \"TLSv1.2+\")\nmodparam(\"tls\", \"private_key\", \"@DIR@/key.pem\")\n\
                           modparam(\"tls\", \"certificate\", \"@DIR@/certificate.pem\")";
                fs::write(&file, fill(include_str!("kamailio.cfg"), streams, tls))?;
                // Debian's default allocator costs it twice the CPU.
                command.args(["kamailio", "-DD", "-m", "4096", "-M", "32", "-x", "fm", "-X", "fm", "-f"]).arg(file);
                command.arg("-Y").arg(&folder).arg("-P").arg(folder.join("pid"));
            }
            Kind::Relay => {
                command.arg(std::env::current_exe()?).arg("relay");
            }
        }
        let log = fs::File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut side = Self { child: command.spawn()?, folder, transport };
        let end = Instant::now() + Duration::from_secs(15);
        while !is_bound(transport) {
            if side.child.try_wait()?.is_some() || Instant::now() > end {
                let log = fs::read_to_string(side.folder.join("log"))?;
                return Err(format!("{} did not start: {log}", kind.label()).into());
            }
            sleep(Duration::from_millis(50));
        }
        sleep(Duration::from_secs(1));
        Ok(side)
    }

    /// What the load generator needs to know to reach it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let transport = self.transport.label().to_lowercase();
        vec!["--transport".into(), transport, "--folder".into(), self.folder.display().to_string()]
    }

    /// It and its descendants.
    fn processes(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let parents: Vec<(u32, u32)> = folders
            .filter_map(|folder| {
                let stat = fs::read_to_string(folder.join("stat")).ok()?;
                // After the name in brackets: state, parent.
                let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
                Some((folder.file_name()?.to_str()?.parse().ok()?, parent))
            })
            .collect();
        let mut ours = vec![self.child.id()];
        let mut at = 0;
        while let Some(parent) = ours.get(at).copied() {
            ours.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
            at += 1;
        }
        ours.into_iter().map(|process| Path::new("/proc").join(process.to_string())).collect()
    }

    /// Seconds its threads were on a core.
    pub(crate) fn cpu(&self) -> f64 {
        let threads = self.processes().into_iter().flat_map(|folder| fs::read_dir(folder.join("task")));
        let nanos = threads.flatten().flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        nanos.sum::<f64>() / 1e9
    }

    /// Octets of memory, shared ones counted once.
    pub(crate) fn memory(&self) -> f64 {
        let kilobytes = self.processes().into_iter().filter_map(|folder| {
            let text = fs::read_to_string(folder.join("smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        });
        kilobytes.sum::<f64>() * 1024.0
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Asked, then made to: one that is gone already is what is wanted.
        drop(Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status());
        let end = Instant::now() + Duration::from_secs(10);
        while is_bound(self.transport) && Instant::now() < end {
            drop(self.child.try_wait());
            sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certify(folder: &Path) -> Outcome {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()])?.signed_by(&key, &authority)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    fs::write(folder.join("certificate.pem"), certificate.pem())?;
    fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

/// Whether anybody listens on the proxy's port.
fn is_bound(transport: Transport) -> bool {
    let port = PROXY.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or_default();
    let wanted = format!(":{port:04X}");
    let (table, state) = if transport == Transport::Udp { ("udp", "07") } else { ("tcp", "0A") };
    let table = fs::read_to_string(Path::new("/proc/net").join(table)).unwrap_or_default();
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|address| address.ends_with(&wanted)) && fields.get(3) == Some(&state)
    })
}

/// Seconds all cores were busy, and seconds the hypervisor took.
pub(crate) fn machine() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = text.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let at = |field: usize| ticks.get(field).copied().unwrap_or(0.0) / 100.0;
    (at(0) + at(1) + at(2) + at(5) + at(6), at(7))
}
