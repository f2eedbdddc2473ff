//! Syslog, RFC 5424, over UDP (RFC 5426) and TCP with counted octets (RFC 6587 §3.4.1).

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};

use super::{DeliveryError, Letter};
use crate::alert::Status;
use crate::config::Transport;

/// Enterprise number for examples (RFC 5612), until sipweir has one.
const ENTERPRISE: &str = "32473";

pub(super) async fn send(
    transport: Transport,
    address: &str,
    facility: u8,
    letters: &[Letter],
) -> Result<String, DeliveryError> {
    let failed = |error: std::io::Error| DeliveryError::Unreachable(format!("{address}: {error}"));
    let messages: Vec<String> = letters.iter().map(|letter| message(letter, facility)).collect();
    match transport {
        Transport::Udp => {
            let mut addresses = tokio::net::lookup_host(address).await.map_err(failed)?;
            let to = addresses.next().ok_or_else(|| DeliveryError::Unreachable(format!("{address}: no address")))?;
            let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(from).await.map_err(failed)?;
            for message in &messages {
                socket.send_to(message.as_bytes(), to).await.map_err(failed)?;
            }
            Ok(format!("sent to {to}; over UDP nobody says whether it arrived"))
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(address).await.map_err(failed)?;
            for message in &messages {
                let framed = format!("{} {message}", message.len());
                stream.write_all(framed.as_bytes()).await.map_err(failed)?;
            }
            stream.shutdown().await.map_err(failed)?;
            Ok(format!("taken by {address}"))
        }
    }
}

fn message(letter: &Letter, facility: u8) -> String {
    let severity = match (letter.status, letter.severity.as_str()) {
        (Status::Resolved, _) => 5,
        (_, "critical") => 2,
        (_, "warning") => 4,
        _ => 6,
    };
    let priority = u32::from(facility) * 8 + severity;
    let printable = |text: &str, most: usize| -> String {
        let text: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
        if text.is_empty() { "-".into() } else { text }
    };
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
    let (node, event) = (printable(&letter.node, 255), printable(&letter.event, 32));
    let (subject, status) = (escaped(&letter.subject), letter.status.label());
    format!(
        "<{priority}>1 {} {node} sipweir {} {event} [sipweir@{ENTERPRISE} subject=\"{subject}\" status=\"{status}\" \
         severity=\"{}\" refused=\"{}\"] \u{feff}{}",
        letter.at,
        std::process::id(),
        letter.severity,
        letter.refused,
        letter.message.replace(['\r', '\n'], " "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_rfc_5424_says() {
        let letter = Letter {
            event: "pool_exhausted".into(),
            severity: "critical".into(),
            status: Status::Raised,
            subject: "i\"v]r\\".into(),
            node: "gate 1".into(),
            message: "all 30\nchannels".into(),
            since: String::new(),
            at: "2026-11-22T12:00:00.123Z".into(),
            lasted_s: 0,
            refused: 3,
        };
        let expected = format!(
            "<130>1 2026-11-22T12:00:00.123Z gate1 sipweir {} pool_exhausted [sipweir@32473 subject=\"i\\\"v\\]r\\\\\" \
             status=\"raised\" severity=\"critical\" refused=\"3\"] \u{feff}all 30 channels",
            std::process::id()
        );
        assert_eq!(message(&letter, 16), expected);
    }
}
