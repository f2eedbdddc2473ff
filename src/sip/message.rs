//! One message as received: where its parts are in the receive buffer.
//!
//! [`Message::parse`] makes one pass over the header and stores offsets, nothing else. It is lenient: what it cannot
//! place it remembers as a [`Fault`], so that a bad request can still be answered. [`Message::check`] is the door:
//! past it, the fields every answer and every look-up needs exist, once, and can be read (RFC 3261 §16.3 item 1).

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;
use smallvec::SmallVec;

use super::header::HeaderName;
use super::{CSeq, Fault, Method, NameAddr, Via, decimal, is_space, is_token, trim};

/// The largest message looked at, in octets: what a UDP datagram can carry.
pub const OCTETS_MAX: usize = 65_535;
/// Header fields in one message.
pub const HEADERS_MAX: usize = 128;
/// Via values in one request, RFC 3261 §16.6 step 8 adds one a hop and Max-Forwards starts at 70.
pub const VIAS_MAX: usize = 80;

/// A piece of the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= OCTETS_MAX);
        Self { start: start as u16, end: end as u16 }
    }

    /// As a range of the message's bytes.
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// First octet.
    pub const fn start(self) -> usize {
        self.start as usize
    }

    /// Behind the last octet.
    pub const fn end(self) -> usize {
        self.end as usize
    }
}

/// One header field: its name, and its value without the white space around it.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Which header.
    pub name: HeaderName,
    /// The whole line (or folded lines), line end included.
    pub line: Span,
    /// The value; a folded one holds its line ends.
    pub value: Span,
}

/// The first line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartLine {
    /// `method Request-URI version`
    Request {
        /// The method.
        method: Method,
        /// The method as written.
        token: Span,
        /// The Request-URI.
        uri: Span,
    },
    /// `version status reason`
    Response {
        /// 100 to 699.
        status: u16,
    },
}

/// Header fields kept without an allocation: what all but the longest requests have. Few enough that making and moving
/// a message costs no more cache lines than it needs.
const HEADERS_INLINE: usize = 24;

/// A view of one message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    start_line: StartLine,
    headers_start: u16,
    body: Span,
    fault: Option<Fault>,
    /// Per name: position of the first such header plus one, 0 for none.
    first: [u8; HeaderName::COUNT],
    /// One bit a name: whether there is more than one such header.
    repeated: u32,
    headers: SmallVec<[Header; HEADERS_INLINE]>,
}

/// What [`Message::check`] found: the fields every answer and look-up needs.
#[derive(Clone, Debug)]
pub struct Essentials<'a> {
    /// The top Via.
    pub via: Via<'a>,
    /// Whether something follows the top Via: another one, or what should be one.
    pub has_more_vias: bool,
    /// CSeq.
    pub cseq: CSeq<'a>,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// The From tag; RFC 2543 callers may have none.
    pub from_tag: Option<&'a [u8]>,
    /// The To tag.
    pub to_tag: Option<&'a [u8]>,
    /// Max-Forwards, when present.
    pub max_forwards: Option<u32>,
}

