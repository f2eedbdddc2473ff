//! The load generator: callers and a PBX in one thread, open loop.
//!
//! ```text
//! versus load --rate CALLS/S --seconds S [--hold-ms MS] [--calls N] [--lane 1] [--transport udp|tcp|tls] [--folder DIR]
//! ```
//!
//! A call is INVITE, (100,) 180, 200, ACK, BYE, 200. INVITE, BYE and the unacknowledged 200 are sent again after
//! 500 ms, doubling. A call counts as completed when its INVITE reached the PBX, its ACK and BYE came with the tags of
//! both sides, and every answer came back. Lane 1 has ports and a number of its own, so that two generators can run at a
//! time. Over TCP and TLS the callers share four connections; DIR has ca.pem, certificate.pem and key.pem for TLS. Prints one
//! line of JSON.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::{Events, Poll, Registry};

use crate::wire::{Peer, Transport, Wire};
use crate::{Outcome, PROXY, lane};

const T1: Duration = Duration::from_millis(500);
/// A call without an answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(8);
/// Tokens of the PBX' sockets begin here; below are the callers'.
const PBX_TOKENS: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Calling,
    Up,
    Ending,
    Over,
    Failed,
}

struct Call {
    stage: Stage,
    began: Instant,
    /// Route lines and Request-URI of requests within the dialog.
    routes: String,
    /// What the PBX saw.
    invites: u32,
    acks: u32,
    byes: u32,
    wrong: u32,
    ok: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Again {
    Invite,
    Bye,
    Ok,
}

struct Load {
    caller: Wire,
    pbx: Wire,
    transport: Transport,
    proxy: SocketAddr,
    /// Where the caller and the PBX are, and the number called.
    addresses: [String; 3],
    pbx_peer: Option<Peer>,
    run: u32,
    calls: Vec<Call>,
    /// What may have to be sent again, by how often it was: each queue is in the order of time.
    again: [VecDeque<(Instant, usize, Again)>; 4],
    hang_up: VecDeque<(Instant, usize)>,
    hold: Duration,
    copies: u64,
    refused: u64,
    up: u64,
    up_most: u64,
    delays: Vec<u32>,
}

pub(crate) fn main(arguments: &[String]) -> Outcome {
    let number = |name: &str, default: f64| -> Outcome<f64> {
        match arguments.iter().position(|argument| argument == name) {
            Some(at) => Ok(arguments.get(at + 1).ok_or_else(|| format!("{name} needs a number"))?.parse()?),
            None => Ok(default),
        }
    };
    let (rate, seconds) = (number("--rate", 1000.0)?, number("--seconds", 5.0)?);
    let total = number("--calls", rate * seconds)? as usize;
    let mut poll = Poll::new()?;
    let hold = Duration::from_millis(number("--hold-ms", 100.0)? as u64);
    let word = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).map(String::as_str);
    let transport = Transport::parse(word("--transport").unwrap_or("udp"))?;
    let folder = Path::new(word("--folder").unwrap_or("."));
    let mut load = Load::new(hold, lane(number("--lane", 0.0)? as u16), transport, folder)?;
    load.caller.register(poll.registry(), 0)?;
    load.pbx.register(poll.registry(), PBX_TOKENS)?;
    let mut events = Events::with_capacity(8);
    let start = Instant::now();
    let offered = Duration::from_secs_f64(total as f64 / rate);
    let mut in_time = 0;
    loop {
        let now = Instant::now();
        let due = (((now - start).as_secs_f64() * rate) as usize + 1).min(total);
        for _ in load.calls.len()..due {
            load.begin(now);
        }
        load.look_again(now);
        if now - start <= offered {
            in_time = load.delays.len();
        } else if load.is_over(now) {
            break;
        }
        poll.poll(&mut events, Some(Duration::from_millis(1)))?;
        for event in &events {
            load.receive(poll.registry(), event.token())?;
        }
    }
    load.print(rate, offered, in_time);
    Ok(())
}

