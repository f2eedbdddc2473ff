//! Shell: a running node, built from its configuration.
//!
//! Order of start: check the data directory, bind every socket, then the admin interface, then the worker; so whatever
//! fails, fails before the first call. One thread runs the shard (`run`), one the admin interface and what follows from
//! events. They share the [`Node`], which holds snapshots and the node's gate.

#![expect(clippy::disallowed_methods, reason = "the shell owns the clock")]
#![expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are open-ended")]

pub(crate) mod licensing;
pub(crate) mod names;
pub mod node;
mod run;
pub(crate) mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

pub use node::{EventRecord, Node};

use crate::admin;
use crate::config::Config;
use crate::metrics::Counters;
use crate::pool::SlotId;
use crate::proxy::{Answer, Load, PeerView, Proxy, Story};
use crate::route::Question;
use crate::sinks;
use crate::transport::stream::Counts;
use crate::transport::tls::{Tls, TlsError};
use crate::transport::{stream, udp};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be bound.
    #[error("listen[{listener}].uri: cannot listen on {transport}:{address}: {error}; {}", cure(.error))]
    Listen {
        /// Position of the listener.
        listener: usize,
        /// What it speaks.
        transport: crate::sip::Transport,
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The admin interface's address cannot be bound.
    #[error("admin.listen: cannot listen on {address}: {error}; {}", cure(.error))]
    Admin {
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The data directory cannot be written to.
    #[error("node.data_dir: cannot write to {path}: {error}; create it for the user who runs sipweir, or name another")]
    DataDir {
        /// The directory.
        path: Box<str>,
        /// What the system said.
        error: io::Error,
    },
    /// A certificate, key or list of authorities cannot be used.
    #[error("{0}")]
    Tls(TlsError),
    /// More than one of these.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<Self>),
    /// A thread or runtime could not be made, or there is no randomness.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has this port: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has this address: correct it",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "correct the address",
    }
}

/// What a worker tells the control side about itself, once a second.
pub struct Published {
    /// Its counters.
    pub counters: Counters,
    /// How full its tables are.
    pub load: Load,
    /// Its connections.
    pub streams: Counts,
    /// The addresses of targets.
    pub peers: Vec<PeerView>,
    /// Our certificates, and when each ends, in seconds since 1970.
    pub certificates: Vec<(Arc<str>, i64)>,
}

/// What the control side asks of a worker.
pub(crate) enum Request {
    Reload(Arc<Config>, Arc<Tls>),
    Resolved { question: Question, answer: Answer, ttl: std::time::Duration },
    EndCall { slot: SlotId, keeps_call: bool },
    Story { slot: SlotId, to: oneshot::Sender<Option<Story>> },
    Drain { target: Box<str>, uri: Box<str>, is_drained: bool },
}

/// Copies of counters on their way to the control side.
const PUBLISHED_MAX: usize = 4;
/// Requests to a worker on their way.
const REQUESTS_MAX: usize = 256;

/// A running node.
pub struct Server {
    node: Arc<Node>,
    listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    handle: Handle,
    worker: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    stop_control: Option<oneshot::Sender<()>>,
}

/// Asks a running node for changes.
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    licensing: Arc<Mutex<licensing::Licensing>>,
    requests: SyncSender<Request>,
    waker: Arc<mio::Waker>,
}

/// Why a new configuration does not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
    /// It has problems, one a line.
    #[error("{0}")]
    Problems(String),
    /// It changes what only a start can.
    #[error("{0} cannot change while running; restart sipweir")]
    NeedsRestart(&'static str),
    /// The worker does not answer.
    #[error("the worker is busy; try again")]
    Busy,
    /// The node was started without a file.
    #[error("sipweir was started without a configuration file")]
    NoFile,
}