impl<'a> Message<'a> {
    /// Reads one datagram. An error means that not even an answer is possible.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len() > OCTETS_MAX {
            return Err(Fault::TooLarge);
        }
        let text = bytes;
        // RFC 3261 §7.5: "Implementations processing SIP messages over stream-oriented transports MUST ignore any
        // CRLF appearing before the start-line"; datagrams get the same leniency.
        let begin = text.iter().position(|octet| !matches!(octet, b'\r' | b'\n')).ok_or(Fault::NotSip)?;
        let first_end = memchr(b'\n', &text[begin..]).map(|at| begin + at).ok_or(Fault::NotSip)?;
        let mut fault = None;
        let start_line = parse_start_line(text, begin, line_content_end(text, begin, first_end), &mut fault)?;
        let mut message = Self {
            start_line,
            headers_start: (first_end + 1) as u16,
            body: Span::default(),
            fault,
            first: [0; HeaderName::COUNT],
            repeated: 0,
            headers: SmallVec::new(),
            bytes,
        };
        let body_start = message.index_headers(text, first_end + 1);
        message.place_body(text, body_start);
        Ok(message)
    }

    /// Walks the header lines; returns where the body starts.
    fn index_headers(&mut self, text: &[u8], mut at: usize) -> usize {
        loop {
            let start = at;
            let Some(mut end) = memchr(b'\n', &text[at..]).map(|found| at + found) else {
                self.note(Fault::Truncated);
                return text.len();
            };
            if end == start || (end == start + 1 && text[start] == b'\r') {
                return end + 1;
            }
            // RFC 3261 §7.3.1: a line that starts with white space continues the one before.
            while matches!(text.get(end + 1), Some(b' ' | b'\t')) {
                match memchr(b'\n', &text[end + 1..]) {
                    Some(found) => end += 1 + found,
                    None => {
                        self.note(Fault::Truncated);
                        return text.len();
                    }
                }
            }
            at = end + 1;
            let line = &text[start..=end];
            // The line end stops both.
            let length = line.iter().position(|octet| !is_token(*octet)).unwrap_or_default();
            let name_end = start + length;
            let mut colon = name_end;
            while matches!(text[colon], b' ' | b'\t') {
                colon += 1;
            }
            if length == 0 || text[colon] != b':' {
                self.note(Fault::HeaderLine);
                continue;
            }
            let mut value_start = colon + 1;
            while value_start < end && is_space(text[value_start]) {
                value_start += 1;
            }
            let mut value_end = end;
            while value_end > value_start && is_space(text[value_end - 1]) {
                value_end -= 1;
            }
            if self.headers.len() == HEADERS_MAX {
                self.note(Fault::TooManyHeaders);
                continue;
            }
            let name = HeaderName::parse(&text[start..name_end]);
            self.headers.push(Header { name, line: Span::new(start, at), value: Span::new(value_start, value_end) });
            let first = &mut self.first[name as usize];
            if *first == 0 {
                *first = self.headers.len() as u8;
            } else {
                self.repeated |= 1 << name as u32;
            }
        }
    }

    /// RFC 3261 §18.3: octets beyond Content-Length are not part of the message; too few are an error.
    fn place_body(&mut self, text: &[u8], start: usize) {
        let mut end = text.len();
        let mut length: Option<usize> = None;
        let mut agree = true;
        for header in self.all(HeaderName::ContentLength) {
            let number = decimal(&text[header.value.range()]).map(|number| number as usize);
            agree &= number.is_some() && (length.is_none() || length == number);
            length = number;
        }
        if !agree {
            self.note(Fault::ContentLength);
        } else if let Some(length) = length {
            if length > end - start { self.note(Fault::ShortBody) } else { end = start + length }
        }
        self.body = Span::new(start, end);
    }

    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// All bytes of the message, what follows Content-Length included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The first line.
    pub fn start_line(&self) -> StartLine {
        self.start_line
    }

    /// The method of a request; of a response, that of its CSeq.
    pub fn method(&self) -> Method {
        match self.start_line {
            StartLine::Request { method, .. } => method,
            StartLine::Response { .. } => {
                self.value(HeaderName::CSeq).and_then(CSeq::parse).map_or(Method::Unknown, |cseq| cseq.method())
            }
        }
    }

    /// The status of a response.
    pub fn status(&self) -> Option<u16> {
        match self.start_line {
            StartLine::Response { status } => Some(status),
            StartLine::Request { .. } => None,
        }
    }

    /// The Request-URI; empty for a response.
    pub fn request_uri(&self) -> &'a [u8] {
        match self.start_line {
            StartLine::Request { uri, .. } => self.slice(uri),
            StartLine::Response { .. } => b"",
        }
    }

    /// The bytes of a piece.
    pub fn slice(&self, span: Span) -> &'a [u8] {
        &self.bytes[span.range()]
    }

    /// The header fields in wire order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The first header field of that name.
    pub fn header(&self, name: HeaderName) -> Option<&Header> {
        match self.first[name as usize] {
            0 => None,
            position => self.headers.get(usize::from(position) - 1),
        }
    }

    /// The value of the first header field of that name.
    pub fn value(&self, name: HeaderName) -> Option<&'a [u8]> {
        self.header(name).map(|header| self.slice(header.value))
    }

    /// Every header field of that name, in wire order.
    pub fn all(&self, name: HeaderName) -> impl Iterator<Item = &Header> {
        let headers = match self.first[name as usize] {
            0 => &[],
            position if self.is_repeated(name) => &self.headers()[usize::from(position) - 1..],
            position => &self.headers()[usize::from(position) - 1..usize::from(position)],
        };
        headers.iter().filter(move |header| header.name == name)
    }

    /// The value of the first header field of a name that has no [`HeaderName`] of its own.
    pub fn named(&self, name: &str) -> Option<&'a [u8]> {
        self.named_all(name).next()
    }

    /// The values of all of them.
    pub fn named_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |header: &&Header| {
            let line = self.slice(header.line);
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
                && line.get(name.len()).is_some_and(|octet| !is_token(*octet))
        };
        let others = self.headers.iter().filter(|header| header.name == HeaderName::Other).filter(is_it);
        others.map(|header| self.slice(header.value))
    }

    /// Whether there is more than one header field of that name.
    pub fn is_repeated(&self, name: HeaderName) -> bool {
        self.repeated & 1 << name as u32 != 0
    }

    /// Every value of a comma-separated header, across its lines, as pieces of the message.
    pub fn list(&self, name: HeaderName) -> impl Iterator<Item = Span> + '_ {
        self.all(name).flat_map(move |header| {
            let value = self.slice(header.value);
            let mut next = Some(0);
            std::iter::from_fn(move || {
                let from = next?;
                let end = super::list_end(value, from);
                next = (end < value.len()).then_some(end + 1);
                let lead = value[from..end].iter().take_while(|octet| is_space(**octet)).count();
                let piece = trim(&value[from..end]);
                let start = header.value.start() + from + lead;
                Some(Span::new(start, start + piece.len()))
            })
        })
    }

    /// The body, no more octets than Content-Length says.
    pub fn body(&self) -> &'a [u8] {
        self.slice(self.body)
    }

    /// Where the body starts and ends.
    pub fn body_span(&self) -> Span {
        self.body
    }

    /// Where the header fields start.
    pub fn headers_start(&self) -> usize {
        usize::from(self.headers_start)
    }

    /// The top Via, when it can be read.
    pub fn top_via(&self) -> Option<Via<'a>> {
        Via::parse(self.value(HeaderName::Via)?)
    }

    /// The door: every fault that makes the message unacceptable, the first one found.
    pub fn check(&self) -> Result<Essentials<'a>, Fault> {
        use HeaderName::{CSeq as CSeqName, CallId, From, MaxForwards, To, Via as ViaName};
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let via_text = self.value(ViaName).ok_or(Fault::Missing(ViaName))?;
        let via = Via::parse(via_text).ok_or(Fault::Malformed(ViaName))?;
        if self.all(ViaName).nth(VIAS_MAX).is_some() {
            return Err(Fault::TooManyHeaders);
        }
        let once =
            |name: HeaderName| if self.is_repeated(name) { Err(Fault::Repeated(name)) } else { Ok(self.value(name)) };
        let needed = |name| once(name)?.ok_or(Fault::Missing(name));
        let cseq = CSeq::parse(needed(CSeqName)?).ok_or(Fault::Malformed(CSeqName))?;
        let call_id = needed(CallId)?;
        if call_id.is_empty() || call_id.iter().any(|octet| is_space(*octet)) {
            return Err(Fault::Malformed(CallId));
        }
        let from = NameAddr::parse(needed(From)?).ok_or(Fault::Malformed(From))?;
        let to = NameAddr::parse(needed(To)?).ok_or(Fault::Malformed(To))?;
        let max_forwards = match once(MaxForwards)? {
            Some(value) => Some(decimal(value).filter(|number| *number <= 255).ok_or(Fault::Malformed(MaxForwards))?),
            None => None,
        };
        if let StartLine::Request { token, .. } = self.start_line
            && self.slice(token) != cseq.method
        {
            return Err(Fault::CSeqMethod);
        }
        let has_more_vias = via.end() < via_text.len() || self.is_repeated(ViaName);
        Ok(Essentials { via, has_more_vias, cseq, call_id, from_tag: from.tag(), to_tag: to.tag(), max_forwards })
    }

    /// The same message with bytes of its own, as large as they need be: a kept message must not hold the receive
    /// buffer it came in.
    pub fn detach(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes[..self.body.end()])
    }
}

