//! Where messages end in a byte stream (RFC 3261 §18.3): Content-Length decides.

use memchr::memchr;

use super::message::OCTETS_MAX;
use super::{HeaderName, decimal, is_space, is_token};

/// What stands at the start of what was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Not a whole message yet.
    Incomplete,
    /// Line ends between messages, so many octets. A double one asks for a single one (RFC 5626 §4.4.1).
    LineEnds {
        /// How many octets.
        octets: usize,
        /// Whether an answer is due.
        is_ping: bool,
    },
    /// A message of so many octets.
    Message(usize),
    /// No message can be found any more: the connection is of no use.
    Broken(Broken),
}

/// Why a stream has no next message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Its header does not end within [`STREAM_OCTETS_MAX`], or header and body together are longer.
    TooLarge,
    /// It has no Content-Length, which streams need, or one that is no number.
    ContentLength,
    /// What came is no SIP.
    NotSip,
}

/// The largest message taken from a stream, in octets: with what we add it must still be one we read ourselves, or its
/// ACK and CANCEL could not be made.
pub const STREAM_OCTETS_MAX: usize = OCTETS_MAX - 4096;

/// Octets by which it must be clear that SIP is spoken: a method or version, and a blank.
const START_MAX: usize = 64;

/// Finds messages; remembers how far it looked, so that a message that comes octet by octet costs no more than one that
/// comes whole.
#[derive(Clone, Copy, Default, Debug)]
pub struct Framer {
    /// Octets known to hold no end of a header.
    seen: usize,
    /// The whole message's length, once its header is complete.
    length: usize,
}

impl Framer {
    /// What stands at the start of `text`. After a message or line ends the caller leaves them out; until then it calls
    /// with the same octets and more.
    pub fn next(&mut self, text: &[u8]) -> Frame {
        let frame = self.look(text);
        if !matches!(frame, Frame::Incomplete) {
            *self = Self::default();
        }
        frame
    }

    fn look(&mut self, text: &[u8]) -> Frame {
        if self.length == 0 {
            if let Some(b'\r' | b'\n') = text.first() {
                return line_ends(text);
            }
            if self.seen < START_MAX && !is_start(&text[..text.len().min(START_MAX)]) {
                return Frame::Broken(Broken::NotSip);
            }
            let Some(end) = header_end(text, self.seen.saturating_sub(2)) else {
                self.seen = text.len();
                return if text.len() > STREAM_OCTETS_MAX {
                    Frame::Broken(Broken::TooLarge)
                } else {
                    Frame::Incomplete
                };
            };
            match content_length(&text[..end]) {
                Some(length) => self.length = end.saturating_add(length),
                None => return Frame::Broken(Broken::ContentLength),
            }
            if self.length > STREAM_OCTETS_MAX {
                return Frame::Broken(Broken::TooLarge);
            }
        }
        if text.len() < self.length { Frame::Incomplete } else { Frame::Message(self.length) }
    }
}

fn line_ends(text: &[u8]) -> Frame {
    let octets = text.iter().take_while(|octet| matches!(octet, b'\r' | b'\n')).count();
    // A single line end may be the first half of a double one.
    if octets == text.len() && octets < 4 && text.starts_with(b"\r") && octets != 2 {
        return Frame::Incomplete;
    }
    Frame::LineEnds { octets, is_ping: octets >= 4 }
}

/// Whether it may be the start of a request or response line.
fn is_start(text: &[u8]) -> bool {
    match text.iter().position(|octet| !is_token(*octet) && *octet != b'/') {
        Some(at) => at > 0 && text[at] == b' ',
        None => text.len() < START_MAX,
    }
}

/// Behind the empty line that ends a header, looked for from `at` on: what [`super::Message::parse`] takes for one too, or the
/// two would disagree on where a message ends.
fn header_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr(b'\n', text.get(at..)?)? + 1;
        match text.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// The value of Content-Length, which must be there, and the same wherever it is repeated.
