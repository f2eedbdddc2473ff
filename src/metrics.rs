//! What a shard counts: plain integers, copied out once a second by the shell.

use crate::config::Step;
use crate::pool::{Refusal, ServiceId};
use crate::sip::{Fault, Method};

/// Statuses from 100 to 699.
const STATUSES: usize = 600;

/// Which way a message went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// Why a datagram went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drop {
    /// It could not be read, and could not or must not be answered.
    Fault(Fault),
    /// A keep-alive: nothing but line ends.
    KeepAlive,
    /// A response to nothing we sent, or to something long over.
    StrayResponse,
    /// A response with our branch and somebody else's Call-ID, CSeq or tag.
    AlteredResponse,
    /// A response without a second Via: it ends here.
    NoNextVia,
    /// An ACK for no transaction and no dialog we know.
    StrayAck,
    /// An ACK for a refusal that was given and forgotten.
    OwnAck,
    /// From an address that belongs to no trunk, and `unknown_source = "drop"`.
    UnknownSource,
    /// No room for one more transaction.
    TransactionsFull,
    /// The next hop is a name, and this version looks none up.
    Unresolved,
    /// The socket would not take it.
    SendFailed,
}

impl Drop {
    /// Labels of all reasons.
    pub const LABELS: [&'static str; 25] = [
        "not_sip",
        "too_large",
        "too_many_headers",
        "start_line",
        "version",
        "status_code",
        "header_line",
        "truncated",
        "content_length",
        "short_body",
        "missing_header",
        "repeated_header",
        "malformed_header",
        "cseq_method",
        "request_uri",
        "keep_alive",
        "stray_response",
        "altered_response",
        "no_next_via",
        "stray_ack",
        "unknown_source",
        "transactions_full",
        "unresolved",
        "send_failed",
        "own_ack",
    ];

    const fn position(self) -> usize {
        match self {
            Self::Fault(fault) => match fault {
                Fault::NotSip => 0,
                Fault::TooLarge => 1,
                Fault::TooManyHeaders => 2,
                Fault::StartLine => 3,
                Fault::Version => 4,
                Fault::StatusCode => 5,
                Fault::HeaderLine => 6,
                Fault::Truncated => 7,
                Fault::ContentLength => 8,
                Fault::ShortBody => 9,
                Fault::Missing(_) => 10,
                Fault::Repeated(_) => 11,
                Fault::Malformed(_) => 12,
                Fault::CSeqMethod => 13,
                Fault::RequestUri => 14,
            },
            Self::KeepAlive => 15,
            Self::StrayResponse => 16,
            Self::AlteredResponse => 17,
            Self::NoNextVia => 18,
            Self::StrayAck => 19,
            Self::UnknownSource => 20,
            Self::TransactionsFull => 21,
            Self::Unresolved => 22,
            Self::SendFailed => 23,
            Self::OwnAck => 24,
        }
    }

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        Self::LABELS[self.position()]
    }
}

/// How the step `wait` of a plan ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WaitEnd {
    /// The call got a channel.
    Admitted,
    /// It waited as long as the plan lets it.
    TimedOut,
    /// The caller gave up, or the operator ended the call.
    GaveUp,
    /// There was nothing to wait for any more: a licence ended.
    Refused,
    /// It did not begin: as many wait as may.
    QueueFull,
    /// It did not begin: the expected wait was longer than the plan allows.
    TooLong,
    /// It did not begin: the caller wants none (RFC 3841), or insists on acknowledging provisional answers (RFC 3262).
    Declined,
}

/// Why a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EndReason {
    /// Never answered: refused, cancelled or timed out.
    NotAnswered,
    /// The caller's BYE was answered, or nobody answered it.
    CallerBye,
    /// The callee sent BYE.
    CalleeBye,
    /// 481 or 408 to a request within the dialog.
    DialogLost,
    /// The ACK never came.
    AckMissing,
    /// The longest time a call may take passed.
    LongestCall,
    /// The session was not refreshed in time (RFC 4028 §8.3).
    SessionLapsed,
    /// The operator ended it.
    Administrator,
    /// It gave no sign of life, and its pool was full.
    Reclaimed,
    /// Another call took its channel over (RFC 3891), and nobody hung it up.
    Replaced,
}

impl WaitEnd {
    /// Every end.
    pub const ALL: [Self; 7] =
        [Self::Admitted, Self::TimedOut, Self::GaveUp, Self::Refused, Self::QueueFull, Self::TooLong, Self::Declined];

