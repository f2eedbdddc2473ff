//! Syslog, RFC 5424, over UDP (RFC 5426), TCP with counted octets (RFC 6587 §3.4.1) and TLS (RFC 5425).

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{DeliveryError, Letter};
use crate::alert::Status;
use crate::config::SyslogTransport;

/// Enterprise number for examples (RFC 5612), until sipweir has one.
const ENTERPRISE: &str = "32473";

pub(super) async fn send(
    (transport, address): (SyslogTransport, &str),
    ca_file: Option<&str>,
    facility: u8,
    letters: &[Letter],
) -> Result<String, DeliveryError> {
    let failed = |error: std::io::Error| DeliveryError::Unreachable(format!("{address}: {error}"));
    let messages: Vec<String> = letters.iter().map(|letter| message(letter, facility)).collect();
    match transport {
        SyslogTransport::Udp => {
            let mut addresses = tokio::net::lookup_host(address).await.map_err(failed)?;
            let to = addresses.next().ok_or_else(|| DeliveryError::Unreachable(format!("{address}: no address")))?;
            let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(from).await.map_err(failed)?;
            for message in &messages {
                socket.send_to(message.as_bytes(), to).await.map_err(failed)?;
            }
            Ok(format!("sent to {to}; over UDP nobody says whether it arrived"))
        }
        SyslogTransport::Tcp => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            write(stream, &messages).await.map_err(failed)?;
            Ok(format!("taken by {address}"))
        }
        SyslogTransport::Tls => {
            let config = client_config(ca_file)?;
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| DeliveryError::Secret(format!("{address}: {error}")))?;
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(failed)?;
            write(stream, &messages).await.map_err(failed)?;
            Ok(format!("taken by {address}, over TLS"))
        }
    }
}

async fn write(mut stream: impl AsyncWrite + Unpin, messages: &[String]) -> std::io::Result<()> {
    for message in messages {
        let framed = format!("{} {message}", message.len());
        stream.write_all(framed.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Trusts the system's certificates, and those of `ca_file`.
pub(super) fn client_config(ca_file: Option<&str>) -> Result<ClientConfig, DeliveryError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let failed = |error: &dyn std::fmt::Display| DeliveryError::Secret(format!("{file}: {error}"));
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
            roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DeliveryError::Secret(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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
            uptime_s: 0,
        };
        let expected = format!(
            "<130>1 2026-11-22T12:00:00.123Z gate1 sipweir {} pool_exhausted [sipweir@32473 subject=\"i\\\"v\\]r\\\\\" \
             status=\"raised\" severity=\"critical\" refused=\"3\"] \u{feff}all 30 channels",
            std::process::id()
        );
        assert_eq!(message(&letter, 16), expected);
    }
}
