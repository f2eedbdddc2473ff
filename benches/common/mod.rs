//! What both benches drive: the messages of one call, and a gate without sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sipweir::config::Config;
use sipweir::pool::{Gate, Slots};
use sipweir::proxy::{Input, Output, Proxy};
use sipweir::time::Instant;

pub(crate) const INVITE: &str = "INVITE sip:18000@192.0.2.1:5060 SIP/2.0\r\n\
Via: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKcall0001;rport\r\n\
Max-Forwards: 70\r\n\
From: \"Caller 100001\" <sip:+4930100001@198.51.100.7>;tag=f00001\r\n\
To: <sip:18000@192.0.2.1>\r\n\
Call-ID: 0001-12ab34cd@198.51.100.7\r\n\
CSeq: 1 INVITE\r\n\
Contact: <sip:caller@198.51.100.7:5060>\r\n\
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, PRACK, UPDATE, INFO, REFER, NOTIFY\r\n\
Supported: replaces, timer, 100rel\r\n\
User-Agent: bench\r\n\
P-Asserted-Identity: <sip:+4930100001@198.51.100.7>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 162\r\n\
\r\n\
v=0\r\no=- 3829301 3829301 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\n";

const CONFIG: &str = r#"
[[listen]]
uri = "udp:192.0.2.1:5060"
[[trunk]]
name = "any"
from = ["198.51.100.0/24"]
[[target]]
name = "pbx"
uri = ["sip:10.0.0.10:5060"]
[[pool]]
name = "ivr"
channels = 1000000
[[service]]
name = "all"
kind = "ivr"
numbers = ["*"]
pool = "ivr"
target = "pbx"
"#;

pub(crate) fn gate() -> Gate {
    Gate::new(&Config::parse(CONFIG).expect("valid").settings())
}

/// A proxy and its clock.
pub(crate) struct Bench {
    proxy: Proxy,
    now: Instant,
    serial: u32,
    record: Option<Vec<(SocketAddr, Bytes)>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let config = Arc::new(Config::parse(CONFIG).expect("valid"));
        let gate = Arc::new(Gate::new(&config.settings()));
        let proxy = Proxy::new(config, gate, Arc::new(Slots::default()), [7; 16]);
        Self { proxy, now: Instant::from_micros(1_000_000), serial: 0, record: None }
    }

    fn give(&mut self, from: SocketAddr, text: &str) {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        if let Some(record) = &mut self.record {
            record.push((from, payload.clone()));
        }
        self.proxy.handle(self.now, Input::Datagram { listener: 0, source: from, payload: &payload });
    }

    /// The next call's messages: a proxy is a function of its inputs, so its twin will ask for the same ones.
    pub(crate) fn record(&mut self) -> Vec<(SocketAddr, Bytes)> {
        self.record = Some(Vec::new());
        self.call();
        self.record.take().expect("just set")
    }

    /// Plays a recorded call: nothing but the proxy's own work.
    pub(crate) fn play(&mut self, messages: Vec<(SocketAddr, Bytes)>) -> usize {
        let mut sent = 0;
        for (source, payload) in messages {
            self.proxy.handle(self.now, Input::Datagram { listener: 0, source, payload: &payload });
            while let Some(output) = self.proxy.poll_output() {
                sent += usize::from(matches!(output, Output::Transmit(_)));
            }
        }
        sent
    }

    /// Takes everything the proxy wants sent; gives the last message to `to`.
    fn take(&mut self, to: SocketAddr) -> String {
        let mut last = Bytes::new();
        while let Some(output) = self.proxy.poll_output() {
            if let Output::Transmit(transmit) = output
                && transmit.destination == to
            {
                last = Bytes::copy_from_slice(transmit.payload);
            }
        }
        String::from_utf8_lossy(&last).into_owned()
    }

    /// INVITE, 180, 200, ACK, BYE, 200: one whole call. The end points' own work is string copies.
    pub(crate) fn call(&mut self) {
        self.serial += 1;
        let caller: SocketAddr = ([198, 51, 100, 7], 5060).into();
        let pbx: SocketAddr = ([10, 0, 0, 10], 5060).into();
        let id = format!("{:04x}-", self.serial);
        let invite = INVITE.replace("0001-", &id).replace("call0001", &format!("call{}", self.serial));
        self.give(caller, &invite);
        let seen = self.take(pbx);
        let head: String = ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"]
            .iter()
            .flat_map(|name| seen.split_inclusive("\r\n").filter(move |line| line.starts_with(name)))
            .collect();
        let answer = |status: &str| {
            format!(
                "SIP/2.0 {status}\r\n{head}To: <sip:18000@192.0.2.1>;tag=p\r\nContact: <sip:pbx@10.0.0.10:5060>\r\nContent-Length: 0\r\n\r\n"
            )
        };
        self.give(pbx, &answer("180 Ringing"));
        self.give(pbx, &answer("200 OK"));
        let ok = self.take(caller);
        let route =
            ok.split("\r\n").find_map(|line| line.strip_prefix("Record-Route: ")).expect("we stay on the route");
        let within = |method: &str, cseq: u32| {
            format!(
                "{method} sip:pbx@10.0.0.10:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bK{method}{};rport\r\nRoute: {route}\r\n\
                 Max-Forwards: 70\r\nFrom: \"Caller 100001\" <sip:+4930100001@198.51.100.7>;tag=f00001\r\nTo: <sip:18000@192.0.2.1>;tag=p\r\n\
                 Call-ID: {id}12ab34cd@198.51.100.7\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n",
                self.serial
            )
        };
        let (ack, bye) = (within("ACK", 1), within("BYE", 2));
        self.give(caller, &ack);
        self.give(caller, &bye);
        let seen = self.take(pbx);
        let head: String = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"]
            .iter()
            .flat_map(|name| seen.split_inclusive("\r\n").filter(move |line| line.starts_with(name)))
            .collect();
        self.give(pbx, &format!("SIP/2.0 200 OK\r\n{head}Content-Length: 0\r\n\r\n"));
        assert!(self.take(caller).starts_with("SIP/2.0 200"));
        self.pass();
    }

    /// A millisecond passes.
    pub(crate) fn pass(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        self.proxy.handle_timeout(self.now);
    }
}
