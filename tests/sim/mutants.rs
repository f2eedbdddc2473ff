//! Every feature at once, and messages that were changed on their way to the gate: nothing panics, nothing is counted
//! wrong, nothing stays.

use std::time::Duration;

use sipweir::proxy::{Answer, Input};
use sipweir::route::Found;
use sipweir::sip::Transport;

use crate::world::*;
use crate::{check_counts, number};

fn text(capacity: u32) -> String {
    let extra = menu(
        "overflow = [{ wait = 9, length = 3 }, { route = \"voicemail\" }, { reject = 486 }]\nlongest_call_s = 900\nask_s = 30",
    );
    let text = config(
        capacity,
        &format!("{extra}[session]\nexpires_s = 120\n[timers]\nlongest_call_s = 900\n[limits]\ntransactions = 4000\n"),
    );
    let pbx = format!("name = \"pbx\"\nuri = [\"sip:{PBX}\"]");
    let keys = "probe_s = 20\nredirects = \"follow\"\nreleased_by = \"X-Left\"\nreleased_by_contact = true";
    let uris = format!("\"sip:{PBX}\", {{ uri = \"sip:{PBX2}\", priority = 1, weight = 2 }}, \"sip:named.example\"");
    text.replace(&pbx, &format!("name = \"pbx\"\nuri = [{uris}]\n{keys}")).replacen(
        "name = \"carrier\"",
        "name = \"carrier\"\nrelay = true",
        1,
    )
}

/// Lines that mean something somewhere.
const LINES: &[&str] = &[
    "Replaces: call-1;to-tag=callee-2;from-tag=caller-1\r\n",
    "Session-Expires: 90;refresher=uac\r\n",
    "Session-Expires: 7\r\nSupported: timer\r\n",
    "Min-SE: 4294967295\r\n",
    "Supported: timer, replaces\r\n",
    "Require: timer\r\n",
    "Refer-To: <sip:x@10.0.0.20>\r\n",
    "Event: refer\r\n",
    "X-Left: yes\r\n",
    "Route: <sip:192.0.2.1:5060;lr>\r\n",
    "Route: <sip:elsewhere.example;lr>\r\n",
    "Record-Route: <sip:10.0.0.9>\r\n",
    "Retry-After: 99999999999\r\n",
    "Contact: <sip:moved@198.51.100.99:5099>;q=0.1, <sips:x@[::1]>\r\n",
    "Content-Length: 70000\r\n",
    "Request-Disposition: ,no-queue,\r\n",
    "Via: SIP/2.0/TCP h;branch=z9hG4bKx\r\n",
];

