//! SIP as bytes and as values.
//!
//! Two levels. [`Message`] is a view: it knows where things are in the bytes received and owns nothing else, so what
//! the proxy does not understand passes untouched ([`edit`] forwards by splicing). The small parsers ([`Uri`],
//! [`Via`], [`NameAddr`], [`CSeq`]) give offsets into one value. [`build`] writes the messages the proxy originates,
//! with `rsip`'s typed values from [`typed`].

pub mod address;
pub mod build;
pub mod edit;
pub mod fault;
pub mod framing;
pub mod header;
pub mod message;
pub mod method;
pub mod transport;
pub mod typed;
pub mod uri;
pub mod via;

pub use address::{CSeq, NameAddr};
pub use fault::Fault;
pub use header::HeaderName;
pub use message::{Message, Span, StartLine};
pub use method::Method;
pub use transport::{Transport, UnknownTransport};
pub use uri::{Host, Scheme, Uri};
pub use via::Via;

/// The octets of linear white space within one (unfolded) value.
pub(crate) const fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}

/// RFC 3261 §25.1 `token`.
pub(crate) const fn is_token(octet: u8) -> bool {
    TOKEN[octet as usize]
}

/// Looked up for every octet of every header name, so a table.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        let it = octet as u8;
        table[octet] = it.is_ascii_alphanumeric()
            || matches!(it, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        octet += 1;
    }
    table
};

/// `bytes` without white space at either end.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    // The common case, seen at a glance.
    if let [first, .., last] = bytes
        && !is_space(*first)
        && !is_space(*last)
    {
        return bytes;
    }
    let start = bytes.iter().position(|octet| !is_space(*octet)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|octet| !is_space(*octet)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// Decimal digits only, no sign, within `u32`.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u32, |number, octet| {
        let digit = octet.is_ascii_digit().then(|| u32::from(octet - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Where the value that starts at `start` ends: at a comma outside quotes and angle brackets, or at the end.
pub(crate) fn list_end(value: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = value.get(at..).and_then(|rest| memchr::memchr3(b',', b'"', b'<', rest)) {
        at += found;
        at = match value[at] {
            b',' => return at,
            b'"' => quoted_end(value, at).unwrap_or(value.len()),
            _ => memchr::memchr(b'>', &value[at..]).map_or(value.len(), |close| at + close + 1),
        };
    }
    value.len()
}

/// Behind the quoted string that opens at `start`; `None` when it does not close.
pub(crate) fn quoted_end(value: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while let Some(found) = value.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if value[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
    None
}

/// A short text on the stack: header lines are put together here without an allocation. What does not fit is cut;
/// every use has room for its longest text, which a debug assertion watches.
#[derive(Clone)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(N - self.len);
        debug_assert_eq!(fits, bytes.len(), "a text of {N} octets is too short");
        self.bytes[self.len..self.len + fits].copy_from_slice(&bytes[..fits]);
        self.len += fits;
    }

    /// Decimal, without the formatting machinery: three of four texts made for a message are numbers.
    pub(crate) fn push_number(&mut self, number: u32) {
        let mut digits = [0; 10];
        let (mut at, mut left) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.push_bytes(&digits[at..]);
    }

    /// Four decimal numbers.
    pub(crate) fn push_ipv4(&mut self, ip: std::net::Ipv4Addr) {
        for (at, octet) in ip.octets().into_iter().enumerate() {
            self.push_bytes(if at > 0 { b"." } else { b"" });
            self.push_number(u32::from(octet));
        }
    }

    pub(crate) fn push(&mut self, text: std::fmt::Arguments<'_>) {
        std::fmt::Write::write_fmt(self, text).expect("writing to a buffer never fails");
    }
}

impl<const N: usize> std::fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push_bytes(text.as_bytes());
        Ok(())
    }
}
