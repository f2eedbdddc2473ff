//! A relay that parses nothing: what the kernel alone asks for the datagrams of a call.

use std::net::{SocketAddr, UdpSocket};

use crate::{CALLER, Outcome, PBX, PROXY};

/// What comes from the caller goes to the PBX, all else to the caller.
pub(crate) fn main() -> Outcome {
    let (caller, pbx): (SocketAddr, SocketAddr) = (CALLER.parse()?, PBX.parse()?);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_send_buffer_size(8 << 20)?;
    socket.bind(&PROXY.parse::<SocketAddr>()?.into())?;
    let socket = UdpSocket::from(socket);
    let mut buffer = vec![0; 65_536];
    loop {
        // A refused datagram of before is told here; nothing else can go wrong with a bound socket.
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        if socket.send_to(&buffer[..length], if source == caller { pbx } else { caller }).is_err() {
            continue;
        }
    }
}
