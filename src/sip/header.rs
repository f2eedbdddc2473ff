//! Header names the proxy reads, with their compact forms (RFC 3261 §7.3.3).

/// A header field's name. Names not listed are [`HeaderName::Other`]: kept in order, forwarded, never read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum HeaderName {
    /// `Via`, `v`
    Via,
    /// `From`, `f`
    From,
    /// `To`, `t`
    To,
    /// `Call-ID`, `i`
    CallId,
    /// `CSeq`
    CSeq,
    /// `Max-Forwards`
    MaxForwards,
    /// `Contact`, `m`
    Contact,
    /// `Content-Length`, `l`
    ContentLength,
    /// `Route`
    Route,
    /// `Record-Route`
    RecordRoute,
    /// `Require`
    Require,
    /// `Proxy-Require`
    ProxyRequire,
    /// `History-Info` (RFC 7044)
    HistoryInfo,
    /// `Diversion` (RFC 5806)
    Diversion,
    /// `Reason` (RFC 3326), taken over from a CANCEL
    Reason,
    /// `Timestamp`, copied into a 100 (RFC 3261 §8.2.6.1)
    Timestamp,
    /// `Supported`, `k`
    Supported,
    /// `Session-Expires`, `x` (RFC 4028)
    SessionExpires,
    /// `Min-SE` (RFC 4028)
    MinSe,
    /// `Replaces` (RFC 3891)
    Replaces,
    /// Every other header
    Other,
}

impl HeaderName {
    /// Number of names, [`HeaderName::Other`] included.
    pub const COUNT: usize = Self::Other as usize + 1;

    /// Reads a name in any case, long or compact.
    pub fn parse(name: &[u8]) -> Self {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        let Some(first) = name.first() else { return Self::Other };
        match (name.len(), first.to_ascii_lowercase()) {
            (1, b'v') => Self::Via,
            (1, b'f') => Self::From,
            (1, b't') => Self::To,
            (1, b'i') => Self::CallId,
            (1, b'm') => Self::Contact,
            (1, b'l') => Self::ContentLength,
            (1, b'k') => Self::Supported,
            (1, b'x') => Self::SessionExpires,
            (2, b't') if is("To") => Self::To,
            (3, b'v') if is("Via") => Self::Via,
            (4, b'f') if is("From") => Self::From,
            (4, b'c') if is("CSeq") => Self::CSeq,
            (5, b'r') if is("Route") => Self::Route,
            (6, b'r') if is("Reason") => Self::Reason,
            (6, b'm') if is("Min-SE") => Self::MinSe,
            (8, b'r') if is("Replaces") => Self::Replaces,
            (9, b's') if is("Supported") => Self::Supported,
            (15, b's') if is("Session-Expires") => Self::SessionExpires,
            (7, b'c') if is("Call-ID") => Self::CallId,
            (7, b'c') if is("Contact") => Self::Contact,
            (7, b'r') if is("Require") => Self::Require,
            (9, b't') if is("Timestamp") => Self::Timestamp,
            (9, b'd') if is("Diversion") => Self::Diversion,
            (12, b'm') if is("Max-Forwards") => Self::MaxForwards,
            (12, b'r') if is("Record-Route") => Self::RecordRoute,
            (12, b'h') if is("History-Info") => Self::HistoryInfo,
            (13, b'p') if is("Proxy-Require") => Self::ProxyRequire,
            (14, b'c') if is("Content-Length") => Self::ContentLength,
            _ => Self::Other,
        }
    }

    /// The name as the standards write it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Via => "Via",
            Self::From => "From",
            Self::To => "To",
            Self::CallId => "Call-ID",
            Self::CSeq => "CSeq",
            Self::MaxForwards => "Max-Forwards",
            Self::Contact => "Contact",
            Self::ContentLength => "Content-Length",
            Self::Route => "Route",
            Self::RecordRoute => "Record-Route",
            Self::Require => "Require",
            Self::ProxyRequire => "Proxy-Require",
            Self::HistoryInfo => "History-Info",
            Self::Diversion => "Diversion",
            Self::Reason => "Reason",
            Self::Timestamp => "Timestamp",
            Self::Supported => "Supported",
            Self::SessionExpires => "Session-Expires",
            Self::MinSe => "Min-SE",
            Self::Replaces => "Replaces",
            Self::Other => "other",
        }
    }
}
