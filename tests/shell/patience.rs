//! What the connections of a shard are given: time, and turns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use sipweir::config::Config;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::Message as WebMessage;

use super::secure::{Certificates, dns};
use super::streams::{Line, TCP, UDP, with_listeners};

/// The connections of a shard without a shard: the test is the clock.
struct Bench {
    poll: mio::Poll,
    streams: sipweir::transport::stream::Streams,
    address: SocketAddr,
    got: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        Self::with(TCP)
    }

    /// With the first listener of that configuration.
    fn with(listener: &str) -> Self {
        Self::within(listener, "")
    }

    /// The same within these limits.
    fn within(listener: &str, limits: &str) -> Self {
        let poll = mio::Poll::new().expect("a queue");
        let bound = sipweir::transport::stream::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = bound.local_addr().expect("bound");
        let config = Config::parse(&with_listeners(&format!("{limits}{listener}{UDP}"), "\"sip:127.0.0.9:5060\"", ""))
            .expect("valid");
        let tls = Arc::new(sipweir::transport::tls::Tls::load(&config).expect("its files are good"));
        let registry = poll.registry().try_clone().expect("a queue");
        let streams = sipweir::transport::stream::Streams::new(registry, vec![Some(bound)], &config, tls);
        Self { poll, streams: streams.expect("registered"), address, got: Vec::new() }
    }

    /// What the shard does at that second, until so many connections are open and messages have come.
    fn until(&mut self, second: u64, open: usize, messages: usize) {
        let now = sipweir::time::Instant::from_micros(second * 1_000_000);
        for _ in 0..500 {
            self.round(now);
            if (self.streams.counts().open, self.got.len()) == (open, messages) {
                return;
            }
        }
        panic!("at {second} s: {:?}, {} messages", self.streams.counts(), self.got.len());
    }

    /// One round of the shard.
    fn round(&mut self, now: sipweir::time::Instant) {
        let mut notices = mio::Events::with_capacity(16);
        let patience = if self.streams.has_more() { Duration::ZERO } else { Duration::from_millis(10) };
        self.poll.poll(&mut notices, Some(patience)).expect("polled");
        for notice in &notices {
            self.streams.take(now, notice);
        }
        let got = &mut self.got;
        self.streams.receive(now, |_, _, payload| got.push(String::from_utf8_lossy(payload).into_owned()));
        self.streams.handle_timeout(now);
        self.streams.flush(now);
    }

    /// Rounds at that second until nothing more comes for a while.
    fn until_idle(&mut self, second: u64) {
        for _ in 0..20 {
            self.round(sipweir::time::Instant::from_micros(second * 1_000_000));
        }
    }

    fn closed(&self, reason: sipweir::transport::stream::Closed) -> u64 {
        self.streams.counts().closed[reason as usize]
    }
}

#[test]
fn a_connection_has_ten_seconds_for_a_message_thirty_for_its_first_and_fifteen_minutes_between_two() {
    use sipweir::transport::stream::Closed;
    let mut bench = Bench::new();
    let message = "OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n";
    let (mut idle, mut slow, mut good) = (Line::tcp(bench.address), Line::tcp(bench.address), Line::tcp(bench.address));
    good.send(message);
    bench.until(100, 3, 1);
    // One octet a second keeps nothing open.
    for second in 101..110 {
        slow.send("O");
        bench.until(second, 3, 1);
    }
    bench.until(111, 2, 1);
    assert_eq!((bench.closed(Closed::Slow), slow.next("x")), (1, None));
    bench.until(131, 1, 1);
    assert_eq!((bench.closed(Closed::Idle), idle.next("x")), (1, None));
    good.send(message);
    bench.until(900, 1, 2);
    bench.until(1_799, 1, 2);
    bench.until(1_801, 0, 2);
    assert_eq!((bench.closed(Closed::Idle), good.next("x")), (2, None));
}

