//! Shell: telling the operators. Events become notices (`alert::Board`), notices become letters, and each sink has a task
//! with a queue of its own, so that neither a call nor another sink ever waits for it.

mod http;
mod letter;
mod mail;
mod queue;
mod snmp;
mod syslog;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::alert::{Board, Event, EventKind, Status};
use crate::config::{Config, Secret, Sink, SinkKind};
use crate::server::Node;
use crate::time::Instant;
use http::Http;
pub use letter::Letter;
use queue::Queue;

/// How long a sink may take for one letter.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after a failure; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Failures in a row after which the operators hear of it.
const FAILURES: u32 = 3;
/// How often what holds is sent to an Alertmanager again.
pub const RESEND: Duration = Duration::from_secs(60);
/// How often the configuration is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Events on their way from the shard.
pub(crate) const EVENTS_MAX: usize = 1024;

/// Why a letter was not delivered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Nobody took it: try again.
    #[error("{0}")]
    Unreachable(String),
    /// It was read and refused: trying again would not help.
    #[error("refused: {0}")]
    Refused(String),
    /// The secret cannot be read.
    #[error("{0}")]
    Secret(String),
}

/// What one sink did.
#[derive(Debug, Default)]
pub struct Counts {
    /// Letters delivered.
    pub delivered: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Letters given up: refused by the other side, or pushed out of a full queue.
    pub dropped: AtomicU64,
    /// Letters that wait.
    pub queued: AtomicU64,
    /// Since when it has failed, in microseconds of the node's time; 0 while it does not.
    failing_since: AtomicU64,
}

impl Counts {
    /// It works, or is no more: who heard that it failed hears that.
    fn well_again(&self, sink: &str, node: &Node) {
        let since = self.failing_since.swap(0, Ordering::Relaxed);
        if since > 0 {
            let now = node.now();
            let lasted = now - Instant::from_micros(since);
            let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
            node.raise(&Event { lasted_ms, ..Event::about(EventKind::SinkRecovered, now, sink) });
        }
    }
}

/// The counts of every sink, by name.
pub type AllCounts = Mutex<BTreeMap<Box<str>, Arc<Counts>>>;

struct Running {
    sink: Sink,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

/// Takes events from the node and runs its sinks until the runtime ends.
pub(crate) async fn run(node: Arc<Node>, mut events: mpsc::Receiver<Event>) {
    let http = Arc::new(Http::new());
    let mut config = node.config();
    let mut board = Board::new(config.alert_hold);
    let mut running: BTreeMap<Box<str>, Running> = BTreeMap::new();
    reconcile(&node, &config, &http, &mut running);
    let held = Held::open(&config);
    for letter in held.read() {
        tell(&running, &letter.after_restart(&node));
    }
    held.write(&[]);
    let mut look = tokio::time::interval(LOOK);
    let mut resend = tokio::time::interval(RESEND);
    loop {
        let notices = tokio::select! {
            event = events.recv() => match event {
                Some(event) => board.take(&event),
                None => return,
            },
            _ = look.tick() => {
                let now = node.config();
                if !Arc::ptr_eq(&now, &config) {
                    config = now;
                    board.set_hold(config.alert_hold);
                    reconcile(&node, &config, &http, &mut running);
                }
                board.due(node.now())
            }
            _ = resend.tick() => {
                let active: Vec<Letter> =
                    board.active(node.now()).iter().map(|notice| Letter::of(notice, &node)).collect();
                for sink in running.values().filter(|sink| matches!(sink.sink.kind, SinkKind::Alertmanager { .. })) {
                    let wanted = active.iter().filter(|letter| sink.sink.wants(letter)).cloned().collect();
                    sink.queue.send_again(wanted);
                }
                continue;
            }
        };
        for notice in &notices {
            tell(&running, &Letter::of(notice, &node));
        }
        if notices.iter().any(|notice| notice.status != Status::Once) {
            let active = board.active(node.now());
            held.write(&active.iter().map(|notice| Letter::of(notice, &node)).collect::<Vec<_>>());
        }
    }
}

fn tell(running: &BTreeMap<Box<str>, Running>, letter: &Letter) {
    for sink in running.values().filter(|sink| sink.sink.wants(letter)) {
        sink.queue.push(letter.clone());
    }
}

/// What holds and was told of, on disk: a node that starts again must tell its end to whoever heard of its beginning.
struct Held(Option<PathBuf>);

impl Held {
    fn open(config: &Config) -> Self {
        Self(config.data_dir.as_deref().map(|dir| PathBuf::from(dir).join("sinks/holding.json")))
    }

    fn read(&self) -> Vec<Letter> {
        let text = self.0.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        // Of a file somebody else wrote nothing can be told.
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn write(&self, letters: &[Letter]) {
        let Some(file) = &self.0 else { return };
        if letters.is_empty() && !file.exists() {
            return;
        }
        let text = serde_json::to_string(letters).expect("strings and numbers");
        let new = file.with_extension("new");
        let folder = file.parent().unwrap_or_else(|| Path::new("."));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, file));
        if let Err(error) = written {
            tracing::warn!(event = "conditions_unwritable", %error, file = %file.display(), "a restart will not end them");
        }
    }
}

