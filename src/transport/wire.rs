//! Octets of one connection, through TLS where it has any. Never blocks: what cannot be done now is `WouldBlock`.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use rustls::Connection as Tls;

use super::tls;

/// Octets TLS holds for a socket that takes no more.
const TLS_BUFFER: usize = 64 * 1024;

pub(super) struct Wire {
    pub(super) socket: TcpStream,
    tls: Option<Box<Tls>>,
    /// Octets it may still take from the socket before others get their turn.
    budget: usize,
    /// Octets given out so far: without what TLS adds.
    given: usize,
}

impl Wire {
    pub(super) fn new(socket: TcpStream, tls: Option<Tls>) -> Self {
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(Some(TLS_BUFFER));
            Box::new(tls)
        });
        Self { socket, tls, budget: 0, given: 0 }
    }

    /// Lets it take so many octets from the socket, whatever they are: records without data and empty frames count, too.
    pub(super) fn grant(&mut self, octets: usize) {
        self.budget = octets;
    }

    /// Octets it may still take. At 0 reading is `WouldBlock` though more may be there.
    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// Octets given out since this was asked last.
    pub(super) fn take_given(&mut self) -> usize {
        std::mem::take(&mut self.given)
    }

    /// Goes on with the handshake; says whether it is done.
    pub(super) fn shake_hands(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        loop {
            send(tls, &mut self.socket)?;
            if !tls.is_handshaking() {
                return Ok(true);
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            digest(tls, &mut self.socket)?;
        }
    }

    /// The SIP domains of the other side's certificate.
    pub(super) fn identities(&self) -> Box<[Box<str>]> {
        let certificates = self.tls.as_ref().and_then(|tls| tls.peer_certificates());
        certificates.and_then(<[_]>::first).map(tls::identities).unwrap_or_default()
    }

    /// Says good-bye, as far as the socket takes it.
    pub(super) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection ends either way.
            send(tls, &mut self.socket).unwrap_or(());
        }
    }
}

/// Takes in what was read. A fault is told to the other side before it ends the connection (RFC 8446 §6.2).
fn digest(tls: &mut Tls, socket: &mut TcpStream) -> io::Result<()> {
    if let Err(error) = tls.process_new_packets() {
        send(tls, socket).unwrap_or(());
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(())
}

/// Sends what TLS has for the socket, as far as it goes.
fn send(tls: &mut Tls, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Wire {
    fn take_in(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            if self.budget == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let length = self.socket.read(into)?;
            self.budget = self.budget.saturating_sub(length);
            return Ok(length);
        };
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.budget == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let length = tls.read_tls(&mut self.socket)?;
            if length == 0 {
                return Ok(0);
            }
            self.budget = self.budget.saturating_sub(length);
            digest(tls, &mut self.socket)?;
            send(tls, &mut self.socket)?;
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.take_in(into)?;
        self.given += length;
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(octets) };
        loop {
            let taken = tls.writer().write(octets)?;
            send(tls, &mut self.socket)?;
            if taken > 0 || octets.is_empty() {
                return Ok(taken);
            }
            // It was full. What the socket just took made room: there will be no further notice of that.
            if tls.wants_write() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        send(tls, &mut self.socket)?;
        if tls.wants_write() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}
