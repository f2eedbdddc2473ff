//! The whole core: messages of a caller, a PBX and a stranger, time, and the operator, in any order.
//!
//! ```sh
//! rustup toolchain install nightly && cargo install cargo-fuzz
//! mkdir -p tests/fuzz/corpus/core && cp tests/wire/torture/*/*.dat tests/fuzz/corpus/core/
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz core -- -max_total_time=3600 -max_len=4096
//! ```
//!
//! The input is cut at each `\x00`; the first octet of a piece says who speaks or what happens, the rest is what is said. In
//! what is said, `%B` stands for the branch and `%R` for the first Record-Route of the last request the gate sent, so that
//! answers and dialogs are within reach.

#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sipweir::outbox::DomainId;
use sipweir::config::Config;
use sipweir::pool::{Gate, Slots};
use sipweir::proxy::{Answer, Input, Output, Proxy};
use sipweir::route::Found;
use sipweir::sip::Transport;
use sipweir::time::Instant;

const CONFIG: &str = r#"
[node]
domains = ["*"]
[session]
[[listen]]
uri = "udp:192.0.2.1:5060"
[[listen]]
uri = "tcp:192.0.2.1:5060"
[[trunk]]
name = "carrier"
from = ["198.51.100.0/24"]
relay = true
[[target]]
name = "pbx"
uri = ["sip:10.0.0.10", "sip:named.example"]
probe_s = 5
redirects = "follow"
released_by = "X-Left"
released_by_contact = true
[[pool]]
name = "p"
channels = 2
[[service]]
name = "s"
kind = "ivr"
numbers = ["*"]
pool = "p"
target = "pbx"
ask_s = 10
longest_call_s = 600
overflow = [{ route = "pbx" }, { reject = 486 }]
"#;

fuzz_target!(|data: &[u8]| {
    let config = Arc::new(Config::parse(CONFIG).expect("valid"));
    let (gate, slots) = (Arc::new(Gate::new(&config.settings())), Arc::new(Slots::default()));
    let mut proxy = Proxy::new(config, Arc::clone(&gate), Arc::clone(&slots), [7; 16]);
    let mut now = Instant::from_micros(1_000_000);
    let (mut branch, mut route) = (Vec::new(), Vec::new());
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    for piece in data.split(|octet| *octet == 0).filter(|piece| !piece.is_empty()).take(64) {
        let (what, said) = (piece[0], &piece[1..]);
        let said = fill(said, &branch, &route);
        let source = match what & 3 {
            0 => at("198.51.100.7:5060"),
            1 | 2 => at("10.0.0.10:5060"),
            _ => at("203.0.113.9:5060"),
        };
        match what >> 2 & 15 {
            12 => {
                now = now + Duration::from_millis(u64::from(what) * 97);
                proxy.handle_timeout(now);
            }
            13 => {
                if let Some((slot, _)) = slots.list(1, |_| true).first() {
                    proxy.handle(now, if what & 64 == 0 { Input::EndCall { slot: *slot } } else { Input::Release { slot: *slot } });
                }
            }
            14 => proxy.handle(now, Input::Stream { listener: 1, source, identities: &[], domain: DomainId::NONE, payload: &said }),
            _ => proxy.handle(now, Input::Datagram { listener: 0, source, payload: &said }),
        }
        let mut questions = Vec::new();
        while let Some(output) = proxy.poll_output() {
            match output {
                Output::Transmit(sent) if !sent.payload.starts_with(b"SIP/2.0") => {
                    branch = value(sent.payload, b"branch=").to_vec();
                    route = value(sent.payload, b"Record-Route: ").to_vec();
                }
                Output::Transmit(_) | Output::Event(_) => {}
                Output::Resolve(question) => questions.push(question),
            }
        }
        for question in questions {
            let found = Found { transport: Transport::Udp, address: at("10.0.0.11:5060"), priority: 1, weight: 1 };
            let answer = if what & 1 == 0 { Answer::Found(vec![found]) } else { Answer::NotFound };
            proxy.handle(now, Input::Resolved { question: &question, answer, ttl: Duration::from_secs(60) });
        }
        let view = gate.view();
        assert!(view.pools[0].in_use() <= 2);
        assert_eq!(slots.list(usize::MAX, |slot| slot.pool.is_some()).len(), view.pools[0].in_use() as usize);
    }
    // Whatever it was, it ends.
    for _ in 0..400 {
        now = now + Duration::from_secs(10);
        for _ in 0..8 {
            proxy.handle_timeout(now);
        }
        while proxy.poll_output().is_some() {}
    }
    assert_eq!(gate.view().calls, 0);
});

fn value<'a>(text: &'a [u8], name: &[u8]) -> &'a [u8] {
    let start = text.windows(name.len()).position(|part| part == name).map_or(text.len(), |at| at + name.len());
    let end = text[start..].iter().position(|octet| matches!(octet, b'\r' | b';' | b',')).map_or(text.len(), |at| start + at);
    &text[start..end]
}

fn fill(said: &[u8], branch: &[u8], route: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(said.len());
    let mut at = 0;
    while at < said.len() {
        match said.get(at..at + 2) {
            Some(b"%B") => out.extend_from_slice(branch),
            Some(b"%R") => out.extend_from_slice(route),
            _ => {
                out.push(said[at]);
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    out
}
