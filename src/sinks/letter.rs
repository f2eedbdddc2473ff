//! A notice as sinks get it: names, dates and words, ready to be written down.

use serde::{Deserialize, Serialize};

use crate::alert::{EventKind, Notice, Severity, Status};
use crate::server::Node;

/// The name of the letter that only says that the sink works.
const TEST: &str = "test";

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
}

impl Letter {
    /// What a notice says.
    pub(crate) fn of(notice: &Notice, node: &Node) -> Self {
        Self {
            event: notice.kind.label().into(),
            severity: notice.kind.severity().label().into(),
            status: notice.status,
            subject: notice.subject.to_string(),
            node: node.config().name.to_string(),
            message: notice.message.clone(),
            since: node.wall(notice.since),
            at: node.wall(notice.at),
            lasted_s: (notice.at - notice.since).as_secs(),
            refused: notice.refused,
        }
    }

    /// A letter about nothing.
    pub(super) fn test(sink: &str, node: &Node) -> Self {
        let now = node.wall(node.now());
        Self {
            event: TEST.into(),
            severity: Severity::Info.label().into(),
            status: Status::Once,
            subject: sink.into(),
            node: node.config().name.to_string(),
            message: format!("a test of sink {sink}, asked for by an operator"),
            since: now.clone(),
            at: now,
            lasted_s: 0,
            refused: 0,
        }
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
