//! An SNMPv2c trap (RFC 3416 §4.2.6) in BER, as deploy/SIPWEIR-MIB.txt describes it.

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::{DeliveryError, Letter, reveal};
use crate::alert::Status;
use crate::config::Secret;

/// `sipweirMIB`: below the enterprise number for examples (RFC 5612), until sipweir has one.
const BASE: [u32; 8] = [1, 3, 6, 1, 4, 1, 32473, 1];
/// `sysUpTime.0`, `snmpTrapOID.0` (RFC 3418).
const UPTIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];
const TRAP_OID: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
/// BER tags: universal, application (RFC 2578 §7.1), and the SNMPv2-Trap-PDU.
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const GAUGE: u8 = 0x42;
const TICKS: u8 = 0x43;
const TRAP: u8 = 0xa7;

pub(super) async fn send(
    address: SocketAddr,
    community: Option<&Secret>,
    letters: &[Letter],
) -> Result<String, DeliveryError> {
    let community = community.map_or_else(|| Ok("public".into()), reveal)?;
    let failed = |error: std::io::Error| DeliveryError::Unreachable(format!("{address}: {error}"));
    let from = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(from).await.map_err(failed)?;
    for letter in letters {
        socket.send_to(&trap(letter, &community), address).await.map_err(failed)?;
    }
    Ok(format!("sent to {address}; nobody says whether a trap arrived"))
}

fn trap(letter: &Letter, community: &str) -> Vec<u8> {
    let notification = match letter.status {
        Status::Raised => 1,
        Status::Resolved => 2,
        Status::Once => 3,
    };
    // What it says must fit one datagram of any network.
    let cut = |text: &str| text.chars().take(200).collect::<String>().into_bytes();
    let object = |number: u32| oid(&[&BASE[..], &[1, number, 0]].concat());
    let text = |number: u32, text: &str| sequence(&[object(number), element(OCTETS, &cut(text))]);
    let bindings = [
        sequence(&[oid(&UPTIME), element(TICKS, &number(letter.uptime_s.saturating_mul(100) & 0xffff_ffff))]),
        sequence(&[oid(&TRAP_OID), oid(&[&BASE[..], &[0, notification]].concat())]),
        text(1, &letter.node),
        text(2, &letter.event),
        text(3, &letter.severity),
        text(4, &letter.subject),
        text(5, &letter.message),
        sequence(&[object(6), element(GAUGE, &number(letter.refused))]),
        sequence(&[object(7), element(INTEGER, &number(u64::from(letter.number())))]),
    ];
    let pdu = [element(INTEGER, &[1]), element(INTEGER, &[0]), element(INTEGER, &[0]), sequence(&bindings)].concat();
    sequence(&[element(INTEGER, &[1]), element(OCTETS, community.as_bytes()), element(TRAP, &pdu)])
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// A number of 32 bits that is not negative, as short as it can be.
fn number(value: u64) -> Vec<u8> {
    let bytes = u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
    let start = bytes.iter().position(|octet| *octet != 0).unwrap_or(3);
    let sign = (bytes[start] & 0x80 != 0).then_some(0);
    sign.into_iter().chain(bytes[start..].iter().copied()).collect()
}

fn oid(numbers: &[u32]) -> Vec<u8> {
    let mut content = vec![(numbers[0] * 40 + numbers[1]) as u8];
    for number in &numbers[2..] {
        let groups = (0..5).rev().map(|group| (number >> (7 * group)) as u8 & 0x7f);
        let mut groups: Vec<u8> = groups.skip_while(|group| *group == 0).collect();
        if groups.is_empty() {
            groups.push(0);
        }
        let last = groups.len() - 1;
        content.extend(groups.iter().enumerate().map(|(at, group)| if at < last { group | 0x80 } else { *group }));
    }
    element(OID, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_what_ber_says() {
        assert_eq!(number(0), [0]);
        assert_eq!(number(127), [127]);
        assert_eq!(number(128), [0, 128]);
        assert_eq!(number(u64::MAX), [0, 255, 255, 255, 255]);
        assert_eq!(oid(&[1, 3, 6, 1, 4, 1, 32473]), [6, 8, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59]);
        assert_eq!(element(OCTETS, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(OCTETS, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}
