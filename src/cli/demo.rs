//! `sipweir demo`: the real gate on loopback, with a small PBX, a voicemail and callers.
//!
//! The end points speak just enough SIP for a call over a network that loses nothing.

#![expect(clippy::disallowed_methods, reason = "people on the telephone do sleep between two steps")]

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{say, say_json};
use crate::config::Config;
use crate::exit::ExitError;
use crate::server::Server;
use crate::sip::{HeaderName, Message, Method, NameAddr, build};

/// Run the gate on loopback with a small PBX, a voicemail and more callers than channels
#[derive(Args)]
pub(super) struct Demo {
    /// End after this many seconds; without it, run until interrupted
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Channels of the pool
    #[arg(long, value_name = "N", default_value_t = 8)]
    channels: u32,
    /// Calls a second; each lasts two to six seconds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=500))]
    rate: u32,
    /// Print JSON, one object a second
    #[arg(long)]
    json: bool,
}

/// What became of the callers.
#[derive(Default)]
struct Tally {
    calling: u32,
    talking: u32,
    to_pbx: u64,
    to_voicemail: u64,
    refused: u64,
}

enum Step {
    HangUp(String),
    Answer(String),
}

impl Demo {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let failed = |error: std::io::Error| ExitError::Failed(format!("the demo cannot run: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(async {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let pbx = UdpSocket::bind(any).await.map_err(failed)?;
            let voicemail = UdpSocket::bind(any).await.map_err(failed)?;
            let callers = UdpSocket::bind(any).await.map_err(failed)?;
            let addresses = (pbx.local_addr().map_err(failed)?, voicemail.local_addr().map_err(failed)?);
            let config = Config::parse(&self.config(addresses)).map_err(|problems| {
                ExitError::Config(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            })?;
            let server = Server::start(config, None)?;
            let gate = server.listen()[0];
            tokio::spawn(callee(pbx, addresses.0, "pbx"));
            tokio::spawn(callee(voicemail, addresses.1, "voicemail"));
            self.play(&server, callers, gate, addresses).await
        })
    }

    fn config(&self, (pbx, voicemail): (SocketAddr, SocketAddr)) -> String {
        format!(
            r#"
[node]
name = "demo"
[[listen]]
uri = "udp:127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[[trunk]]
name = "carrier"
from = ["127.0.0.0/8"]
[[target]]
name = "pbx"
uri = ["sip:{pbx}"]
[[target]]
name = "voicemail"
uri = ["sip:{voicemail}"]
[[pool]]
name = "ivr-and-queues"
channels = {channels}
[[service]]
name = "main-menu"
kind = "ivr"
numbers = ["100"]
pool = "ivr-and-queues"
target = "pbx"
overflow = [{{ route = "voicemail" }}, {{ reject = 486 }}]
[[service]]
name = "sales"
kind = "queue"
numbers = ["200"]
pool = "ivr-and-queues"
target = "pbx"
reserve = {reserve}
"#,
            channels = self.channels,
            reserve = self.channels / 4,
        )
    }

