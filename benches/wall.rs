//! Wall clock: whole calls without sockets; prints nanoseconds a call. `cargo bench --bench wall`
//!
//! `call` plays messages one after another, which is what a saturated proxy does; `cold` sleeps before each, as a proxy
//! at a moderate rate does, and finds the processor's caches taken by others. `restore` fills the tables of a million
//! calls, as a start from a journal will. For comparing two builds on one machine in
//! one go; single figures mean little on a shared one.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench reads the clock, sleeps and prints")]
#![allow(missing_docs, reason = "a bench")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sipweir::pool::{Caption, ServiceId, Slot, Slots, TrunkId};
use sipweir::store::{Index, Key, Slab, Wheel};

fn main() {
    let mut bench = common::Bench::new();
    let gate = common::gate();
    println!("pools: {}", gate.view().pools.len());
    let message = common::INVITE.as_bytes();
    let mut best = [u128::MAX; 3];
    let mut twin = common::Bench::new();
    for _ in 0..20 {
        let calls: Vec<_> = (0..1000).map(|_| bench.record()).collect();
        let begin = Instant::now();
        for messages in calls {
            twin.play(messages);
            twin.pass();
        }
        best[0] = best[0].min(begin.elapsed().as_nanos() / 1000);
        let begin = Instant::now();
        for _ in 0..10_000 {
            let message = sipweir::sip::Message::parse(std::hint::black_box(message)).expect("valid");
            std::hint::black_box(message.check().expect("valid"));
        }
        best[1] = best[1].min(begin.elapsed().as_nanos() / 10_000);
        let calls: Vec<_> = (0..100).map(|_| bench.record()).collect();
        let mut cold = Duration::ZERO;
        for messages in calls {
            for message in messages {
                std::thread::sleep(Duration::from_micros(100));
                let begin = Instant::now();
                twin.play(vec![message]);
                cold += begin.elapsed();
            }
            twin.pass();
        }
        best[2] = best[2].min(cold.as_nanos() / 100);
    }
    println!("call: {} ns\nparse: {} ns\ncold: {} ns", best[0], best[1], best[2]);
    println!("restore: {} ms", restore().as_millis());
}

/// A million calls into the tables a call is kept in.
fn restore() -> Duration {
    let (mut calls, mut by_call_id) = (Slab::<[u64; 24]>::default(), Index::default());
    let (mut wheel, slots) = (Wheel::default(), Slots::default());
    let begin = Instant::now();
    for number in 0..1_000_000u64 {
        let text = b"0001-12ab34cd@198.51.100.7sip:+4930100001@198.51.100.718000";
        let caption = Caption::new(Arc::from(&text[..]), [0..26, 26..54, 54..59]);
        let slot =
            Slot::new(caption, (TrunkId(0), Some(ServiceId(0)), None), 0, (sipweir::time::Instant::ZERO, Key::NONE));
        let id = slots.enter(slot);
        let key = calls.insert([id; 24]);
        by_call_id.insert(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), key);
        wheel.arm(sipweir::time::Instant::from_micros(43_200_000_000 + number * 100), key);
    }
    let took = begin.elapsed();
    assert_eq!((calls.len(), by_call_id.len(), wheel.len(), slots.len()), (1_000_000, 1_000_000, 1_000_000, 1_000_000));
    took
}
