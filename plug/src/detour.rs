//! Another way for the frames of a cable over ssh: QUIC, wherever UDP passes.
//!
//! Theory of operation. ssh admits the far side, and carries each end's fingerprint to the other: the near side's on the far
//! side's command line, the far side's with its address in its hello (`data=quic,ADDRESS,FINGERPRINT`). Both keys live as
//! long as the cable. Frames go over QUIC while it is connected, and over ssh otherwise: nobody waits for it, and if UDP
//! does not pass, ssh goes on carrying them.
//!
//! Invariant: the cable ends with ssh. The detour's own end is no end of anything.
//!
//! Neighbours: `ssh` and `stdio`, the two ends; `quic` for the way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Instant;

use link::datagram::JUMBO_MTU;
use link::{Capabilities, Counters, Link, LinkState, Offloads, RxBatch, TxBatch, Way};
use mio::{Registry, Token};

use crate::quic::{Fingerprint, Identity, Quic, QuicConfig, Role};

/// What stands before the address in a hello.
const QUIC: &str = "quic";
/// Where the far side of ssh says by which address it was reached (ssh(1)).
const SSH_CONNECTION: &str = "SSH_CONNECTION";

/// The other way, while there is one.
#[derive(Default)]
pub(crate) struct Detour {
    quic: Option<Quic>,
    /// What one that has failed had carried.
    past: Counters,
}

/// What the far side says of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// Where it listens.
    address: SocketAddr,
    /// Its key.
    fingerprint: Fingerprint,
}

impl FromStr for Invitation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(3, ',');
        let (Some(QUIC), Some(address), Some(fingerprint)) = (words.next(), words.next(), words.next()) else {
            return Err(());
        };
        let (address, fingerprint) = (address.parse().map_err(drop)?, fingerprint.parse().map_err(drop)?);
        Ok(Self { address, fingerprint })
    }
}

impl std::fmt::Display for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{QUIC},{},{}", self.address, self.fingerprint)
    }
}

impl Detour {
    /// The far side's end: listens at the address by which ssh has reached this host, for the near side's key.
    ///
    /// # Errors
    /// There is no such address, or no socket, as a sentence.
    pub(crate) fn listen(peer: Fingerprint) -> Result<(Self, Invitation), String> {
        let connection = std::env::var(SSH_CONNECTION).unwrap_or_default();
        let address = connection.split(' ').nth(2).and_then(|address| address.parse::<IpAddr>().ok());
        let address = address.ok_or_else(|| format!("{SSH_CONNECTION} names no address of this host"))?;
        let identity = Identity::ephemeral().map_err(|error| error.to_string())?;
        let quic = open("quic://", Role::Listen(SocketAddr::new(address, 0)), identity, peer)?;
        let address = quic.local_addr().map_err(|error| link::reason(&error))?;
        let invitation = Invitation { address, fingerprint: quic.fingerprint() };
        Ok((Self::by(quic), invitation))
    }

    /// The near side's end: connects to where the far side has invited it.
    ///
    /// # Errors
    /// There is no socket, as a sentence.
    pub(crate) fn connect(name: &str, identity: Identity, invitation: &Invitation) -> Result<Self, String> {
        let role = Role::Connect(invitation.address.to_string());
        open(name, role, identity, invitation.fingerprint).map(Self::by)
    }

    fn by(quic: Quic) -> Self {
        Self { quic: Some(quic), past: Counters::default() }
    }

    /// As [`Link::register`]; takes every offload.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) {
        self.attempt(|quic| quic.accept(Offloads::ALL).and_then(|()| quic.register(registry, token)));
    }

    /// As [`Link::deregister`].
    pub(crate) fn deregister(&mut self, registry: &Registry) {
        self.attempt(|quic| quic.deregister(registry));
    }

    /// As [`Link::service`].
    pub(crate) fn service(&mut self, now: Instant) {
        self.attempt(|quic| quic.service(now));
    }

    /// As [`Link::deadline`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.quic.as_ref()?.deadline()
    }

    /// As [`Link::capabilities`], if frames go this way.
    pub(crate) fn capabilities(&self) -> Option<Capabilities> {
        self.quic.as_ref().filter(|quic| quic.state() == LinkState::Up).map(Link::capabilities)
    }

    /// As [`Link::answers`].
    pub(crate) fn answers(&self) -> bool {
        self.quic.as_ref().is_some_and(Link::answers)
    }

    /// As [`Link::send`]; nothing if frames do not go this way.
    pub(crate) fn send(&mut self, batch: &TxBatch<'_>) -> Option<usize> {
        self.capabilities()?;
        self.attempt(|quic| quic.send(batch))
    }

    /// As [`Link::receive`].
    pub(crate) fn receive(&mut self, batch: &mut RxBatch<'_>) -> usize {
        self.attempt(|quic| quic.receive(batch)).unwrap_or(0)
    }

    /// As [`Link::way`], if frames go this way.
    pub(crate) fn way(&self) -> Option<Way> {
        self.capabilities().and(self.quic.as_ref()?.way())
    }

    /// As [`Link::counters`].
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.past;
        if let Some(quic) = &self.quic {
            counters.merge(&quic.counters());
        }
        counters
    }

    /// Does something with it, and gives it up if that fails: ssh goes on.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut Quic) -> io::Result<T>) -> Option<T> {
        let quic = self.quic.as_mut()?;
        act(quic)
            .inspect_err(|error| {
                log::warn!("{}: it stays on ssh: {}", quic.name(), link::reason(error));
                self.past.merge(&quic.counters());
            })
            .map_err(|_| self.quic = None)
            .ok()
    }
}

fn open(name: &str, role: Role, identity: Identity, peer: Fingerprint) -> Result<Quic, String> {
    let mut config = QuicConfig::new(name.to_owned(), role, identity, peer);
    (config.mtu, config.is_detour) = (JUMBO_MTU, true);
    Quic::open(&config).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_read_as_it_was_written() {
        let fingerprint = Identity::ephemeral().unwrap().fingerprint();
        for address in ["192.0.2.1:4433", "[2001:db8::1]:4433"] {
            let invitation = Invitation { address: address.parse().unwrap(), fingerprint };
            assert_eq!(invitation.to_string().parse(), Ok(invitation));
        }
        for text in ["", "quic", "quic,192.0.2.1:4433", "quic,host:1,SHA256:x", "tcp,192.0.2.1:1,SHA256:x"] {
            assert_eq!(text.parse::<Invitation>(), Err(()), "{text}");
        }
    }
}
