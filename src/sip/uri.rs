//! A URI as offsets into its own text (RFC 3261 §19.1, RFC 3966).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use memchr::memchr;

use super::{Transport, UnknownTransport, is_token};

/// What stands before the first colon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// `sip`
    Sip,
    /// `sips`
    Sips,
    /// `tel`
    Tel,
    /// An emergency service (RFC 5031)
    Sos,
    /// Any other; such a URI is not looked into.
    Other,
}

/// The host of a URI or of a Via's sent-by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host<'a> {
    /// An address; an IPv6 reference without its brackets.
    Ip(IpAddr),
    /// A name.
    Name(&'a [u8]),
}

impl<'a> Host<'a> {
    /// Reads `host`, `192.0.2.1` or `[2001:db8::1]`.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        if let Some(inner) = text.strip_prefix(b"[") {
            return ipv6(inner.strip_suffix(b"]")?).map(|ip| Host::Ip(IpAddr::V6(ip)));
        }
        if let Some(ip) = ipv4(text) {
            return Some(Host::Ip(IpAddr::V4(ip)));
        }
        if text.is_empty()
            || !text.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_'))
        {
            return None;
        }
        Some(Host::Name(text))
    }

    /// The same host: addresses by value, names without case.
    pub fn is(&self, other: &Host<'_>) -> bool {
        match (self, other) {
            (Host::Ip(one), Host::Ip(two)) => one.to_canonical() == two.to_canonical(),
            (Host::Name(one), Host::Name(two)) => one.eq_ignore_ascii_case(two),
            (Host::Ip(_), Host::Name(_)) | (Host::Name(_), Host::Ip(_)) => false,
        }
    }
}

/// Four decimal numbers. Unlike [`std::net`], leading zeros are nobody's octal.
fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let (mut octets, mut count, mut number, mut digits) = ([0u8; 4], 0, 0u32, 0);
    for octet in text {
        match octet {
            b'0'..=b'9' if digits < 3 => {
                number = number * 10 + u32::from(octet - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && count < 3 => {
                octets[count] = u8::try_from(number).ok()?;
                (count, number, digits) = (count + 1, 0, 0);
            }
            _ => return None,
        }
    }
    octets[3] = u8::try_from(number).ok()?;
    (count == 3 && digits > 0).then(|| octets.into())
}

/// RFC 5118 §4.10: the old grammar's three colons before an IPv4 part are read as two.
fn ipv6(text: &[u8]) -> Option<Ipv6Addr> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().or_else(|| text.replacen(":::", "::", 1).parse().ok())
}

/// White space and what encloses a URI in a header.
static IN_NO_URI: [bool; 256] = {
    let mut table = [false; 256];
    let octets = b" \t\r\n<>\"";
    let mut at = 0;
    while at < octets.len() {
        table[octets[at] as usize] = true;
        at += 1;
    }
    table
};

/// A view of one URI.
#[derive(Clone, Debug)]
pub struct Uri<'a> {
    text: &'a [u8],
    /// The scheme.
    pub scheme: Scheme,
    user: Range<usize>,
    host: Range<usize>,
    parsed_host: Option<Host<'a>>,
    /// The port, when written.
    pub port: Option<u16>,
    host_port_end: usize,
    parameters: Range<usize>,
    headers: Range<usize>,
}

/// RFC 5031 §4.2: `urn:service:sos` and the services below it.
pub(crate) fn is_sos(text: &[u8]) -> bool {
    const SOS: &[u8] = b"urn:service:sos";
    text.get(..SOS.len()).is_some_and(|start| start.eq_ignore_ascii_case(SOS))
        && text.get(SOS.len()).is_none_or(|octet| *octet == b'.')
}

