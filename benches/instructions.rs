//! Instruction counts (valgrind): the same on any machine, however busy. `cargo bench --bench instructions`

#![allow(missing_docs, unused_qualifications, reason = "a bench, and what its macros make of it")]

mod common;

use std::hint::black_box;
use std::net::SocketAddr;

use bytes::Bytes;
use common::{Bench, INVITE, gate};
use gungraun::{library_benchmark, library_benchmark_group, main};
use sipweir::pool::{Ask, Gate, ServiceId, TrunkId};
use sipweir::sip::Message;
use sipweir::sip::edit::Edit;
use sipweir::time::Instant;

fn bytes() -> &'static [u8] {
    INVITE.as_bytes()
}

fn message() -> Message<'static> {
    Message::parse(bytes()).expect("valid")
}

fn warm() -> Bench {
    let mut bench = Bench::new();
    for _ in 0..64 {
        bench.call();
    }
    bench
}

fn recorded() -> (Bench, Vec<(SocketAddr, Bytes)>) {
    let messages = warm().record();
    (warm(), messages)
}

// Index and check one INVITE of some 750 octets.
#[library_benchmark]
#[bench::invite(setup = bytes)]
fn parse(bytes: &'static [u8]) -> u32 {
    let message = Message::parse(black_box(bytes)).expect("valid");
    message.check().expect("valid").cseq.number
}

// Write it with two splices.
#[library_benchmark]
#[bench::invite(setup = message)]
fn edit(message: Message<'static>) -> usize {
    let mut out = Vec::with_capacity(4096);
    let mut edit = Edit::new(&message);
    let _ = edit.insert(message.headers_start(), b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK0123456789abcdef\r\n");
    let _ = edit.replace(9..30, b"sip:18000@10.0.0.10:5060");
    edit.write(&mut out);
    black_box(out.len())
}

// One decision of the gate, confirmed and released.
#[library_benchmark]
#[bench::free(setup = gate)]
fn admit(gate: Gate) -> Gate {
    let ask = Ask { trunk: TrunkId(0), service: ServiceId(0), is_known: false };
    let mut events = Vec::new();
    let mut channel = gate.admit(Instant::ZERO, black_box(ask), &mut events).expect("room");
    gate.confirm(&mut channel);
    gate.release(Instant::ZERO, channel, &mut events);
    gate
}

// One whole call, INVITE to the answer of its BYE: what the proxy does, and nothing of the end points.
#[library_benchmark]
#[bench::warm(setup = recorded)]
fn call((mut bench, messages): (Bench, Vec<(SocketAddr, Bytes)>)) -> Bench {
    assert_eq!(bench.play(black_box(messages)), 6, "each of six messages goes on");
    bench
}

library_benchmark_group!(name = core, benchmarks = [parse, edit, admit, call]);
main!(library_benchmark_groups = core);