    /// The value of the metric's `end` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::TimedOut => "timed_out",
            Self::GaveUp => "gave_up",
            Self::Refused => "refused",
            Self::QueueFull => "queue_full",
            Self::TooLong => "too_long",
            Self::Declined => "declined",
        }
    }
}

impl EndReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::NotAnswered,
        Self::CallerBye,
        Self::CalleeBye,
        Self::DialogLost,
        Self::AckMissing,
        Self::LongestCall,
        Self::SessionLapsed,
        Self::Administrator,
        Self::Reclaimed,
        Self::Replaced,
    ];

    /// For the other side's engineer, in the Reason of a BYE.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotAnswered => "not answered",
            Self::CallerBye | Self::CalleeBye => "hung up",
            Self::DialogLost => "one side does not know the dialog",
            Self::AckMissing => "no ACK",
            Self::LongestCall => "longest call",
            Self::SessionLapsed => "session expired",
            Self::Administrator => "ended by the operator",
            Self::Reclaimed => "no sign of life",
            Self::Replaced => "replaced",
        }
    }

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotAnswered => "not_answered",
            Self::CallerBye => "caller_bye",
            Self::CalleeBye => "callee_bye",
            Self::DialogLost => "dialog_lost",
            Self::AckMissing => "ack_missing",
            Self::LongestCall => "longest_call",
            Self::SessionLapsed => "session_lapsed",
            Self::Administrator => "administrator",
            Self::Reclaimed => "reclaimed",
            Self::Replaced => "replaced",
        }
    }
}

/// Upper bounds of the rounds' lengths, in microseconds. A round is what a shard does between two sleeps.
pub const LOOP_BOUNDS: &[u64] = &[50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000];
/// Upper bounds of the answer delays, in microseconds: a PBX that picks up at once, and people who do not.
pub const DELAY_BOUNDS: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    20_000_000,
    40_000_000,
    60_000_000,
    120_000_000,
    180_000_000,
];

/// How many durations were at most as long as each bound: plain integers, like every counter here.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One count a bound, and one for what is longer.
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    fn record(&mut self, duration: std::time::Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = self.bounds.iter().position(|bound| micros <= *bound).unwrap_or(self.bounds.len());
        self.counts[at] += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    /// Each bound in microseconds, and how many were at most as long.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut total = 0;
        self.bounds.iter().zip(&self.counts).map(move |(bound, count)| {
            total += count;
            (*bound, total)
        })
    }

    /// How many in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in microseconds.
    pub fn sum_micros(&self) -> u64 {
        self.sum
    }
}

/// The counters of one shard.
#[derive(Clone, Debug)]
pub struct Counters {
    requests: [[u64; Method::ALL.len()]; 2],
    /// By direction and method, one count a status; empty until there is one, for the whole is copied every second.
    responses: Vec<Vec<u64>>,
    drops: [u64; Drop::LABELS.len()],
    refusals: [u64; Refusal::ALL.len()],
    ends: [u64; EndReason::ALL.len()],
    overflows: Vec<[u64; Step::LABELS.len()]>,
    waits: Vec<[u64; WaitEnd::ALL.len()]>,
    /// Steps `route` passed over because the call had been there.
    pub overflow_loops: u64,
    steps: [Histogram; Step::LABELS.len()],
    /// Requests received again and absorbed or answered from memory.
    pub retransmissions: u64,
    /// Calls answered.
    pub answered: u64,
    /// Calls whose channels were given back while they went on.
    pub transfers: u64,
    /// What came of questions for names: found, not found, failed.
    pub lookups: [u64; 3],
    /// From INVITE to the first 2xx.
    pub answer_delays: Histogram,
    /// Rounds of the shard's loop.
    pub loops: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [[0; Method::ALL.len()]; 2],
            responses: vec![Vec::new(); 2 * Method::ALL.len()],
            drops: [0; Drop::LABELS.len()],
            refusals: [0; Refusal::ALL.len()],
            ends: [0; EndReason::ALL.len()],
            overflows: Vec::new(),
            waits: Vec::new(),
            overflow_loops: 0,
            steps: std::array::from_fn(|_| Histogram::new(DELAY_BOUNDS)),
            retransmissions: 0,
            answered: 0,
            transfers: 0,
            lookups: [0; 3],
            answer_delays: Histogram::new(DELAY_BOUNDS),
            loops: Histogram::new(LOOP_BOUNDS),
        }
    }
}

impl Counters {
    pub(crate) fn request(&mut self, direction: Direction, method: Method) {
        self.requests[direction as usize][method as usize] += 1;
    }

