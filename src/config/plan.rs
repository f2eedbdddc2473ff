//! The overflow plan: what becomes of a call that gets no channel, step by step.

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// To another target, as a position, under another user part when given.
    Route {
        /// The target.
        target: usize,
        /// The new user part of the Request-URI.
        user: Option<Box<str>>,
    },
    /// 302 with these contacts.
    Redirect {
        /// Whole Contact lines.
        lines: Box<str>,
    },
    /// A final answer.
    Reject {
        /// Its status, 400 to 699.
        status: u16,
        /// Whole lines: Reason, Retry-After.
        lines: Box<str>,
    },
}

impl Step {
    /// The labels of all steps.
    pub const LABELS: [&'static str; 3] = ["route", "redirect", "reject"];

    /// The position of its label.
    pub const fn position(&self) -> usize {
        match self {
            Self::Route { .. } => 0,
            Self::Redirect { .. } => 1,
            Self::Reject { .. } => 2,
        }
    }

    /// The value of the metric's `step` label.
    pub const fn label(&self) -> &'static str {
        Self::LABELS[self.position()]
    }

    /// Whether nothing can follow it.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Redirect { .. } | Self::Reject { .. })
    }
}
