//! TLS 1.3 between two raw public keys (RFC 7250, RFC 8446): each side shows its key, and judges the other's by its pins.
//!
//! No session is resumed and no data comes early, so each connection proves both keys anew.
//!
//! Invariant: a handshake ends well only with a key that the pins know, or, with `trust=first`, with any key while they know
//! none; the link pins that one when the handshake has ended. A refused key is told once, however often it comes.
//!
//! Neighbours: `pins` judges, `identity` has our key.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, ServerConfig,
    SignatureScheme,
};

use super::pins::{Pins, Verdict};
use super::wire::ALPN;
use super::{Fingerprint, Identity};

/// Refused keys that are remembered, so that each is told once.
const REMEMBERED: usize = 16;
/// Lines about refused keys follow each other no faster.
const PAUSE: Duration = Duration::from_secs(1);

/// Judges the far side's key.
pub struct Gate {
    /// The object of messages.
    link: String,
    own: Fingerprint,
    pins: Pins,
    told: Mutex<Told>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug, Default)]
struct Told {
    keys: VecDeque<Fingerprint>,
    last: Option<Instant>,
    refused: u64,
}

impl Gate {
    /// The gate of a link.
    pub fn new(link: String, own: Fingerprint, pins: Pins) -> Arc<Self> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        Arc::new(Self { link, own, pins, told: Mutex::default(), algorithms })
    }

    /// Takes note that the far side has proved this key; returns whether it may stay. (Of two that came first, one may not.)
    pub fn settle(&self, key: Fingerprint) -> bool {
        match self.pins.judge(key) {
            Verdict::Known => true,
            Verdict::First => {
                log::info!("{}: trusts {key} from now on, the first to come", self.link);
                if let Err(error) = self.pins.pin(key) {
                    log::warn!("{}: cannot write down whom to trust: {}", self.link, link::reason(&error));
                }
                true
            }
            verdict => {
                self.refuse(key, &verdict);
                false
            }
        }
    }

    /// Handshakes that were refused for their key.
    pub fn refused(&self) -> u64 {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).refused
    }

    fn judge(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let key = Fingerprint::of_key(key);
        match self.pins.judge(key) {
            Verdict::Known | Verdict::First => Ok(()),
            verdict => {
                self.refuse(key, &verdict);
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn refuse(&self, key: Fingerprint, verdict: &Verdict) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.refused += 1;
        if told.keys.contains(&key) || told.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        if told.keys.len() == REMEMBERED {
            told.keys.pop_front();
        }
        told.keys.push_back(key);
        told.last = Some(Instant::now());
        match verdict {
            Verdict::Other(pinned) => {
                let pinned: Vec<_> = pinned.iter().map(Fingerprint::to_string).collect();
                log::warn!("{}: refused: the far side's key is {key}, not {}", self.link, pinned.join(" or "));
            }
            _ => log::warn!(
                "{}: refused: nobody is pinned, and the far side's key is {key}; if that is right, add peer={key}",
                self.link
            ),
        }
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    /// What we say to the far side about ourselves, for messages.
    pub fn own(&self) -> Fingerprint {
        self.own
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.link)
    }
}

impl ServerCertVerifier for Gate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Gate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// TLS for the side that connects; none if the provider lacks what QUIC needs.
pub fn client(identity: &Identity, gate: Arc<Gate>) -> Option<QuicClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(gate)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.try_into().ok()
}

/// TLS for the side that listens.
pub fn server(identity: &Identity, gate: Arc<Gate>) -> Option<QuicServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?
        .with_client_cert_verifier(gate)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.try_into().ok()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
