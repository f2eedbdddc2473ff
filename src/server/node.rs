//! What all threads of a node share: its gate, and snapshots for readers.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::mpsc;

use super::ReloadError;
use crate::alert::{Event, EventKind};
use crate::config::Config;
use crate::licence::Standing;
use crate::pool::{Gate, Slots};
use crate::route::Router;
use crate::sinks::AllCounts;
use crate::time::Instant;

/// Events kept for readers; the oldest gives way.
const EVENTS_MAX: usize = 1000;

/// An event as readers see it.
#[derive(Clone, Debug, Serialize)]
pub struct EventRecord {
    /// Counts up from 1.
    pub number: u64,
    /// The stable name.
    pub event: &'static str,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// When, RFC 3339.
    pub at: String,
    /// The pool, or whatever else it is about.
    pub subject: String,
    /// For people.
    pub message: String,
    /// Channels in use.
    pub in_use: u32,
    /// Channels there are.
    pub capacity: u32,
    /// Calls refused since the condition began.
    pub refused: u64,
    /// How long the condition lasted, in milliseconds.
    pub lasted_ms: u64,
}

/// What all threads of a node share.
pub struct Node {
    /// The gate.
    pub gate: Arc<Gate>,
    /// The table of calls.
    pub slots: Arc<Slots>,
    /// Where the configuration came from.
    pub file: Option<PathBuf>,
    router: ArcSwap<Option<Arc<Router>>>,
    config: ArcSwap<Config>,
    events: Mutex<VecDeque<EventRecord>>,
    events_seen: AtomicU64,
    event_counts: [AtomicU64; EventKind::ALL.len()],
    /// What the sinks did.
    pub sinks: AllCounts,
    to_sinks: mpsc::Sender<Event>,
    ready: AtomicBool,
    stopping: AtomicBool,
    started: std::time::Instant,
    started_wall: SystemTime,
}

impl Node {
    pub(super) fn new(
        config: Arc<Config>,
        standing: Standing,
        file: Option<PathBuf>,
        to_sinks: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            gate: Arc::new(Gate::licensed(&config.settings(), standing)),
            slots: Arc::new(Slots::default()),
            file,
            router: ArcSwap::from_pointee(None),
            config: ArcSwap::new(config),
            events: Mutex::default(),
            events_seen: AtomicU64::new(0),
            event_counts: std::array::from_fn(|_| AtomicU64::default()),
            sinks: AllCounts::default(),
            to_sinks,
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            started: std::time::Instant::now(),
            started_wall: SystemTime::now(),
        }
    }

    /// The core's time: since the node started.
    pub fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When the core's `moment` was, by the clock on the wall.
    pub fn wall(&self, moment: Instant) -> String {
        let wall = self.started_wall + Duration::from_micros(moment.as_micros());
        jiff::Timestamp::try_from(wall)
            .and_then(|timestamp| timestamp.round(jiff::Unit::Millisecond))
            .map_or_else(|_| "unknown".into(), |timestamp| timestamp.to_string())
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The router in force.
    pub fn router(&self) -> Option<Arc<Router>> {
        Option::clone(&self.router.load())
    }

    pub(super) fn set_router(&self, router: Arc<Router>) {
        self.config.store(Arc::clone(&router.config));
        self.router.store(Arc::new(Some(router)));
    }

    /// Whether the node takes calls.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub(super) fn ask_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Tells the operators: a log line, and the list.
    pub(crate) fn raise(&self, event: &Event) {
        self.event_counts[event.kind as usize].fetch_add(1, Ordering::Relaxed);
        let record = EventRecord {
            number: self.events_seen.fetch_add(1, Ordering::Relaxed) + 1,
            event: event.kind.label(),
            severity: event.kind.severity().label(),
            at: self.wall(event.at),
            subject: event.subject.to_string(),
            message: event.to_string(),
            in_use: event.in_use,
            capacity: event.capacity,
            refused: event.refused,
            lasted_ms: event.lasted_ms,
        };
        let EventRecord { event: name, severity, subject, in_use, capacity, refused, lasted_ms, .. } = &record;
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    event = name,
                    severity,
                    subject,
                    in_use,
                    capacity,
                    refused,
                    lasted_ms,
                    "{}",
                    record.message
                )
            };
        }
        match event.kind.severity() {
            crate::alert::Severity::Info => log!(info),
            crate::alert::Severity::Warning => log!(warn),
            crate::alert::Severity::Critical => log!(error),
        }
        // Should the control side be that far behind, the log and the list still have it.
        if self.to_sinks.try_send(event.clone()).is_err() {
            tracing::warn!(event = "sinks_behind", "an event is told to no sink: {}", record.message);
        }
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(record);
    }

    pub(super) fn raise_reloaded(&self) {
        self.raise_about_config(EventKind::ConfigReloaded, "");
    }

    fn raise_about_config(&self, kind: EventKind, why: &str) {
        let file = self.file.as_ref().map_or_else(|| "configuration".into(), |file| file.display().to_string());
        let subject = if why.is_empty() { file } else { format!("{file}: {why}") };
        self.raise(&Event::about(kind, self.now(), &subject));
    }

    pub(super) fn note_reload(&self, result: &Result<(), ReloadError>) {
        let Err(error) = result else { return };
        if !matches!(error, ReloadError::NoFile) {
            self.raise_about_config(EventKind::ConfigRefused, &error.to_string().replace('\n', "; "));
        }
    }

    /// Events raised so far, by kind.
    pub fn event_counts(&self) -> Vec<(EventKind, u64)> {
        let counts = &self.event_counts;
        EventKind::ALL.into_iter().map(|kind| (kind, counts[kind as usize].load(Ordering::Relaxed))).collect()
    }

    /// The last events, oldest first.
    pub fn events(&self) -> Vec<EventRecord> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