impl<'a> Uri<'a> {
    /// Reads a URI. `None` when it has no scheme, or a `sip:` or `sips:` URI has no readable host.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let colon = memchr(b':', text)?;
        let name = &text[..colon];
        if name.is_empty() || !name[0].is_ascii_alphabetic() || !name.iter().all(|octet| is_token(*octet)) {
            return None;
        }
        if text.iter().any(|octet| IN_NO_URI[usize::from(*octet)]) {
            return None;
        }
        let scheme = match name.len() {
            3 if name.eq_ignore_ascii_case(b"sip") => Scheme::Sip,
            4 if name.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
            3 if name.eq_ignore_ascii_case(b"tel") => Scheme::Tel,
            3 if is_sos(text) => Scheme::Sos,
            _ => Scheme::Other,
        };
        let rest = colon + 1;
        let end = text.len();
        let uri = |user, host, parsed_host, port, host_port_end, parameters, headers| Self {
            text,
            scheme,
            user,
            host,
            parsed_host,
            port,
            host_port_end,
            parameters,
            headers,
        };
        match scheme {
            Scheme::Sos | Scheme::Other => Some(uri(rest..rest, rest..rest, None, None, rest, end..end, end..end)),
            Scheme::Tel => {
                let semicolon = memchr(b';', &text[rest..]).map_or(end, |at| rest + at);
                (semicolon > rest).then(|| {
                    uri(rest..semicolon, semicolon..semicolon, None, None, semicolon, semicolon..end, end..end)
                })
            }
            Scheme::Sip | Scheme::Sips => {
                let (user, host_start) = match memchr(b'@', &text[rest..]) {
                    Some(at) => (rest..rest + at, rest + at + 1),
                    None => (rest..rest, rest),
                };
                if host_start > rest && user.is_empty() {
                    return None;
                }
                let mut host_end = host_start;
                if text.get(host_start) == Some(&b'[') {
                    host_end = host_start + memchr(b']', &text[host_start..])? + 1;
                } else {
                    while host_end < end && !matches!(text[host_end], b':' | b';' | b'?') {
                        host_end += 1;
                    }
                }
                let host = Host::parse(&text[host_start..host_end])?;
                let mut at = host_end;
                let mut port = None;
                if text.get(at) == Some(&b':') {
                    let from = at + 1;
                    at = from;
                    while at < end && text[at].is_ascii_digit() {
                        at += 1;
                    }
                    port = Some(u16::try_from(super::decimal(&text[from..at])?).ok()?);
                }
                let host_port_end = at;
                if at < end && !matches!(text[at], b';' | b'?') {
                    return None;
                }
                let question = memchr(b'?', &text[at..]).map_or(end, |found| at + found);
                let parameters = at..question;
                Some(uri(user, host_start..host_end, Some(host), port, host_port_end, parameters, question..end))
            }
        }
    }

    /// The URI as it is written.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.text
    }

    /// The user part as written, password and user parameters included; empty when there is none.
    pub fn user(&self) -> &'a [u8] {
        &self.text[self.user.clone()]
    }

    /// The called number: the user part up to its parameters or password, `%XX` decoded, a telephone number's visual
    /// separators (RFC 3966 §5.1.1) left out. Of an emergency service the whole URN, in lower case.
    pub fn number(&self) -> Cow<'a, [u8]> {
        if self.scheme == Scheme::Sos {
            return Cow::Owned(self.text.to_ascii_lowercase());
        }
        let user = self.user();
        let end = user.iter().position(|octet| matches!(octet, b';' | b':')).unwrap_or(user.len());
        let user = &user[..end];
        let separates = |octet: &u8| matches!(octet, b'-' | b'.' | b'(' | b')');
        let is_telephone = user.first().is_some_and(|octet| octet.is_ascii_digit() || *octet == b'+')
            && user.iter().all(|octet| octet.is_ascii_digit() || *octet == b'+' || separates(octet));
        let is_dressed = user.contains(&b'%') || (is_telephone && user.iter().any(separates));
        if !is_dressed {
            return Cow::Borrowed(user);
        }
        let (mut number, mut at) = (Vec::with_capacity(user.len()), 0);
        while at < user.len() {
            let hex = |octet: u8| char::from(octet).to_digit(16);
            match user[at] {
                b'%' => match (user.get(at + 1).copied().and_then(hex), user.get(at + 2).copied().and_then(hex)) {
                    (Some(high), Some(low)) => {
                        number.push((high * 16 + low) as u8);
                        at += 2;
                    }
                    _ => number.push(b'%'),
                },
                octet if is_telephone && separates(&octet) => {}
                octet => number.push(octet),
            }
            at += 1;
        }
        Cow::Owned(number)
    }

    /// The host; `None` for `tel:` and unknown schemes.
    pub fn host(&self) -> Option<Host<'a>> {
        self.parsed_host
    }

    /// The host as written, with brackets.
    pub fn host_text(&self) -> &'a [u8] {
        &self.text[self.host.clone()]
    }

    /// Where host and port stand in the text.
    pub fn host_port_range(&self) -> Range<usize> {
        self.host.start..self.host_port_end
    }

    /// Address and port when the host is an address (RFC 3263 §4.1: no look-up), by default the transport's port.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host()? {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port.unwrap_or_else(|| self.default_port()))),
            Host::Name(_) => None,
        }
    }

    /// The transport it asks for, if any: the parameter's, over TLS when the scheme is `sips` (RFC 3261 §26.2.2).
    pub fn transport(&self) -> Result<Option<Transport>, UnknownTransport> {
        let is_secure = self.scheme == Scheme::Sips;
        match self.parameter("transport") {
            None => Ok(is_secure.then_some(Transport::Tls)),
            Some(name) => {
                let transport = Transport::parse(name).ok_or(UnknownTransport)?;
                if is_secure { transport.secured().map(Some).ok_or(UnknownTransport) } else { Ok(Some(transport)) }
            }
        }
    }

    /// The port when none is written.
    pub fn default_port(&self) -> u16 {
        self.transport().ok().flatten().map_or(5060, Transport::default_port)
    }

    /// The value of a URI parameter; `Some(b"")` for a flag.
    pub fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        parameter(&self.text[self.parameters.clone()], name).map(|(_, value)| value)
    }

    /// The parameters as written, with the first semicolon.
    pub fn parameters(&self) -> &'a [u8] {
        &self.text[self.parameters.clone()]
    }

    /// Whether header fields follow a question mark.
    pub fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }
}

