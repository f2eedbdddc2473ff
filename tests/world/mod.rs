//! The virtual world: one gate, callers, a PBX, a voicemail, a network that may lose, delay, double and reorder, and a
//! clock that jumps to the next thing that happens. Everything follows from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sipweir::alert::Event;
use sipweir::config::Config;
use sipweir::licence::Standing;
use sipweir::metrics::Drop;
use sipweir::pool::{Gate, Slots, View};
use sipweir::proxy::{Input, Output, Proxy};
use sipweir::route::Question;
use sipweir::sip::{HeaderName, Message, Method, NameAddr};
use sipweir::time::Instant;

pub const GATE: &str = "192.0.2.1:5060";
/// Another way to the gate, which it does not know of.
pub const GATE_ALIAS: &str = "192.0.2.2:5060";
pub const CALLER: &str = "198.51.100.7:5060";
pub const PBX: &str = "10.0.0.10:5060";
pub const PBX2: &str = "10.0.0.11:5060";
pub const VOICEMAIL: &str = "10.0.0.20:5060";

const T1: u64 = 500;
const T2: u64 = 4000;

/// One gate, one carrier, a PBX of two addresses, a voicemail, one pool.
pub fn config(channels: u32, extra: &str) -> String {
    format!(
        r#"
[[listen]]
uri = "udp:{GATE}"
[[trunk]]
name = "carrier"
from = ["198.51.100.0/24"]
[[trunk]]
name = "pbx"
from = ["10.0.0.0/24"]
[[target]]
name = "pbx"
uri = ["sip:{PBX}"]
[[target]]
name = "pair"
uri = ["sip:{PBX}", "sip:{PBX2}"]
[[target]]
name = "voicemail"
uri = ["sip:{VOICEMAIL}"]
[[pool]]
name = "ivr"
channels = {channels}
{extra}
"#
    )
}

/// A service `menu` with number 100 and the given keys.
pub fn menu(keys: &str) -> String {
    format!(
        "[[service]]\nname = \"menu\"\nkind = \"ivr\"\nnumbers = [\"100\"]\npool = \"ivr\"\ntarget = \"pbx\"\n{keys}\n"
    )
}

/// What a callee does with an INVITE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// 180, then 200 after so many milliseconds.
    Answer(u64),
    /// 180 and nothing more.
    Ring,
    /// This final answer at once.
    Refuse(u16),
    /// No answer at all.
    Silent,
    /// 200 from so many forks at once.
    Fork(u16),
    /// 100 and nothing more, not even after CANCEL.
    Stuck,
}

/// What the network does to a datagram, in parts of a thousand.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    /// Delay up to so many milliseconds, each datagram by itself: reorders.
    pub delay_ms: u64,
}

/// A small, seeded generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A caller's or callee's request or 2xx is sent again unless it was answered.
    Again {
        end: End,
        id: usize,
        key: String,
        wait: u64,
        sent: u64,
    },
    Answer {
        id: usize,
    },
    HangUp {
        end: End,
        id: usize,
    },
    Cancel {
        id: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    Caller,
    Callee,
}

/// One end of a dialog.
#[derive(Clone, Default, Debug)]
pub struct Leg {
    pub address: Option<SocketAddr>,
    pub call_id: String,
    pub number: String,
    pub local: String,
    pub remote: String,
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
    pub branch: String,
    pub invite: String,
    /// Answers seen by a caller, in order, copies included.
    pub answers: Vec<u16>,
    /// Requests not yet answered, by key, and 2xx not yet acknowledged.
    waiting: BTreeMap<String, String>,
    /// A callee's last answer to the INVITE.
    answer: String,
    pub vias: String,
    pub up: bool,
    pub over: bool,
    /// Whether this leg uses a channel of its PBX.
    pub busy: bool,
    /// Deaf to CANCEL.
    stuck: bool,
    pub acks: u32,
    pub acks_unexpected: u32,
    /// The last answer in full.
    pub last: String,
}