#[test]
fn b7_a_handshake_that_stops_is_closed_after_ten_seconds() {
    use sipweir::transport::stream::Closed;
    let files = Certificates::new("stalled");
    files.sign("gate", vec![dns("gate.example.net")]);
    // The beginning of a ClientHello, of an HTTP request, of an HTTP request within TLS; and nothing at all.
    let web = "[[listen]]\nuri = \"ws:127.0.0.1:0\"\n".to_owned();
    for (listener, start) in [
        (files.listener("tls", ""), "\x16\x03\x01\x02\x00"),
        (files.listener("tls", ""), ""),
        (web.clone(), "GET / HTTP/1.1\r\nHost: gate\r\n"),
        (web, ""),
        (files.listener("wss", ""), "\x16\x03\x01"),
    ] {
        let mut bench = Bench::with(&listener);
        let mut stalled = TcpStream::connect(bench.address).expect("connected");
        stalled.write_all(start.as_bytes()).expect("sent");
        bench.until(100, 1, 0);
        bench.until(109, 1, 0);
        bench.until(111, 0, 0);
        assert_eq!(bench.closed(Closed::Slow), 1, "{listener}: {start:?}");
        assert!(stalled.read_to_end(&mut Vec::new()).is_ok_and(|octets| octets < 64), "an alert at most, and the end");
    }
}

#[test]
fn line_ends_and_pings_keep_nobody_who_never_speaks_sip() {
    use sipweir::transport::stream::Closed;
    let mut bench = Bench::new();
    let mut line = Line::tcp(bench.address);
    for second in [100, 110, 120, 129] {
        line.send("\r\n\r\n");
        bench.until(second, 1, 0);
        bench.until_idle(second);
    }
    line.send("\r\n\r\n");
    bench.until(131, 0, 0);
    assert_eq!(bench.closed(Closed::Idle), 1);
    let mut bench = Bench::with("[[listen]]\nuri = \"ws:127.0.0.1:0\"\n");
    let mut browser = browser(&mut bench);
    for second in [10, 20, 30] {
        browser.send(WebMessage::Ping(Vec::new().into())).expect("sent");
        bench.until_idle(second);
    }
    bench.until(32, 0, 0);
}

#[test]
fn a_websocket_message_that_is_never_finished_is_given_ten_seconds() {
    use sipweir::transport::stream::Closed;
    let mut bench = Bench::with("[[listen]]\nuri = \"ws:127.0.0.1:0\"\n");
    let mut browser = browser(&mut bench);
    browser.send(WebMessage::text("OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n")).expect("sent");
    bench.until(2, 1, 1);
    // A text of a hundred octets, of which ten come.
    browser.get_mut().write_all(&[0x81, 0x80 | 100, 0, 0, 0, 0]).expect("sent");
    browser.get_mut().write_all(b"OPTIONS si").expect("sent");
    bench.until_idle(3);
    bench.until(12, 1, 1);
    bench.until(14, 0, 1);
    assert_eq!(bench.closed(Closed::Slow), 1);
}

