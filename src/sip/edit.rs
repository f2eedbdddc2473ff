//! Forwarding: the received bytes with a few splices.
//!
//! Everything between the splices is copied as it came, so what the proxy does not understand cannot be harmed.

use std::ops::Range;

use super::Message;

/// Splices in one message: Request-URI, Via, three Route lines, Max-Forwards and the inserted block, with room to spare.
pub const SPLICES_MAX: usize = 16;

/// A list of replacements to one message, applied in one copy.
pub struct Edit<'a> {
    message: &'a Message<'a>,
    splices: [(usize, usize, &'a [u8]); SPLICES_MAX],
    count: usize,
}

impl<'a> Edit<'a> {
    /// No change yet.
    pub fn new(message: &'a Message<'a>) -> Self {
        Self { message, splices: [(0, 0, &[]); SPLICES_MAX], count: 0 }
    }

    /// Puts `text` in the place of `range`. Ranges must not overlap; of two insertions at the same place the later added
    /// comes later, and both before what is left out there. Returns false, and changes nothing, when there is no room for
    /// one more splice.
    #[must_use]
    pub fn replace(&mut self, range: Range<usize>, text: &'a [u8]) -> bool {
        if self.count == SPLICES_MAX {
            return false;
        }
        let mut at = self.count;
        let is_behind = |(start, end, _): (usize, usize, &[u8])| {
            start > range.start || (start == range.start && end > start && range.is_empty())
        };
        while at > 0 && is_behind(self.splices[at - 1]) {
            self.splices[at] = self.splices[at - 1];
            at -= 1;
        }
        self.splices[at] = (range.start, range.end, text);
        self.count += 1;
        true
    }

    /// Puts `text` before the octet at `position`.
    #[must_use]
    pub fn insert(&mut self, position: usize, text: &'a [u8]) -> bool {
        self.replace(position..position, text)
    }

    /// Leaves `range` out.
    #[must_use]
    pub fn remove(&mut self, range: Range<usize>) -> bool {
        self.replace(range, b"")
    }

    /// Writes the edited message; octets beyond Content-Length stay behind (RFC 3261 §18.3).
    pub fn write(&self, out: &mut Vec<u8>) {
        let bytes = &self.message.bytes()[..self.message.body_span().end()];
        let added: usize = self.splices[..self.count].iter().map(|splice| splice.2.len()).sum();
        out.reserve(bytes.len() + added);
        let mut at = 0;
        for (start, end, text) in &self.splices[..self.count] {
            debug_assert!(*start >= at, "splices overlap");
            // Should they ever, a strange message is better than none at all.
            let start = (*start).max(at);
            out.extend_from_slice(&bytes[at..start]);
            out.extend_from_slice(text);
            at = (*end).max(start);
        }
        out.extend_from_slice(&bytes[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message<'static> {
        Message::parse(b"OPTIONS sip:a SIP/2.0\r\nX: 1\r\nY: 2\r\nContent-Length: 0\r\n\r\ntrailer").expect("valid")
    }

    fn written(edit: &Edit<'_>) -> String {
        let mut out = Vec::new();
        edit.write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn splices_given_in_any_order_leave_all_other_bytes_alone() {
        let message = message();
        let (x, y) = (message.headers()[0], message.headers()[1]);
        let mut edit = Edit::new(&message);
        assert!(edit.remove(y.line.range()));
        assert!(edit.replace(x.value.range(), b"one"));
        assert!(edit.insert(message.headers_start(), b"A: 0\r\n"));
        assert_eq!(written(&edit), "OPTIONS sip:a SIP/2.0\r\nA: 0\r\nX: one\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn what_is_put_in_where_something_is_left_out_comes_before_it_whichever_was_added_first() {
        let message = message();
        let x = message.headers()[0];
        let mut edit = Edit::new(&message);
        assert!(edit.insert(message.headers_start(), b"A: 0\r\n"));
        assert!(edit.remove(x.line.range()));
        assert!(edit.insert(message.headers_start(), b"B: 0\r\n"));
        assert_eq!(written(&edit), "OPTIONS sip:a SIP/2.0\r\nA: 0\r\nB: 0\r\nY: 2\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn one_splice_too_many_is_refused_and_harms_nothing() {
        let message = message();
        let mut edit = Edit::new(&message);
        for _ in 0..SPLICES_MAX {
            assert!(edit.insert(message.headers_start(), b""));
        }
        assert!(!edit.insert(message.headers_start(), b"A: 0\r\n"));
        assert_eq!(written(&edit), "OPTIONS sip:a SIP/2.0\r\nX: 1\r\nY: 2\r\nContent-Length: 0\r\n\r\n");
    }
}
