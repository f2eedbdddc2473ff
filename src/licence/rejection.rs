//! Why a document does not load. Each its own clear reason; what helps is part of it.

use super::{Obstacle, Wall};

/// Why a licence is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// Not a document of three parts, or longer than any.
    #[error("this is no licence: {0}; paste the whole text, from \"eyJ\" to its end")]
    NotALicence(&'static str),
    /// The signature is not over these claims, or of another key.
    #[error(
        "the signature of issuer {0:?} does not fit: a part of the text was changed or is missing, or the key in [[licence.issuer]] is another; paste it again, or ask the issuer"
    )]
    BadSignature(String),
    /// Nobody configured this issuer.
    #[error("issuer {issuer:?} is unknown; known are: {known}; add it as [[licence.issuer]] if you trust it")]
    UnknownIssuer {
        /// Who signed.
        issuer: String,
        /// Whose keys are configured.
        known: String,
    },
    /// Signed, and still not to be understood.
    #[error("the issuer made a mistake: {0}; ask for another licence")]
    Claims(String),
    /// For another server.
    #[error("it is bound to server {theirs}, and this is {ours}; ask the issuer to bind it to {ours}")]
    WrongServer {
        /// The token it names.
        theirs: String,
        /// Our token.
        ours: String,
    },
    /// The term is over.
    #[error("its last day was {}; ask for a renewal", .0.last_day())]
    Expired(Wall),
    /// The same code is installed.
    #[error("{0} is installed already")]
    Duplicate(String),
    /// Another licence says it no longer holds.
    #[error("it was revoked by {0}")]
    Revoked(String),
    /// Another licence took its place.
    #[error("it was replaced by {0}")]
    Replaced(String),
    /// This server had its trial.
    #[error("this server has used a trial licence before ({0}); ask for a temporary licence or a subscription")]
    TrialUsed(String),
    /// There would be less than what is configured.
    #[error("it leaves less than is configured; free this first:\n{}", list(.0))]
    TooLittle(Vec<Obstacle>),
    /// There is no such licence.
    #[error("{0} is not installed")]
    Unknown(String),
    /// There are as many as there can be.
    #[error("{0} licences are installed, which is the most; remove some that have expired")]
    TooMany(usize),
}

fn list(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(|obstacle| format!("  {obstacle}")).collect::<Vec<_>>().join("\n")
}

impl Rejection {
    /// The value of a metric's or a record's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotALicence(_) => "not_a_licence",
            Self::BadSignature(_) => "bad_signature",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::Claims(_) => "claims",
            Self::WrongServer { .. } => "wrong_server",
            Self::Expired(_) => "expired",
            Self::Duplicate(_) => "duplicate",
            Self::Revoked(_) => "revoked",
            Self::Replaced(_) => "replaced",
            Self::TrialUsed(_) => "trial_used",
            Self::TooLittle(_) => "too_little",
            Self::Unknown(_) => "unknown",
            Self::TooMany(_) => "too_many",
        }
    }
}