/// Binds a listener; the address it got.
fn bind(listen: &crate::config::Listen, bound: &mut run::Bound) -> io::Result<SocketAddr> {
    let (datagrams, streams) = if listen.transport.is_reliable() {
        (None, Some(stream::bind(listen.address)?))
    } else {
        (Some(udp::bind(listen.address)?), None)
    };
    let address = match (&datagrams, &streams) {
        (Some(socket), _) => socket.local_addr()?,
        (None, Some(socket)) => socket.local_addr()?,
        (None, None) => listen.address,
    };
    bound.datagrams.push(datagrams);
    bound.streams.push(streams);
    Ok(address)
}

impl Server {
    /// Starts a node. `file` is what a reload reads again.
    pub fn start(config: Config, file: Option<&Path>) -> Result<Self, StartError> {
        let mut config = config;
        let mut problems = Vec::new();
        if let Some(path) = &config.data_dir {
            let probe = Path::new(&**path).join(".sipweir-write-test");
            let written = std::fs::create_dir_all(&**path)
                .and_then(|()| std::fs::write(&probe, b""))
                .and_then(|()| std::fs::remove_file(&probe));
            problems.extend(written.err().map(|error| StartError::DataDir { path: path.clone(), error }));
        }
        let mut bound = run::Bound::default();
        for (listener, listen) in config.listen.iter_mut().enumerate() {
            match bind(listen, &mut bound) {
                Ok(address) => {
                    // Port 0 is the system's choice: Via and Record-Route must say it.
                    if listen.address.port() == 0 && *listen.advertise == *listen.address.to_string() {
                        listen.advertise = address.to_string().into();
                    }
                    listen.address = address;
                }
                Err(error) => {
                    let (transport, address) = (listen.transport, listen.address);
                    problems.push(StartError::Listen { listener, transport, address, error });
                }
            }
        }
        let admin_socket = config.admin.and_then(|address| {
            let socket = std::net::TcpListener::bind(address).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            socket.map_err(|error| problems.push(StartError::Admin { address, error })).ok()
        });
        let tls = Tls::load(&config).unwrap_or_else(|found| {
            problems.extend(found.into_iter().map(StartError::Tls));
            Tls::default()
        });
        if problems.len() > 1 {
            return Err(StartError::Several(problems));
        }
        if let Some(problem) = problems.pop() {
            return Err(problem);
        }
        let listen = config.listen.iter().map(|listen| listen.address).collect();
        let admin = admin_socket.as_ref().map(std::net::TcpListener::local_addr).transpose()?;

        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let config = Arc::new(config);
        let licensing = licensing::Licensing::start(&config);
        let standing = licensing.standing().clone();
        let (to_sinks, to_be_told) = mpsc::channel(sinks::EVENTS_MAX);
        let (to_names, questions) = mpsc::channel(names::QUESTIONS_MAX);
        let node = Arc::new(Node::new(Arc::clone(&config), standing, file.map(Path::to_owned), to_sinks));
        let proxy = Proxy::new(config, Arc::clone(&node.gate), Arc::clone(&node.slots), secret);
        node.set_router(Arc::clone(proxy.router()));

        let shard = run::Shard::new(bound, &node.config(), Arc::new(tls))?;
        let waker = shard.waker();
        let (requests, requests_in) = sync_channel(REQUESTS_MAX);
        let (published_out, published) = mpsc::channel(PUBLISHED_MAX);
        let (stop_control, stopped) = oneshot::channel();
        let licensing = Arc::new(Mutex::new(licensing));
        let handle = Handle { node: Arc::clone(&node), licensing, requests, waker };
        let worker = run::spawn(shard, Arc::clone(&node), proxy, requests_in, (published_out, to_names))?;
        let control = std::thread::Builder::new().name("sipweir-control".into()).spawn({
            let handle = handle.clone();
            move || admin::serve(handle, (to_be_told, questions), admin_socket, published, stopped)
        })?;
        node.set_ready(true);
        Ok(Self {
            node,
            listen,
            admin,
            handle,
            worker: Some(worker),
            control: Some(control),
            stop_control: Some(stop_control),
        })
    }

