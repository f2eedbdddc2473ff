//! What is counted of connections.

/// Why a connection is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The other side closed it, or it broke.
    Peer,
    /// It was not used.
    Idle,
    /// It took too long to open, to finish a message, or to take what was sent.
    Slow,
    /// What came over it is no SIP, or TLS or WebSocket failed.
    Fault,
    /// Nobody answers there.
    Unreachable,
    /// More waited for it than is kept.
    Full,
}

impl Closed {
    /// Every reason.
    pub const ALL: [Self; 6] = [Self::Peer, Self::Idle, Self::Slow, Self::Fault, Self::Unreachable, Self::Full];

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Fault => "fault",
            Self::Unreachable => "unreachable",
            Self::Full => "full",
        }
    }
}

/// What is counted of connections.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Open now, those being opened included.
    pub open: usize,
    /// Accepted.
    pub accepted: u64,
    /// Opened by us.
    pub connected: u64,
    /// Not accepted because there were too many, in all or of one address.
    pub refused: u64,
    /// Times the system would not give another.
    pub accept_errors: u64,
    /// Closed, in the order of [`Closed::ALL`].
    pub closed: [u64; Closed::ALL.len()],
}
