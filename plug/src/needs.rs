//! What a link still needs once it is open, so that the program that joins it can give up the rest.
//!
//! Invariant: what is not known to be enough is refused. A link that starts programs, looks names up, or makes itself anew
//! by whatever its locator says needs what no list can foresee.

use std::path::{Path, PathBuf};

use link::StreamConfig;
use link::stream::{Role, StreamAddress};
use nat::{Config, Entrance, Target};
use program::confine::{Confinement, Family};

use crate::{Spec, StdioRole};

/// Where name servers are found.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A link that cannot be confined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{link} {why}")]
pub struct NeedsMore {
    /// The link, or its kind.
    link: String,
    /// What it does.
    why: &'static str,
}

impl Spec {
    /// What this link needs after [`Spec::open`].
    ///
    /// # Errors
    /// [`NeedsMore`] names the link that may need anything.
    pub fn needs(&self) -> Result<Confinement, NeedsMore> {
        let refused = |link: &str, why| Err(NeedsMore { link: link.to_owned(), why });
        Ok(match self {
            Self::Null | Self::Pcap(_) | Self::Vde(_) | Self::Stdio(StdioRole::Plain) => Confinement::default(),
            Self::Udp(..) | Self::Mcast(..) | Self::Vxlan(..) | Self::L2tpv3(..) => Confinement::default(),
            Self::Tap(_) => Confinement::for_tap(),
            // It sends by name, whoever is there.
            Self::Dgram(_, config) => file_that_goes(&config.local).and(file_to_connect(&config.remote)),
            Self::Stream(config) => stream(config)?,
            Self::User(name, config) => {
                let needs = nat_needs(config);
                if needs.programs {
                    return refused(name, "starts programs that may open something later");
                }
                let files = entrances(config).map(file_that_goes);
                files.fold(needs, Confinement::and)
            }
            Self::Impair(inner, config) => {
                inner.needs()?.and(config.control.as_deref().map(file_that_goes).unwrap_or_default())
            }
            Self::Stdio(StdioRole::Cable(_)) => {
                return refused("the far side of a cable", "may open another way for its frames later");
            }
            Self::Cmd { name, .. } => return refused(name, "starts a program that may open something later"),
            Self::Ssh(config) => return refused(&config.name, "starts a program that may open something later"),
            Self::Reconnect { name, .. } => return refused(name, "is opened again later"),
            Self::Quic(_) => return refused("quic://", "looks for keys and peers later"),
        })
    }
}

/// What the user-mode NAT needs once it is open, except to remove its [`entrances`].
#[must_use]
pub fn nat_needs(config: &Config) -> Confinement {
    let needs = Confinement::for_nat(Path::new(RESOLV_CONF), config.tftp.as_deref(), &[]);
    config.guest_forwards.iter().fold(needs, |needs, rule| match &rule.target {
        Target::Tcp(_) => needs,
        Target::Unix(path) => needs.and(file_to_connect(path)),
        Target::Command(_) | Target::Share => Confinement { programs: true, ..needs },
    })
}

/// The Unix sockets of forwarding rules.
pub fn entrances(config: &Config) -> impl Iterator<Item = &Path> {
    config.forwards.iter().filter_map(|rule| match &rule.host {
        Entrance::Path(path) => Some(path.as_path()),
        Entrance::Port(_) => None,
    })
}

fn stream(config: &StreamConfig) -> Result<Confinement, NeedsMore> {
    let families = vec![Family::Inet, Family::Inet6];
    Ok(match (&config.role, &config.address) {
        (Role::Connect(Some(_)), _) => {
            return Err(NeedsMore { link: config.name.clone(), why: "looks its name up again later" });
        }
        // The next address, if this one does not answer.
        (Role::Connect(None), StreamAddress::Inet(_)) => Confinement { families, ..Confinement::default() },
        (Role::Connect(None), StreamAddress::Unix(path)) => file_to_connect(path),
        (Role::Listen, StreamAddress::Inet(_)) => Confinement::default(),
        (Role::Listen, StreamAddress::Unix(path)) => file_that_goes(path),
    })
}

/// A file that is removed at the end.
pub(crate) fn file_that_goes(path: &Path) -> Confinement {
    Confinement { write: directory(path), ..Confinement::default() }
}

/// A socket that somebody else makes, perhaps anew.
fn file_to_connect(path: &Path) -> Confinement {
    Confinement { read: directory(path), families: vec![Family::Unix], ..Confinement::default() }
}

fn directory(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).ok();
    absolute.as_deref().and_then(Path::parent).map(Path::to_owned).into_iter().collect()
}