fn line_content_end(text: &[u8], start: usize, newline: usize) -> usize {
    if newline > start && text[newline - 1] == b'\r' { newline - 1 } else { newline }
}

/// `SIP/2.0 200 OK` or `INVITE sip:a@b SIP/2.0`. A line that is clearly meant as a request but has its blanks in the
/// wrong places is kept with a fault, so that it can be answered (RFC 4475 §3.1.2.8 to 3.1.2.10).
fn parse_start_line(text: &[u8], start: usize, end: usize, fault: &mut Option<Fault>) -> Result<StartLine, Fault> {
    let line = &text[start..end];
    if let Some(rest) = line.strip_prefix(b"SIP/2.0 ") {
        let digits = rest.iter().position(|octet| *octet == b' ').unwrap_or(rest.len());
        let status = decimal(&rest[..digits]).filter(|status| (100..700).contains(status) && digits == 3);
        return status.map(|status| StartLine::Response { status: status as u16 }).ok_or(Fault::StatusCode);
    }
    let first = memchr(b' ', line).filter(|at| *at > 0).ok_or(Fault::NotSip)?;
    let token = Span::new(start, start + first);
    if !text[token.range()].iter().all(|octet| is_token(*octet)) {
        return Err(Fault::NotSip);
    }
    let line_trimmed = trim(line);
    let last = memchr::memrchr(b' ', line_trimmed).ok_or(Fault::NotSip)?;
    let version = &line_trimmed[last + 1..];
    if version.len() < 5 || !version[..4].eq_ignore_ascii_case(b"SIP/") {
        // A request without a version is still one, and can be told so.
        let is_request = last == first && Method::parse(&text[token.range()]) != Method::Unknown;
        if !is_request || memchr(b':', version).is_none() {
            return Err(Fault::NotSip);
        }
        fault.get_or_insert(Fault::StartLine);
        let uri = Span::new(start + first + 1, start + line_trimmed.len());
        return Ok(StartLine::Request { method: Method::parse(&text[token.range()]), token, uri });
    }
    let uri =
        if last > first { Span::new(start + first + 1, start + last) } else { Span::new(start + first, start + first) };
    let uri_text = &text[uri.range()];
    if line_trimmed.len() != line.len() || uri_text.is_empty() || uri_text.iter().any(|octet| is_space(*octet)) {
        fault.get_or_insert(Fault::StartLine);
    }
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        fault.get_or_insert(Fault::Version);
    }
    Ok(StartLine::Request { method: Method::parse(&text[token.range()]), token, uri })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &str = "INVITE sip:100@gate SIP/2.0\r\nv: SIP/2.0/UDP a;branch=z9hG4bKx, SIP/2.0/TCP b\r\nVia: SIP/2.0/UDP c\r\n\
        f : <sip:a@b>;\r\n tag=1\r\nTO: <sip:c@d>\r\ni:x@y\r\ncseq: 1\r\n\tINVITE\r\nX-Other: \u{e9}\r\nl: 4\r\n\r\nbodytrailer";

    fn parse(text: &str) -> Message<'_> {
        Message::parse(text.as_bytes()).expect("a start line")
    }

    #[test]
    fn compact_names_folding_and_lists_are_found() {
        let message = parse(INVITE);
        let found = message.check().expect("valid");
        assert_eq!((found.call_id, found.from_tag, found.to_tag), (&b"x@y"[..], Some(&b"1"[..]), None));
        assert_eq!((found.cseq.number, found.cseq.method()), (1, Method::Invite));
        let vias: Vec<&[u8]> = message.list(HeaderName::Via).map(|span| message.slice(span)).collect();
        assert_eq!(vias, [&b"SIP/2.0/UDP a;branch=z9hG4bKx"[..], b"SIP/2.0/TCP b", b"SIP/2.0/UDP c"]);
        assert_eq!(message.body(), b"body");
    }

    #[test]
    fn each_fault_is_named() {
        let fault = |from: &str, to: &str| parse(&INVITE.replace(from, to)).check().map(|_| ()).expect_err(to);
        assert_eq!(fault("l: 4", "l: 400"), Fault::ShortBody);
        assert_eq!(fault("l: 4", "l: -4"), Fault::ContentLength);
        assert_eq!(fault("l: 4", "l: 4\r\nContent-Length: 5"), Fault::ContentLength);
        assert_eq!(fault("i:x@y\r\n", ""), Fault::Missing(HeaderName::CallId));
        assert_eq!(fault("i:x@y", "i:x@y\r\nCall-ID: z"), Fault::Repeated(HeaderName::CallId));
        assert_eq!(fault("\tINVITE", "\tBYE"), Fault::CSeqMethod);
        assert_eq!(fault("SIP/2.0\r\n", "SIP/7.0\r\n"), Fault::Version);
        assert_eq!(fault("X-Other", "X Other"), Fault::HeaderLine);
        assert_eq!(fault("sip:100@gate", " sip:100@gate"), Fault::StartLine);
        assert_eq!(fault("\r\n\r\nbodytrailer", "\r\n"), Fault::Truncated);
        assert_eq!(fault("i:x@y", &"x: y\r\n".repeat(HEADERS_MAX + 1)), Fault::TooManyHeaders);
    }

    #[test]
    fn what_is_not_sip_is_not_read() {
        for text in [
            "",
            "\r\n\r\n",
            "hello",
            "GET / HTTP/1.1\r\n\r\n",
            "SIP/2.0 4294967301 x\r\n\r\n",
            "SIP/2.0 99 x\r\n\r\n",
            "\0\0\0\0\n",
        ] {
            assert!(Message::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(Message::parse(&[b'a'; OCTETS_MAX + 1]).map(|_| ()), Err(Fault::TooLarge));
    }
}
