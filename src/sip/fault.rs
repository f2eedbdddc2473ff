//! What can be wrong with a message, by name.

use super::HeaderName;

/// Why a message is not acceptable. A request that can be answered gets [`Fault::status`]; all others are dropped
/// and counted under [`Fault::label`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Fault {
    /// Neither a request line nor a status line.
    #[error("no SIP start line")]
    NotSip,
    /// More octets than [`super::message::OCTETS_MAX`].
    #[error("message is too large")]
    TooLarge,
    /// More header fields than [`super::message::HEADERS_MAX`].
    #[error("too many header fields")]
    TooManyHeaders,
    /// A request line that is not `method SP Request-URI SP version`, RFC 3261 §7.1.
    #[error("malformed start line")]
    StartLine,
    /// The version is not `SIP/2.0`.
    #[error("SIP version not supported")]
    Version,
    /// A status code outside 100 to 699.
    #[error("status code out of range")]
    StatusCode,
    /// A header line without a colon or with a name that is no token.
    #[error("malformed header line")]
    HeaderLine,
    /// No empty line after the header fields.
    #[error("message ends within the header")]
    Truncated,
    /// A Content-Length that is no number, or two that differ.
    #[error("malformed Content-Length")]
    ContentLength,
    /// Fewer octets of body than Content-Length says, RFC 3261 §18.3.
    #[error("body shorter than Content-Length")]
    ShortBody,
    /// A mandatory header field is absent, RFC 3261 §8.1.1.
    #[error("no {} header", .0.label())]
    Missing(HeaderName),
    /// A header field that may occur once occurs again.
    #[error("more than one {} header", .0.label())]
    Repeated(HeaderName),
    /// A header field's value cannot be read.
    #[error("malformed {} header", .0.label())]
    Malformed(HeaderName),
    /// The method of CSeq is not that of the request line, RFC 3261 §8.1.1.5.
    #[error("CSeq names another method")]
    CSeqMethod,
    /// The Request-URI cannot be read.
    #[error("malformed Request-URI")]
    RequestUri,
}

impl Fault {
    /// The status of the answer to a request with this fault.
    pub const fn status(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::TooLarge | Self::TooManyHeaders => 513,
            Self::NotSip
            | Self::StartLine
            | Self::StatusCode
            | Self::HeaderLine
            | Self::Truncated
            | Self::ContentLength
            | Self::ShortBody
            | Self::Missing(_)
            | Self::Repeated(_)
            | Self::Malformed(_)
            | Self::CSeqMethod
            | Self::RequestUri => 400,
        }
    }

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotSip => "not_sip",
            Self::TooLarge => "too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::StartLine => "start_line",
            Self::Version => "version",
            Self::StatusCode => "status_code",
            Self::HeaderLine => "header_line",
            Self::Truncated => "truncated",
            Self::ContentLength => "content_length",
            Self::ShortBody => "short_body",
            Self::Missing(_) => "missing_header",
            Self::Repeated(_) => "repeated_header",
            Self::Malformed(_) => "malformed_header",
            Self::CSeqMethod => "cseq_method",
            Self::RequestUri => "request_uri",
        }
    }
}
