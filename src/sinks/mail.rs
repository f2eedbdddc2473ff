//! E-mail: SMTP with STARTTLS (RFC 3207), TLS from the start (RFC 8314 §3.3), or neither on a host of one's own.

use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use super::{DeliveryError, Letter, reveal};
use crate::alert::Status;
use crate::config::{Mail, MailTls};

pub(super) async fn send(mail: &Mail, letters: &[Letter]) -> Result<String, DeliveryError> {
    let failed =
        |error: &dyn std::fmt::Display| DeliveryError::Unreachable(format!("{}:{}: {error}", mail.host, mail.port));
    let mut server =
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&*mail.host).port(mail.port).tls(tls(mail)?);
    if let Some((user, password)) = &mail.login {
        server = server.credentials(Credentials::new(user.to_string(), reveal(password)?));
    }
    let server = server.build();
    let mut said = String::new();
    for letter in letters {
        let answer = server.send(message(mail, letter)?).await.map_err(|error| {
            // RFC 5321 §4.2.1: a 5yz reply says that trying again would not help.
            let text = DeliveryError::Refused(format!("{}:{}: {error}", mail.host, mail.port));
            if error.is_permanent() { text } else { failed(&error) }
        })?;
        said = answer.message().collect::<Vec<_>>().join(" ");
        said = format!("{}:{}: {} {said}", mail.host, mail.port, answer.code());
    }
    Ok(said)
}

fn tls(mail: &Mail) -> Result<Tls, DeliveryError> {
    if mail.tls == MailTls::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(mail.host.to_string());
    if let Some(file) = &mail.ca_file {
        let failed = |error: &dyn std::fmt::Display| DeliveryError::Secret(format!("{file}: {error}"));
        let pem = std::fs::read(&**file).map_err(|error| failed(&error))?;
        parameters = parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| failed(&error))?);
    }
    let parameters = parameters.build_rustls().map_err(|error| DeliveryError::Unreachable(error.to_string()))?;
    Ok(if mail.tls == MailTls::FromStart { Tls::Wrapper(parameters) } else { Tls::Required(parameters) })
}

fn message(mail: &Mail, letter: &Letter) -> Result<Message, DeliveryError> {
    let wrong = |error: &dyn std::fmt::Display| DeliveryError::Refused(error.to_string());
    let mut message = Message::builder()
        .from(mail.from.parse().map_err(|error| wrong(&error))?)
        .subject(format!("{} ({})", letter.line().replace(['\r', '\n'], " "), letter.event))
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        message = message.to(to.parse().map_err(|error| wrong(&error))?);
    }
    let ended = match letter.status {
        Status::Resolved => format!("Over since {}; {} calls were refused meanwhile.\n", letter.at, letter.refused),
        Status::Raised | Status::Once => format!("What to do: {}.\n", letter.remedy()),
    };
    let Letter { node, event, severity, subject, message: text, since, .. } = letter;
    message
        .body(format!("{text}\n\nNode {node}, event {event} ({severity}), about {subject}, since {since}.\n{ended}"))
        .map_err(|error| wrong(&error))
}
