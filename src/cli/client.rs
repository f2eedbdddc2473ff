//! Asking a running node through its admin interface.

use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::admin::view::Problem;
use crate::exit::ExitError;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which node to ask.
#[derive(Args)]
pub(super) struct NodeArgs {
    /// The admin interface of the node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8060")]
    pub(super) admin: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl NodeArgs {
    /// Gets `path` with `query` and reads the answer.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, Option<&str>)]) -> Result<T, ExitError> {
        self.read(Request::get(with_query(path, query)))
    }

    /// Posts nothing to `path` and reads the answer.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ExitError> {
        self.read(Request::post(path))
    }

    fn read<T: DeserializeOwned>(&self, request: Builder) -> Result<T, ExitError> {
        let (status, body) = self.fetch(request)?;
        let answer = || String::from_utf8_lossy(&body).trim().to_owned();
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| ExitError::NoNode(format!("{} does not answer like sipweir: {error}", self.admin))),
            StatusCode::NOT_FOUND => {
                let problem =
                    serde_json::from_slice::<Problem>(&body).map_or_else(|_| answer(), |problem| problem.problem);
                Err(ExitError::NotFound(problem))
            }
            status => Err(ExitError::NoNode(format!("{} answers {status}: {}", self.admin, answer()))),
        }
    }

    fn fetch(&self, request: Builder) -> Result<(StatusCode, Bytes), ExitError> {
        let failed = |error: &dyn std::fmt::Display| {
            ExitError::NoNode(format!(
                "no node answers at {}: {error}; start one with `sipweir run`, or name another with --admin",
                self.admin
            ))
        };
        let base: Uri = self.admin.parse().map_err(|error| failed(&error))?;
        let authority = base.authority().ok_or_else(|| failed(&"it is no URL such as http://127.0.0.1:8060"))?.clone();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let exchange = async {
            let port = authority.port_u16().unwrap_or(80);
            let host = authority.host().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
            let connection = tokio::spawn(connection);
            let request = request
                .header("host", authority.as_str())
                .body(Empty::<Bytes>::new())
                .map_err(|error| failed(&error))?;
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
            connection.abort();
            Ok((status, body))
        };
        runtime
            .block_on(async { tokio::time::timeout(PATIENCE, exchange).await })
            .map_err(|_| failed(&"it takes too long"))?
    }
}

fn with_query(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let pairs: Vec<String> =
        query.iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped((*value)?)))).collect();
    format!("{path}?{}", pairs.join("&"))
}

/// Percent-encoding of a query value (RFC 3986 §2.1).
pub(super) fn escaped(value: &str) -> String {
    value
        .bytes()
        .map(|octet| match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(octet).to_string(),
            octet => format!("%{octet:02X}"),
        })
        .collect()
}
