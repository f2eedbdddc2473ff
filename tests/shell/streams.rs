//! TCP, TLS and WebSocket over loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use sipweir::config::Config;
use sipweir::server::Server;
use sipweir::sip::framing::{Frame, Framer};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::Message as WebMessage;

use super::secure::{Certificates, dns};
use super::{Peer, in_use, request, route_of, wait_for};

/// What a test reads and writes octets with.
pub(super) trait Octets: Read + Write + Send {}
impl<T: Read + Write + Send> Octets for T {}

/// One end of a stream, with a bounded patience.
pub(super) struct Line {
    octets: Box<dyn Octets>,
    pub(super) address: SocketAddr,
    input: Vec<u8>,
    framer: Framer,
}

impl Line {
    pub(super) fn over(socket: TcpStream, wrap: impl FnOnce(TcpStream) -> Box<dyn Octets>) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let address = socket.local_addr().expect("connected");
        Self { octets: wrap(socket), address, input: Vec::new(), framer: Framer::default() }
    }

    /// The same, whose first octets were read already.
    pub(super) fn after(mut self, octets: &[u8]) -> Self {
        self.input.extend_from_slice(octets);
        self
    }

    pub(super) fn tcp(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).expect("connected"), |socket| Box::new(socket))
    }

    pub(super) fn send(&mut self, text: &str) {
        self.octets.write_all(text.as_bytes()).expect("sent");
        self.octets.flush().expect("sent");
    }

    /// The next message that starts so; `None` when the other side closes.
    pub(super) fn next(&mut self, start: &str) -> Option<String> {
        let mut buffer = [0; 4096];
        for _ in 0..1000 {
            match self.framer.next(&self.input) {
                Frame::Message(length) => {
                    let text = String::from_utf8(self.input.drain(..length).collect()).expect("text");
                    if text.starts_with(start) {
                        return Some(text);
                    }
                    continue;
                }
                Frame::LineEnds { octets, .. } => {
                    let ends: Vec<u8> = self.input.drain(..octets).collect();
                    if start == "\r\n" {
                        return Some(String::from_utf8(ends).expect("text"));
                    }
                    continue;
                }
                Frame::Incomplete => {}
                Frame::Broken(why) => panic!("{why:?}"),
            }
            match self.octets.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return None;
                }
                Err(error) => panic!("waiting for {start:?}: {error}"),
            }
        }
        panic!("a thousand pieces and no {start}");
    }

    pub(super) fn expect(&mut self, start: &str) -> String {
        self.next(start).unwrap_or_else(|| panic!("closed while waiting for {start:?}"))
    }
}

/// A request as a client over that transport writes it.
pub(super) fn over(transport: &str, text: &str) -> String {
    let text = text.replace("SIP/2.0/UDP", &format!("SIP/2.0/{}", transport.to_uppercase()));
    let contact = text.lines().find(|line| line.starts_with("Contact:")).expect("a Contact").to_owned();
    text.replace(&contact, &contact.replace('>', &format!(";transport={transport}>")))
}

pub(super) fn with_listeners(listeners: &str, pbx: &str, keys: &str) -> String {
    format!(
        r#"
{listeners}
[[trunk]]
name = "any"
from = ["127.0.0.0/8"]
[[target]]
name = "pbx"
uri = [{pbx}]
{keys}
[[pool]]
name = "ivr"
channels = 2
[[service]]
name = "menu"
kind = "ivr"
numbers = ["100"]
pool = "ivr"
target = "pbx"
"#
    )
}

pub(super) const UDP: &str = "[[listen]]\nuri = \"udp:127.0.0.1:0\"\n";
pub(super) const TCP: &str = "[[listen]]\nuri = \"tcp:127.0.0.1:0\"\n";

