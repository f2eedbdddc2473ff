//! One Via value (RFC 3261 §20.42, RFC 3581).

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::uri::{Host, parameter_end, split_parameter};
use super::{Text, is_space, is_token, list_end, trim};

/// The branch prefix that says "unique by RFC 3261 rules" (§8.1.1.7).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// A view of the first value of a Via header.
#[derive(Clone, Debug)]
pub struct Via<'a> {
    text: &'a [u8],
    /// `UDP`, `TCP`, … as written.
    pub transport: &'a [u8],
    /// The host of sent-by.
    pub host: Host<'a>,
    /// The port of sent-by, when written.
    pub port: Option<u16>,
    end: usize,
    branch: Option<&'a [u8]>,
    /// `;rport` and `;received` with their semicolons, found in the one pass over the parameters.
    rport: Option<Range<usize>>,
    received: Option<Range<usize>>,
}

impl<'a> Via<'a> {
    /// Reads the first value of `text`. White space is allowed wherever RFC 3261 §25.1 allows it.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let end = list_end(text, 0);
        let (transport, mut at) = match text.get(8..12) {
            // What all but every peer writes.
            Some(b"UDP ") if text.starts_with(b"SIP/2.0/") => (&text[8..11], 11),
            Some(_) | None => protocol(text, end)?,
        };
        if at >= end || !is_space(text[at]) {
            return None;
        }
        skip_space(text, &mut at);
        let start = at;
        if text.get(at) == Some(&b'[') {
            at += memchr::memchr(b']', &text[at..end])? + 1;
        } else {
            while at < end && !matches!(text[at], b':' | b';') && !is_space(text[at]) {
                at += 1;
            }
        }
        let host = Host::parse(&text[start..at])?;
        skip_space(text, &mut at);
        let mut port = None;
        if at < end && text[at] == b':' {
            at += 1;
            skip_space(text, &mut at);
            let digits = at;
            while at < end && text[at].is_ascii_digit() {
                at += 1;
            }
            port = Some(u16::try_from(super::decimal(&text[digits..at])?).ok()?);
            skip_space(text, &mut at);
        }
        if at < end && text[at] != b';' {
            return None;
        }
        let mut via = Self { text, transport, host, port, end, branch: None, rport: None, received: None };
        // No empty parameter, every name a token: `;;,;` is what a broken stack writes (RFC 4475 §3.1.2.1).
        while at < end {
            let semicolon = at;
            at += 1;
            let (name, value) = read_parameter(&text[..end], &mut at)?;
            match name.len() {
                6 if name.eq_ignore_ascii_case(b"branch") => via.branch = via.branch.or(Some(value)),
                5 if name.eq_ignore_ascii_case(b"rport") => {
                    via.rport.get_or_insert(semicolon..at);
                }
                8 if name.eq_ignore_ascii_case(b"received") => {
                    via.received.get_or_insert(semicolon..at);
                }
                _ => {}
            }
        }
        Some(via)
    }

    /// The branch, when there is one.
    pub fn branch(&self) -> Option<&'a [u8]> {
        self.branch.filter(|branch| !branch.is_empty())
    }

    /// The value of `received`, when there is one.
    pub fn received(&self) -> Option<&'a [u8]> {
        let range = self.received.clone()?;
        Some(split_parameter(&self.text[range.start + 1..range.end]).1)
    }

    /// Where this value ends in the text: at the comma before the next, or at the end.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Where the last non-blank octet of this value ends.
    pub fn trimmed_end(&self) -> usize {
        let end = self.end();
        end - self.text[..end].iter().rev().take_while(|octet| is_space(**octet)).count()
    }

    /// Where the response to a request goes that came from `source` (RFC 3261 §18.2.2, RFC 3581 §4): the address it
    /// came from, and the port it came from when `rport` asks for it, else the port of sent-by.
    pub fn reply_to(&self, source: SocketAddr) -> SocketAddr {
        match self.rport {
            Some(_) => source,
            None => SocketAddr::new(source.ip(), self.port.unwrap_or(5060)),
        }
    }

    /// Whether the sent-by host is just the address the request came from.
    pub fn is_from(&self, source: IpAddr) -> bool {
        self.host.is(&Host::Ip(source))
    }

    /// What the element that received the request must write into its top Via (RFC 3261 §18.2.1, RFC 3581 §4):
    /// `received` when sent-by does not say the source address or `rport` was asked for, and the value of `rport`.
    pub fn stamp(&self, source: SocketAddr) -> Stamp {
        let mut stamp = Stamp::default();
        let end = self.trimmed_end();
        // Blanks before the comma, which is where `received` may be put in, stay.
        let rport = self.rport.clone().map(|range| range.start..range.end.min(end));
        let received = self.received.clone();
        if let Some(range) = &rport {
            stamp.push(range.clone(), b";rport=", |text| text.push_number(u32::from(source.port())));
        }
        if rport.is_some() || received.is_some() || !self.is_from(source.ip()) {
            stamp.push(received.unwrap_or(end..end), b";received=", |text| match source.ip().to_canonical() {
                IpAddr::V4(ip) => text.push_ipv4(ip),
                IpAddr::V6(ip) => text.push(format_args!("{ip}")),
            });
        }
        if stamp.count == 2 && stamp.parts[1].0.start < stamp.parts[0].0.start {
            stamp.parts.swap(0, 1);
        }
        stamp
    }
}

