//! The load generator's sockets: datagrams, or connections with TLS or without.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;
use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use crate::{Outcome, PROXY};

/// Connections of the callers; calls take them in turn.
const CALLER_CONNECTIONS: usize = 4;

/// What a call is carried by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        match text {
            "udp" => Ok(Self::Udp),
            "tcp" => Ok(Self::Tcp),
            "tls" => Ok(Self::Tls),
            other => Err(format!("no such transport: {other}; there are udp, tcp and tls").into()),
        }
    }

    /// As a Via says it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// As a URI says it.
    pub(crate) const fn parameter(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
        }
    }
}

/// Where a message came from, or goes: an address, or a connection.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    Address(SocketAddr),
    Connection(usize),
}

/// Everything one side hears and sends by.
pub(crate) enum Wire {
    Udp { socket: UdpSocket, buffer: Vec<u8> },
    Streams(Streams),
}

pub(crate) struct Streams {
    listener: Option<TcpListener>,
    server: Option<Arc<ServerConfig>>,
    connections: Vec<Stream>,
    first_token: usize,
}

struct Stream {
    socket: TcpStream,
    tls: Option<Connection>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Wire {
    /// The callers: connected to the proxy, when there are connections.
    pub(crate) fn caller(transport: Transport, address: &str, folder: &Path) -> Outcome<Self> {
        if transport == Transport::Udp {
            return Self::datagrams(address);
        }
        let config = if transport == Transport::Tls {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
            Some(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
        } else {
            None
        };
        let proxy: SocketAddr = PROXY.parse()?;
        let connections = (0..CALLER_CONNECTIONS).map(|_| {
            let mut socket = std::net::TcpStream::connect(proxy)?;
            socket.set_nodelay(true)?;
            let tls = match &config {
                Some(config) => {
                    let mut tls = ClientConnection::new(Arc::clone(config), ServerName::from(proxy.ip()))?;
                    tls.complete_io(&mut socket)?;
                    Some(tls.into())
                }
                None => None,
            };
            socket.set_nonblocking(true)?;
            Ok(Stream { socket: TcpStream::from_std(socket), tls, input: Vec::new(), output: Vec::new() })
        });
        let connections = connections.collect::<Outcome<Vec<_>>>()?;
        Ok(Self::Streams(Streams { listener: None, server: None, connections, first_token: 0 }))
    }

    /// The PBX: it listens.
    pub(crate) fn pbx(transport: Transport, address: &str, folder: &Path) -> Outcome<Self> {
        if transport == Transport::Udp {
            return Self::datagrams(address);
        }
        let listener = Some(TcpListener::bind(address.parse()?)?);
        let server = if transport == Transport::Tls {
            let chain = vec![CertificateDer::from_pem_file(folder.join("certificate.pem"))?];
            let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
            Some(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?))
        } else {
            None
        };
        Ok(Self::Streams(Streams { listener, server, connections: Vec::new(), first_token: 0 }))
    }

    fn datagrams(address: &str) -> Outcome<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        socket.set_recv_buffer_size(8 << 20)?;
        socket.set_send_buffer_size(8 << 20)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.parse::<SocketAddr>()?.into())?;
        Ok(Self::Udp { socket: UdpSocket::from_std(socket.into()), buffer: vec![0; 65_536] })
    }

    /// Whether nothing is lost on the way.
    pub(crate) const fn is_reliable(&self) -> bool {
        matches!(self, Self::Streams(_))
    }

    /// Has the poll watch it, under tokens from `first` on.
    pub(crate) fn register(&mut self, registry: &Registry, first: usize) -> Outcome {
        match self {
            Self::Udp { socket, .. } => registry.register(socket, Token(first), Interest::READABLE)?,
            Self::Streams(streams) => {
                streams.first_token = first;
                if let Some(listener) = &mut streams.listener {
                    registry.register(listener, Token(first), Interest::READABLE)?;
                }
                for (at, stream) in streams.connections.iter_mut().enumerate() {
                    registry.register(
                        &mut stream.socket,
                        Token(first + 1 + at),
                        Interest::READABLE | Interest::WRITABLE,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// The peer the call with this number goes by.
    pub(crate) fn peer(&self, at: usize, proxy: SocketAddr) -> Peer {
        match self {
            Self::Udp { .. } => Peer::Address(proxy),
            Self::Streams(streams) => Peer::Connection(at % streams.connections.len().max(1)),
        }
    }

    /// Sends a message. What the kernel will not take is sent again by its timer, or when the connection has room.
    pub(crate) fn send(&mut self, peer: Peer, message: &[u8]) {
        match (self, peer) {
            (Self::Udp { socket, .. }, Peer::Address(to)) => drop(socket.send_to(message, to)),
            (Self::Streams(streams), Peer::Connection(at)) => {
                if let Some(stream) = streams.connections.get_mut(at) {
                    stream.output.extend_from_slice(message);
                    stream.flush();
                }
            }
            _ => {}
        }
    }

    /// What came for `token`: each message and who sent it.
    pub(crate) fn receive(&mut self, registry: &Registry, token: Token) -> Outcome<Vec<(Vec<u8>, Peer)>> {
        let mut got = Vec::new();
        match self {
            Self::Udp { socket, buffer } => loop {
                match socket.recv_from(buffer) {
                    Ok((length, source)) => got.push((buffer[..length].to_vec(), Peer::Address(source))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(got),
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(error) => return Err(error.into()),
                }
            },
            Self::Streams(streams) => {
                let Some(at) = (token.0 - streams.first_token).checked_sub(1) else {
                    streams.accept(registry)?;
                    return Ok(got);
                };
                let stream = streams.connections.get_mut(at).ok_or("an event of no connection")?;
                stream.flush();
                stream.fill()?;
                while let Some(message) = stream.message() {
                    got.push((message, Peer::Connection(at)));
                }
                stream.flush();
                Ok(got)
            }
        }
    }
}

impl Streams {
    fn accept(&mut self, registry: &Registry) -> Outcome {
        let Some(listener) = &self.listener else { return Ok(()) };
        loop {
            let (mut socket, _) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            socket.set_nodelay(true)?;
            let token = Token(self.first_token + 1 + self.connections.len());
            registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
            let tls = match &self.server {
                Some(config) => Some(ServerConnection::new(Arc::clone(config))?.into()),
                None => None,
            };
            self.connections.push(Stream { socket, tls, input: Vec::new(), output: Vec::new() });
        }
    }
}

impl Stream {
    /// Writes what waits, as far as the kernel takes it.
    fn flush(&mut self) {
        match &mut self.tls {
            Some(tls) => {
                if !self.output.is_empty() && !tls.is_handshaking() && tls.writer().write_all(&self.output).is_ok() {
                    self.output.clear();
                }
                while tls.wants_write() && tls.write_tls(&mut self.socket).is_ok() {}
            }
            None => {
                while let Ok(length @ 1..) = self.socket.write(&self.output) {
                    self.output.drain(..length);
                }
            }
        }
    }

    /// Reads what is there.
    fn fill(&mut self) -> Outcome {
        let mut buffer = [0; 65_536];
        loop {
            let read = match &mut self.tls {
                Some(tls) => tls.read_tls(&mut self.socket),
                None => self.socket.read(&mut buffer),
            };
            match read {
                Ok(0) => return Ok(()),
                Ok(length) => match &mut self.tls {
                    Some(tls) => {
                        tls.process_new_packets()?;
                        while let Ok(length @ 1..) = tls.reader().read(&mut buffer) {
                            self.input.extend_from_slice(&buffer[..length]);
                        }
                    }
                    None => self.input.extend_from_slice(&buffer[..length]),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next whole message.
    fn message(&mut self) -> Option<Vec<u8>> {
        let start = self.input.iter().position(|octet| !b"\r\n".contains(octet))?;
        let head = memmem::find(&self.input[start..], b"\r\n\r\n")? + 4;
        let name = b"\r\nContent-Length: ";
        let field = memmem::find(&self.input[start..start + head], name).map_or(0, |at| start + at + name.len());
        let digits = self.input[field..].iter().take_while(|octet| octet.is_ascii_digit());
        let body = digits.fold(0, |length, digit| length * 10 + usize::from(digit & 15));
        let end = start + head + body;
        let message = self.input.get(start..end)?.to_vec();
        self.input.drain(..end);
        Some(message)
    }
}
