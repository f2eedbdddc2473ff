//! Name-addr values (From, To, Contact, Route) and CSeq, as offsets into their text.

use std::ops::Range;

use super::uri::parameter;
use super::{Method, Uri, decimal, is_space, is_token, list_end, trim};

/// A view of the first value of a header with the grammar `name-addr / addr-spec *(;param)`.
#[derive(Clone, Debug)]
pub struct NameAddr<'a> {
    text: &'a [u8],
    uri: Range<usize>,
    parameters: Range<usize>,
}

impl<'a> NameAddr<'a> {
    /// Reads the first value of `text`. The URI itself is not looked into. `None` when quotes or brackets do not
    /// close, or nothing stands where the URI should.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        while let Some(found) = memchr::memchr3(b'<', b'"', b',', &text[at..]) {
            at += found;
            match text[at] {
                b'"' => at = super::quoted_end(text, at)?,
                b'<' => {
                    let close = at + memchr::memchr(b'>', &text[at..])?;
                    let end = list_end(text, close + 1);
                    let mut parameters = close + 1;
                    while parameters < end && is_space(text[parameters]) {
                        parameters += 1;
                    }
                    if close == at + 1 || (parameters < end && text[parameters] != b';') {
                        return None;
                    }
                    return Some(Self { text, uri: at + 1..close, parameters: parameters..end });
                }
                // A comma before the bracket belongs to a display name that should have been quoted (RFC 4475 §3.1.2.15);
                // lists are parted by `Message::list` before they get here.
                _ => at += 1,
            }
        }
        // RFC 3261 §20.10: without brackets, what follows a semicolon belongs to the header.
        let end = list_end(text, 0);
        let start = text[..end].iter().position(|octet| !is_space(*octet))?;
        let semicolon = memchr::memchr(b';', &text[start..end]).map_or(end, |found| start + found);
        let uri = trim(&text[start..semicolon]);
        (!uri.is_empty()).then(|| Self { text, uri: start..start + uri.len(), parameters: semicolon..end })
    }

    /// The URI as written.
    pub fn uri_bytes(&self) -> &'a [u8] {
        &self.text[self.uri.clone()]
    }

    /// Where the URI is in the text.
    pub fn uri_place(&self) -> Range<usize> {
        self.uri.clone()
    }

    /// The URI, when it can be read.
    pub fn uri(&self) -> Option<Uri<'a>> {
        Uri::parse(trim(self.uri_bytes()))
    }

    /// The value of a header parameter; `Some(b"")` for a flag.
    pub fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        parameter(&self.text[self.parameters.clone()], name).map(|(_, value)| value)
    }

    /// The tag, when there is one.
    pub fn tag(&self) -> Option<&'a [u8]> {
        let parameters = &self.text[self.parameters.clone()];
        // As nearly all write it: the tag alone, or first, and a token.
        if let Some(rest) = parameters.strip_prefix(b";tag=") {
            let end = rest.iter().position(|octet| !is_token(*octet)).unwrap_or(rest.len());
            if end > 0 && rest.get(end).is_none_or(|octet| *octet == b';') {
                return Some(&rest[..end]);
            }
        }
        self.parameter("tag").filter(|tag| !tag.is_empty())
    }

    /// Where this value ends in the text: at the comma before the next, or at the end.
    pub fn end(&self) -> usize {
        self.parameters.end
    }
}

/// A CSeq value, RFC 3261 §20.16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// The sequence number.
    pub number: u32,
    /// The method as written.
    pub method: &'a [u8],
}

impl<'a> CSeq<'a> {
    /// Reads `number LWS method`.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = trim(text);
        let gap = text.iter().position(|octet| is_space(*octet))?;
        let method = trim(&text[gap..]);
        if method.iter().any(|octet| is_space(*octet)) {
            return None;
        }
        Some(Self { number: decimal(&text[..gap])?, method })
    }

    /// The method as a value.
    pub fn method(&self) -> Method {
        Method::parse(self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_commas_within_quotes_are_text() {
        let address = NameAddr::parse(br#""a <sip:x@y>, \"b" <sip:a@b;lr>;tag=1, <sip:c@d>"#).expect("valid");
        assert_eq!(address.uri_bytes(), b"sip:a@b;lr");
        assert_eq!(address.tag(), Some(&b"1"[..]));
    }

    #[test]
    fn without_brackets_parameters_belong_to_the_header() {
        let address = NameAddr::parse(b"sip:a@b ; tag = 7").expect("valid");
        assert_eq!((address.uri_bytes(), address.tag()), (&b"sip:a@b"[..], Some(&b"7"[..])));
    }

    #[test]
    fn unclosed_values_are_refused() {
        for text in ["\"Mr. J. User <sip:j@x>", "<sip:a@b", "", " ", "<>", "<sip:a@b> x"] {
            assert!(NameAddr::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn cseq_is_a_number_and_a_method() {
        assert_eq!(
            CSeq::parse(b" 0009\r\n INVITE ").map(|cseq| (cseq.number, cseq.method())),
            Some((9, Method::Invite))
        );
        for text in ["36893488147419103232 REGISTER", "-1 INVITE", "1", "INVITE 1", "1 INVITE X", ""] {
            assert!(CSeq::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