/// A browser without a SIP stack, so that its frames are the test's.
fn browser(bench: &mut Bench) -> tungstenite::WebSocket<TcpStream> {
    let address = bench.address;
    let open = std::thread::spawn(move || {
        let mut request = format!("ws://{address}/").into_client_request().expect("a request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
        let socket = TcpStream::connect(address).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        tungstenite::client(request, socket).expect("it opens").0
    });
    bench.until(1, 1, 0);
    while !open.is_finished() {
        bench.until(1, 1, 0);
    }
    open.join().expect("it opens")
}

#[test]
fn an_idle_browser_is_asked_whether_it_is_there_before_it_is_cut_off() {
    use sipweir::transport::stream::Closed;
    let mut bench = Bench::with("[[listen]]\nuri = \"ws:127.0.0.1:0\"\n");
    let mut browser = browser(&mut bench);
    browser.send(WebMessage::text("OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n")).expect("sent");
    bench.until(2, 1, 1);
    bench.until(1_000, 1, 1);
    assert!(matches!(browser.read(), Ok(WebMessage::Ping(_))), "after fifteen minutes of silence");
    // Its answer is on the way.
    browser.flush().expect("sent");
    bench.until_idle(1_005);
    bench.until(1_100, 1, 1);
    bench.until(1_906, 1, 1);
    assert!(matches!(browser.read(), Ok(WebMessage::Ping(_))), "and again");
    // This time it is gone.
    bench.until(1_915, 1, 1);
    bench.until(1_917, 0, 1);
    assert_eq!(bench.closed(Closed::Idle), 1);
}

// kamailio #4325, #2395, #2392, #3589: the connection of a WebSocket was not released; opensips #410: a worker at 100 %.
#[test]
fn b7_a_connection_that_is_dropped_or_half_closed_is_released_and_keeps_nobody_busy() {
    for listener in [TCP, "[[listen]]\nuri = \"ws:127.0.0.1:0\"\n"] {
        let mut bench = Bench::with(listener);
        if listener == TCP {
            let line = TcpStream::connect(bench.address).expect("connected");
            bench.until(1, 1, 0);
            line.shutdown(std::net::Shutdown::Write).expect("half closed");
            bench.until(2, 0, 0);
            drop(line);
        } else {
            // Without a closing frame, as a browser that lost its network.
            drop(browser(&mut bench));
            bench.until(2, 0, 0);
        }
        assert_eq!(bench.closed(sipweir::transport::stream::Closed::Peer), 1);
        bench.until_idle(3);
        assert!(!bench.streams.has_more(), "nothing is left to do");
    }
}

#[test]
fn nobody_is_kept_waiting_by_frames_that_carry_nothing() {
    let mut bench = Bench::with("[[listen]]\nuri = \"ws:127.0.0.1:0\"\n");
    let mut browser = browser(&mut bench);
    // A text that begins and never ends: continuation frames without data, masked with zeros.
    let flood: Vec<u8> = [1, 0x80, 0, 0, 0, 0].into_iter().chain([0, 0x80, 0, 0, 0, 0].repeat(100_000)).collect();
    let sender = std::thread::spawn(move || {
        browser.get_mut().write_all(&flood)?;
        browser.get_mut().write_all(&[0x80, 0x80, 0, 0, 0, 0])?;
        let message = WebMessage::text("OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n");
        browser.send(message).map_err(std::io::Error::other).map(|()| browser)
    });
    // Every round ends, whatever comes, so that it takes as many as there are pieces.
    let mut rounds = 0;
    for round in 0.. {
        if !bench.got.is_empty() {
            break;
        }
        assert!(round < 10_000, "it never came");
        bench.round(sipweir::time::Instant::from_micros(2_000_000));
        // Only those that ended with something left.
        rounds += usize::from(bench.streams.has_more());
    }
    assert!(rounds >= 4, "{rounds} rounds left something for the next of 600,000 octets");
    drop(sender.join().expect("no panic").expect("all was read"));
}

#[test]
fn who_does_not_read_is_closed_and_costs_no_more_than_its_share() {
    use sipweir::outbox::{DomainId, Transmit};
    use sipweir::transport::udp::Sent;
    let mut bench = Bench::new();
    let mut deaf = Line::tcp(bench.address);
    deaf.send("OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n");
    bench.until(1, 1, 1);
    let payload = vec![b'x'; 60_000];
    let client = sipweir::store::Key { index: 7, generation: 1 };
    let now = sipweir::time::Instant::from_micros(2_000_000);
    let mut sent = 0;
    while sent < 1_000 {
        let transmit = Transmit {
            listener: 0,
            destination: deaf.address,
            connect: 0,
            domain: DomainId::NONE,
            name: "",
            is_heard: true,
            payload: &payload,
            method: sipweir::sip::Method::Options,
            client,
        };
        if bench.streams.send(now, &transmit) != Sent::Yes {
            break;
        }
        bench.streams.flush(now);
        sent += 1;
    }
    assert!(sent < 1_000, "what waits for one connection has a bound");
    assert_eq!(bench.closed(sipweir::transport::stream::Closed::Full), 1);
    assert_eq!(bench.streams.pop_failed(), Some(client), "whose request was not sent is told");
}

/// A connection from that address of this machine.
fn from(source: &str, to: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(source.parse().expect("an address"), 0).into()).expect("ours");
    socket.connect(&to.into()).expect("connected");
    socket.into()
}

