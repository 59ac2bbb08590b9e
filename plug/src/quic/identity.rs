//! Who an end of the cable is: an Ed25519 key, and the fingerprint under which the far side has pinned it.
//!
//! The key goes to the far side as a raw public key (RFC 7250): there is no certificate, no name and no validity to be
//! wrong. Invariant: the private key is written once, to a file that only its owner can read.
//!
//! Neighbours: `tls` proves the identity to the far side, `pins` keeps the fingerprints of others.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// Bytes of a key file that are looked at; one is 119 bytes long.
const MAX_FILE: u64 = 4096;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system refused the file.
    #[error("{path}: cannot {act} the key: {}", link::reason(.source))]
    File {
        /// Its path.
        path: String,
        /// What was to be done.
        act: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{0}: expected an Ed25519 private key (PKCS #8, PEM)")]
    NoKey(String),
    /// No key can be made.
    #[error("cannot make a key: the system gives no randomness")]
    Randomness,
}

/// SHA-256 of a public key (its SubjectPublicKeyInfo, RFC 5280 §4.1.2.7), shown as `SHA256:` and base64, as OpenSSH does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn of_key(spki: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, spki).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected SHA256: and 43 characters of base64")]
pub struct BadFingerprint;

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let code = text.strip_prefix("SHA256:").ok_or(BadFingerprint)?;
        let bytes = STANDARD_NO_PAD.decode(code.trim_end_matches('=')).map_err(|_| BadFingerprint)?;
        bytes.try_into().map(Self).map_err(|_| BadFingerprint)
    }
}

/// A key pair. Two are equal if their fingerprints are.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    reset_secret: [u8; 32],
}

impl Identity {
    /// A new one that lives as long as this value: a cable whose keys are exchanged by other means (ssh) needs no file.
    ///
    /// # Errors
    /// [`IdentityError::Randomness`].
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Self::from_pkcs8(&generate()?).ok_or(IdentityError::Randomness)
    }

    /// The one in a file; if there is no file, a new one is made and kept there: mode 0600, missing directories 0700.
    ///
    /// # Errors
    /// The file holds no key, or the operating system refuses.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let shown = path.display().to_string();
        let file_error = |act| {
            let path = shown.clone();
            move |source| IdentityError::File { path, act, source }
        };
        match File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(MAX_FILE).read_to_string(&mut text).map_err(file_error("read"))?;
                let key = decode_pem(&text).and_then(|pkcs8| Self::from_pkcs8(&pkcs8));
                key.ok_or(IdentityError::NoKey(shown))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pkcs8 = generate()?;
                match write_new(path, &encode_pem(&pkcs8)) {
                    // Another program was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Self::load_or_create(path),
                    outcome => outcome.map_err(file_error("write"))?,
                }
                Self::from_pkcs8(&pkcs8).ok_or(IdentityError::NoKey(shown))
            }
            Err(error) => Err(file_error("read")(error)),
        }
    }

    /// What the far side pins.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The key as TLS presents it: the "certificate" is the SubjectPublicKeyInfo (RFC 7250 §3).
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Bound to the key, so that a program that was started anew can tell the far side that its old connection is gone
    /// (stateless reset, RFC 9000 §10.3).
    pub(super) fn reset_secret(&self) -> &[u8] {
        &self.reset_secret
    }

    /// Marks the connection ids of this key's endpoints, so that they know the packets of those before them.
    pub(super) fn cid_key(&self) -> u64 {
        let mark = digest(&SHA256, &[b"connection ids", self.reset_secret.as_slice()].concat());
        mark.as_ref().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).ok()?;
        let spki = key.public_key()?;
        let fingerprint = Fingerprint::of_key(&spki);
        let mut reset_secret = [0; 32];
        reset_secret.copy_from_slice(digest(&SHA256, &[b"etherloom stateless reset", pkcs8].concat()).as_ref());
        let certificate = CertificateDer::from(spki.to_vec());
        Some(Self { key: Arc::new(CertifiedKey::new(vec![certificate], key)), fingerprint, reset_secret })
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

fn generate() -> Result<Vec<u8>, IdentityError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::Randomness)?;
    Ok(document.as_ref().to_vec())
}

/// RFC 7468 §10.
fn encode_pem(pkcs8: &[u8]) -> String {
    let code = STANDARD.encode(pkcs8);
    let mut text = format!("{PEM_BEGIN}\n");
    let mut rest = code.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = behind;
    }
    text + PEM_END + "\n"
}

fn decode_pem(text: &str) -> Option<Vec<u8>> {
    let body = text.split_once(PEM_BEGIN)?.1.split_once(PEM_END)?.0;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

/// Writes a file that must not exist yet.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key would be in the way of the next attempt.
        let _ = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = std::env::temp_dir().join(format!("quic-key-{}", std::process::id()));
        let path = dir.join("a/quic.key");
        let first = Identity::load_or_create(&path).unwrap();
        assert_eq!(Identity::load_or_create(&path).unwrap(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::write(&path, "-----BEGIN NONSENSE-----\n").unwrap();
        let error = Identity::load_or_create(&path).unwrap_err().to_string();
        assert!(error.ends_with("a/quic.key: expected an Ed25519 private key (PKCS #8, PEM)"), "{error}");
        fs::remove_dir_all(dir).unwrap();
        assert_ne!(Identity::ephemeral().unwrap(), first);
    }

    #[test]
    fn a_fingerprint_is_read_as_it_is_shown() {
        let own = Identity::ephemeral().unwrap().fingerprint();
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!(own.to_string().len(), "SHA256:".len() + 43);
        for text in ["", "SHA256:", "MD5:00", "SHA256:abc", &format!("{own}A")] {
            assert_eq!(text.parse::<Fingerprint>(), Err(BadFingerprint), "{text}");
        }
        // The digest of nothing, as `ssh-keygen -l` would show it.
        assert_eq!(Fingerprint::of_key(b"").to_string(), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
    }
}
