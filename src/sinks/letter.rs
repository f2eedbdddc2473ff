//! A notice as sinks get it: names, dates and words, ready to be written down.

use serde::{Deserialize, Serialize};

use crate::alert::{EventKind, Notice, Severity, Status};
use crate::server::Node;
use crate::time::Instant;

/// The name of the letter that only says that the sink works.
const TEST: &str = "test";

/// Characters of a subject and of a message: a letter must fit into one datagram and one label.
const SUBJECT_MAX: usize = 100;
const MESSAGE_MAX: usize = 600;

/// One thing a sink is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Letter {
    /// The stable name of the event.
    pub event: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// `raised`, `resolved` or `once`.
    pub status: Status,
    /// The pool, service, licence or whatever else it is about.
    pub subject: String,
    /// The node that says so.
    pub node: String,
    /// For people.
    pub message: String,
    /// When the condition began, RFC 3339.
    pub since: String,
    /// When this was decided, RFC 3339.
    pub at: String,
    /// How long the condition has lasted, in seconds.
    pub lasted_s: u64,
    /// Calls refused since it began.
    pub refused: u64,
    /// How long the node has run, in seconds.
    pub uptime_s: u64,
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn uptime_s(node: &Node) -> u64 {
    node.now().since(Instant::ZERO).as_secs()
}

impl Letter {
    /// What a notice says.
    pub(crate) fn of(notice: &Notice, node: &Node) -> Self {
        Self {
            event: notice.kind.label().into(),
            severity: notice.kind.severity().label().into(),
            status: notice.status,
            subject: cut(&notice.subject, SUBJECT_MAX),
            node: node.config().name.to_string(),
            message: cut(&notice.message, MESSAGE_MAX),
            since: node.wall(notice.since),
            at: node.wall(notice.at),
            lasted_s: (notice.at - notice.since).as_secs(),
            refused: notice.refused,
            uptime_s: uptime_s(node),
        }
    }

    /// A letter about nothing.
    pub(super) fn test(sink: &str, node: &Node) -> Self {
        let now = node.wall(node.now());
        Self {
            event: TEST.into(),
            severity: Severity::Warning.label().into(),
            status: Status::Once,
            subject: sink.into(),
            node: node.config().name.to_string(),
            message: format!("a test of sink {sink}, asked for by an operator"),
            since: now.clone(),
            at: now,
            lasted_s: 0,
            refused: 0,
            uptime_s: uptime_s(node),
        }
    }

    /// The same condition, over because the node that told of it was started again.
    pub(super) fn after_restart(self, node: &Node) -> Self {
        let message = format!("{}: sipweir was started again, and tells of it anew if it still holds", self.subject);
        Self { status: Status::Resolved, at: node.wall(node.now()), uptime_s: uptime_s(node), message, ..self }
    }

    /// The event's kind; `None` for a test.
    pub(super) fn kind(&self) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.label() == self.event)
    }

    /// The event's number in the catalogue, from 1; 0 for a test.
    pub(super) fn number(&self) -> u32 {
        EventKind::ALL.iter().position(|kind| kind.label() == self.event).map_or(0, |at| at as u32 + 1)
    }

    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        self.kind().map_or("nothing", EventKind::remedy)
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers")
    }

    /// One line for people: `[CRITICAL] pool ivr: …`.
    pub(super) fn line(&self) -> String {
        let word = match self.status {
            Status::Resolved => "RESOLVED".into(),
            Status::Raised | Status::Once => self.severity.to_uppercase(),
        };
        format!("[{word}] {}: {}", self.node, self.message)
    }
}