#[test]
fn unfinished_messages_of_one_source_take_an_eighth_of_the_memory_and_no_more() {
    use sipweir::transport::stream::Closed;
    let web = "[[listen]]\nuri = \"ws:127.0.0.1:0\"\n";
    for listener in [TCP, web] {
        // 1 MiB in all, 128 KiB for one address: two of these, never four.
        let mut bench = Bench::within(listener, "[limits]\nconnection_mb = 1\n");
        let mut lines: Vec<TcpStream> = Vec::new();
        let part = format!("OPTIONS sip:x SIP/2.0\r\nContent-Length: 50000\r\n\r\n{}", "x".repeat(45_000));
        let handshake = "GET / HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: sip\r\n\r\n";
        // A whole frame with line ends, and a text frame of 50,000 octets; both masked with nothing.
        let frame = [&b"\x81\x84\0\0\0\0\r\n\r\n\x81\xfe\xc3\x50\0\0\0\0"[..], part.as_bytes()].concat();
        for at in 0..5 {
            let mut line = from(if at < 4 { "127.0.0.1" } else { "127.0.0.2" }, bench.address);
            if listener == web {
                line.write_all(handshake.as_bytes()).expect("sent");
                bench.until_idle(1);
                line.write_all(&frame).expect("sent");
            } else {
                line.write_all(part.as_bytes()).expect("sent");
            }
            bench.until_idle(1);
            lines.push(line);
        }
        let full = bench.closed(Closed::Full);
        assert!((1..=3).contains(&full), "{listener}: {:?}", bench.streams.counts());
        // Who has taken nothing is not among them.
        let mut octet = [0; 1];
        lines[4].set_nonblocking(true).expect("set");
        let mut read = || lines[4].read(&mut octet);
        while listener == web && matches!(read(), Ok(1..)) {}
        assert_eq!(read().map_err(|error| error.kind()), Err(std::io::ErrorKind::WouldBlock), "{listener}");
        // What is closed weighs nothing any more.
        drop(lines);
        bench.until(2, 0, 0);
        let mut line = from("127.0.0.1", bench.address);
        line.write_all(if listener == web { handshake.as_bytes() } else { part.as_bytes() }).expect("sent");
        bench.until(3, 1, 0);
        assert_eq!(bench.closed(Closed::Full), full);
    }
}

#[test]
fn a_websocket_message_that_stays_unfinished_is_slow_whatever_comes_with_it() {
    use sipweir::transport::stream::Closed;
    let mut bench = Bench::within("[[listen]]\nuri = \"ws:127.0.0.1:0\"\n", "");
    let mut request = format!("ws://{}/", bench.address).into_client_request().expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
    let socket = TcpStream::connect(bench.address).expect("connected");
    let handle = std::thread::spawn(move || tungstenite::client(request, socket).expect("a WebSocket").0);
    bench.until(1, 1, 0);
    for _ in 0..100 {
        bench.until_idle(1);
        if handle.is_finished() {
            break;
        }
    }
    let mut web = handle.join().expect("open");
    web.send(WebMessage::text("OPTIONS sip:x SIP/2.0\r\n\r\n")).expect("sent");
    bench.until(2, 1, 1);
    // A whole message and a part of the next in one go; then pings.
    let part = [&b"\x81\x84\0\0\0\0\r\n\r\n\x01\xfe\xc3\x50\0\0\0\0"[..], &[b'x'; 20_000]].concat();
    web.get_mut().write_all(&part).expect("sent");
    bench.until_idle(3);
    for second in [6, 9, 12] {
        web.get_mut().write_all(b"\x89\x80\0\0\0\0").expect("sent");
        bench.until_idle(second);
    }
    bench.until(14, 0, 1);
    assert_eq!(bench.closed(Closed::Slow), 1);
}
