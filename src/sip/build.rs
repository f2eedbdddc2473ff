//! The messages the proxy originates: answers of its own, ACK for a refusal, CANCEL.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::header::HeaderName;
use super::{Message, NameAddr, Via, typed};

/// Writes an answer to `request` (RFC 3261 §8.2.6): Via with `received` and `rport`, From, To with `to_tag` unless it has
/// one or the status is 100, Call-ID, CSeq, then `extra` (whole lines).
///
/// Works for requests that failed [`Message::check`] too: it copies what is there.
pub fn response(out: &mut BytesMut, request: &Message, source: SocketAddr, status: u16, to_tag: &[u8], extra: &[u8]) {
    out.reserve(request.body_span().start() + 256 + extra.len());
    out.put_slice(typed::status_line(status).as_bytes());
    let mut top = true;
    for header in request.headers() {
        let value = request.slice(header.value);
        match header.name {
            HeaderName::Via => {
                out.put_slice(b"Via: ");
                match Via::parse(value).filter(|_| top) {
                    Some(via) => put_spliced(out, value, via.stamp(source).splices()),
                    None => out.put_slice(value),
                }
                top = false;
                out.put_slice(b"\r\n");
            }
            HeaderName::To => {
                out.put_slice(b"To: ");
                out.put_slice(value);
                if status > 100 && NameAddr::parse(value).is_some_and(|to| to.tag().is_none()) {
                    out.put_slice(b";tag=");
                    out.put_slice(to_tag);
                }
                out.put_slice(b"\r\n");
            }
            HeaderName::From | HeaderName::CallId | HeaderName::CSeq => put_header(out, header.name, value),
            HeaderName::Timestamp if status == 100 => put_header(out, header.name, value),
            HeaderName::MaxForwards
            | HeaderName::Contact
            | HeaderName::ContentLength
            | HeaderName::Route
            | HeaderName::RecordRoute
            | HeaderName::Require
            | HeaderName::ProxyRequire
            | HeaderName::HistoryInfo
            | HeaderName::Diversion
            | HeaderName::Reason
            | HeaderName::Timestamp
            | HeaderName::Other => {}
        }
    }
    out.put_slice(extra);
    out.put_slice(b"Content-Length: 0\r\n\r\n");
}

/// Writes the ACK that a client transaction sends for a final response other than 2xx (RFC 3261 §17.1.1.3). `sent` is
/// the INVITE as it was sent, our Via on top.
pub fn ack(out: &mut BytesMut, sent: &Message, response: &Message) {
    let to = response.value(HeaderName::To).or_else(|| sent.value(HeaderName::To)).unwrap_or_default();
    same_hop(out, sent, "ACK", to, b"");
}

/// Writes the CANCEL of a request sent (RFC 3261 §9.1), with a Reason line (RFC 3326) when given.
pub fn cancel(out: &mut BytesMut, sent: &Message, reason: &[u8]) {
    same_hop(out, sent, "CANCEL", sent.value(HeaderName::To).unwrap_or_default(), reason);
}

/// A request to the next hop only: the Request-URI, top Via, Route set, From, Call-ID and CSeq number of `sent`.
fn same_hop(out: &mut BytesMut, sent: &Message, method: &str, to: &[u8], extra: &[u8]) {
    out.reserve(sent.body_span().start() + 64 + extra.len());
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(sent.request_uri());
    out.put_slice(b" SIP/2.0\r\n");
    if let Some(via) = sent.list(HeaderName::Via).next() {
        put_header(out, HeaderName::Via, sent.slice(via));
    }
    out.put_slice(b"Max-Forwards: 70\r\n");
    for route in sent.all(HeaderName::Route) {
        put_header(out, HeaderName::Route, sent.slice(route.value));
    }
    put_header(out, HeaderName::From, sent.value(HeaderName::From).unwrap_or_default());
    put_header(out, HeaderName::To, to);
    put_header(out, HeaderName::CallId, sent.value(HeaderName::CallId).unwrap_or_default());
    let cseq = sent.value(HeaderName::CSeq).unwrap_or_default();
    let number = cseq.iter().take_while(|octet| octet.is_ascii_digit()).count();
    out.put_slice(b"CSeq: ");
    out.put_slice(&cseq[..number]);
    out.put_u8(b' ');
    out.put_slice(method.as_bytes());
    out.put_slice(b"\r\n");
    out.put_slice(extra);
    out.put_slice(b"Content-Length: 0\r\n\r\n");
}

fn put_header(out: &mut BytesMut, name: HeaderName, value: &[u8]) {
    out.put_slice(name.label().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_spliced<'a>(out: &mut BytesMut, text: &[u8], splices: impl Iterator<Item = (std::ops::Range<usize>, &'a [u8])>) {
    let mut parts: Vec<_> = splices.collect();
    parts.sort_by_key(|(range, _)| range.start);
    let mut at = 0;
    for (range, replacement) in parts {
        out.put_slice(&text[at..range.start]);
        out.put_slice(replacement);
        at = range.end;
    }
    out.put_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const INVITE: &[u8] = b"INVITE sip:100@pbx SIP/2.0\r\nVia: SIP/2.0/UDP gate;branch=z9hG4bKours, SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKhers\r\n\
        Route: <sip:next;lr>\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 7 INVITE\r\nTimestamp: 54\r\nContent-Length: 0\r\n\r\n";

    fn message(bytes: &'static [u8]) -> Message {
        Message::parse(Bytes::from_static(bytes)).expect("valid")
    }

    fn text(out: &BytesMut) -> &str {
        std::str::from_utf8(out).expect("text")
    }

    #[test]
    fn an_answer_returns_the_vias_stamped_and_tags_the_to() {
        let request = message(INVITE);
        let mut out = BytesMut::new();
        response(
            &mut out,
            &request,
            "192.0.2.9:5061".parse().expect("an address"),
            486,
            b"weir",
            b"Retry-After: 5\r\n",
        );
        assert_eq!(
            text(&out),
            "SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/UDP gate;branch=z9hG4bKours;received=192.0.2.9, SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKhers\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=weir\r\nCall-ID: x\r\nCSeq: 7 INVITE\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
        );
        out.clear();
        response(&mut out, &request, "192.0.2.9:5061".parse().expect("an address"), 100, b"weir", b"");
        assert!(text(&out).contains("Timestamp: 54\r\n") && text(&out).contains("To: <sip:c@d>\r\n"));
    }

    #[test]
    fn ack_and_cancel_name_the_same_hop() {
        let (sent, busy) = (message(INVITE), message(b"SIP/2.0 486 Busy Here\r\nTo: <sip:c@d>;tag=9\r\n\r\n"));
        let mut out = BytesMut::new();
        ack(&mut out, &sent, &busy);
        assert_eq!(
            text(&out),
            "ACK sip:100@pbx SIP/2.0\r\nVia: SIP/2.0/UDP gate;branch=z9hG4bKours\r\nMax-Forwards: 70\r\nRoute: <sip:next;lr>\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=9\r\nCall-ID: x\r\nCSeq: 7 ACK\r\nContent-Length: 0\r\n\r\n"
        );
        out.clear();
        cancel(&mut out, &sent, b"Reason: SIP;cause=487\r\n");
        assert!(text(&out).starts_with("CANCEL sip:100@pbx SIP/2.0\r\nVia: SIP/2.0/UDP gate;branch=z9hG4bKours\r\n"));
        assert!(
            text(&out).contains("To: <sip:c@d>\r\n")
                && text(&out).contains("CSeq: 7 CANCEL\r\nReason: SIP;cause=487\r\n")
        );
    }
}
