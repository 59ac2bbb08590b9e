//! Who may be at the far side: a fingerprint that was given, or those that a file has for the cable.
//!
//! The file has a line for each pin, `NAME FINGERPRINT`, as OpenSSH's known_hosts: the name is `HOST:PORT` for a cable that
//! connects and `listen=ADDR:PORT` for one that listens. Lines of other forms, and behind `#`, are left alone.
//!
//! Invariant: a pin is only added where there was none for the name, and only when the far side has proved its key.
//!
//! Neighbours: `tls` asks during the handshake; the link pins when the handshake has ended.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use super::Fingerprint;

/// What makes a far side the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It has this key.
    Peer(Fingerprint),
    /// The file knows it.
    Known {
        /// The file.
        path: PathBuf,
        /// Whether the first to come is the right one, if the file knows nobody under the cable's name.
        first: bool,
    },
}

/// What is to be done about a far side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the right one.
    Known,
    /// It is the first one, and is to be pinned.
    First,
    /// It is another than these.
    Other(Vec<Fingerprint>),
    /// Nobody is pinned yet.
    Unknown,
}

/// The pins of one cable.
#[derive(Clone, Debug)]
pub struct Pins {
    name: String,
    trust: Trust,
}

impl Pins {
    /// Those of the cable with this name.
    pub fn new(name: String, trust: Trust) -> Self {
        Self { name, trust }
    }

    /// Judges a key. The file is read each time: another cable may have pinned meanwhile. One that cannot be read knows
    /// nobody and takes nobody.
    pub fn judge(&self, key: Fingerprint) -> Verdict {
        let (pinned, first) = match &self.trust {
            Trust::Peer(peer) => (Ok(vec![*peer]), false),
            Trust::Known { path, first } => (read(path, &self.name), *first),
        };
        match pinned {
            Ok(pinned) if pinned.contains(&key) => Verdict::Known,
            Ok(pinned) if !pinned.is_empty() => Verdict::Other(pinned),
            Ok(_) if first => Verdict::First,
            _ => Verdict::Unknown,
        }
    }

    /// Writes a key down.
    ///
    /// # Errors
    /// What the operating system says about the file.
    pub fn pin(&self, key: Fingerprint) -> io::Result<()> {
        let Trust::Known { path, .. } = &self.trust else { return Ok(()) };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut file = File::options().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(format!("{} {key}\n", self.name).as_bytes())
    }
}

/// The fingerprints that the file has for a name; none if there is no file.
fn read(path: &PathBuf, name: &str) -> io::Result<Vec<Fingerprint>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let pin = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    };
    Ok(text.lines().filter_map(pin).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_pinned_and_another_is_not_it() {
        let path = std::env::temp_dir().join(format!("quic-pins-{}/known", std::process::id()));
        let [one, other] = [b"one", b"two"].map(|key| Fingerprint::of_key(key));
        let pins = |name: &str, first| Pins::new(name.to_owned(), Trust::Known { path: path.clone(), first });
        assert_eq!(pins("a:1", false).judge(one), Verdict::Unknown);
        assert_eq!(pins("a:1", true).judge(one), Verdict::First);
        pins("a:1", true).pin(one).unwrap();
        assert_eq!(pins("a:1", false).judge(one), Verdict::Known);
        assert_eq!(pins("a:1", true).judge(other), Verdict::Other(vec![one]));
        assert_eq!(pins("a:2", true).judge(other), Verdict::First);
        fs::write(&path, format!("# a:1 {other}\na:1 nonsense\n\na:1\n b:1  {other} comment\n")).unwrap();
        assert_eq!(pins("a:1", false).judge(other), Verdict::Unknown);
        assert_eq!(pins("b:1", false).judge(other), Verdict::Known);
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(pins("a:1", true).judge(one), Verdict::Unknown);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert_eq!(Pins::new(String::new(), Trust::Peer(one)).judge(other), Verdict::Other(vec![one]));
    }
}