fn content_length(header: &[u8]) -> Option<usize> {
    let mut length = None;
    let mut at = memchr(b'\n', header)? + 1;
    while at < header.len() {
        let end = memchr(b'\n', &header[at..]).map_or(header.len(), |found| at + found + 1);
        let line = &header[at..end];
        at = end;
        if !matches!(line.first(), Some(b'c' | b'C' | b'l' | b'L')) {
            continue;
        }
        let name = line.iter().position(|octet| !is_token(*octet)).unwrap_or_default();
        if HeaderName::parse(&line[..name]) != HeaderName::ContentLength {
            continue;
        }
        let rest = &line[name..];
        let blanks = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        let value = rest[blanks..].strip_prefix(b":")?;
        // A folded value goes on in the next lines.
        let mut value_end = at;
        while matches!(header.get(value_end), Some(b' ' | b'\t')) {
            value_end += memchr(b'\n', &header[value_end..]).map_or(header.len() - value_end, |found| found + 1);
        }
        let value = &header[at - value.len()..value_end];
        let start = value.iter().position(|octet| !is_space(*octet))?;
        let stop = value.iter().rposition(|octet| !is_space(*octet))? + 1;
        let number = decimal(&value[start..stop])? as usize;
        if length.is_some_and(|length| length != number) {
            return None;
        }
        length = Some(number);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP b\r\nl :\r\n 3\r\nX: y\r\n\r\nabc";

    #[test]
    fn a_message_is_found_however_it_is_cut() {
        for cut in 1..MESSAGE.len() {
            let mut framer = Framer::default();
            for end in (cut..MESSAGE.len()).step_by(cut) {
                assert_eq!(framer.next(&MESSAGE[..end]), Frame::Incomplete, "{cut} {end}");
            }
            let text = [MESSAGE, b"INVITE"].concat();
            assert_eq!(framer.next(&text), Frame::Message(MESSAGE.len()), "{cut}");
        }
    }

    #[test]
    fn line_ends_between_messages_are_keep_alives() {
        let next = |text: &[u8]| Framer::default().next(text);
        assert_eq!(next(b"\r\n\r\n"), Frame::LineEnds { octets: 4, is_ping: true });
        assert_eq!(next(b"\r\nOPTIONS"), Frame::LineEnds { octets: 2, is_ping: false });
        assert_eq!(next(b"\r\n"), Frame::LineEnds { octets: 2, is_ping: false });
        assert_eq!(next(b"\r\n\r"), Frame::Incomplete);
        assert_eq!(next(b"\r"), Frame::Incomplete);
    }

    #[test]
    fn what_has_no_end_is_broken() {
        let next = |text: &[u8]| Framer::default().next(text);
        let with = |line: &str| [b"OPTIONS sip:a SIP/2.0\r\n", line.as_bytes(), b"\r\n\r\n"].concat();
        for line in ["X: y", "Content-Length: x", "Content-Length: -1", "l: 1\r\nl: 2", "Content-Length 1"] {
            assert_eq!(next(&with(line)), Frame::Broken(Broken::ContentLength), "{line}");
        }
        assert_eq!(next(&with("l: 4294967295")), Frame::Broken(Broken::TooLarge));
        assert_eq!(next(&with("l: 65535")), Frame::Broken(Broken::TooLarge));
        assert_eq!(
            next(&[b"OPTIONS sip:a SIP/2.0\r\nX: ".to_vec(), vec![b'x'; OCTETS_MAX]].concat()),
            Frame::Broken(Broken::TooLarge)
        );
        assert_eq!(next(b"\x16\x03\x01\x02\x00\x01"), Frame::Broken(Broken::NotSip), "a TLS greeting");
        assert_eq!(next(&[b'A'; 64]), Frame::Broken(Broken::NotSip));
        assert_eq!(next(b"GE"), Frame::Incomplete);
    }
}
