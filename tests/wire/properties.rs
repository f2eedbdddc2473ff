//! Generated messages: our view against `rsip` on the subset it reads, and any bytes against our bounds.

use proptest::prelude::*;
use rsip::headers::ToTypedHeader as _;
use rsip::prelude::{HasHeaders as _, HeadersExt as _, UntypedHeader as _};
use sipweir::sip::edit::Edit;
use sipweir::sip::framing::{Frame, Framer};
use sipweir::sip::message::{HEADERS_MAX, OCTETS_MAX};
use sipweir::sip::{HeaderName, Message, NameAddr, Uri, Via};

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9]{1,12}"
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn our_view_and_rsip_agree(
        (user, host, call_id, branch) in (word(), "[a-z]{1,9}\\.example", word(), word()),
        (from_tag, to_tag, cseq) in (word(), proptest::option::of(word()), 0u32..2_000_000_000),
        (port, body) in (1u16..u16::MAX, "[ -~]{0,60}"),
    ) {
        let to = to_tag.as_ref().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let text = format!(
            "INVITE sip:{user}@{host}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n\
             From: \"A, B\" <sip:x@{host}>;tag={from_tag}\r\nTo: <sip:{user}@{host}>{to}\r\nCall-ID: {call_id}@{host}\r\n\
             CSeq: {cseq} INVITE\r\nContact: <sip:x@{host}:{port}>\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let ours = Message::parse(text.as_bytes()).expect("valid");
        let found = ours.check().expect("valid");
        let theirs = rsip::Request::try_from(text.as_bytes()).expect("within what rsip reads");
        prop_assert_eq!(found.call_id, theirs.call_id_header().expect("there").value().as_bytes());
        let their_cseq = theirs.cseq_header().expect("there").typed().expect("readable");
        prop_assert_eq!(found.cseq.number, their_cseq.seq);
        let their_via = theirs.via_header().expect("there").typed().expect("readable");
        let their_branch = their_via.branch().map(|branch| branch.value().as_bytes().to_vec());
        prop_assert_eq!(found.via.branch().map(<[u8]>::to_vec), their_branch);
        let their_from = theirs.from_header().expect("there").typed().expect("readable");
        prop_assert_eq!(found.from_tag, their_from.tag().map(|tag| tag.value().as_bytes()));
        let their_to = theirs.to_header().expect("there").typed().expect("readable");
        prop_assert_eq!(found.to_tag, their_to.tag().map(|tag| tag.value().as_bytes()));
        prop_assert_eq!(ours.headers().len(), theirs.headers().iter().count());
        prop_assert_eq!(ours.body(), &theirs.body[..]);
        let uri = Uri::parse(ours.request_uri()).expect("valid");
        prop_assert_eq!(uri.user(), user.as_bytes());
        prop_assert_eq!(uri.port, Some(port));
    }

    #[test]
    fn a_stream_is_cut_into_the_same_messages_however_it_arrives(
        (parts, seed) in (proptest::collection::vec(stream_part(), 0..8), any::<u64>())
    ) {
        let stream = parts.concat();
        let whole = cut(&stream, || usize::MAX);
        let mut random = seed;
        let pieces = cut(&stream, || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % 40 + 1
        });
        prop_assert_eq!(&whole, &pieces);
        // What the framer calls a message the parser reads to the same end: nothing can hide between the two.
        for message in whole {
            if let Ok(parsed) = Message::parse(&message)
                && parsed.check().is_ok()
            {
                prop_assert_eq!(parsed.body_span().end(), message.len());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        read(bytes);
    }

    #[test]
    fn any_text_that_looks_like_sip_is_read_within_bounds(
        lines in proptest::collection::vec("(Via|v|From|To|Call-ID|CSeq|Route|Contact|l|Max-Forwards|X)? ?:?[ \t]?[ -~\r\n\t\"<>;,=]{0,40}", 0..20)
    ) {
        read(format!("INVITE sip:a@b SIP/2.0\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes());
    }

    #[test]
    fn every_stamp_of_a_via_stays_within_its_value_and_overlaps_no_other(
        parts in proptest::collection::vec(
            prop::sample::select(vec![";rport", ";received", ";branch=z", "=5", "=x", " ", "\t", "\r\n ", ",", "\"", ";"]), 0..12)
    ) {
        let text = format!("SIP/2.0/UDP h{}", parts.concat());
        if let Some(via) = Via::parse(text.as_bytes()) {
            let stamp = via.stamp("192.0.2.1:5060".parse().expect("an address"));
            let mut at = 0;
            for (range, _) in stamp.splices() {
                prop_assert!(range.start >= at && range.end >= range.start && range.end <= via.end(), "{:?} {:?}", text, range);
                at = range.end;
            }
        }
    }

    #[test]
    fn any_value_is_parsed_within_its_text(bytes in proptest::collection::vec(prop_oneof![Just(b'<'), Just(b'"'), Just(b';'), Just(b','), Just(b'\\'), Just(b'='), Just(b'@'), Just(b':'), Just(b'['), any::<u8>()], 0..60)) {
        if let Some(address) = NameAddr::parse(&bytes) {
            prop_assert!(address.end() <= bytes.len());
            let _ = (address.tag(), address.uri().map(|uri| uri.number().len()));
        }
        let via = [b"SIP/2.0/UDP h;".as_slice(), &bytes].concat();
        if let Some(via) = Via::parse(&via) {
            prop_assert!(via.trimmed_end() <= via.end());
            let source = "192.0.2.1:5060".parse().expect("an address");
            prop_assert!(via.stamp(source).splices().count() <= 2);
        }
        let uri = [b"sip:".as_slice(), &bytes].concat();
        if let Some(uri) = Uri::parse(&uri) {
            prop_assert!(uri.host_port_range().end <= uri.as_bytes().len());
        }
    }
}

fn read(bytes: Vec<u8>) {
    let total = bytes.len();
    let Ok(message) = Message::parse(&bytes) else { return };
    assert!(message.headers().len() <= HEADERS_MAX && total <= OCTETS_MAX);
    for header in message.headers() {
        assert!(header.line.end() <= total && header.value.end() <= header.line.end());
    }
    for name in [HeaderName::Via, HeaderName::Route, HeaderName::Contact] {
        for span in message.list(name) {
            assert!(span.end() <= total);
        }
    }
    let checked = message.check().is_ok();
    let mut out = Vec::new();
    Edit::new(&message).write(&mut out);
    assert_eq!(&out[..], &message.bytes()[..message.body_span().end()], "an empty edit changes nothing");
    if checked {
        let again = Message::parse(&out).expect("what was read is read again");
        assert!(again.check().is_ok());
    }
}

/// Something that may stand in a stream.
fn stream_part() -> impl Strategy<Value = Vec<u8>> {
    let header = prop::sample::select(vec![
        "Via: SIP/2.0/TCP h;branch=z9hG4bKx\r\n",
        "From: <sip:a@b>;tag=1\r\n",
        "To: <sip:c@d>\r\n",
        "Call-ID: x\r\n",
        "CSeq: 1 OPTIONS\r\n",
        "Content-Length: 4\r\n",
        "l: 4\r\n",
        "Content-Length:\r\n 4\r\n",
        "X: y\n",
        "X: y\n\n",
        "l: 0\r\n",
        "Content-Length: 4 \r\n",
        "content-length : 4\r\n",
        "\n",
        "\r\r\n",
    ]);
    prop_oneof![
        3 => (proptest::collection::vec(header, 0..9), "[a-z]{4}").prop_map(|(headers, body)| {
            format!("OPTIONS sip:a SIP/2.0\r\n{}\r\n{body}", headers.concat()).into_bytes()
        }),
        2 => Just(b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\nl: 4\r\n\r\nbody".to_vec()),
        1 => Just(b"\r\n\r\n".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
    ]
}

/// The messages in a stream that comes in pieces as long as `length` says, up to where it breaks.
fn cut(stream: &[u8], mut length: impl FnMut() -> usize) -> Vec<Vec<u8>> {
    let (mut framer, mut input, mut messages, mut at) = (Framer::default(), Vec::new(), Vec::new(), 0);
    while at < stream.len() {
        let end = at.saturating_add(length()).min(stream.len());
        input.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            match framer.next(&input) {
                Frame::Message(length) => messages.push(input.drain(..length).collect()),
                Frame::LineEnds { octets, .. } => drop(input.drain(..octets)),
                Frame::Incomplete => break,
                Frame::Broken(_) => return messages,
            }
            if input.is_empty() {
                break;
            }
        }
    }
    messages
}