    pub(crate) fn response(&mut self, direction: Direction, method: Method, status: u16) {
        let row = &mut self.responses[direction as usize * Method::ALL.len() + method as usize];
        if row.is_empty() {
            row.resize(STATUSES, 0);
        }
        if let Some(count) = row.get_mut(usize::from(status).wrapping_sub(100)) {
            *count += 1;
        }
    }

    pub(crate) fn drop(&mut self, reason: Drop) {
        self.drops[reason.position()] += 1;
    }

    pub(crate) fn refusal(&mut self, refusal: Refusal) {
        self.refusals[refusal as usize] += 1;
    }

    pub(crate) fn end(&mut self, reason: EndReason) {
        self.ends[reason as usize] += 1;
    }

    pub(crate) fn overflow(&mut self, service: ServiceId, step: &Step) {
        let at = usize::from(service.0);
        if self.overflows.len() <= at {
            self.overflows.resize(at + 1, [0; Step::LABELS.len()]);
        }
        self.overflows[at][step.position()] += 1;
    }

    pub(crate) fn wait_ended(&mut self, service: ServiceId, end: WaitEnd) {
        let at = usize::from(service.0);
        if self.waits.len() <= at {
            self.waits.resize(at + 1, [0; WaitEnd::ALL.len()]);
        }
        self.waits[at][end as usize] += 1;
    }

    /// A step of a plan ended; `step` is its [`Step::position`].
    pub(crate) fn step_took(&mut self, step: usize, took: std::time::Duration) {
        self.steps[step].record(took);
    }

    pub(crate) fn answer_delay(&mut self, delay: std::time::Duration) {
        self.answer_delays.record(delay);
    }

    pub(crate) fn round(&mut self, took: std::time::Duration) {
        self.loops.record(took);
    }

    /// Requests by direction and method.
    pub fn requests(&self) -> impl Iterator<Item = (Direction, Method, u64)> + '_ {
        [Direction::In, Direction::Out].into_iter().flat_map(move |direction| {
            Method::ALL
                .iter()
                .map(move |method| (direction, *method, self.requests[direction as usize][*method as usize]))
        })
    }

    /// Responses by direction, method and status, those that occurred.
    pub fn responses(&self) -> impl Iterator<Item = (Direction, Method, u16, u64)> + '_ {
        let rows = [Direction::In, Direction::Out]
            .into_iter()
            .flat_map(|way| Method::ALL.iter().map(move |method| (way, *method)));
        rows.zip(&self.responses).flat_map(|((direction, method), row)| {
            let occurred = row.iter().enumerate().filter(|(_, count)| **count > 0);
            occurred.map(move |(at, count)| (direction, method, at as u16 + 100, *count))
        })
    }

    /// Drops by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Drop::LABELS.into_iter().zip(self.drops)
    }

    /// Drops for one reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason.position()]
    }

    /// Refusals by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.refusals)
    }

    /// Ends of calls by reason.
    pub fn ends(&self) -> impl Iterator<Item = (EndReason, u64)> + '_ {
        EndReason::ALL.into_iter().zip(self.ends)
    }

    /// Overflow steps taken, by service and step.
    pub fn overflows(&self) -> impl Iterator<Item = (ServiceId, &'static str, u64)> + '_ {
        self.overflows.iter().enumerate().flat_map(|(service, steps)| {
            Step::LABELS.into_iter().zip(*steps).map(move |(step, count)| (ServiceId(service as u16), step, count))
        })
    }

    /// How often the step `wait` ended how, by service.
    pub fn waits(&self) -> impl Iterator<Item = (ServiceId, WaitEnd, u64)> + '_ {
        self.waits.iter().enumerate().flat_map(|(service, ends)| {
            WaitEnd::ALL.into_iter().zip(*ends).map(move |(end, count)| (ServiceId(service as u16), end, count))
        })
    }

    /// How long steps of plans took, by their label.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, &Histogram)> + '_ {
        Step::LABELS.into_iter().zip(&self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::HeaderName;

    #[test]
    fn faults_are_counted_under_their_own_label() {
        let faults = [
            Fault::NotSip,
            Fault::TooLarge,
            Fault::TooManyHeaders,
            Fault::StartLine,
            Fault::Version,
            Fault::StatusCode,
            Fault::HeaderLine,
            Fault::Truncated,
            Fault::ContentLength,
            Fault::ShortBody,
            Fault::Missing(HeaderName::Via),
            Fault::Repeated(HeaderName::Via),
            Fault::Malformed(HeaderName::Via),
            Fault::CSeqMethod,
            Fault::RequestUri,
        ];
        for fault in faults {
            assert_eq!(Drop::Fault(fault).label(), fault.label());
        }
    }
}