pub struct World {
    pub now: Instant,
    pub proxy: Proxy,
    pub gate: Arc<Gate>,
    pub slots: Arc<Slots>,
    pub random: Random,
    pub faults: Faults,
    pub modes: BTreeMap<SocketAddr, Mode>,
    pub callers: Vec<Leg>,
    pub callees: Vec<Leg>,
    pub events: Vec<Event>,
    /// Names the gate asked for.
    pub questions: Vec<Question>,
    /// Everything the gate sent, newest last.
    pub sent: Vec<(SocketAddr, String)>,
    /// The same as bytes.
    pub raw_sent: Vec<(SocketAddr, Bytes)>,
    /// Everything that was delivered to an end point: receiver and text.
    pub delivered: Vec<(SocketAddr, String)>,
    /// Most legs of the PBX that used a channel at a time.
    pub busy_peak: usize,
    queue: BinaryHeap<Reverse<(Instant, u64, What)>>,
    sequence: u64,
    names: u64,
    /// The gate's transport refuses to send there.
    pub unreachable: Vec<SocketAddr>,
    /// What arrives there is not read.
    pub deaf: Vec<SocketAddr>,
    pub check: Option<fn(&Self)>,
    /// Whether what was said to the gate is kept, and end points take whatever they get.
    pub trusting: bool,
    pub said: Vec<Vec<u8>>,
    /// Whether the PBX answers 482 to another copy of an INVITE it has.
    pub refuses_copies: bool,
}