impl Load {
    fn new(hold: Duration, addresses: [String; 3], transport: Transport, folder: &Path) -> Outcome<Self> {
        Ok(Self {
            // The PBX first: the proxy may connect as soon as it has a caller.
            pbx: Wire::pbx(transport, &addresses[1], folder)?,
            caller: Wire::caller(transport, &addresses[0], folder)?,
            transport,
            proxy: PROXY.parse()?,
            addresses,
            pbx_peer: None,
            run: std::process::id(),
            calls: Vec::new(),
            again: Default::default(),
            hang_up: VecDeque::new(),
            hold,
            copies: 0,
            refused: 0,
            up: 0,
            up_most: 0,
            delays: Vec::new(),
        })
    }

    fn is_over(&self, now: Instant) -> bool {
        let waits = |call: &Call| {
            matches!(call.stage, Stage::Calling | Stage::Ending) && now - call.began < PATIENCE + self.hold
        };
        self.hang_up.is_empty() && !self.calls.iter().any(waits)
    }

    fn begin(&mut self, now: Instant) {
        let at = self.calls.len();
        self.calls.push(Call {
            stage: Stage::Calling,
            began: now,
            routes: String::new(),
            invites: 0,
            acks: 0,
            byes: 0,
            wrong: 0,
            ok: Vec::new(),
        });
        self.send_invite(at);
        self.again[0].push_back((now + T1, at, Again::Invite));
    }

