//! SIP over TLS: certificates, trunks known by them, `sips`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sipweir::config::Config;
use sipweir::server::Server;

use super::streams::{Line, TCP, UDP, answer, call_ended_by_pbx, over, start, with_listeners};
use super::{Peer, in_use, request, route_of, wait_for};

/// A directory with an authority and what it signed; removed at the end.
pub(super) struct Certificates {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    pub(super) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sipweir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        std::fs::write(folder.join("ca.pem"), authority.pem()).expect("written");
        Self { folder, authority }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Signs a certificate for these names and writes it as NAME.pem and NAME.key.
    pub(super) fn sign(&self, name: &str, names: Vec<SanType>) {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("signed");
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).expect("written");
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    pub(super) fn listener(&self, transport: &str, keys: &str) -> String {
        let file = |name: &str| self.file(name).display().to_string();
        format!(
            "[[listen]]\nuri = \"{transport}:127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n{keys}\n",
            file("gate.pem"),
            file("gate.key")
        )
    }

    pub(super) fn client(&self, certificate: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).expect("a certificate")).expect("trusted");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).expect("a key");
                builder.with_client_auth_cert(vec![chain], key).expect("a pair")
            }
        }
    }

    /// Whoever connects may show a certificate of the authority.
    fn verifier(&self) -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).expect("a certificate")).expect("trusted");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.allow_unauthenticated().build().expect("a verifier")
    }

    /// The other side of a connection, with that certificate.
    fn server(&self, name: &str) -> rustls::ServerConnection {
        let chain = CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_client_cert_verifier(self.verifier())
            .with_single_cert(vec![chain], key)
            .expect("a pair");
        rustls::ServerConnection::new(Arc::new(config)).expect("a server")
    }

    /// The other side of that connection; `None` when the gate does not take the certificate.
    pub(super) fn serve_over(&self, socket: TcpStream, name: &str) -> Option<Line> {
        let mut tls = self.server(name);
        let mut socket = socket;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a timeout");
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).ok()?;
        }
        // TLS 1.3 lets us end our handshake before the other side has judged it: its first octets tell.
        let mut first = [0; 1];
        loop {
            match tls.reader().read(&mut first) {
                Ok(1) => break,
                Ok(_) => return None,
                Err(_) => {
                    let read = tls.read_tls(&mut socket).ok()?;
                    tls.process_new_packets().ok().filter(|_| read > 0)?;
                }
            }
        }
        Some(Line::over(socket, |socket| Box::new(StreamOwned::new(tls, socket))).after(&first))
    }

    /// The next connection a listener gets, over TLS.
    fn serve(&self, listener: &TcpListener, name: &str) -> Line {
        let (socket, _) = listener.accept().expect("a connection");
        Line::over(socket, |socket| Box::new(StreamOwned::new(self.server(name), socket)))
    }

    pub(super) fn connect(&self, to: SocketAddr, certificate: Option<&str>) -> Line {
        self.through(TcpStream::connect(to).expect("connected"), certificate)
    }

    /// A client without a certificate over that connection.
    pub(super) fn over(&self, socket: TcpStream) -> Line {
        self.through(socket, None)
    }

    fn through(&self, socket: TcpStream, certificate: Option<&str>) -> Line {
        let config = Arc::new(self.client(certificate));
        Line::over(socket, |socket| {
            let name = ServerName::try_from("gate.example.net").expect("a name");
            Box::new(StreamOwned::new(ClientConnection::new(config, name).expect("a client"), socket))
        })
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap_or(());
    }
}

pub(super) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("a name"))
}