/// Changes a message as a broken or hostile peer might.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(3) {
        let length = bytes.len().max(1) as u64;
        let at = (random.below(length) as usize).min(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at.min(length as usize - 1)] = random.next() as u8,
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..(at + random.below(20) as usize).min(bytes.len()))),
            3 | 4 => {
                let line = LINES[random.below(LINES.len() as u64) as usize].as_bytes();
                let end = bytes.windows(2).position(|two| two == b"\r\n").map_or(0, |at| at + 2);
                bytes.splice(end..end, line.iter().copied());
            }
            5 => {
                // One line of another message in the place of one here.
                let Some(other) = others.get(random.below(others.len().max(1) as u64) as usize) else { continue };
                let theirs: Vec<&[u8]> = other.split_inclusive(|octet| *octet == b'\n').collect();
                let mut ours: Vec<Vec<u8>> =
                    bytes.split_inclusive(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect();
                if !theirs.is_empty() && !ours.is_empty() {
                    let place = random.below(ours.len() as u64) as usize;
                    ours[place] = theirs[random.below(theirs.len() as u64) as usize].to_vec();
                    *bytes = ours.concat();
                }
            }
            6 => {
                let piece = bytes[at..(at + 40).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let digits = bytes.iter().position(|octet| octet.is_ascii_digit()).unwrap_or(0);
                if let Some(octet) = bytes.get_mut(digits) {
                    *octet = b'9';
                }
            }
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let capacity = 1 + random.below(4) as u32;
    let text = text(capacity);
    let mut world = World::seeded(&text, seed);
    world.check = Some(check_counts);
    world.faults = Faults { lost: 50, doubled: 100, delay_ms: 60 };
    world.trusting = true;
    let modes = [
        Mode::Answer(0),
        Mode::Answer(300),
        Mode::Ring,
        Mode::Refuse(486),
        Mode::Refuse(503),
        Mode::Refuse(302),
        Mode::Silent,
        Mode::Fork(2),
    ];
    for round in 0..60 {
        for pbx in [PBX, PBX2] {
            world.modes.insert(at(pbx), modes[random.below(modes.len() as u64) as usize]);
        }
        let lines = if random.below(3) == 0 { LINES[random.below(6) as usize] } else { "" };
        let caller = world.invite_with(["100", "100", "555"][random.below(3) as usize], lines);
        world.run_for(random.below(1_500));
        let method = ["BYE", "INFO", "UPDATE", "INVITE", "REFER", "NOTIFY", "PRACK"][random.below(7) as usize];
        let (end, id) = if random.below(2) == 0 || world.callees.is_empty() {
            (End::Caller, caller)
        } else {
            (End::Callee, random.below(world.callees.len() as u64) as usize)
        };
        let source = if end == End::Caller { CALLER } else { PBX };
        let body = "SIP/2.0 200 OK\r\n";
        let request = match method {
            "NOTIFY" => world.in_dialog(end, id, method).replace(
                "Content-Length: 0\r\n\r\n",
                &format!("Event: refer\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            ),
            method => world.in_dialog(end, id, method),
        };
        world.send_raw(source, request.as_bytes());
        // Everything said so far, changed and said again, by anybody.
        for _ in 0..4 {
            let others = std::mem::take(&mut world.said);
            if let Some(message) = others.get(random.below(others.len().max(1) as u64) as usize) {
                let mut message = message.clone();
                mutate(&mut random, &mut message, &others);
                let source = [CALLER, PBX, PBX2, VOICEMAIL, "203.0.113.66:5060"][random.below(5) as usize];
                world.send_raw(source, &message);
            }
            world.said = others;
        }
        match random.below(12) {
            0 => world.reload(&text),
            1..=3 => {
                let slots = world.slots.list(20, |_| true);
                if let Some((slot, _)) = slots.get(random.below(slots.len().max(1) as u64) as usize) {
                    let slot = *slot;
                    world.tell(if random.below(2) == 0 { Input::EndCall { slot } } else { Input::Release { slot } });
                }
            }
            4 => {
                let uri = format!("sip:{PBX}");
                world.tell(Input::Drain { target: "pbx", uri: &uri, is_drained: random.below(2) == 0 });
            }
            _ => {}
        }
        for question in std::mem::take(&mut world.questions) {
            let found = Found { transport: Transport::Udp, address: at(VOICEMAIL), priority: 1, weight: 0 };
            let answer = match random.below(3) {
                0 => Answer::Found(vec![found, Found { address: at(PBX2), priority: 2, ..found }]),
                1 => Answer::NotFound,
                _ => Answer::Failed,
            };
            let ttl = Duration::from_secs(random.below(90));
            world.tell(Input::Resolved { question: &question, answer, ttl });
        }
        if round % 8 == 0 {
            world.run_for(random.below(40_000));
        }
    }
    // Everything ends by its timers; only the probes and the name of the target go on for ever.
    world.reload(&config(capacity, &menu("")));
    for _ in 0..30 {
        world.run_for(200_000);
    }
    let view = world.view();
    assert_eq!((view.calls, view.pools[0].in_use()), (0, 0), "seed {seed}: {:?}", world.slots.list(10, |_| true));
    assert!(world.slots.is_empty());
    world.run_for(4_000_000);
    assert!(world.proxy.is_idle(), "seed {seed}: {:?}", world.proxy.load());
}

#[test]
fn mutants() {
    if let Some(seed) = number("SIM_SEED") {
        return run(seed);
    }
    for seed in 1..=number("SIM_SEEDS").unwrap_or(300) / 3 {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "replay with SIM_SEED={seed}");
    }
}