    fn send_invite(&mut self, at: usize) {
        const BODY: &str = "v=0\r\no=- 3829301 3829301 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\n";
        let (run, [caller, _, number]) = (self.run, &self.addresses);
        let (via, parameter) = (self.transport.label(), self.transport.parameter());
        let text = format!(
            "INVITE sip:{number}@{PROXY} SIP/2.0\r\nVia: SIP/2.0/{via} {caller};branch=z9hG4bKi{run}-{at};rport\r\nMax-Forwards: 70\r\n\
                 From: \"Caller {at}\" <sip:{at}@{caller}>;tag=c{at}\r\nTo: <sip:{number}@{PROXY}>\r\nCall-ID: {at}-{run}@load\r\nCSeq: 1 INVITE\r\n\
                 Contact: <sip:caller@{caller}{parameter}>\r\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\nUser-Agent: load\r\n\
                 Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        self.tell(at, &text);
    }

    fn tell(&mut self, at: usize, text: &str) {
        let peer = self.caller.peer(at, self.proxy);
        self.caller.send(peer, text.as_bytes());
    }

    fn send_within(&mut self, at: usize, method: &str, cseq: u32) {
        let (run, routes, [caller, pbx, number]) = (self.run, &self.calls[at].routes, &self.addresses);
        let (via, parameter) = (self.transport.label(), self.transport.parameter());
        let text = format!(
            "{method} sip:pbx@{pbx}{parameter} SIP/2.0\r\nVia: SIP/2.0/{via} {caller};branch=z9hG4bK{method}{run}-{at};rport\r\n{routes}\
                 Max-Forwards: 70\r\nFrom: \"Caller {at}\" <sip:{at}@{caller}>;tag=c{at}\r\nTo: <sip:{number}@{PROXY}>;tag=p{at}\r\n\
                 Call-ID: {at}-{run}@load\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        );
        self.tell(at, &text);
    }

    /// Sends again what was not answered, and hangs up.
    fn look_again(&mut self, now: Instant) {
        for round in 0..self.again.len() {
            while let Some((_, at, what)) = self.again[round].pop_front_if(|(due, ..)| *due <= now) {
                let call = &self.calls[at];
                let wanted = match what {
                    Again::Invite => call.stage == Stage::Calling && !self.caller.is_reliable(),
                    Again::Bye => call.stage == Stage::Ending && !self.caller.is_reliable(),
                    Again::Ok => call.acks == 0 && !call.ok.is_empty() && call.byes == 0,
                };
                if !wanted {
                    continue;
                }
                self.copies += 1;
                match what {
                    Again::Invite => self.send_invite(at),
                    Again::Bye => self.send_within(at, "BYE", 2),
                    Again::Ok => {
                        if let Some(peer) = self.pbx_peer {
                            self.pbx.send(peer, &call.ok);
                        }
                    }
                }
                if let Some(next) = self.again.get_mut(round + 1) {
                    next.push_back((now + T1 * (2 << round), at, what));
                }
            }
        }
        while let Some((_, at)) = self.hang_up.pop_front_if(|(due, _)| *due <= now) {
            self.calls[at].stage = Stage::Ending;
            self.send_within(at, "BYE", 2);
            self.again[0].push_back((now + T1, at, Again::Bye));
        }
    }

    /// Takes what came.
    fn receive(&mut self, registry: &Registry, token: mio::Token) -> Outcome {
        if token.0 < PBX_TOKENS {
            for (text, _) in self.caller.receive(registry, token)? {
                self.caller_got(&text);
            }
        } else {
            for (text, peer) in self.pbx.receive(registry, token)? {
                self.pbx_got(&text, peer);
            }
        }
        Ok(())
    }

    /// The call a message of this run belongs to.
    fn call_of(&self, text: &[u8]) -> Option<usize> {
        let id = header(text, b"\r\nCall-ID: ")?;
        let (number, rest) = id.split_at(id.iter().position(|octet| *octet == b'-')?);
        let at: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
        let is_ours = rest.get(1..)?.strip_suffix(b"@load")? == self.run.to_string().as_bytes();
        (is_ours && at < self.calls.len()).then_some(at)
    }

    fn caller_got(&mut self, text: &[u8]) {
        let Some(at) = self.call_of(text) else { return };
        let now = Instant::now();
        let (status, is_bye) = (text.get(8..11).unwrap_or_default(), memmem::find(text, b" BYE\r\n").is_some());
        let call = &mut self.calls[at];
        match (status, call.stage) {
            (b"200", Stage::Calling) if !is_bye => {
                call.stage = Stage::Up;
                let tag = format!(";tag=p{at}\r\n");
                call.wrong += u32::from(memmem::find(text, tag.as_bytes()).is_none());
                call.routes = routes(text);
                self.delays.push((now - call.began).as_micros() as u32);
                self.up += 1;
                self.up_most = self.up_most.max(self.up);
                self.send_within(at, "ACK", 1);
                self.hang_up.push_back((now + self.hold, at));
            }
            (b"200", Stage::Up | Stage::Ending) if !is_bye => self.send_within(at, "ACK", 1),
            (b"200", Stage::Ending) => {
                call.stage = Stage::Over;
                self.up -= 1;
            }
            (status, Stage::Calling) if status >= &b"300"[..] && !is_bye => {
                call.stage = Stage::Failed;
                self.refused += 1;
                let (run, [caller, _, number]) = (self.run, &self.addresses);
                let to = header(text, b"\r\nTo: ").map(String::from_utf8_lossy).unwrap_or_default();
                let via = self.transport.label();
                let ack = format!(
                    "ACK sip:{number}@{PROXY} SIP/2.0\r\nVia: SIP/2.0/{via} {caller};branch=z9hG4bKi{run}-{at};rport\r\nMax-Forwards: 70\r\n\
                     From: \"Caller {at}\" <sip:{at}@{caller}>;tag=c{at}\r\nTo: {to}\r\nCall-ID: {at}-{run}@load\r\nCSeq: 1 ACK\r\n\
                     Content-Length: 0\r\n\r\n"
                );
                self.tell(at, &ack);
            }
            _ => {}
        }
    }

    fn pbx_got(&mut self, text: &[u8], source: Peer) {
        self.pbx_peer = Some(source);
        let Some(at) = self.call_of(text) else { return };
        let tags = [format!(";tag=c{at}\r\n"), format!(";tag=p{at}\r\n")];
        let has = |tag: &String| memmem::find(text, tag.as_bytes()).is_some();
        let call = &mut self.calls[at];
        if text.starts_with(b"INVITE ") {
            call.invites += 1;
            if call.invites > 1 {
                return;
            }
            for status in ["100 Trying", "180 Ringing", "200 OK"] {
                let ok = self.answer(text, status, at);
                self.pbx.send(source, &ok);
                self.calls[at].ok = ok;
            }
            self.again[0].push_back((Instant::now() + T1, at, Again::Ok));
            return;
        }
        // A Route that names the proxy should have been taken off by it.
        let own_route = format!("\r\nRoute: <sip:{PROXY}");
        call.wrong += u32::from(!tags.iter().all(has) || has(&own_route));
        if text.starts_with(b"ACK ") {
            call.acks += 1;
        } else if text.starts_with(b"BYE ") {
            call.byes += 1;
            call.ok = Vec::new();
            let ok = self.answer(text, "200 OK", at);
            self.pbx.send(source, &ok);
        }
    }

    /// The PBX' answer.
    fn answer(&self, request: &[u8], status: &str, at: usize) -> Vec<u8> {
        answer(request, status, at, &format!("{}{}", self.addresses[1], self.transport.parameter()))
    }

    fn print(&mut self, rate: f64, offered: Duration, in_time: usize) {
        let good = |call: &Call| {
            call.stage == Stage::Over && call.invites > 0 && call.acks > 0 && call.byes > 0 && call.wrong == 0
        };
        let completed = self.calls.iter().filter(|call| good(call)).count();
        let wrong = self.calls.iter().filter(|call| call.wrong > 0).count();
        self.delays.sort_unstable();
        let percentile = |part: f64| self.delays.get((self.delays.len() as f64 * part) as usize).copied().unwrap_or(0);
        println!(
            "{}",
            serde_json::json!({
                "rate": rate, "calls": self.calls.len(), "completed": completed, "failed": self.calls.len() - completed,
                "wrong": wrong, "refused": self.refused, "copies": self.copies, "up_most": self.up_most,
                "goodput": in_time as f64 / offered.as_secs_f64(), "p50_us": percentile(0.5), "p99_us": percentile(0.99),
            })
        );
    }
}

fn header<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let start = memmem::find(text, name)? + name.len();
    let end = memmem::find(&text[start..], b"\r\n")?;
    Some(&text[start..start + end])
}

/// The Route lines for the Record-Route lines of an answer: last first.
fn routes(text: &[u8]) -> String {
    let name = b"\r\nRecord-Route: ";
    let mut lines: Vec<String> = memmem::find_iter(text, name)
        .filter_map(|at| header(&text[at..], name))
        .map(|value| format!("Route: {}\r\n", String::from_utf8_lossy(value)))
        .collect();
    lines.reverse();
    lines.concat()
}

/// The PBX's answer: the fields an answer repeats, its tag, its Contact.
fn answer(request: &[u8], status: &str, at: usize, pbx: &str) -> Vec<u8> {
    let mut out = format!("SIP/2.0 {status}\r\n").into_bytes();
    let head = memmem::find(request, b"\r\n\r\n").unwrap_or(request.len());
    for line in request[..head].split(|octet| *octet == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let keeps = [&b"Via:"[..], b"Record-Route:", b"From:", b"To:", b"Call-ID:", b"CSeq:"];
        if keeps.iter().any(|name| line.starts_with(name)) {
            out.extend_from_slice(line);
            if line.starts_with(b"To:") && memmem::find(line, b";tag=").is_none() && !status.starts_with("100") {
                out.extend_from_slice(format!(";tag=p{at}").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(format!("Contact: <sip:pbx@{pbx}>\r\nContent-Length: 0\r\n\r\n").as_bytes());
    out
}