/// Whether a URI asks for TLS on its whole way: its scheme, whatever its case (RFC 3986 §3.1).
pub(crate) fn is_sips(uri: &[u8]) -> bool {
    uri.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"sips:"))
}

/// Finds `;name=value` in a parameter list that starts with a semicolon: the whole range, and the value.
pub(crate) fn parameter<'a>(parameters: &'a [u8], name: &str) -> Option<(Range<usize>, &'a [u8])> {
    let mut at = 0;
    while at < parameters.len() {
        let end = parameter_end(parameters, at + 1);
        let (found, value) = split_parameter(&parameters[at + 1..end]);
        if found.eq_ignore_ascii_case(name.as_bytes()) {
            return Some((at..end, value));
        }
        at = end;
    }
    None
}

/// Where the parameter that starts at `start` ends: at a semicolon outside quotes, or at the end.
pub(crate) fn parameter_end(parameters: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = parameters.get(at..).and_then(|rest| memchr::memchr2(b';', b'"', rest)) {
        at += found;
        if parameters[at] == b';' {
            return at;
        }
        at = super::quoted_end(parameters, at).unwrap_or(parameters.len());
    }
    parameters.len()
}

/// Name and value of one parameter; the value of a flag is empty.
pub(crate) fn split_parameter(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|octet| *octet == b'=') {
        Some(equals) => (super::trim(&text[..equals]), super::trim(&text[equals + 1..])),
        None => (super::trim(text), &text[text.len()..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri<'_> {
        Uri::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn a_dot_in_the_user_part_is_not_the_host() {
        let uri = uri("sip:john.doe@example.com;transport=udp;lr?Subject=x");
        assert_eq!(uri.user(), b"john.doe");
        assert_eq!(uri.host(), Some(Host::Name(b"example.com")));
        assert_eq!(uri.parameter("transport"), Some(&b"udp"[..]));
        assert_eq!(uri.parameter("LR"), Some(&b""[..]));
        assert_eq!(uri.parameter("maddr"), None);
        assert!(uri.has_headers());
    }

    #[test]
    fn ipv6_references_keep_their_port_apart() {
        let uri = uri("sip:[2001:db8::10]:5070");
        assert_eq!(uri.socket_addr(), Some("[2001:db8::10]:5070".parse().expect("an address")));
        assert_eq!(Uri::parse(b"sip:2001:db8::10").map(|uri| uri.port), None);
        let ambiguous = Uri::parse(b"sip:[2001:db8::10:5070]").expect("RFC 5118 4.3");
        assert_eq!(ambiguous.socket_addr(), Some("[2001:db8::10:5070]:5060".parse().expect("an address")));
    }

    #[test]
    fn numbers_are_compared_without_dress() {
        assert_eq!(&*uri("tel:+44-20-7946-0000;phone-context=x").number(), b"+442079460000");
        assert_eq!(&*uri("sip:%31%30%30@gate").number(), b"100");
        assert_eq!(&*uri("sip:a.b-c@gate").number(), b"a.b-c");
        assert_eq!(&*uri("sip:user;par=u%40example.net@example.com").number(), b"user");
        assert_eq!(&*uri("sip:100%@gate").number(), b"100%");
        assert_eq!(&*uri("sip:100%3@gate").number(), b"100%3");
        assert_eq!(&*uri("sip:gate").number(), b"");
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in [
            "",
            "100",
            ":100",
            "sip:",
            "sip:@gate",
            "sip:a@",
            "sip:a@gate:",
            "sip:a@gate:99999",
            "sip:a@[::1",
            "<sip:a@b>",
            "sip:a b@c",
            "tel:",
        ] {
            assert!(Uri::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
