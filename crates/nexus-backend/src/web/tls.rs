//! TLS as a guest's own context asks for it, done on the host: whom to trust, which name to expect, which protocols
//! to offer. Verdicts come as OpenSSL words them, since that is what the guest's packages show.

use super::x509;
use crate::sigv4::amz_date;
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme, SupportedProtocolVersion, crypto,
};

/// Sets of authorities that guests sent, and configurations made from settings, that are kept.
const MAX_SETS: usize = 64;
const MAX_CONFIGS: usize = 256;
/// Largest set of authorities in bytes (Mozilla's has 200 KiB), and certificates in it.
pub const MAX_SET_BYTES: usize = 1 << 20;
const MAX_SET: usize = 1024;
const MAX_ALPN: usize = 8;

/// A guest's TLS settings (docs/abi.md).
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name to send and to expect; none: nothing is sent.
    pub server_name: Option<String>,
    pub verify: bool,
    pub check_hostname: bool,
    /// SHA-256 (hex) of the authorities to trust.
    pub authorities: Option<String>,
    /// The host's authorities too.
    #[serde(default)]
    pub host_authorities: bool,
    #[serde(default)]
    pub alpn: Vec<String>,
    #[serde(default)]
    pub tls12: bool,
    #[serde(default)]
    pub tls13: bool,
}

impl Settings {
    /// # Errors
    /// What is wrong with them.
    pub fn name(&self) -> Result<ServerName<'static>, String> {
        if self.alpn.len() > MAX_ALPN || self.alpn.iter().any(|p| p.is_empty() || p.len() > 255) {
            return Err("the list of application protocols is too long".to_owned());
        }
        match &self.server_name {
            // An address is never sent as a name.
            None => Ok(ServerName::IpAddress(
                std::net::IpAddr::from([0, 0, 0, 0]).into(),
            )),
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| format!("{name:.100} cannot be the name of a TLS server")),
        }
    }
}

type Authorities = Arc<Vec<CertificateDer<'static>>>;
type Configs = HashMap<(Arc<str>, Settings), Arc<ClientConfig>>;

/// What TLS connections of all functions are made from.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    native: Authorities,
    sets: Mutex<VecDeque<(String, Authorities)>>,
    configs: Mutex<Configs>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            provider: Arc::new(ring::default_provider()),
            native: Arc::new(rustls_native_certs::load_native_certs().certs),
            sets: Mutex::default(),
            configs: Mutex::default(),
        }
    }
}

impl Tls {
    /// Whether a set of authorities is at hand.
    pub fn knows(&self, digest: &str) -> bool {
        self.set(digest).is_some()
    }

    fn set(&self, digest: &str) -> Option<Authorities> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, set) = sets.iter().find(|(known, _)| known == digest)?;
        Some(Arc::clone(set))
    }

    /// Take up a set: concatenated certificates.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn learn(&self, digest: &str, bytes: &[u8]) -> Result<(), String> {
        let hash = ::ring::digest::digest(&::ring::digest::SHA256, bytes);
        let actual: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        if actual != digest || bytes.len() > MAX_SET_BYTES {
            return Err("the authorities are not what their digest says".to_owned());
        }
        let set = x509::documents(bytes)
            .filter(|set| set.len() <= MAX_SET)
            .ok_or("the authorities are no certificates")?;
        let set = set.into_iter().map(|c| CertificateDer::from(c.to_vec()));
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.truncate(MAX_SETS - 1);
        sets.push_front((actual, Arc::new(set.collect())));
        Ok(())
    }

    /// The connector for a function's settings. Sessions are resumed within these alone.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn connector(
        &self,
        function: &Arc<str>,
        settings: &Settings,
    ) -> Result<TlsConnector, String> {
        let key = (Arc::clone(function), settings.clone());
        let known = || self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known().get(&key) {
            return Ok(TlsConnector::from(Arc::clone(config)));
        }
        let config = Arc::new(self.config(settings)?);
        let mut configs = known();
        if configs.len() >= MAX_CONFIGS {
            configs.clear();
        }
        configs.insert(key, Arc::clone(&config));
        Ok(TlsConnector::from(config))
    }

    fn config(&self, settings: &Settings) -> Result<ClientConfig, String> {
        let authorities = match &settings.authorities {
            None => Authorities::default(),
            Some(digest) => self.set(digest).ok_or("the authorities are not known")?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().cloned());
        if settings.host_authorities {
            roots.add_parsable_certificates(self.native.iter().cloned());
        }
        let provider = Arc::clone(&self.provider);
        let chains = if roots.is_empty() {
            None
        } else {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .ok()
        };
        let verifier = Verifier {
            chains,
            authorities,
            verify: settings.verify,
            check_hostname: settings.check_hostname,
            provider: Arc::clone(&provider),
        };
        let versions: Vec<&'static SupportedProtocolVersion> =
            [(settings.tls13, &TLS13), (settings.tls12, &TLS12)]
                .into_iter()
                .filter_map(|(wanted, version)| wanted.then_some(version))
                .collect();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|_| "no protocols available".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = settings
            .alpn
            .iter()
            .map(|p| p.clone().into_bytes())
            .collect();
        Ok(config)
    }
}

