//! TLS: certificates from PEM files, and who the other side proved to be (RFC 5922).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::config::{ClientAuth, Config, ListenTls, TargetUri};
use crate::sip::Transport;

/// Names taken from one certificate.
const IDENTITIES_MAX: usize = 32;

/// A PEM file that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {file}: {what}")]
pub struct TlsError {
    /// The key that names the file.
    pub key: String,
    /// The file.
    pub file: Box<str>,
    /// What is wrong.
    pub what: String,
}

/// What the files of a configuration say, ready for connections to be made with.
#[derive(Default)]
pub struct Tls {
    /// Of each listener that speaks TLS.
    servers: Vec<Option<Arc<ServerConfig>>>,
    /// For connections we open: the same certificate is shown when one is asked for.
    clients: Vec<Option<Arc<ClientConfig>>>,
    /// Files with a certificate of ours, and when it ends, in seconds since 1970.
    certificates: Vec<(Arc<str>, i64)>,
}

impl Tls {
    /// Reads the files; every problem at once.
    pub fn load(config: &Config) -> Result<Self, Vec<TlsError>> {
        let provider = Arc::new(ring::default_provider());
        let mut problems = Vec::new();
        let mut tls = Self::default();
        let mut roots = None;
        for (at, listen) in config.listen.iter().enumerate() {
            let (mut server, mut client) = (None, None);
            if let Some(files) = &listen.tls {
                let roots = roots.get_or_insert_with(|| {
                    trusted(config.tls_ca.as_deref()).unwrap_or_else(|problem| {
                        problems.push(problem);
                        Arc::new(RootCertStore::empty())
                    })
                });
                match load_listener(at, files, &provider, roots) {
                    Ok(loaded) => {
                        (server, client) = (Some(Arc::new(loaded.0)), loaded.1.map(Arc::new));
                        if !tls.certificates.iter().any(|(file, _)| **file == *files.certificate) {
                            tls.certificates.extend(loaded.2.map(|ends| (Arc::from(&*files.certificate), ends)));
                        }
                    }
                    Err(problem) => problems.push(problem),
                }
            }
            tls.servers.push(server);
            tls.clients.push(client);
        }
        let is_secure = |uri: &&TargetUri| uri.transport.is_some_and(Transport::is_secure);
        let needs_roots = config.targets.iter().flat_map(|target| &target.uris).any(|uri| is_secure(&uri));
        if needs_roots
            && roots.as_ref().is_some_and(|roots: &Arc<RootCertStore>| roots.is_empty())
            && problems.is_empty()
        {
            problems.push(error(
                "tls.ca",
                config.tls_ca.as_deref().unwrap_or("the system's authorities"),
                "there is nobody to trust; install ca-certificates, or write [tls] ca = \"/etc/sipweir/authorities.pem\"",
            ));
        }
        if problems.is_empty() { Ok(tls) } else { Err(problems) }
    }

    /// The certificates shown, and when each ends, in seconds since 1970.
    pub fn certificates(&self) -> &[(Arc<str>, i64)] {
        &self.certificates
    }

    pub(super) fn server(&self, listener: usize) -> Option<&Arc<ServerConfig>> {
        self.servers.get(listener)?.as_ref()
    }

    pub(super) fn client(&self, listener: usize) -> Option<&Arc<ClientConfig>> {
        self.clients.get(listener)?.as_ref()
    }
}

fn error(key: impl Into<String>, file: &str, what: impl std::fmt::Display) -> TlsError {
    TlsError { key: key.into(), file: file.into(), what: what.to_string() }
}

fn certificates(key: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(error(key, file, "holds no certificate; it must be PEM")),
        Ok(found) => Ok(found),
        Err(problem) => Err(error(key, file, problem)),
    }
}

fn store(key: &str, file: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, file)? {
        roots.add(certificate).map_err(|problem| error(key, file, problem))?;
    }
    Ok(roots)
}

fn trusted(file: Option<&str>) -> Result<Arc<RootCertStore>, TlsError> {
    let roots = match file {
        Some(file) => store("tls.ca", file)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    Ok(Arc::new(roots))
}

fn load_listener(
    at: usize,
    files: &ListenTls,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
) -> Result<(ServerConfig, Option<ClientConfig>, Option<i64>), TlsError> {
    let named = |key: &str| format!("listen[{at}].{key}");
    let chain = certificates(&named("certificate"), &files.certificate)?;
    let ends = chain.first().and_then(ends_at);
    let key = PrivateKeyDer::from_pem_file(&*files.key).map_err(|problem| error(named("key"), &files.key, problem))?;
    let bad_pair = |problem: rustls::Error| error(named("certificate"), &files.certificate, problem);
    let verifier: Arc<dyn ClientCertVerifier> = match (&files.client_ca, files.client_auth) {
        (Some(file), ClientAuth::Request | ClientAuth::Require) => {
            let authorities = Arc::new(store(&named("client_ca"), file)?);
            let builder = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(provider));
            let builder =
                if files.client_auth == ClientAuth::Request { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|problem| error(named("client_ca"), file, problem))?
        }
        (Some(_) | None, _) => WebPkiClientVerifier::no_client_auth(),
    };
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(bad_pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(bad_pair)?;
    if roots.is_empty() {
        return Ok((server, None, ends));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|problem| error("tls.ca", "the trusted authorities", problem))?;
    let verifier = SipServerVerifier { verifier, roots: Arc::clone(roots), provider: Arc::clone(provider) };
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(bad_pair)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(bad_pair)?;
    Ok((server, Some(client), ends))
}

/// When a certificate ends, in seconds since 1970.
fn ends_at(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Verifies a server's certificate: its chain as anywhere, its name as RFC 5922 §7.3 says. What is expected at an address
/// without a name is that address.
#[derive(Debug)]
struct SipServerVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SipServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ServerName::DnsName(domain) = server_name else {
            return self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        let domain = domain.to_lowercase_owned();
        if identities(end_entity).iter().any(|identity| **identity == *domain.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// The SIP domains a certificate names, lower case (RFC 5922 §7.1): those of its `sip:` URIs; its DNS names only when it
/// has no such URI.
pub(super) fn identities(certificate: &CertificateDer<'_>) -> Box<[Box<str>]> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Box::default() };
    let domain = |uri: &str| {
        // A URI with a user names somebody, not a domain.
        let rest = uri.get(..4).filter(|scheme| scheme.eq_ignore_ascii_case("sip:")).map(|_| &uri[4..])?;
        let host = rest.split([';', '?', ':']).next().filter(|_| !rest.contains('@'))?;
        (!host.is_empty()).then(|| host.to_ascii_lowercase().into_boxed_str())
    };
    let is_sip = |uri: &&str| uri.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sip:"));
    let uris: Vec<&str> = certificate.valid_uri_names().filter(is_sip).take(IDENTITIES_MAX).collect();
    if !uris.is_empty() {
        return uris.into_iter().filter_map(domain).collect();
    }
    // §7.2: "Implementations MUST NOT match any form of wildcard".
    let names = certificate.valid_dns_names().filter(|name| !name.contains('*')).take(IDENTITIES_MAX);
    names.map(|name| name.to_ascii_lowercase().into_boxed_str()).collect()
}
