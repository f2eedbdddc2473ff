//! Exit codes, and the one place where errors become them.

use std::process::ExitCode;

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// Something failed while running.
    #[error("{0}")]
    Failed(String),
    /// The configuration has problems, one a line.
    #[error("{0}")]
    Config(String),
    /// The node cannot start: an address, a directory.
    #[error("{0}")]
    Start(#[from] crate::server::StartError),
    /// No node answers at the admin address.
    #[error("{0}")]
    NoNode(String),
    /// The node answered that there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// A licence was refused.
    #[error("{0}")]
    Licence(#[from] crate::licence::Rejection),
}

impl ExitError {
    /// The documented exit code. 2 is left to the command line's own errors.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Config(_) => 3,
            Self::Start(_) => 4,
            Self::NoNode(_) => 5,
            Self::NotFound(_) => 6,
            Self::Licence(_) => 7,
        }
    }
}

impl From<&ExitError> for ExitCode {
    fn from(error: &ExitError) -> Self {
        Self::from(error.code())
    }
}