#[test]
fn a_trunk_is_known_by_the_sip_domain_of_its_certificate() {
    let files = Certificates::new("mutual");
    files.sign("gate", vec![dns("gate.example.net")]);
    files.sign("carrier", vec![uri("sip:Carrier.example.net"), dns("host7.example.net")]);
    files.sign("host", vec![dns("host7.example.net")]);
    files.sign("user", vec![uri("sip:bob@carrier.example.net")]);
    files.sign("wild", vec![dns("*.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    let mutual = format!("client_ca = \"{}\"", files.file("ca.pem").display());
    let text =
        with_listeners(&format!("{UDP}{}", files.listener("tls", &mutual)), &format!("\"sip:{}\"", pbx.address), "")
            .replace("from = [\"127.0.0.0/8\"]", "tls = [\"carrier.example.net\"]")
            + &format!("[[trunk]]\nname = \"pbx\"\nfrom = [\"{}/32\"]\nmax_calls = 0\n", "127.0.0.9");
    let server = start(&text);
    let gate = server.listen()[1];
    let mut line = files.connect(gate, Some("carrier"));
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "one");
    for stranger in ["host", "user", "wild"] {
        let mut line = files.connect(gate, Some(stranger));
        line.send(&over("tls", &request("INVITE", &format!("sip:100@{gate}"), line.address, stranger, "", 1, "")));
        assert!(line.expect("SIP/2.0 ").starts_with("SIP/2.0 403 "), "{stranger}");
    }
    // Without a certificate there is no connection: the handshake ends in an alert.
    let config = Arc::new(files.client(None));
    let name = ServerName::try_from("gate.example.net").expect("a name");
    let socket = TcpStream::connect(gate).expect("connected");
    let mut bare = StreamOwned::new(ClientConnection::new(config, name).expect("a client"), socket);
    let refused = bare.write_all(b"\r\n\r\n").and_then(|()| bare.read(&mut [0; 16]));
    assert!(refused.is_err(), "{refused:?}");
    server.stop();
}

#[test]
fn sips_comes_and_goes_over_tls_only() {
    let files = Certificates::new("sips");
    files.sign("gate", vec![dns("gate.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    let server = start(&with_listeners(
        &format!("{UDP}{}{TCP}", files.listener("tls", "")),
        &format!("\"sip:{}\"", pbx.address),
        "",
    ));
    let (tls, tcp) = (server.listen()[1], server.listen()[2]);
    let mut line = files.connect(tls, None);
    for (method, scheme, id) in [("INVITE", "sips", "s"), ("INVITE", "SIPS", "u"), ("MESSAGE", "sips", "v")] {
        line.send(&over("tls", &request(method, &format!("{scheme}:100@{tls}"), line.address, id, "", 1, "")));
        assert!(
            line.expect("SIP/2.0 4").starts_with("SIP/2.0 480 "),
            "{method} {scheme}: the PBX is reached by UDP only"
        );
    }
    let mut open = Line::tcp(tcp);
    open.send(&over("tcp", &request("INVITE", &format!("sips:100@{tcp}"), open.address, "t", "", 1, "")));
    assert!(open.expect("SIP/2.0 480 ").contains("Warning: 380 "), "RFC 5630");
    server.stop();
}

/// The certificate a listener shows.
fn shown(files: &Certificates, to: SocketAddr) -> Vec<u8> {
    let config = Arc::new(files.client(None));
    let mut tls =
        ClientConnection::new(config, ServerName::try_from("gate.example.net").expect("a name")).expect("a client");
    let mut socket = TcpStream::connect(to).expect("connected");
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("a handshake");
    }
    tls.peer_certificates().expect("shown")[0].to_vec()
}

#[test]
fn certificates_are_read_again_with_the_configuration_and_bad_ones_leave_the_old_in_force() {
    let files = Certificates::new("reload");
    files.sign("gate", vec![dns("gate.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    let text = with_listeners(&format!("{UDP}{}", files.listener("tls", "")), &format!("\"sip:{}\"", pbx.address), "");
    let file = files.file("sipweir.toml");
    std::fs::write(&file, &text).expect("written");
    let config = Config::parse(&text).expect("valid");
    let server = Server::start(config, Some(Path::new(&file))).unwrap_or_else(|error| panic!("{error}"));
    let gate = server.listen()[1];
    // Ports were chosen by the system; a reload must name them.
    std::fs::write(
        &file,
        text.replacen("127.0.0.1:0", &server.listen()[0].to_string(), 1).replacen("127.0.0.1:0", &gate.to_string(), 1),
    )
    .expect("written");
    let mut line = files.connect(gate, None);
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "before");
    let first = shown(&files, gate);
    files.sign("gate", vec![dns("gate.example.net")]);
    server.handle().reload().expect("reloaded");
    wait_for("the new certificate is shown", || shown(&files, gate) != first);
    let second = shown(&files, gate);
    std::fs::write(files.file("gate.key"), "no key").expect("written");
    let refused = server.handle().reload().expect_err("no key").to_string();
    assert!(refused.contains("listen[1].key") && refused.contains("gate.key"), "{refused}");
    assert_eq!(shown(&files, gate), second);
    // Connections that were open know nothing of it.
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "after");
    server.stop();
}

