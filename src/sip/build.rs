//! The messages the proxy originates: answers of its own, ACK for a refusal, CANCEL.

use std::net::SocketAddr;

use super::header::HeaderName;
use super::via::Stamp;
use super::{Message, Method, NameAddr, Via, typed};

/// Writes an answer to `request` (RFC 3261 §8.2.6): Via with `received` and `rport`, From, To with `to_tag` unless it has
/// one or the status is 100, Call-ID, CSeq, then `extra` (whole lines).
///
/// Works for requests that failed [`Message::check`] too: it copies what is there.
pub fn response(
    out: &mut Vec<u8>,
    request: &Message<'_>,
    source: SocketAddr,
    status: u16,
    to_tag: &[u8],
    extra: &[u8],
) {
    out.reserve(request.body_span().start() + 256 + extra.len());
    out.extend_from_slice(typed::status_line(status).as_bytes());
    response_fields(out, request, source, status, to_tag, extra);
}

/// The same with a reason phrase of its own.
pub fn response_saying(
    out: &mut Vec<u8>,
    request: &Message<'_>,
    source: SocketAddr,
    (status, phrase): (u16, &[u8]),
    to_tag: &[u8],
    extra: &[u8],
) {
    out.extend_from_slice(format!("SIP/2.0 {status} ").as_bytes());
    out.extend_from_slice(phrase);
    out.extend_from_slice(b"\r\n");
    response_fields(out, request, source, status, to_tag, extra);
}

