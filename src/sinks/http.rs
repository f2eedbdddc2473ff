//! Sinks behind HTTP: Alertmanager (API version 2) and webhooks.

use std::fmt::Write as _;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::syslog::client_config;
use super::{DeliveryError, Letter, RESEND, reveal};
use crate::alert::Status;
use crate::config::{Secret, Template};
use crate::vault::wall_now;

/// What an answer may say, in octets; the rest is not read.
const ANSWER_MAX: usize = 4096;
/// How long an alert of something that just happened stays.
const ONCE_STAYS: i64 = 3600;

/// A client for all of them.
pub(crate) struct Http {
    client: Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, String>,
}

impl Http {
    /// On a machine without certificates, https servers are not trusted; http needs none.
    pub(crate) fn new() -> Self {
        let client = client_config(None).map_err(|error| error.to_string()).map(|tls| {
            let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
            Client::builder(TokioExecutor::new()).build(connector)
        });
        Self { client }
    }

    async fn post(&self, url: &str, body: String, headers: &[(&str, String)]) -> Result<String, DeliveryError> {
        let uri: Uri = url.parse().map_err(|error| DeliveryError::Refused(format!("the URL: {error}")))?;
        // The path of a chat's webhook is its secret.
        let server = uri.authority().map(ToString::to_string).unwrap_or_default();
        let server = server.rsplit('@').next().unwrap_or_default().to_owned();
        let failed = |error: &dyn std::fmt::Display| DeliveryError::Unreachable(format!("{server}: {error}"));
        let client = self.client.as_ref().map_err(|error| failed(error))?;
        let mut request = Request::post(uri)
            .header("content-type", "application/json")
            .header("user-agent", concat!("sipweir/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::from(body)).map_err(|error| failed(&error))?;
        let answer = client.request(request).await.map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                text = inner.to_string();
                source = inner.source();
            }
            failed(&text)
        })?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_or_else(|_| String::new(), |body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
        let text = if said.is_empty() { format!("{server}: {status}") } else { format!("{server}: {status}: {said}") };
        match status {
            _ if status.is_success() => Ok(text),
            // It was read and is wrong. What else there is (no right, no such page) may pass.
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(DeliveryError::Refused(text))
            }
            _ => Err(DeliveryError::Unreachable(text)),
        }
    }

    /// Alerts are told again while they hold; one that is not told of for four times as long ends by itself.
    pub(super) async fn alertmanager(&self, url: &str, letters: &[Letter]) -> Result<String, DeliveryError> {
        let alerts: Vec<Value> = letters.iter().map(alert).collect();
        self.post(&format!("{url}/api/v2/alerts"), Value::from(alerts).to_string(), &[]).await
    }

    /// One POST a letter; the body is signed as it is sent.
    pub(super) async fn webhook(
        &self,
        url: &str,
        template: Template,
        secret: Option<&Secret>,
        letters: &[Letter],
    ) -> Result<String, DeliveryError> {
        let mut said = String::new();
        for letter in letters {
            let body = match template {
                Template::Json => letter.json(),
                Template::Slack => json!({ "text": letter.line() }).to_string(),
                Template::Teams => teams(letter).to_string(),
            };
            let mut headers = Vec::new();
            if let Some(secret) = secret {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reveal(secret)?.as_bytes());
                let mut text = "sha256=".to_owned();
                for octet in ring::hmac::sign(&key, body.as_bytes()).as_ref() {
                    write!(text, "{octet:02x}").expect("a String takes everything");
                }
                headers.push(("x-sipweir-signature", text));
            }
            said = self.post(url, body, &headers).await?;
        }
        Ok(said)
    }
}

fn alert(letter: &Letter) -> Value {
    // By the clock as it is now: the letter may have waited, and Alertmanager compares with its own.
    let later = |seconds: i64| {
        let at = jiff::Timestamp::from_second(wall_now().0.saturating_add(seconds));
        at.map_or_else(|_| letter.at.clone(), |at| at.to_string())
    };
    let ends = match letter.status {
        Status::Resolved => letter.at.clone(),
        Status::Raised => later(4 * RESEND.as_secs() as i64),
        Status::Once => later(ONCE_STAYS),
    };
    json!({
        "labels": {
            "alertname": letter.event,
            "severity": letter.severity,
            "subject": letter.subject,
            "node": letter.node,
            "job": "sipweir",
        },
        "annotations": {
            "summary": letter.message,
            "description": letter.remedy(),
            "refused_calls": letter.refused.to_string(),
        },
        "startsAt": letter.since,
        "endsAt": ends,
    })
}

fn teams(letter: &Letter) -> Value {
    let colour = match (letter.status, letter.severity.as_str()) {
        (Status::Resolved, _) => "good",
        (_, "critical") => "attention",
        (_, "warning") => "warning",
        _ => "default",
    };
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [
                    { "type": "TextBlock", "weight": "bolder", "wrap": true, "color": colour, "text": letter.line() },
                    { "type": "TextBlock", "isSubtle": true, "wrap": true, "text": letter.remedy() },
                ],
            },
        }],
    })
}