#[test]
fn a_pbx_over_tls_must_show_a_certificate_for_its_name() {
    let cases = [
        ("pbx.example.net", vec![dns("pbx.example.net")], true),
        ("PBX.example.net", vec![dns("a.example.net"), dns("pbx.EXAMPLE.net")], true),
        ("other.example.net", vec![dns("pbx.example.net")], false),
        // RFC 5922 7.2: "Implementations MUST NOT match any form of wildcard".
        ("pbx.example.net", vec![dns("*.example.net")], false),
        // 7.1: a sip: URI names the domain; a DNS name counts only where there is no such URI.
        ("pbx.example.net", vec![uri("sip:pbx.example.net")], true),
        ("host.example.net", vec![uri("sip:pbx.example.net"), dns("host.example.net")], false),
        // A URI with a user names somebody, however it is written.
        ("pbx.example.net", vec![uri("sip:pbx.example.net;x@users.example")], false),
        ("pbx.example.net", vec![uri("sip:pbx.example.net:pw@users.example")], false),
        ("pbx.example.net", vec![uri("sip:pbx.example.net?x@users.example")], false),
    ];
    for (at, (name, shown, answered)) in cases.into_iter().enumerate() {
        let files = Certificates::new(&format!("pbx-{at}"));
        files.sign("gate", vec![dns("gate.example.net")]);
        files.sign("pbx", shown);
        let (caller, pbx) = (Peer::new("127.0.0.1"), TcpListener::bind("127.0.0.1:0").expect("a port"));
        let ca = format!("[tls]\nca = \"{}\"\n", files.file("ca.pem").display());
        let pbx_uri = format!("\"sips:{}\"", pbx.local_addr().expect("bound"));
        let listeners = format!("{ca}{UDP}{}", files.listener("tls", ""));
        let server = start(&with_listeners(&listeners, &pbx_uri, &format!("tls_name = \"{name}\"")));
        let gate = server.listen()[0];
        caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, "t", "", 1, "").as_bytes());
        let (socket, _) = pbx.accept().expect("a connection");
        let tls = files.server("pbx");
        if answered {
            let mut line = Line::over(socket, |socket| Box::new(StreamOwned::new(tls, socket)));
            let text = line.expect("INVITE ");
            assert!(text.contains("Via: SIP/2.0/TLS"), "{text}");
            answer(&mut line, &text, "486 Busy Here");
            caller.expect("SIP/2.0 486 ");
        } else {
            let mut stream = StreamOwned::new(tls, socket);
            assert!(stream.read(&mut [0; 64]).is_err(), "the gate hangs up on a stranger");
            caller.expect("SIP/2.0 5");
        }
        server.stop();
    }
}