pub fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn header(message: &Message<'_>, name: HeaderName) -> String {
    message.value(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

fn list(message: &Message<'_>, name: HeaderName) -> Vec<String> {
    message.list(name).map(|span| String::from_utf8_lossy(message.slice(span)).into_owned()).collect()
}

fn uri_in(value: &str) -> String {
    NameAddr::parse(value.as_bytes())
        .map(|address| String::from_utf8_lossy(address.uri_bytes()).into_owned())
        .unwrap_or_default()
}

fn tag_of(value: &str) -> Option<String> {
    NameAddr::parse(value.as_bytes())?.tag().map(|tag| String::from_utf8_lossy(tag).into_owned())
}

impl World {
    pub fn new(config: &str) -> Self {
        Self::seeded(config, 1)
    }

    pub fn seeded(config: &str, seed: u64) -> Self {
        let config = match Config::parse(config) {
            Ok(config) => Arc::new(config),
            Err(problems) => panic!("{problems:#?}"),
        };
        let gate = Arc::new(Gate::new(&config.settings()));
        let slots = Arc::new(Slots::default());
        let mut modes = BTreeMap::new();
        for address in [PBX, PBX2, VOICEMAIL] {
            modes.insert(at(address), Mode::Answer(0));
        }
        Self {
            now: Instant::from_micros(1_000_000),
            proxy: Proxy::new(config, Arc::clone(&gate), Arc::clone(&slots), [7; 16]),
            gate,
            slots,
            random: Random(seed),
            faults: Faults::default(),
            modes,
            callers: Vec::new(),
            callees: Vec::new(),
            events: Vec::new(),
            questions: Vec::new(),
            sent: Vec::new(),
            raw_sent: Vec::new(),
            delivered: Vec::new(),
            busy_peak: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            names: 0,
            unreachable: Vec::new(),
            deaf: Vec::new(),
            check: None,
            trusting: false,
            said: Vec::new(),
            refuses_copies: false,
        }
    }

    // --- what tests ask ----------------------------------------------------------------------------------------------

    pub fn view(&self) -> View {
        self.gate.view()
    }

    /// Brings licences into force, as they stand at a date.
    pub fn license(&mut self, standing: Standing) {
        let now = self.now;
        self.gate.license(standing, now, &mut self.events);
        self.tick();
    }

    /// Channels of pool `ivr` in use.
    pub fn in_use(&self) -> u32 {
        self.view().pools[0].in_use()
    }

    /// The final answer a caller got; 0 for none.
    pub fn final_answer(&self, caller: usize) -> u16 {
        self.callers[caller].answers.iter().copied().find(|status| *status >= 200).unwrap_or(0)
    }

    /// Requests of a method that reached `address`.
    pub fn reached(&self, address: &str, method: &str) -> usize {
        self.delivered.iter().filter(|(to, text)| *to == at(address) && text.starts_with(&format!("{method} "))).count()
    }

    /// The text of the last message of that start that reached `address`.
    pub fn last_at(&self, address: &str, start: &str) -> String {
        let found = self.delivered.iter().rev().find(|(to, text)| *to == at(address) && text.starts_with(start));
        found.map(|(_, text)| text.clone()).unwrap_or_default()
    }

    pub fn dropped(&self, reason: Drop) -> u64 {
        self.proxy.counters().dropped(reason)
    }

    /// How calls ended: the reasons that occurred, and how often.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        let all = self.proxy.counters().ends();
        all.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.label(), count)).collect()
    }

    pub fn event_labels(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.kind.label()).collect()
    }

    /// What the shell does once a second.
    pub fn tick(&mut self) {
        self.proxy.tick(self.now);
        self.drain();
    }

    /// The operator's wish.
    pub fn tell(&mut self, input: Input<'_>) {
        self.proxy.handle(self.now, input);
        self.drain();
    }

    pub fn reload(&mut self, config: &str) {
        let config = Config::parse(config).expect("valid");
        self.proxy.handle(self.now, Input::Reload(Arc::new(config)));
        self.drain();
    }

    // --- time --------------------------------------------------------------------------------------------------------

    /// Until nothing happens within the next `millis` milliseconds.
    pub fn run_for(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        for _ in 0..2_000_000 {
            let packet = self.queue.peek().map(|Reverse((when, _, _))| *when);
            let timer = self.proxy.poll_timeout();
            let next = match (packet, timer) {
                (Some(packet), Some(timer)) => packet.min(timer),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => break,
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if timer.is_some_and(|timer| timer <= self.now) {
                self.proxy.handle_timeout(self.now);
                self.drain();
            }
            if packet.is_some_and(|packet| packet <= self.now) {
                let Reverse((_, _, what)) = self.queue.pop().expect("just peeked");
                self.happen(what);
            }
            self.observe();
        }
        self.now = end;
        self.proxy.handle_timeout(end);
        self.drain();
        self.observe();
    }

    /// Long enough for every message on its way, too short for any timer of the gate.
    pub fn run(&mut self) {
        self.run_for(100);
    }

    /// Calls that use a channel of the PBX now, as it sees it: forks of one INVITE are one call.
    pub fn busy(&self) -> usize {
        let pbx = [at(PBX), at(PBX2)];
        let mut busy: Vec<&str> = self
            .callees
            .iter()
            .filter(|leg| leg.busy && pbx.contains(&leg.address.expect("set")))
            .map(|leg| leg.call_id.as_str())
            .collect();
        busy.sort_unstable();
        busy.dedup();
        busy.len()
    }

    /// Start lines of all messages the gate sent for calls the PBX has now, for a failure's message.
    pub fn story_of_the_busy(&self) -> String {
        let legs = self.callees.iter().filter(|leg| leg.busy).map(|leg| &leg.call_id);
        let mut story = String::new();
        for id in legs {
            let of = self.sent.iter().filter(|(_, text)| text.contains(&format!("Call-ID: {id}\r\n")));
            for (to, text) in of {
                let cseq = text.lines().find(|line| line.starts_with("CSeq")).unwrap_or_default();
                story += &format!("{id} to {to}: {} {cseq}\n", text.lines().next().unwrap_or_default());
            }
        }
        story
    }

    fn observe(&mut self) {
        self.busy_peak = self.busy_peak.max(self.busy());
        if let Some(check) = self.check {
            check(self);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::Transmit(transmit) => {
                    let text = String::from_utf8_lossy(transmit.payload).into_owned();
                    let (destination, client, payload) =
                        (transmit.destination, transmit.client, transmit.payload.to_vec());
                    self.sent.push((destination, text));
                    self.raw_sent.push((destination, Bytes::from(payload.clone())));
                    if self.unreachable.contains(&destination) {
                        self.proxy.handle(self.now, Input::SendFailed { client });
                        continue;
                    }
                    self.carry(at(GATE), destination, payload);
                }
                Output::Event(event) => self.events.push(event),
                Output::Resolve(question) => self.questions.push(question),
            }
        }
    }

    fn push(&mut self, wait: u64, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + Duration::from_millis(wait), self.sequence, what)));
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.trusting && to == at(GATE) && self.said.len() < 400 {
            self.said.push(bytes.clone());
        }
        if self.random.below(1000) < self.faults.lost {
            return;
        }
        let copies = 1 + u64::from(self.random.below(1000) < self.faults.doubled);
        for _ in 0..copies {
            let wait = if self.faults.delay_ms > 0 { self.random.below(self.faults.delay_ms) } else { 0 };
            self.push(wait, What::Datagram { from, to, bytes: bytes.clone() });
        }
    }

    /// The same, without waiting for anything.
    pub fn send_raw(&mut self, from: &str, bytes: &[u8]) {
        self.carry(at(from), at(GATE), bytes.to_vec());
    }

    /// Puts raw bytes on the wire towards the gate.
    pub fn raw(&mut self, from: &str, bytes: &[u8]) {
        self.carry(at(from), at(GATE), bytes.to_vec());
        self.run();
    }

    /// The same, while nobody but the gate listens.
    pub fn raw_unanswered(&mut self, from: &str, bytes: &[u8]) {
        let deaf = [CALLER, PBX, PBX2, VOICEMAIL].map(at);
        self.deaf.extend(deaf);
        self.raw(from, bytes);
        self.deaf.clear();
    }

    /// `address` answers the last request it was sent.
    pub fn answer_last(&mut self, address: &str, status: &str) {
        self.answer_last_with(address, status, |text| text);
    }

    /// The same with an answer that was changed.
    pub fn answer_last_with(&mut self, address: &str, status: &str, change: impl Fn(String) -> String) {
        let request = self.sent.iter().rev().find(|(to, text)| *to == at(address) && !text.starts_with("SIP/2.0"));
        let request = request.map(|(_, text)| text.clone()).expect("a request was sent");
        let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"];
        let kept: Vec<String> = request
            .split("\r\n")
            .skip(1)
            .filter(|line| names.iter().any(|name| line.starts_with(name)))
            .map(|line| {
                let tag = if line.starts_with("To:") && !line.contains(";tag=") { ";tag=answered" } else { "" };
                format!("{line}{tag}")
            })
            .collect();
        let text = format!("SIP/2.0 {status}\r\n{}\r\nContent-Length: 0\r\n\r\n", kept.join("\r\n"));
        self.raw(address, change(text).as_bytes());
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Datagram { from, to, bytes } if to == at(GATE) || to == at(GATE_ALIAS) => {
                let input = Input::Datagram { listener: 0, source: from, payload: &bytes };
                self.proxy.handle(self.now, input);
                self.drain();
            }
            What::Datagram { to, .. } if self.deaf.contains(&to) => {}
            What::Datagram { from, to, bytes } => self.deliver(from, to, bytes),
            What::Again { end, id, key, wait, sent } => {
                let Some(text) = self.leg(end, id).waiting.get(&key).cloned() else { return };
                if sent >= 64 * T1 {
                    let leg = self.leg_mut(end, id);
                    leg.waiting.remove(&key);
                    if key.starts_with("BYE") || end == End::Callee {
                        (leg.up, leg.over, leg.busy) = (false, true, false);
                    }
                    return;
                }
                let from = self.leg(end, id).address.expect("set");
                self.carry(from, at(GATE), text.into_bytes());
                let next = if key.starts_with("INVITE") { wait * 2 } else { (wait * 2).min(T2) };
                self.push(next, What::Again { end, id, key, wait: next, sent: sent + next });
            }
            What::Answer { id } => self.accept(id),
            What::HangUp { end, id } => {
                self.hang_up(end, id);
            }
            What::Cancel { id } => {
                self.cancel(id);
            }
        }
    }

    fn leg(&self, end: End, id: usize) -> &Leg {
        match end {
            End::Caller => &self.callers[id],
            End::Callee => &self.callees[id],
        }
    }

    fn leg_mut(&mut self, end: End, id: usize) -> &mut Leg {
        match end {
            End::Caller => &mut self.callers[id],
            End::Callee => &mut self.callees[id],
        }
    }

    /// Sends and keeps sending until answered.
    fn send_until(&mut self, end: End, id: usize, key: &str, text: String) {
        let from = self.leg(end, id).address.expect("set");
        self.leg_mut(end, id).waiting.insert(key.into(), text.clone());
        self.carry(from, at(GATE), text.into_bytes());
        self.push(T1, What::Again { end, id, key: key.into(), wait: T1, sent: T1 });
    }

    fn send_once(&mut self, end: End, id: usize, text: String) {
        let from = self.leg(end, id).address.expect("set");
        self.carry(from, at(GATE), text.into_bytes());
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    // --- callers -----------------------------------------------------------------------------------------------------

    /// A call from the carrier to `number`; gives the caller's number here.
    pub fn invite(&mut self, number: &str) -> usize {
        self.invite_with(number, "")
    }

    /// The same with more header lines.
    pub fn invite_with(&mut self, number: &str, lines: &str) -> usize {
        let name = self.name();
        self.invite_as(CALLER, number, &format!("call-{name}"), &format!("caller-{name}"), 1, lines)
    }

    pub fn invite_as(&mut self, from: &str, number: &str, call_id: &str, tag: &str, cseq: u32, lines: &str) -> usize {
        let branch = format!("z9hG4bK-{}", self.name());
        let local = format!("<sip:caller@{from}>;tag={tag}");
        let remote = format!("<sip:{number}@{GATE}>");
        let invite = format!(
            "INVITE sip:{number}@{GATE} SIP/2.0\r\nVia: SIP/2.0/UDP {from};rport;branch={branch}\r\nMax-Forwards: 70\r\nFrom: {local}\r\nTo: {remote}\r\n\
             Call-ID: {call_id}\r\nCSeq: {cseq} INVITE\r\nContact: <sip:caller@{from}>\r\n{lines}Content-Length: 0\r\n\r\n"
        );
        self.callers.push(Leg {
            address: Some(at(from)),
            call_id: call_id.into(),
            number: number.into(),
            local,
            remote,
            cseq,
            branch,
            invite: invite.clone(),
            ..Leg::default()
        });
        let id = self.callers.len() - 1;
        self.send_until(End::Caller, id, "INVITE", invite);
        id
    }

    pub fn answered(&mut self, number: &str) -> usize {
        let caller = self.invite(number);
        self.run();
        assert!(self.callers[caller].up, "the call was answered: {:?}", self.callers[caller].answers);
        caller
    }

    /// The caller hears nothing any more, and sends nothing again.
    pub fn deafen(&mut self, caller: usize) {
        self.callers[caller].branch = "deaf".into();
        self.callers[caller].waiting.clear();
    }

    pub fn cancel_later(&mut self, caller: usize, wait: u64) {
        self.push(wait, What::Cancel { id: caller });
    }

    pub fn hang_up_later(&mut self, end: End, id: usize, wait: u64) {
        self.push(wait, What::HangUp { end, id });
    }

    /// The caller gives up while it rings.
    pub fn cancel(&mut self, caller: usize) -> bool {
        let leg = &self.callers[caller];
        if leg.up || leg.over || leg.answers.iter().any(|status| *status >= 200) || leg.answers.is_empty() {
            return false;
        }
        let text = leg.invite.replacen("INVITE ", "CANCEL ", 1).replace(" INVITE\r\n", " CANCEL\r\n");
        self.send_until(End::Caller, caller, "CANCEL", text);
        true
    }

    /// A request within the dialog.
    pub fn in_dialog(&mut self, end: End, id: usize, method: &str) -> String {
        let branch = format!("z9hG4bK-{}", self.name());
        let leg = self.leg_mut(end, id);
        if method != "ACK" {
            leg.cseq += 1;
        }
        let leg = leg.clone();
        let address = leg.address.expect("set");
        let routes: String = leg.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch={branch}\r\n{routes}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {} {method}\r\nContact: <sip:x@{address}>\r\nContent-Length: 0\r\n\r\n",
            leg.target, leg.local, leg.remote, leg.call_id, leg.cseq
        )
    }

    /// Sends a request within the dialog until it is answered.
    pub fn request(&mut self, end: End, id: usize, method: &str) {
        let text = self.in_dialog(end, id, method);
        let key = format!("{method} {}", self.leg(end, id).cseq);
        self.send_until(end, id, &key, text);
    }

    pub fn hang_up(&mut self, end: End, id: usize) -> bool {
        let leg = self.leg_mut(end, id);
        if !leg.up || leg.over {
            return false;
        }
        (leg.up, leg.over) = (false, true);
        if end == End::Callee {
            leg.busy = false;
        }
        self.request(end, id, "BYE");
        true
    }

    // --- what end points do --------------------------------------------------------------------------------------------

    fn deliver(&mut self, _from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.delivered.push((to, text.clone()));
        let message = Message::parse(&bytes).expect("the gate sends SIP");
        if let Err(fault) = message.check() {
            // What somebody broke before us goes on broken, as far as we do not read it.
            if self.trusting {
                return;
            }
            // An answer to a request that lacked something lacks it too.
            assert!(matches!(message.status(), Some(400..=599)), "the gate sent a bad message: {fault}\n{text}");
            return;
        }
        match message.status() {
            Some(status) => self.answer_came(to, &message, status, text),
            None => self.request_came(to, &message, text),
        }
    }

    fn answer_came(&mut self, to: SocketAddr, message: &Message<'_>, status: u16, text: String) {
        let (call_id, from) = (header(message, HeaderName::CallId), header(message, HeaderName::From));
        let cseq = header(message, HeaderName::CSeq);
        let via = list(message, HeaderName::Via);
        let is_it = |leg: &Leg| leg.address == Some(to) && leg.call_id == call_id && leg.local == from;
        let is_invite = cseq.ends_with("INVITE");
        let by_branch = |leg: &Leg| is_it(leg) && is_invite && !leg.branch.is_empty() && via[0].contains(&leg.branch);
        let by_dialog = |leg: &Leg| is_it(leg) && (!is_invite || leg.branch.is_empty() || leg.up);
        let id = self.callers.iter().position(by_branch).or_else(|| self.callers.iter().position(by_dialog));
        if let Some(id) = id {
            return self.caller_got(id, message, status, &cseq, text);
        }
        if let Some(id) = self.callees.iter().position(is_it) {
            let method = cseq.split(' ').nth(1).unwrap_or_default().to_owned();
            let number = cseq.split(' ').next().unwrap_or_default().to_owned();
            if status >= 200 {
                self.callees[id].waiting.remove(&format!("{method} {number}"));
            }
            self.callees[id].last = text;
        }
    }

    fn caller_got(&mut self, id: usize, message: &Message<'_>, status: u16, cseq: &str, text: String) {
        let is_first = cseq == format!("{} INVITE", self.callers[id].invite_cseq());
        if !is_first {
            let (number, method) = cseq.split_once(' ').unwrap_or_default();
            let leg = &mut self.callers[id];
            leg.last = text;
            if status >= 200 {
                let request = leg.waiting.remove(&format!("{method} {number}"));
                match (method, status, request) {
                    ("CANCEL", ..) => {
                        leg.waiting.remove("CANCEL");
                    }
                    ("INVITE", 200..300, _) => {
                        let ack = self.in_dialog(End::Caller, id, "ACK");
                        self.send_once(End::Caller, id, ack);
                    }
                    ("INVITE", _, Some(request)) => {
                        let ack = request.replacen("INVITE ", "ACK ", 1).replace(" INVITE\r\n", " ACK\r\n");
                        self.send_once(End::Caller, id, ack);
                    }
                    _ => {}
                }
            }
            return;
        }
        let leg = &mut self.callers[id];
        leg.last = text;
        leg.answers.push(status);
        leg.waiting.remove("INVITE");
        let to = header(message, HeaderName::To);
        match status {
            0..200 => {
                if tag_of(&to).is_some() && !leg.up {
                    leg.remote = to;
                    leg.target = uri_in(&header(message, HeaderName::Contact));
                    leg.routes = list(message, HeaderName::RecordRoute).into_iter().rev().collect();
                }
            }
            200..300 => {
                if leg.over && !leg.up && leg.remote == to {
                    return;
                }
                let known = leg.up && leg.remote != to;
                let mut fork = leg.clone();
                fork.remote = to.clone();
                fork.target = uri_in(&header(message, HeaderName::Contact));
                fork.routes = list(message, HeaderName::RecordRoute).into_iter().rev().collect();
                fork.cseq = leg.invite_cseq();
                if known {
                    // A second fork: a leg of its own, which the test may hang up.
                    if let Some(other) =
                        self.callers.iter().position(|leg| leg.call_id == fork.call_id && leg.remote == to)
                    {
                        let ack = self.in_dialog(End::Caller, other, "ACK");
                        return self.send_once(End::Caller, other, ack);
                    }
                    fork.up = true;
                    fork.branch = "fork".into();
                    self.callers.push(fork);
                    let other = self.callers.len() - 1;
                    let ack = self.in_dialog(End::Caller, other, "ACK");
                    return self.send_once(End::Caller, other, ack);
                }
                let cseq = leg.cseq.max(fork.cseq);
                *leg = fork;
                leg.up = true;
                let ack = self.in_dialog(End::Caller, id, "ACK");
                self.callers[id].cseq = cseq;
                self.send_once(End::Caller, id, ack);
            }
            _ => {
                leg.over = true;
                let ack = leg
                    .invite
                    .replacen("INVITE ", "ACK ", 1)
                    .replace(" INVITE\r\n", " ACK\r\n")
                    .replace(&leg.remote_line(), &format!("To: {to}\r\n"));
                self.send_once(End::Caller, id, ack);
            }
        }
    }

    fn request_came(&mut self, to: SocketAddr, message: &Message<'_>, text: String) {
        let (call_id, from, to_header) =
            (header(message, HeaderName::CallId), header(message, HeaderName::From), header(message, HeaderName::To));
        let cseq = header(message, HeaderName::CSeq);
        let vias: String = list(message, HeaderName::Via).iter().map(|via| format!("Via: {via}\r\n")).collect();
        let reply = |status: &str, to: &str, lines: &str| {
            format!(
                "SIP/2.0 {status}\r\n{vias}From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n{lines}Content-Length: 0\r\n\r\n"
            )
        };
        if message.method() == Method::Invite && tag_of(&to_header).is_none() {
            let top = list(message, HeaderName::Via)[0].clone();
            if let Some(leg) = self.callees.iter().find(|leg| leg.address == Some(to) && leg.branch == top) {
                let (address, answer) = (to, leg.answer.clone());
                if !answer.is_empty() {
                    self.carry(address, at(GATE), answer.into_bytes());
                }
                return;
            }
            return self.invite_came(to, message, text, vias, top);
        }
        // A caller's leg that is asked something: answer 200.
        let by_caller = self
            .callers
            .iter()
            .position(|leg| leg.address == Some(to) && leg.call_id == call_id && tag_of(&leg.remote) == tag_of(&from));
        let by_callee = self.callees.iter().position(|leg| {
            leg.address == Some(to)
                && leg.call_id == call_id
                && if message.method() == Method::Cancel {
                    leg.branch == list(message, HeaderName::Via)[0]
                } else {
                    tag_of(&leg.local) == tag_of(&to_header)
                }
        });
        match (message.method(), by_caller, by_callee) {
            (Method::Bye, Some(id), _) => {
                let leg = &mut self.callers[id];
                let known = leg.up || leg.over;
                (leg.up, leg.over) = (false, true);
                let status = if known { "200 OK" } else { "481 Gone" };
                let answer = reply(status, &to_header, "");
                self.carry(to, at(GATE), answer.into_bytes());
            }
            (Method::Bye, None, Some(id)) => {
                let leg = &mut self.callees[id];
                (leg.up, leg.over, leg.busy) = (false, true, false);
                leg.waiting.remove("200");
                let answer = reply("200 OK", &to_header, "");
                self.carry(to, at(GATE), answer.into_bytes());
            }
            (Method::Ack, _, Some(id)) => {
                let leg = &mut self.callees[id];
                leg.acks += 1;
                leg.waiting.remove("200");
                leg.waiting.remove("final");
            }
            (Method::Ack, _, None) => {}
            (Method::Cancel, _, Some(id)) => {
                let ok = reply("200 OK", &to_header, "");
                self.carry(to, at(GATE), ok.into_bytes());
                let leg = &self.callees[id];
                if !leg.up && !leg.over && !leg.stuck {
                    self.refuse(id, 487);
                }
            }
            (Method::Cancel, _, None) => {
                let gone = reply("481 Gone", &to_header, "");
                self.carry(to, at(GATE), gone.into_bytes());
            }
            (_, None, None) if tag_of(&to_header).is_some() => {
                let gone = reply("481 Gone", &to_header, "");
                self.carry(to, at(GATE), gone.into_bytes());
            }
            _ => {
                let contact = format!("Contact: <sip:x@{to}>\r\n");
                let ok = reply("200 OK", &to_header, &contact);
                self.carry(to, at(GATE), ok.into_bytes());
            }
        }
    }

    fn invite_came(&mut self, to: SocketAddr, message: &Message<'_>, text: String, vias: String, top: String) {
        let Some(mut mode) = self.modes.get(&to).copied() else {
            assert!(self.trusting, "an INVITE to {to}, where nobody is");
            return;
        };
        let from = header(message, HeaderName::From);
        let call_id = header(message, HeaderName::CallId);
        let cseq = header(message, HeaderName::CSeq);
        let is_merged = |leg: &Leg| {
            leg.address == Some(to)
                && leg.call_id == call_id
                && leg.remote == from
                && leg.invite.contains(&format!("CSeq: {cseq}\r\n"))
        };
        // RFC 3261 §8.2.2.2, unless a test wants to see both.
        if self.refuses_copies && self.callees.iter().any(is_merged) {
            mode = Mode::Refuse(482);
        }
        let tag = format!("callee-{}", self.name());
        let record: Vec<String> = list(message, HeaderName::RecordRoute);
        self.callees.push(Leg {
            address: Some(to),
            call_id: header(message, HeaderName::CallId),
            number: String::from_utf8_lossy(message.request_uri()).into_owned(),
            local: format!("{};tag={tag}", header(message, HeaderName::To)),
            remote: header(message, HeaderName::From),
            target: uri_in(&header(message, HeaderName::Contact)),
            routes: record,
            cseq: 100,
            branch: top,
            invite: text,
            vias,
            // One that is stuck outlasts the gate's patience (64*T1 after the CANCEL) by design.
            busy: !matches!(mode, Mode::Refuse(_) | Mode::Silent | Mode::Stuck),
            stuck: mode == Mode::Stuck,
            ..Leg::default()
        });
        let id = self.callees.len() - 1;
        match mode {
            Mode::Answer(wait) => {
                self.callee_says(id, "180 Ringing");
                self.push(wait, What::Answer { id });
            }
            Mode::Ring => self.callee_says(id, "180 Ringing"),
            Mode::Refuse(status) => self.refuse(id, status),
            Mode::Silent => {}
            Mode::Stuck => self.callee_says(id, "100 Trying"),
            Mode::Fork(forks) => {
                for fork in 0..forks {
                    if fork > 0 {
                        let mut leg = self.callees[id].clone();
                        leg.local = leg.local.replace("tag=", &format!("tag=f{fork}-"));
                        leg.waiting.clear();
                        leg.up = false;
                        self.callees.push(leg);
                    }
                    let at = if fork == 0 { id } else { self.callees.len() - 1 };
                    self.accept(at);
                }
            }
        }
    }

    fn callee_answer(&self, id: usize, status: &str) -> String {
        let leg = &self.callees[id];
        let cseq = leg.invite.lines().find(|line| line.starts_with("CSeq:")).unwrap_or_default();
        let record: String = leg.routes.iter().map(|route| format!("Record-Route: {route}\r\n")).collect();
        let to =
            if status.starts_with("100") { leg.local.split(";tag=").next().unwrap_or_default() } else { &leg.local };
        format!(
            "SIP/2.0 {status}\r\n{}{record}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\n{cseq}\r\nContact: <sip:callee@{}>\r\nX-Callee: kept\r\nContent-Length: 0\r\n\r\n",
            leg.vias,
            leg.remote,
            leg.call_id,
            leg.address.expect("set"),
        )
    }

    pub fn callee_says(&mut self, id: usize, status: &str) {
        let text = self.callee_answer(id, status);
        self.callees[id].answer = text.clone();
        self.send_once(End::Callee, id, text);
    }

    /// The callee picks up.
    pub fn accept(&mut self, id: usize) {
        let leg = &mut self.callees[id];
        if leg.up || leg.over {
            return;
        }
        leg.up = true;
        let text = self.callee_answer(id, "200 OK");
        self.callees[id].answer = text.clone();
        self.send_until(End::Callee, id, "200", text);
    }

    /// The callee picks up, and gives that as its Contact.
    pub fn accept_at(&mut self, id: usize, contact: &str) {
        let text = self.callee_answer(id, "200 OK");
        let leg = &mut self.callees[id];
        let own = format!("Contact: <sip:callee@{}>", leg.address.expect("set"));
        assert!(text.contains(&own));
        leg.up = true;
        leg.answer = text.replace(&own, &format!("Contact: <{contact}>"));
        let text = leg.answer.clone();
        self.send_until(End::Callee, id, "200", text);
    }

    /// The callee says no.
    pub fn refuse(&mut self, id: usize, status: u16) {
        let leg = &mut self.callees[id];
        (leg.over, leg.busy) = (true, false);
        let text = self.callee_answer(id, &format!("{status} No"));
        self.callees[id].answer = text.clone();
        self.send_until(End::Callee, id, "final", text);
    }
}

impl Leg {
    pub fn invite_cseq(&self) -> u32 {
        let line = self.invite.lines().find(|line| line.starts_with("CSeq: ")).unwrap_or_default();
        line.trim_start_matches("CSeq: ").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn remote_line(&self) -> String {
        let line = self.invite.lines().find(|line| line.starts_with("To: ")).unwrap_or_default();
        format!("{line}\r\n")
    }
}