/// Why a certificate was refused: OpenSSL's code and words.
#[derive(Debug)]
pub struct Verdict {
    pub code: i32,
    pub text: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Verdict {}

#[derive(Debug)]
struct Verifier {
    chains: Option<Arc<WebPkiServerVerifier>>,
    authorities: Authorities,
    verify: bool,
    check_hostname: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let result = match &self.chains {
            Some(chains) => chains.verify_server_cert(leaf, others, name, &[], now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        let Err(error) = result else {
            return Ok(());
        };
        // The name is looked at last: such an error says that the chain is good.
        if is_name(&error) {
            return if self.check_hostname {
                Err(error)
            } else {
                Ok(())
            };
        }
        // OpenSSL trusts what is in the store, whatever issued it.
        if self.authorities.iter().any(|known| known == leaf) {
            let fields = x509::names(leaf).ok_or(CertificateError::BadEncoding)?;
            let now = amz_date(now.as_secs()).replace(['T', 'Z'], "");
            if now > fields.not_after {
                return Err(CertificateError::Expired.into());
            }
            if now < fields.not_before {
                return Err(CertificateError::NotValidYet.into());
            }
            if self.check_hostname {
                verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
            }
            return Ok(());
        }
        Err(error)
    }
}

fn is_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

fn verdict(
    error: &Error,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    name: &ServerName<'_>,
) -> Verdict {
    let (code, text) = match error {
        error if is_name(error) => {
            let (code, what) = match name {
                ServerName::IpAddress(_) => (64, "IP address"),
                _ => (62, "Hostname"),
            };
            let name = name.to_str();
            return Verdict {
                code,
                text: format!("{what} mismatch, certificate is not valid for '{name}'."),
            };
        }
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => (10, "certificate has expired"),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (9, "certificate is not yet valid"),
        Error::InvalidCertificate(CertificateError::Revoked) => (23, "certificate revoked"),
        Error::InvalidCertificate(CertificateError::InvalidPurpose) => {
            (26, "unsuitable certificate purpose")
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            (7, "certificate signature failure")
        }
        _ => {
            let is_root = |certificate: &CertificateDer<'_>| {
                x509::names(certificate).is_some_and(|fields| fields.issuer == fields.subject)
            };
            if is_root(leaf) {
                (18, "self-signed certificate")
            } else if others.iter().any(is_root) {
                (19, "self-signed certificate in certificate chain")
            } else {
                (20, "unable to get local issuer certificate")
            }
        }
    };
    Verdict {
        code,
        text: text.to_owned(),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify {
            self.judge(leaf, others, name, now).map_err(|error| {
                let why = verdict(&error, leaf, others, name);
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