pub(super) fn start(text: &str) -> Server {
    let config = Config::parse(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    Server::start(config, None).unwrap_or_else(|error| panic!("{error}"))
}

/// A call that came over `line` by `transport`, and a PBX that speaks UDP: set up, and ended by the PBX.
pub(super) fn call_ended_by_pbx(server: &Server, line: &mut Line, transport: &str, pbx: &Peer, id: &str) {
    let gate = server.listen()[1];
    line.send(&over(transport, &request("INVITE", &format!("sip:100@{gate}"), line.address, id, "", 1, "")));
    let (invite, from) = pbx.expect("INVITE ");
    let recorded: Vec<&str> = invite.split("\r\n").filter(|line| line.starts_with("Record-Route:")).collect();
    assert_eq!(recorded.len(), 2, "both transports stay on the route (RFC 5658): {recorded:?}");
    assert!(invite.contains(&format!("Via: SIP/2.0/{}", transport.to_uppercase())), "{invite}");
    pbx.reply(&invite, "200 OK", from);
    let ok = line.expect("SIP/2.0 200 ");
    assert_eq!(in_use(server), 1);
    let target = format!("sip:pbx@{}", pbx.address);
    line.send(&over(transport, &request("ACK", &target, line.address, id, ";tag=pbx", 1, &route_of(&ok))));
    pbx.expect("ACK ");
    // The PBX's route set is the other way round.
    let routes: String = recorded.iter().map(|line| format!("{}\r\n", line.replace("Record-Route", "Route"))).collect();
    let contact = format!("sip:a@{};transport={transport}", line.address);
    let bye = request("BYE", &contact, pbx.address, id, ";tag=a", 1, &routes).replace(
        &format!("From: <sip:a@x>;tag=a{id}\r\nTo: <sip:100@x>;tag=a"),
        &format!("From: <sip:100@x>;tag=pbx\r\nTo: <sip:a@x>;tag=a{id}"),
    );
    pbx.send(from, bye.as_bytes());
    let bye = line.expect("BYE ");
    assert!(!bye.contains("\r\nRoute:"), "{bye}");
    assert_eq!(in_use(server), 0, "the PBX has let go");
    let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let kept: Vec<&str> = bye.split("\r\n").filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
    line.send(&format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", kept.join("\r\n")));
    pbx.expect("SIP/2.0 200 ");
}

#[test]
fn a_call_over_tcp_goes_to_a_pbx_over_udp_and_back_over_the_same_connection() {
    for (listeners, ip) in
        [(format!("{UDP}{TCP}"), "127.0.0.1"), (format!("{UDP}{TCP}").replace("127.0.0.1", "[::1]"), "[::1]")]
    {
        call_over_tcp(&listeners, ip);
    }
    // Between the families, too.
    call_over_tcp(&format!("{UDP}{}", TCP.replace("127.0.0.1", "[::1]")), "127.0.0.1");
}

fn call_over_tcp(listeners: &str, pbx_ip: &str) {
    let pbx = Peer::new(pbx_ip);
    let text = with_listeners(listeners, &format!("\"sip:{}\"", pbx.address), "")
        .replace("\"127.0.0.0/8\"", "\"127.0.0.0/8\", \"::1\"");
    let server = start(&text);
    let mut line = Line::tcp(server.listen()[1]);
    call_ended_by_pbx(&server, &mut line, "tcp", &pbx, "one");
    call_ended_by_pbx(&server, &mut line, "tcp", &pbx, "two");
    line.send("\r\n\r\n");
    assert_eq!(line.expect("\r\n"), "\r\n", "RFC 5626 4.4.1: a ping is answered");
    // Two requests in one segment, the second in two pieces.
    let options =
        over("tcp", &request("OPTIONS", &format!("sip:{}", server.listen()[1]), line.address, "o", "", 1, ""));
    let second = options.replace("Call-ID: o", "Call-ID: p").replace("z9hG4bKo", "z9hG4bKp");
    let (head, tail) = second.split_at(40);
    line.send(&format!("{options}{head}"));
    line.expect("SIP/2.0 200 ");
    line.send(tail);
    assert!(line.expect("SIP/2.0 200 ").contains("Call-ID: p"));
    server.stop();
}

#[test]
fn a_connection_that_speaks_no_sip_is_closed_and_harms_no_other() {
    let pbx = Peer::new("127.0.0.1");
    let limits = "[limits]\nconnections = 8\nconnections_per_source = 3\n";
    let server = start(&with_listeners(&format!("{limits}{UDP}{TCP}"), &format!("\"sip:{}\"", pbx.address), ""));
    let gate = server.listen()[1];
    let mut good = Line::tcp(gate);
    for junk in [
        "\u{16}\u{3}\u{1} hello",
        "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut bad = Line::tcp(gate);
        bad.send(junk);
        assert_eq!(bad.next("x"), None, "{junk}");
    }
    let others = [Line::tcp(gate), Line::tcp(gate)];
    let mut one_too_many = Line::tcp(gate);
    assert_eq!(one_too_many.next("x"), None, "the fourth of one address");
    call_ended_by_pbx(&server, &mut good, "tcp", &pbx, "one");
    drop(others);
    server.stop();
}

#[test]
fn an_answer_whose_connection_is_gone_goes_to_the_port_of_its_via() {
    let pbx = Peer::new("127.0.0.1");
    let server = start(&with_listeners(&format!("{UDP}{TCP}"), &format!("\"sip:{}\"", pbx.address), ""));
    let gate = server.listen()[1];
    let home = TcpListener::bind("127.0.0.1:0").expect("a port");
    let home_address = home.local_addr().expect("bound");
    let mut line = Line::tcp(gate);
    line.send(&over("tcp", &request("INVITE", &format!("sip:100@{gate}"), home_address, "gone", "", 1, "")));
    let (invite, from) = pbx.expect("INVITE ");
    drop(line);
    pbx.reply(&invite, "486 Busy Here", from);
    let (socket, _) = home.accept().expect("RFC 3261 18.2.2");
    let mut line = Line::over(socket, |socket| Box::new(socket));
    assert!(line.expect("SIP/2.0 486 ").contains("Call-ID: gone"));
    server.stop();
}

/// A PBX that listens on TCP: the next connection it gets.
fn accept(pbx: &TcpListener) -> Line {
    let (socket, _) = pbx.accept().expect("a connection");
    Line::over(socket, |socket| Box::new(socket))
}

pub(super) fn answer(line: &mut Line, text: &str, status: &str) {
    let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"];
    let kept: Vec<&str> = text.split("\r\n").filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
    line.send(&format!("SIP/2.0 {status}\r\n{}\r\nContent-Length: 0\r\n\r\n", kept.join("\r\n")));
}

#[test]
fn a_pbx_over_tcp_gets_one_connection_for_all_calls_and_a_new_one_when_it_closed_it() {
    let (caller, pbx) = (Peer::new("127.0.0.1"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let pbx_uri = format!("\"sip:{};transport=tcp\"", pbx.local_addr().expect("bound"));
    let server = start(&with_listeners(&format!("{UDP}{TCP}"), &pbx_uri, ""));
    let gate = server.listen()[0];
    let invite = |id: &str| {
        let text = request("INVITE", &format!("sip:100@{gate}"), caller.address, id, "", 1, "");
        // A datagram may do without it, a stream may not.
        caller.send(gate, text.replace("Content-Length: 0\r\n", "").as_bytes());
    };
    invite("one");
    let mut line = accept(&pbx);
    for id in ["one", "two"] {
        if id == "two" {
            invite(id);
        }
        let text = line.expect("INVITE ");
        assert!(text.contains("Via: SIP/2.0/TCP") && text.contains("Content-Length: 0\r\n"), "{text}");
        assert!(text.lines().next().expect("a line").contains(";transport=tcp"), "{text}");
        answer(&mut line, &text, "486 Busy Here");
        line.expect("ACK ");
        assert!(caller.expect("SIP/2.0 486 ").0.contains(&format!("Call-ID: {id}")));
    }
    drop(line);
    invite("three");
    let mut line = accept(&pbx);
    let text = line.expect("INVITE ");
    answer(&mut line, &text, "486 Busy Here");
    caller.expect("SIP/2.0 486 ");
    // Nobody there any more: the caller is told at once, not after 32 seconds.
    drop((line, pbx));
    invite("four");
    assert!(caller.expect("SIP/2.0 5").0.contains("Call-ID: four"));
    wait_for("no call is left", || server.node().gate.view().calls == 0);
    server.stop();
}

#[test]
fn a_request_too_large_for_udp_goes_over_tcp_and_over_udp_when_nobody_takes_it() {
    let caller = Peer::new("127.0.0.1");
    let pbx = Peer::new("127.0.0.1");
    let server = start(&with_listeners(&format!("{UDP}{TCP}"), &format!("\"sip:{}\"", pbx.address), ""));
    let gate = server.listen()[0];
    let invite = |id: &str| {
        let lines = format!("X-Large: {}\r\n", "x".repeat(1200));
        caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, id, "", 1, &lines).as_bytes());
    };
    invite("refused");
    let (text, from) = pbx.expect("INVITE ");
    assert!(text.contains("Via: SIP/2.0/UDP"), "TCP was refused: {text}");
    pbx.reply(&text, "486 Busy Here", from);
    caller.expect("SIP/2.0 486 ");
    let tcp = TcpListener::bind(pbx.address).expect("the same port");
    invite("taken");
    let mut line = accept(&tcp);
    let text = line.expect("INVITE ");
    assert!(text.contains("Via: SIP/2.0/TCP"), "RFC 3261 18.1.1: {text}");
    answer(&mut line, &text, "486 Busy Here");
    assert!(caller.expect("SIP/2.0 486 ").0.contains("Call-ID: taken"));
    server.stop();
}

// --- WebSocket -----------------------------------------------------------------------------------------------------------

/// A browser's side of a WebSocket: octets out are messages.
struct Web<S: Read + Write>(tungstenite::WebSocket<S>);

impl<S: Read + Write> Read for Web<S> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read() {
            Ok(WebMessage::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => Ok(0),
            Ok(message) => {
                let data = message.into_data();
                into[..data.len()].copy_from_slice(&data);
                Ok(data.len())
            }
            Err(tungstenite::Error::Io(error)) => Err(error),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}

impl<S: Read + Write> Write for Web<S> {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        let text = std::str::from_utf8(octets).expect("text");
        self.0.send(WebMessage::text(text)).map_err(std::io::Error::other)?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush().map_err(std::io::Error::other)
    }
}

fn web<S: Read + Write + Send + 'static>(
    stream: S,
    to: SocketAddr,
    subprotocol: Option<&'static str>,
) -> Option<Box<dyn Octets>> {
    let mut request = format!("ws://{to}/").into_client_request().expect("a request");
    if let Some(name) = subprotocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(name));
    }
    let (socket, response) = tungstenite::client(request, stream).ok()?;
    assert_eq!(response.headers().get("Sec-WebSocket-Protocol"), Some(&HeaderValue::from_static("sip")));
    Some(Box::new(Web(socket)))
}