#[test]
fn a_pbx_that_asks_who_connects_is_shown_the_listener_s_certificate() {
    let files = Certificates::new("shown");
    files.sign("gate", vec![dns("gate.example.net")]);
    files.sign("pbx", vec![dns("pbx.example.net")]);
    let (caller, pbx) = (Peer::new("127.0.0.1"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let ca = format!("[tls]\nca = \"{}\"\n", files.file("ca.pem").display());
    let pbx_uri = format!("\"sips:{}\"", pbx.local_addr().expect("bound"));
    let listeners = format!("{ca}{UDP}{}", files.listener("tls", ""));
    let server = start(&with_listeners(&listeners, &pbx_uri, "tls_name = \"pbx.example.net\""));
    let gate = server.listen()[0];
    caller.send(gate, request("INVITE", &format!("sip:100@{gate}"), caller.address, "t", "", 1, "").as_bytes());
    let (mut socket, _) = pbx.accept().expect("a connection");
    let mut tls = files.server("pbx");
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("a handshake");
    }
    let shown = tls.peer_certificates().expect("one is shown")[0].clone();
    assert_eq!(shown, CertificateDer::from_pem_file(files.file("gate.pem")).expect("a certificate"));
    server.stop();
}

#[test]
fn a_call_over_tls_and_ipv6_goes_to_a_pbx_over_udp_and_ipv4() {
    let files = Certificates::new("six");
    files.sign("gate", vec![dns("gate.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    let six = files.listener("tls", "").replace("127.0.0.1", "[::1]");
    let text = with_listeners(&format!("{UDP}{six}"), &format!("\"sip:{}\"", pbx.address), "")
        .replace("from = [\"127.0.0.0/8\"]", "from = [\"127.0.0.0/8\", \"::1\"]");
    let server = start(&text);
    let mut line = files.connect(server.listen()[1], None);
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "six");
    server.stop();
}

#[test]
fn a_certificate_that_is_asked_for_but_not_shown_leaves_the_caller_to_its_address() {
    let files = Certificates::new("asked");
    files.sign("gate", vec![dns("gate.example.net")]);
    files.sign("carrier", vec![dns("carrier.example.net")]);
    files.sign("other", vec![dns("other.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    let asks = format!("client_ca = \"{}\"\nclient_auth = \"request\"", files.file("ca.pem").display());
    let listeners = format!("{UDP}{}", files.listener("tls", &asks));
    // One trunk is known by both: it must come from there, and show that.
    let text = with_listeners(&listeners, &format!("\"sip:{}\"", pbx.address), "")
        .replace("from = [\"127.0.0.0/8\"]", "from = [\"127.0.0.0/8\"]\ntls = [\"carrier.example.net\"]");
    let server = start(&text);
    let gate = server.listen()[1];
    let mut line = files.connect(gate, Some("carrier"));
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "shown");
    for (certificate, id) in [(Some("other"), "other"), (None, "bare")] {
        let mut line = files.connect(gate, certificate);
        line.send(&over("tls", &request("INVITE", &format!("sip:100@{gate}"), line.address, id, "", 1, "")));
        assert!(line.expect("SIP/2.0 ").starts_with("SIP/2.0 403 "), "{id}");
    }
    server.stop();
    // A trunk known by its address needs none.
    let server = start(&with_listeners(&listeners, &format!("\"sip:{}\"", pbx.address), ""));
    let mut line = files.connect(server.listen()[1], None);
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "address");
    server.stop();
}

#[test]
fn a_sips_call_is_secure_from_end_to_end() {
    let files = Certificates::new("end-to-end");
    files.sign("gate", vec![dns("gate.example.net")]);
    files.sign("pbx", vec![dns("pbx.example.net")]);
    let pbx = TcpListener::bind("127.0.0.1:0").expect("a port");
    let pbx_address = pbx.local_addr().expect("bound");
    let ca = format!("[tls]\nca = \"{}\"\n", files.file("ca.pem").display());
    let listeners = format!("{ca}{UDP}{}", files.listener("tls", ""));
    let name = "tls_name = \"pbx.example.net\"";
    let server = start(&with_listeners(&listeners, &format!("\"sip:{pbx_address};transport=tls\""), name));
    let gate = server.listen()[1];
    let mut caller = files.connect(gate, None);
    let secure = |line: &Line, text: String| {
        over("tls", &text).replace(
            &format!("Contact: <sip:a@{};transport=tls>", line.address),
            &format!("Contact: <sips:a@{}>", line.address),
        )
    };
    caller.send(&secure(&caller, request("INVITE", &format!("sips:100@{gate}"), caller.address, "e", "", 1, "")));
    let mut callee = files.serve(&pbx, "pbx");
    let invite = callee.expect("INVITE ");
    assert!(invite.starts_with("INVITE sips:100@") && invite.contains("Via: SIP/2.0/TLS"), "{invite}");
    let recorded: Vec<&str> = invite.split("\r\n").filter(|line| line.starts_with("Record-Route:")).collect();
    assert!(!recorded.is_empty() && recorded.iter().all(|line| line.contains("<sips:")), "RFC 3261 16.6: {recorded:?}");
    let tagged = invite.replace("\r\nTo: <sip:100@x>", "\r\nTo: <sip:100@x>;tag=pbx");
    answer(&mut callee, &tagged, &format!("200 OK\r\nContact: <sips:pbx@{pbx_address}>"));
    let ok = caller.expect("SIP/2.0 200 ");
    assert_eq!(in_use(&server), 1);
    let target = format!("sips:pbx@{pbx_address}");
    caller.send(&secure(&caller, request("ACK", &target, caller.address, "e", ";tag=pbx", 1, &route_of(&ok))));
    callee.expect("ACK ");
    caller.send(&secure(&caller, request("BYE", &target, caller.address, "e", ";tag=pbx", 2, &route_of(&ok))));
    let bye = callee.expect("BYE ");
    assert!(bye.starts_with("BYE sips:pbx@"), "{bye}");
    answer(&mut callee, &bye, "200 OK");
    caller.expect("SIP/2.0 200 ");
    wait_for("the channel is free", || in_use(&server) == 0);
    server.stop();
}

// kamailio #4185: a worker blocked in a TLS handshake that went no further.
#[test]
fn b7_a_handshake_that_goes_no_further_delays_nobody_else() {
    let files = Certificates::new("blocked");
    files.sign("gate", vec![dns("gate.example.net")]);
    let pbx = Peer::new("127.0.0.1");
    let listeners = format!("{UDP}{}", files.listener("tls", ""));
    let server = start(&with_listeners(&listeners, &format!("\"sip:{}\"", pbx.address), ""));
    let gate = server.listen()[1];
    let stalled: Vec<TcpStream> = (0..20)
        .map(|at| {
            let mut socket = TcpStream::connect(gate).expect("connected");
            socket.write_all(&b"\x16\x03\x01\x02\x00\x01\x00"[..at % 8]).expect("sent");
            socket
        })
        .collect();
    let mut line = files.connect(gate, None);
    call_ended_by_pbx(&server, &mut line, "tls", &pbx, "beside");
    drop(stalled);
    server.stop();
}