/// The changes [`Via::stamp`] asks for, as places in the Via's text and what to write there.
#[derive(Default)]
pub struct Stamp {
    parts: [(Range<usize>, Text<56>); 2],
    count: usize,
}

impl Stamp {
    fn push(&mut self, range: Range<usize>, name: &[u8], value: impl FnOnce(&mut Text<56>)) {
        let part = &mut self.parts[self.count];
        part.0 = range;
        part.1.push_bytes(name);
        value(&mut part.1);
        self.count += 1;
    }

    /// Place and replacement in the order of the places, at most two.
    pub fn splices(&self) -> impl Iterator<Item = (Range<usize>, &[u8])> {
        self.parts[..self.count].iter().map(|(range, text)| (range.clone(), text.as_bytes()))
    }
}

/// `SIP / 2.0 / transport`: the transport, and where it ends.
fn protocol(text: &[u8], end: usize) -> Option<(&[u8], usize)> {
    let mut at = 0;
    let word = |at: &mut usize| {
        skip_space(text, at);
        let start = *at;
        while *at < end && is_token(text[*at]) {
            *at += 1;
        }
        (*at > start).then(|| &text[start..*at])
    };
    let slash = |at: &mut usize| {
        skip_space(text, at);
        (text.get(*at) == Some(&b'/')).then(|| *at += 1)
    };
    if !word(&mut at)?.eq_ignore_ascii_case(b"SIP") {
        return None;
    }
    slash(&mut at)?;
    // A message of another version must be answered with 505, so its Via must be read.
    word(&mut at)?;
    slash(&mut at)?;
    let transport = word(&mut at)?;
    Some((transport, at))
}

/// `name` or `name = value`, up to the next semicolon or the end, where `at` then is. The name must be a token.
fn read_parameter<'a>(text: &'a [u8], at: &mut usize) -> Option<(&'a [u8], &'a [u8])> {
    skip_space(text, at);
    let start = *at;
    while *at < text.len() && is_token(text[*at]) {
        *at += 1;
    }
    let name = &text[start..*at];
    skip_space(text, at);
    match text.get(*at) {
        _ if name.is_empty() => None,
        None | Some(b';') => Some((name, b"")),
        Some(b'=') => {
            let value = *at + 1;
            *at = parameter_end(text, value);
            Some((name, trim(&text[value..*at])))
        }
        Some(_) => None,
    }
}

fn skip_space(text: &[u8], at: &mut usize) {
    while *at < text.len() && is_space(text[*at]) {
        *at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_white_space_and_lists_are_read() {
        let via = Via::parse(b"SIP  / 2.0\r\n /UDP\r\n    192.0.2.2 : 5061 ;branch=390skdjuw , SIP/2.0/TCP x")
            .expect("RFC 4475 3.1.1.1");
        assert_eq!((via.transport, via.port, via.branch()), (&b"UDP"[..], Some(5061), Some(&b"390skdjuw"[..])));
        assert_eq!(&via.text[via.end()..via.end() + 1], b",");
    }

    #[test]
    fn ipv6_sent_by_and_received_are_read() {
        let via = Via::parse(b"SIP/2.0/UDP [2001:db8::9:1]:5060;received=[2001:db8::9:255];branch=z9hG4bKas3")
            .expect("valid");
        assert!(via.is_from("2001:db8::9:1".parse().expect("an address")));
        assert_eq!(via.received(), Some(&b"[2001:db8::9:255]"[..]));
    }

    #[test]
    fn replies_go_where_rport_says() {
        let source = "198.51.100.7:40000".parse().expect("an address");
        let reply = |via: &str| Via::parse(via.as_bytes()).expect("valid").reply_to(source).to_string();
        assert_eq!(reply("SIP/2.0/UDP 10.0.0.1:5066;rport;branch=z9hG4bKa"), "198.51.100.7:40000");
        assert_eq!(reply("SIP/2.0/UDP 10.0.0.1:5066;branch=z9hG4bKa"), "198.51.100.7:5066");
        assert_eq!(reply("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa"), "198.51.100.7:5060");
    }

    #[test]
    fn blanks_behind_rport_belong_to_no_splice() {
        let source = "198.51.100.7:40000".parse().expect("an address");
        for (text, stamped) in [
            (
                "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;rport , SIP/2.0/UDP b",
                ";rport=40000;received=198.51.100.7 , SIP/2.0/UDP b",
            ),
            ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;rport=5060\r\n ,c", ";rport=40000;received=198.51.100.7\r\n ,c"),
            ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;rport ;received=x ", ";rport=40000;received=198.51.100.7"),
        ] {
            let stamp = Via::parse(text.as_bytes()).expect("valid").stamp(source);
            let (mut out, mut at) = (String::new(), 0);
            for (range, replacement) in stamp.splices() {
                out += &text[at..range.start];
                out += std::str::from_utf8(replacement).expect("text");
                at = range.end;
            }
            assert_eq!(out + &text[at..], format!("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx{stamped}"), "{text}");
        }
    }

    #[test]
    fn broken_vias_are_refused() {
        for via in [
            "SIP/2.0/UDP 192.0.2.15;;,;,,",
            "SIP/UDP a",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ;branch=x",
            "SIP/2.0/UDP a:b",
            "HTTP/2.0/UDP a",
            "SIP/2.0/UDP a b",
        ] {
            assert!(Via::parse(via.as_bytes()).is_none(), "{via}");
        }
    }
}