#[test]
fn a_browser_calls_over_websocket_and_is_called_back_over_it() {
    let files = Certificates::new("web");
    files.sign("gate", vec![dns("gate.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    for (transport, host) in [("ws", "127.0.0.1"), ("wss", "127.0.0.1"), ("ws", "[::1]"), ("wss", "[::1]")] {
        let listener =
            if transport == "ws" { "[[listen]]\nuri = \"ws:127.0.0.1:0\"\n".into() } else { files.listener("wss", "") };
        let listeners = format!("{UDP}{}", listener.replace("127.0.0.1", host));
        let text = with_listeners(&listeners, &format!("\"sip:{}\"", pbx.address), "")
            .replace("from = [\"127.0.0.0/8\"]", "from = [\"127.0.0.0/8\", \"::1\"]");
        let server = start(&text);
        let gate = server.listen()[1];
        let mut line = Line::over(TcpStream::connect(gate).expect("connected"), |socket| {
            if transport == "ws" {
                return web(socket, gate, Some("sip")).expect("it opens");
            }
            let name = ServerName::try_from("gate.example.net").expect("a name");
            let tls = ClientConnection::new(Arc::new(files.client(None)), name).expect("a client");
            web(StreamOwned::new(tls, socket), gate, Some("sip")).expect("it opens")
        });
        // A browser has no address to tell (RFC 7118 5): its Contact is a name nobody can look up.
        let uri = format!("sip:100@{gate}");
        line.send(
            &over(transport, &request("INVITE", &uri, line.address, "w", "", 1, ""))
                .replace(&format!("sip:a@{}", line.address), "sip:a@df7jal23ls0d.invalid"),
        );
        let (invite, from) = pbx.expect("INVITE ");
        assert!(invite.contains(&format!("Via: SIP/2.0/{}", transport.to_uppercase())), "{invite}");
        pbx.reply(&invite, "200 OK", from);
        let ok = line.expect("SIP/2.0 200 ");
        let target = format!("sip:pbx@{}", pbx.address);
        line.send(&over(transport, &request("ACK", &target, line.address, "w", ";tag=pbx", 1, &route_of(&ok))));
        pbx.expect("ACK ");
        let recorded = invite.split("\r\n").filter(|line| line.starts_with("Record-Route:"));
        let routes: String = recorded.map(|line| format!("{}\r\n", line.replace("Record-Route", "Route"))).collect();
        let bye = request("BYE", "sip:a@df7jal23ls0d.invalid;transport=ws", pbx.address, "w", ";tag=a", 1, &routes)
            .replace(
                "From: <sip:a@x>;tag=aw\r\nTo: <sip:100@x>;tag=a",
                "From: <sip:100@x>;tag=pbx\r\nTo: <sip:a@x>;tag=aw",
            );
        pbx.send(from, bye.as_bytes());
        assert!(line.expect("BYE ").contains("Call-ID: w"));
        // Another protocol, or none, is turned away.
        for name in [None, Some("mqtt")] {
            if transport == "ws" {
                assert!(web(TcpStream::connect(gate).expect("connected"), gate, name).is_none(), "{name:?}");
            }
        }
        server.stop();
    }
}

#[test]
fn strangers_never_take_the_connections_kept_for_those_we_open() {
    let pbx = TcpListener::bind("127.0.0.1:0").expect("a port");
    let limits = "[limits]\nconnections = 8\nconnections_per_source = 8\n";
    let pbx_uri = format!("\"sip:{};transport=tcp\"", pbx.local_addr().expect("bound"));
    let server = start(&with_listeners(&format!("{limits}{UDP}{TCP}"), &pbx_uri, ""));
    let (udp, gate) = (server.listen()[0], server.listen()[1]);
    let mut lines: Vec<Line> = (0..7).map(|_| Line::tcp(gate)).collect();
    for line in &mut lines {
        // Each is there for certain before the next thing happens.
        line.send("\r\n\r\n");
        line.expect("\r\n");
    }
    assert_eq!(Line::tcp(gate).next("x"), None, "the eighth, for all that its address may have eight");
    let caller = Peer::new("127.0.0.1");
    caller.send(udp, request("INVITE", &format!("sip:100@{udp}"), caller.address, "k", "", 1, "").as_bytes());
    let mut callee = accept(&pbx);
    let invite = callee.expect("INVITE ");
    answer(&mut callee, &invite, "486 Busy Here");
    caller.expect("SIP/2.0 486 ");
    server.stop();
}
