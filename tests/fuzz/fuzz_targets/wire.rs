//! The wire view and the framing of streams: any octets. Run as `core.rs` says, with `wire`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sipweir::sip::edit::Edit;
use sipweir::sip::framing::{Frame, Framer};
use sipweir::sip::{Message, NameAddr, Uri, Via};

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::parse(data) {
        let checked = message.check().is_ok();
        for header in message.headers() {
            let value = message.slice(header.value);
            let _ = NameAddr::parse(value).map(|address| (address.tag().map(<[u8]>::len), address.uri().is_some()));
            let _ = Via::parse(value).map(|via| via.stamp("192.0.2.1:5060".parse().expect("an address")).splices().count());
            let _ = Uri::parse(value).map(|uri| (uri.number().len(), uri.transport().is_ok()));
            assert!(message.list(header.name).count() <= data.len());
        }
        let mut out = Vec::new();
        Edit::new(&message).write(&mut out);
        if checked {
            assert!(Message::parse(&out).is_ok_and(|again| again.check().is_ok()));
        }
    }
    // A stream is cut alike whole and octet by octet, and the parser ends where the framer does.
    let whole = cut(data, data.len().max(1));
    assert_eq!(whole, cut(data, 1));
    for message in &whole {
        if let Ok(parsed) = Message::parse(message)
            && parsed.check().is_ok()
        {
            assert_eq!(parsed.body_span().end(), message.len());
        }
    }
});

fn cut(stream: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let (mut framer, mut input, mut messages) = (Framer::default(), Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        while !input.is_empty() {
            match framer.next(&input) {
                Frame::Message(length) => messages.push(input.drain(..length).collect()),
                Frame::LineEnds { octets, .. } => drop(input.drain(..octets)),
                Frame::Incomplete => break,
                Frame::Broken(_) => return messages,
            }
        }
    }
    messages
}