    /// Places calls and draws until the time is over.
    async fn play(
        &self,
        server: &Server,
        socket: UdpSocket,
        gate: SocketAddr,
        (pbx, voicemail): (SocketAddr, SocketAddr),
    ) -> Result<(), ExitError> {
        let admin = server.admin().map(|admin| format!("http://{admin}")).unwrap_or_default();
        if !self.json {
            say(format_args!(
                "sipweir demo: {} channels shared by main-menu (100, overflows to voicemail) and sales (200, busy)\n\
                 gate udp:{gate}   PBX udp:{pbx}   voicemail udp:{voicemail}\n\
                 metrics {admin}/metrics   calls: sipweir calls --admin {admin}\n",
                self.channels
            ));
        }
        let local = socket.local_addr().map_err(|error| ExitError::Failed(error.to_string()))?;
        let socket = Arc::new(socket);
        let (steps, mut due) = mpsc::channel::<Step>(4096);
        let (mut calls, mut tally, mut number) = (HashMap::<String, Call>::new(), Tally::default(), 0u64);
        let begin = Instant::now();
        let end = self.seconds.map(|seconds| begin + Duration::from_secs(seconds));
        let mut next_call = begin;
        let mut draw = tokio::time::interval(Duration::from_millis(if self.draws_in_place() { 250 } else { 1000 }));
        let mut buffer = vec![0; 65_536];
        let mut drawn = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_call) => {
                    number += 1;
                    // Arrivals bunch and thin out: a burst every eight seconds.
                    let burst = if begin.elapsed().as_secs() % 8 < 3 { 2 } else { 1 };
                    next_call = Instant::now() + Duration::from_secs(1) / (self.rate * burst);
                    let call = Call::new(number, local, gate);
                    send(&socket, &call.invite(), gate).await;
                    calls.insert(call.id.clone(), call);
                    tally.calling += 1;
                }
                received = socket.recv_from(&mut buffer) => {
                    let Ok((length, from)) = received else { continue };
                    let Ok(message) = Message::parse(&buffer[..length]) else { continue };
                    answer_came(&message, &mut calls, &mut tally, &socket, from, &steps).await;
                }
                Some(step) = due.recv() => {
                    if let Step::HangUp(id) = step
                        && let Some(call) = calls.remove(&id)
                    {
                        tally.talking -= 1;
                        send(&socket, &call.within("BYE", 2), gate).await;
                    }
                }
                _ = draw.tick() => {
                    self.draw(server, &tally, begin.elapsed(), &mut drawn);
                    if !server.is_alive() {
                        return Err(ExitError::Failed("the worker ended".into()));
                    }
                }
                () = until(end) => break,
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        self.draw(server, &tally, begin.elapsed(), &mut drawn);
        if !self.json {
            let peak = server.node().gate.view().pools[0].peak;
            say(format_args!(
                "\n{number} calls: {} answered by the PBX, {} by the voicemail, {} refused; at most {peak} of {} channels in use",
                tally.to_pbx, tally.to_voicemail, tally.refused, self.channels
            ));
        }
        Ok(())
    }

    fn draws_in_place(&self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    fn draw(&self, server: &Server, tally: &Tally, elapsed: Duration, drawn: &mut usize) {
        let view = server.node().gate.view();
        let pool = &view.pools[0];
        if self.json {
            return say_json(&json!({
                "seconds": elapsed.as_secs(), "in_use": pool.in_use(), "capacity": pool.capacity, "peak": pool.peak,
                "condition": pool.condition, "calling": tally.calling, "talking": tally.talking,
                "answered_by_pbx": tally.to_pbx, "answered_by_voicemail": tally.to_voicemail, "refused": tally.refused,
            }));
        }
        let (held, reserved) = (pool.held as usize, pool.reserved as usize);
        let free = (pool.capacity as usize).saturating_sub(held + reserved);
        let bar = if pool.capacity <= 64 {
            format!("{}{}{}", "#".repeat(held), "+".repeat(reserved), ".".repeat(free))
        } else {
            String::new()
        };
        let mut lines = vec![format!(
            "{:>4} s  {:>3} of {:<3} [{bar}]  {:<9}  PBX {}  voicemail {}  busy {}",
            elapsed.as_secs(),
            pool.in_use(),
            pool.capacity,
            pool.condition,
            tally.to_pbx,
            tally.to_voicemail,
            tally.refused
        )];
        if self.draws_in_place() {
            for event in server.node().events().iter().rev().take(4) {
                lines.push(format!("        {}  {}", event.event, event.message));
            }
            let mut out = std::io::stdout().lock();
            let up = if *drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
            // A wrapped line would be two, and the next drawing would miss its place.
            let width = std::env::var("COLUMNS").ok().and_then(|width| width.parse().ok()).unwrap_or(80_usize).max(20);
            let cut = |line: &String| line.chars().take(width - 1).collect::<String>();
            let text: String = lines.iter().map(|line| format!("\x1b[2K{}\n", cut(line))).collect();
            drop(write!(out, "{up}{text}").and_then(|()| out.flush()));
            *drawn = lines.len();
        } else {
            lines.iter().for_each(say);
        }
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

async fn send(socket: &UdpSocket, text: &str, to: SocketAddr) {
    // Loopback: what the kernel refuses, the demo shows as a call that never was.
    drop(socket.send_to(text.as_bytes(), to).await);
}

/// A caller's side of a call.
struct Call {
    id: String,
    number: &'static str,
    local: SocketAddr,
    gate: SocketAddr,
    serial: u64,
    to: String,
    target: String,
    routes: String,
    up: bool,
}

impl Call {
    fn new(serial: u64, local: SocketAddr, gate: SocketAddr) -> Self {
        let number = if serial.is_multiple_of(3) { "200" } else { "100" };
        let target = format!("sip:{number}@{gate}");
        let (id, to) = (format!("demo-{serial}@{local}"), format!("<{target}>"));
        Self { id, number, local, gate, serial, to, target, routes: String::new(), up: false }
    }

    fn invite(&self) -> String {
        self.request("INVITE", 1, &format!("{}a", self.serial), &format!("Contact: <sip:caller@{}>\r\n", self.local))
    }

    fn within(&self, method: &str, cseq: u32) -> String {
        self.request(method, cseq, &format!("{}{method}", self.serial), "")
    }

    /// The ACK of a refusal has the branch and the Request-URI of its INVITE.
    fn ack_refusal(&self) -> String {
        self.request("ACK", 1, &format!("{}a", self.serial), "")
    }

    fn request(&self, method: &str, cseq: u32, branch: &str, lines: &str) -> String {
        let Self { id, local, serial, to, target, routes, .. } = self;
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKd{branch};rport\r\n{routes}Max-Forwards: 70\r\n\
             From: \"Caller {serial}\" <sip:+44207946{serial:04}@{local}>;tag=d{serial}\r\nTo: {to}\r\nCall-ID: {id}\r\n\
             CSeq: {cseq} {method}\r\n{lines}Content-Length: 0\r\n\r\n"
        )
    }
}

async fn answer_came(
    message: &Message<'_>,
    calls: &mut HashMap<String, Call>,
    tally: &mut Tally,
    socket: &UdpSocket,
    from: SocketAddr,
    steps: &mpsc::Sender<Step>,
) {
    let text =
        |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    let id = text(message.value(HeaderName::CallId));
    let (Some(status), Some(call)) = (message.status(), calls.get_mut(&id)) else { return };
    if status < 200 || message.method() != Method::Invite || call.up {
        return;
    }
    call.to = text(message.value(HeaderName::To));
    tally.calling -= 1;
    if status >= 300 {
        tally.refused += 1;
        send(socket, &call.ack_refusal(), from).await;
        calls.remove(&id);
        return;
    }
    let contact = message.value(HeaderName::Contact).and_then(NameAddr::parse);
    call.target = text(contact.as_ref().map(NameAddr::uri_bytes));
    let mut routes: Vec<String> = message
        .list(HeaderName::RecordRoute)
        .map(|span| format!("Route: {}\r\n", text(Some(message.slice(span)))))
        .collect();
    routes.reverse();
    (call.routes, call.up) = (routes.concat(), true);
    tally.talking += 1;
    if call.target.contains("voicemail") {
        tally.to_voicemail += 1
    } else {
        tally.to_pbx += 1
    }
    send(socket, &call.within("ACK", 1), call.gate).await;
    let talk = Duration::from_millis(2000 + call.serial * 1_103 % 4000);
    let (steps, wait) = (steps.clone(), if call.number == "200" { talk } else { talk * 3 / 4 });
    tokio::spawn(async move {
        sleep(wait).await;
        drop(steps.send(Step::HangUp(id)).await);
    });
}

/// A PBX or voicemail: rings for a moment, picks up, takes BYE and CANCEL.
async fn callee(socket: UdpSocket, local: SocketAddr, name: &'static str) {
    let (steps, mut due) = mpsc::channel::<Step>(4096);
    let mut ringing = HashMap::<String, (Vec<u8>, SocketAddr)>::new();
    let mut buffer = vec![0; 65_536];
    let mut out = Vec::new();
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let Ok(message) = Message::parse(&buffer[..length]) else { continue };
                let id = String::from_utf8_lossy(message.value(HeaderName::CallId).unwrap_or_default()).into_owned();
                let mut reply = |message: &Message<'_>, status: u16| {
                    out.clear();
                    build::response(&mut out, message, from, status, id.as_bytes(), record_route(message).as_bytes());
                    String::from_utf8_lossy(&out).into_owned()
                };
                match (message.status(), message.method()) {
                    (None, Method::Invite) => {
                        if ringing.contains_key(&id) {
                            continue;
                        }
                        send(&socket, &reply(&message, 180), from).await;
                        ringing.insert(id.clone(), (message.bytes().to_vec(), from));
                        let (steps, id) = (steps.clone(), id);
                        tokio::spawn(async move {
                            sleep(Duration::from_millis(300)).await;
                            drop(steps.send(Step::Answer(id)).await);
                        });
                    }
                    (None, Method::Cancel) => {
                        send(&socket, &reply(&message, 200), from).await;
                        if let Some((invite, from)) = ringing.remove(&id)
                            && let Ok(invite) = Message::parse(&invite)
                        {
                            let text = reply(&invite, 487);
                            send(&socket, &text, from).await;
                        }
                    }
                    (None, Method::Ack) | (Some(_), _) => {}
                    (None, _) => send(&socket, &reply(&message, 200), from).await,
                }
            }
            Some(step) = due.recv() => {
                if let Step::Answer(id) = step
                    && let Some((invite, from)) = ringing.remove(&id)
                    && let Ok(invite) = Message::parse(&invite)
                {
                    let lines = format!("{}Contact: <sip:{name}@{local}>\r\n", record_route(&invite));
                    out.clear();
                    build::response(&mut out, &invite, from, 200, id.as_bytes(), lines.as_bytes());
                    send(&socket, &String::from_utf8_lossy(&out), from).await;
                }
            }
        }
    }
}

fn record_route(message: &Message<'_>) -> String {
    message
        .list(HeaderName::RecordRoute)
        .map(|span| format!("Record-Route: {}\r\n", String::from_utf8_lossy(message.slice(span))))
        .collect()
}