impl Sink {
    fn wants(&self, letter: &Letter) -> bool {
        // What is wrong with a sink cannot be told to it.
        let is_itself = letter.event == EventKind::SinkFailing.label() && *letter.subject == *self.name;
        !is_itself && letter.kind().is_some_and(|kind| self.filter.wants(kind))
    }
}

/// Starts, changes and stops sinks as the configuration says. Queues of sinks that stay are kept.
fn reconcile(node: &Arc<Node>, config: &Config, http: &Arc<Http>, running: &mut BTreeMap<Box<str>, Running>) {
    running.retain(|_, running| {
        let stays = config.sinks.contains(&running.sink);
        if !stays {
            running.task.abort();
            running.queue.counts.well_again(&running.sink.name, node);
        }
        stays
    });
    for sink in &config.sinks {
        if running.contains_key(&sink.name) {
            continue;
        }
        let counts =
            Arc::clone(node.sinks.lock().unwrap_or_else(PoisonError::into_inner).entry(sink.name.clone()).or_default());
        let folder = config.data_dir.as_deref().map(|dir| PathBuf::from(dir).join("sinks"));
        let queue = Arc::new(Queue::open(folder.as_deref(), &sink.name, counts));
        let task = tokio::spawn(serve(sink.clone(), Arc::clone(&queue), Arc::clone(node), Arc::clone(http)));
        running.insert(sink.name.clone(), Running { sink: sink.clone(), queue, task });
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two attempts is all this task has to wait for")]
async fn serve(sink: Sink, queue: Arc<Queue>, node: Arc<Node>, http: Arc<Http>) {
    let mut failures = 0;
    let mut pause = PAUSE;
    loop {
        let letters = queue.front().await;
        let Err(error) = deliver(&sink.kind, &letters, &http).await else {
            queue.counts.delivered.fetch_add(letters.len() as u64, Ordering::Relaxed);
            queue.done();
            (failures, pause) = (0, PAUSE);
            queue.counts.well_again(&sink.name, &node);
            continue;
        };
        queue.counts.failed.fetch_add(1, Ordering::Relaxed);
        failures += 1;
        let is_refused = matches!(error, DeliveryError::Refused(_));
        let is_news = queue.counts.failing_since.load(Ordering::Relaxed) == 0;
        if (failures >= FAILURES || is_refused) && is_news {
            queue.counts.failing_since.store(node.now().as_micros().max(1), Ordering::Relaxed);
            let detail = error.to_string().into();
            node.raise(&Event { detail, ..Event::about(EventKind::SinkFailing, node.now(), &sink.name) });
        }
        if is_refused {
            queue.counts.dropped.fetch_add(letters.len() as u64, Ordering::Relaxed);
            queue.done();
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Delivers letters, all or none. Returns what the other side said.
pub(crate) async fn deliver(kind: &SinkKind, letters: &[Letter], http: &Http) -> Result<String, DeliveryError> {
    let attempt = async {
        match kind {
            SinkKind::Alertmanager { url } => http.alertmanager(url, letters).await,
            SinkKind::Webhook { url, template, secret } => http.webhook(url, *template, secret.as_ref(), letters).await,
            SinkKind::Syslog { transport, address, facility, ca_file } => {
                syslog::send((*transport, address), ca_file.as_deref(), *facility, letters).await
            }
            SinkKind::Mail(mail) => mail::send(mail, letters).await,
            SinkKind::Snmp { address, community } => snmp::send(*address, community.as_ref(), letters).await,
            SinkKind::File { path } => append(path, letters).await,
        }
    };
    match tokio::time::timeout(PATIENCE, attempt).await {
        Ok(result) => result,
        Err(_) => Err(DeliveryError::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

/// Sends one letter about nothing, at once and outside the queue; one at a time.
pub(crate) async fn test(sink: &Sink, node: &Node) -> Result<String, DeliveryError> {
    static HTTP: OnceLock<Http> = OnceLock::new();
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let busy = || DeliveryError::Unreachable("another test is under way; try again".into());
    let _turn = TURN.try_lock().map_err(|_| busy())?;
    deliver(&sink.kind, &[Letter::test(&sink.name, node)], HTTP.get_or_init(Http::new)).await
}

async fn append(path: &str, letters: &[Letter]) -> Result<String, DeliveryError> {
    let failed = |error: std::io::Error| DeliveryError::Unreachable(format!("{path}: {error}"));
    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await.map_err(failed)?;
    let lines: String = letters.iter().map(|letter| letter.json() + "\n").collect();
    file.write_all(lines.as_bytes()).await.map_err(failed)?;
    file.sync_data().await.map_err(failed)?;
    Ok(format!("{} octets added to {path}", lines.len()))
}

/// Reads a secret each time it is needed, so that a new one needs no restart.
fn reveal(secret: &Secret) -> Result<String, DeliveryError> {
    let text = match secret {
        Secret::File(path) => {
            std::fs::read_to_string(&**path).map_err(|error| DeliveryError::Secret(format!("{path}: {error}")))?
        }
        Secret::Environment(name) => std::env::var(&**name)
            .map_err(|_| DeliveryError::Secret(format!("the environment variable {name} is not set")))?,
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