fn response_fields(
    out: &mut Vec<u8>,
    request: &Message<'_>,
    source: SocketAddr,
    status: u16,
    to_tag: &[u8],
    extra: &[u8],
) {
    let mut top = true;
    for header in request.headers() {
        let value = request.slice(header.value);
        match header.name {
            HeaderName::Via => {
                out.extend_from_slice(b"Via: ");
                match Via::parse(value).filter(|_| top) {
                    Some(via) => put_stamped(out, value, &via.stamp(source)),
                    None => out.extend_from_slice(value),
                }
                top = false;
                out.extend_from_slice(b"\r\n");
            }
            HeaderName::To => {
                out.extend_from_slice(b"To: ");
                out.extend_from_slice(value);
                if status > 100 && NameAddr::parse(value).is_some_and(|to| to.tag().is_none()) {
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(to_tag);
                }
                out.extend_from_slice(b"\r\n");
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
            | HeaderName::Supported
            | HeaderName::SessionExpires
            | HeaderName::MinSe
            | HeaderName::Replaces
            | HeaderName::Other => {}
        }
    }
    out.extend_from_slice(extra);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Writes the ACK that a client transaction sends for a final response other than 2xx (RFC 3261 §17.1.1.3). `sent` is
/// the INVITE as it was sent, our Via on top.
pub fn ack(out: &mut Vec<u8>, sent: &Message<'_>, response: &Message<'_>) {
    let to = response.value(HeaderName::To).or_else(|| sent.value(HeaderName::To)).unwrap_or_default();
    same_hop(out, sent, "ACK", to, b"");
}

/// Writes the CANCEL of a request sent (RFC 3261 §9.1), with a Reason line (RFC 3326) when given.
pub fn cancel(out: &mut Vec<u8>, sent: &Message<'_>, reason: &[u8]) {
    same_hop(out, sent, "CANCEL", sent.value(HeaderName::To).unwrap_or_default(), reason);
}

/// Writes an OPTIONS of our own: `via` is the line up to the branch, `from` our host and port, `id` what tags and names it.
pub fn options(out: &mut Vec<u8>, via: &[u8], branch: &[u8], uri: &[u8], from: &[u8], id: &[u8]) {
    let parts: [&[u8]; 18] = [
        b"OPTIONS ",
        uri,
        b" SIP/2.0\r\n",
        via,
        branch,
        b"\r\nMax-Forwards: 70\r\nFrom: <sip:sipweir@",
        from,
        b">;tag=",
        id,
        b"\r\nTo: <",
        uri,
        b">\r\nCall-ID: ",
        id,
        b"@",
        from,
        b"\r\nCSeq: 1 OPTIONS\r\nAccept: application/sdp\r\nUser-Agent: sipweir/",
        env!("CARGO_PKG_VERSION").as_bytes(),
        b"\r\nContent-Length: 0\r\n\r\n",
    ];
    parts.into_iter().for_each(|part| out.extend_from_slice(part));
}

/// One side's view of a dialog (RFC 3261 §12), for a request towards the other.
#[derive(Clone, Copy, Debug)]
pub struct Dialog<'a> {
    /// The remote target.
    pub uri: &'a [u8],
    /// The Route set, parted by commas; empty when there is none.
    pub routes: &'a [u8],
    /// From, with the local tag.
    pub from: &'a [u8],
    /// To, with the remote tag.
    pub to: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// The number of the request.
    pub cseq: u32,
}

/// Writes a request within a dialog (RFC 3261 §12.2.1.1); `via` is our line up to the branch, and the branch.
pub fn in_dialog(out: &mut Vec<u8>, method: Method, via: (&[u8], &[u8]), dialog: &Dialog<'_>, lines: &[u8]) {
    let first = super::list_end(dialog.routes, 0);
    let route = NameAddr::parse(&dialog.routes[..first]);
    let is_strict = route.as_ref().and_then(NameAddr::uri).is_some_and(|uri| uri.parameter("lr").is_none());
    let name = method.label().as_bytes();
    // A strict router wants itself as Request-URI and the target last.
    let uri = if is_strict { route.as_ref().map_or(dialog.uri, NameAddr::uri_bytes) } else { dialog.uri };
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(&[name, b" ", uri, b" SIP/2.0\r\n", via.0, via.1, b"\r\nMax-Forwards: 70\r\n"]);
    if is_strict {
        let rest = dialog.routes.get(first + 1..).unwrap_or_default();
        put(&[b"Route: ", rest, if rest.is_empty() { b"<" } else { b", <" }, dialog.uri, b">\r\n"]);
    } else if !dialog.routes.is_empty() {
        put(&[b"Route: ", dialog.routes, b"\r\n"]);
    }
    put(&[b"From: ", dialog.from, b"\r\nTo: ", dialog.to, b"\r\nCall-ID: ", dialog.call_id, b"\r\nCSeq: "]);
    put(&[dialog.cseq.to_string().as_bytes(), b" ", name, b"\r\n", lines, b"Content-Length: 0\r\n\r\n"]);
}

/// A request to the next hop only: the Request-URI, top Via, Route set, From, Call-ID and CSeq number of `sent`.
fn same_hop(out: &mut Vec<u8>, sent: &Message<'_>, method: &str, to: &[u8], extra: &[u8]) {
    out.reserve(sent.body_span().start() + 64 + extra.len());
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(sent.request_uri());
    out.extend_from_slice(b" SIP/2.0\r\n");
    if let Some(via) = sent.list(HeaderName::Via).next() {
        put_header(out, HeaderName::Via, sent.slice(via));
    }
    out.extend_from_slice(b"Max-Forwards: 70\r\n");
    for route in sent.all(HeaderName::Route) {
        put_header(out, HeaderName::Route, sent.slice(route.value));
    }
    put_header(out, HeaderName::From, sent.value(HeaderName::From).unwrap_or_default());
    put_header(out, HeaderName::To, to);
    put_header(out, HeaderName::CallId, sent.value(HeaderName::CallId).unwrap_or_default());
    let cseq = sent.value(HeaderName::CSeq).unwrap_or_default();
    let number = cseq.iter().take_while(|octet| octet.is_ascii_digit()).count();
    out.extend_from_slice(b"CSeq: ");
    out.extend_from_slice(&cseq[..number]);
    out.push(b' ');
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(extra);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

fn put_header(out: &mut Vec<u8>, name: HeaderName, value: &[u8]) {
    out.extend_from_slice(name.label().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_stamped(out: &mut Vec<u8>, text: &[u8], stamp: &Stamp) {
    let mut at = 0;
    for (range, replacement) in stamp.splices() {
        debug_assert!(range.start >= at, "stamps overlap");
        let start = range.start.max(at);
        out.extend_from_slice(&text[at..start]);
        out.extend_from_slice(replacement);
        at = range.end.max(start);
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] = b"INVITE sip:100@pbx SIP/2.0\r\nVia: SIP/2.0/UDP gate;branch=z9hG4bKours, SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKhers\r\n\
        Route: <sip:next;lr>\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 7 INVITE\r\nTimestamp: 54\r\nContent-Length: 0\r\n\r\n";

    fn message(bytes: &[u8]) -> Message<'_> {
        Message::parse(bytes).expect("valid")
    }

    fn text(out: &[u8]) -> &str {
        std::str::from_utf8(out).expect("text")
    }

    #[test]
    fn an_answer_returns_the_vias_stamped_and_tags_the_to() {
        let request = message(INVITE);
        let mut out = Vec::new();
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
        let mut out = Vec::new();
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