    /// What readers see.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The addresses the listeners are bound to.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The address of the admin interface.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// For asking the node for changes.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Whether the worker still runs: a panic of ours ends it.
    pub fn is_alive(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| !worker.is_finished())
    }

    /// Stops the node: no longer ready, then the worker, then the admin interface.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.node.set_ready(false);
        self.node.ask_to_stop();
        // Should waking fail, the worker still looks once a second.
        self.handle.waker.wake().unwrap_or(());
        for thread in [self.worker.take(), self.control.take()].into_iter().flatten() {
            if let Some(stop) = self.stop_control.take() {
                // The control side may have ended by itself; then nobody listens.
                stop.send(()).unwrap_or(());
            }
            if thread.join().is_err() {
                tracing::error!(event = "thread_panicked", "a thread of sipweir panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Handle {
    /// What readers see.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn licensing(&self) -> Arc<Mutex<licensing::Licensing>> {
        Arc::clone(&self.licensing)
    }

    /// Reads the configuration file again and brings it into force, or says why not; then the old one stays.
    pub fn reload(&self) -> Result<(), ReloadError> {
        let result = self.try_reload();
        self.node.note_reload(&result);
        result
    }

    /// Sends no new calls to a URI of a target, or sends them again.
    pub fn drain(&self, target: &str, uri: &str, is_drained: bool) -> Result<(), ReloadError> {
        self.ask(Request::Drain { target: target.into(), uri: uri.into(), is_drained })
    }

    /// Tells the worker what came of a question. While it is busy the answer waits, as long as it is of use.
    pub(crate) async fn resolved(&self, question: Question, answer: Answer, ttl: std::time::Duration) {
        for _ in 0..100 {
            let (question, answer) = (question.clone(), answer.clone());
            if self.ask(Request::Resolved { question, answer, ttl }).is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Why a call is there and holds what it holds; `None` when there is none.
    pub(crate) async fn story(&self, slot: SlotId) -> Result<Option<Story>, ReloadError> {
        let (to, answer) = oneshot::channel();
        self.ask(Request::Story { slot, to })?;
        answer.await.map_err(|_| ReloadError::Busy)
    }

    /// Ends a call, or only gives its channel back.
    pub fn end_call(&self, slot: SlotId, keeps_call: bool) -> Result<(), ReloadError> {
        self.ask(Request::EndCall { slot, keeps_call })
    }

    fn ask(&self, request: Request) -> Result<(), ReloadError> {
        self.requests.try_send(request).map_err(|_| ReloadError::Busy)?;
        self.waker.wake().map_err(|_| ReloadError::Busy)
    }

    fn try_reload(&self) -> Result<(), ReloadError> {
        let path = self.node.file.as_ref().ok_or(ReloadError::NoFile)?;
        let text = std::fs::read_to_string(path)
            .map_err(|error| ReloadError::Unreadable(path.display().to_string(), error))?;
        let new = Config::parse(&text).map_err(|problems| {
            ReloadError::Problems(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let old = self.node.config();
        let sockets = |config: &Config| {
            let of = |listen: &crate::config::Listen| (listen.transport, listen.address, listen.advertise.clone());
            config.listen.iter().map(of).collect::<Vec<_>>()
        };
        if sockets(&new) != sockets(&old) {
            return Err(ReloadError::NeedsRestart("listen"));
        }
        let tls = Tls::load(&new).map_err(|problems| {
            ReloadError::Problems(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        if new.admin != old.admin {
            return Err(ReloadError::NeedsRestart("admin.listen"));
        }
        if (new.workers, &new.data_dir) != (old.workers, &old.data_dir) {
            return Err(ReloadError::NeedsRestart("node.workers and node.data_dir"));
        }
        let new = Arc::new(new);
        self.licensing.lock().unwrap_or_else(PoisonError::into_inner).bring_into_force(&self.node, &new);
        self.ask(Request::Reload(new, Arc::new(tls)))
    }
}
