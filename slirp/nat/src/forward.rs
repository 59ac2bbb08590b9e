//! The forwarding rules (`hostfwd`): host sockets that wait for connections and datagrams for a guest.
//!
//! A connection goes to `tcp`, a datagram to `udp`, which both let it appear to come from its sender's own address, or
//! from the gateway's if the guest could not answer that one: so it is where the sender is of another family.
//!
//! Rules come and go while the NAT runs. What goes with a rule is its socket and, for UDP, the right of the guest to
//! answer by it; connections that it has brought stay.
//!
//! Invariant: a [`ForwardId`] is never used again; a rule's place, which names its socket, is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::VnetHeader;

use crate::config::{Entrance, Forward, Protocol};
use crate::env::{Env, Ready};
use crate::host::{Datagram, Host, Kind, SocketId};
use crate::tcp::Tcp;
use crate::timers::Timer;
use crate::udp::{self, Udp};

/// When to look again for connections that could not be taken for lack of sockets.
const STARVED: Duration = Duration::from_millis(200);

/// A rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The host's port is taken or not permitted.
    #[error("hostfwd={rule}: cannot listen on {}: {}", .rule.host, link::reason(.source))]
    Listen {
        /// The rule.
        rule: Forward,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No guest can have the address.
    #[error("hostfwd={rule}: {why}")]
    Guest {
        /// The rule.
        rule: Forward,
        /// It is not in the guests' network, or its family is off.
        why: String,
    },
}

/// A rule's number, from 1 on, in the order in which rules were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardId(pub u32);

impl fmt::Display for ForwardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rule that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardState {
    /// Its number.
    pub id: ForwardId,
    /// The protocol.
    pub protocol: Protocol,
    /// Where the host listens.
    pub host: Entrance,
    /// Where it leads.
    pub guest: SocketAddr,
}

/// The rules that are in force, by place.
#[derive(Default)]
pub(crate) struct Forwards {
    rules: Vec<Option<Rule>>,
    /// Places of rules that have ended.
    free: Vec<u32>,
    added: u32,
}

struct Rule {
    id: ForwardId,
    protocol: Protocol,
    guest: SocketAddr,
    host: Entrance,
    listed: bool,
    armed: Option<Instant>,
}

impl Forward {
    /// Takes rules in QEMU's words, with ranges of ports where QEMU has one port: `tcp::8000-8010-:80-90`. The guest's
    /// range may be named by its first port, as in `tcp::8000-8010-:80`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let single = || text.parse().map(|rule| vec![rule]);
        if text.starts_with("unix:") {
            return single();
        }
        // From the end, because addresses may have colons; none has a dash.
        let Some((rest, guest_ports)) = text.rsplit_once(':') else { return single() };
        let Some((rest, guest)) = rest.rsplit_once('-') else { return single() };
        let Some((host, host_ports)) = rest.rsplit_once(':') else { return single() };
        let (first, last) = range(host_ports)?;
        let (guest_first, guest_last) = range(guest_ports)?;
        if first == last && guest_first == guest_last {
            return single();
        }
        let ports = last - first;
        if guest_first != guest_last && guest_last - guest_first != ports {
            return Err(format!("{host_ports} and {guest_ports} are not equally many ports"));
        }
        if ports > u16::MAX - guest_first {
            return Err(format!("the guest has no {} ports from {guest_first} on", u32::from(ports) + 1));
        }
        let rule = |n| format!("{host}:{}-{guest}:{}", first + n, guest_first + n).parse();
        (0..=ports).map(rule).collect()
    }
}

/// A port, or the first and the last of several.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        let port = text.parse().ok().filter(|&port| port != 0);
        port.ok_or_else(|| format!("'{text}' is not a port: 1 to 65535"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("'{text}': a range begins with its lowest port"));
    }
    Ok((first, last))
}

impl Forwards {
    /// Sets up every rule of the configuration, or none.
    pub(crate) fn open<H: Host>(env: &mut Env<H>) -> Result<Self, ForwardError> {
        let mut forwards = Self::default();
        for rule in env.config.forwards.clone() {
            forwards.add(env, rule)?;
        }
        Ok(forwards)
    }

    /// Sets up one more rule.
    pub(crate) fn add<H: Host>(&mut self, env: &mut Env<H>, rule: Forward) -> Result<ForwardId, ForwardError> {
        if let Some(why) = env.config.forward_fault(&rule) {
            return Err(ForwardError::Guest { rule, why });
        }
        let guest = env.config.forward_target(&rule);
        // Each has a descriptor, so they are far fewer than 2^32.
        let place = self.free.last().copied().unwrap_or(self.rules.len() as u32);
        let socket = id(place);
        let opened = match (&rule.host, rule.protocol) {
            (Entrance::Port(at), Protocol::Tcp) => env.host.listen(socket, *at).map(Entrance::Port),
            (Entrance::Port(at), Protocol::Udp) => env.host.datagram(socket, Datagram::Bound(*at)).map(Entrance::Port),
            (Entrance::Path(path), _) => env.host.listen_at(socket, path).map(|()| rule.host.clone()),
        };
        let host = match opened {
            Ok(host) => host,
            Err(source) => return Err(ForwardError::Listen { rule, source }),
        };
        self.added += 1;
        let id = ForwardId(self.added);
        let rule = Some(Rule { id, protocol: rule.protocol, guest, host, listed: false, armed: None });
        match self.rules.get_mut(place as usize) {
            Some(free) => {
                *free = rule;
                self.free.pop();
            }
            None => self.rules.push(rule),
        }
        Ok(id)
    }

    /// Ends a rule; returns whether there was one of that number.
    pub(crate) fn remove<H: Host>(&mut self, env: &mut Env<H>, udp: &mut Udp, number: ForwardId) -> bool {
        let is_meant = |rule: &Option<Rule>| rule.as_ref().is_some_and(|rule| rule.id == number);
        let Some(place) = self.rules.iter().position(is_meant) else { return false };
        self.rules[place] = None;
        let place = place as u32;
        self.free.push(place);
        env.neighbours.forget(Ready::Forward(place));
        udp.forget(id(place));
        env.host.close(id(place));
        true
    }

    /// The rules, in the order of their numbers.
    pub(crate) fn list(&self) -> Vec<ForwardState> {
        let state = |rule: &Rule| ForwardState {
            id: rule.id,
            protocol: rule.protocol,
            host: rule.host.clone(),
            guest: rule.guest,
        };
        let mut rules: Vec<_> = self.rules.iter().flatten().map(state).collect();
        rules.sort_by_key(|rule| rule.id);
        rules
    }

    /// Takes what waits at a rule's socket.
    pub(crate) fn ready<H: Host>(&mut self, env: &mut Env<H>, tcp: &mut Tcp, place: u32) {
        let Some(rule) = self.rule(place) else { return };
        if rule.protocol == Protocol::Udp {
            return env.list(Ready::Forward(place), &mut rule.listed);
        }
        loop {
            match tcp.accept(env, id(place), rule.guest) {
                Ok(()) => {}
                // Gone again before it was taken.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("hostfwd {}: cannot take a connection: {}", rule.host, link::reason(&error));
                    return env.timers.arm(Timer::Forward(place), &mut rule.armed, env.now + STARVED);
                }
            }
        }
    }

    /// A rule's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, tcp: &mut Tcp, place: u32, at: Instant) {
        let Some(rule) = self.rule(place) else { return };
        if rule.armed == Some(at) {
            rule.armed = None;
            self.ready(env, tcp, place);
        }
    }

    /// Makes the next frame of a UDP rule in `out`.
    pub(crate) fn output<H: Host>(
        &mut self,
        env: &mut Env<H>,
        udp: &mut Udp,
        place: u32,
        out: &mut [u8],
    ) -> Option<(VnetHeader, usize)> {
        let rule = self.rule(place)?;
        rule.listed = false;
        let Some(mac) = env.neighbours.get(rule.guest.ip()) else {
            // The datagrams wait in the socket; those it has no room for, the system drops.
            env.ask(rule.guest.ip());
            rule.listed = env.neighbours.wait(rule.guest.ip(), Ready::Forward(place));
            return None;
        };
        let target = udp::Rule { socket: id(place), guest: rule.guest };
        let (frame, more) = udp.output_forward(env, target, mac, out);
        if more {
            env.list(Ready::Forward(place), &mut rule.listed);
        }
        frame
    }

    fn rule(&mut self, place: u32) -> Option<&mut Rule> {
        self.rules.get_mut(place as usize)?.as_mut()
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Forward, index: place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Vec<String>, String> {
        Forward::parse_all(text).map(|rules| rules.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_range_is_a_rule_for_each_port() {
        assert_eq!(rules("tcp::2222-:22").unwrap(), ["tcp::2222-:22"]);
        let expected = ["udp:127.0.0.1:8000-10.0.2.20:80", "udp:127.0.0.1:8001-10.0.2.20:81"];
        assert_eq!(rules("udp:127.0.0.1:8000-8001-10.0.2.20:80-81").unwrap(), expected);
        assert_eq!(rules("udp:127.0.0.1:8000-8001-10.0.2.20:80").unwrap(), expected);
        let expected = ["tcp:[::]:8000-[fec0::15]:80", "tcp:[::]:8001-[fec0::15]:81"];
        assert_eq!(rules("tcp:[::]:8000-8001-[fec0::15]:80").unwrap(), expected);
        assert_eq!(rules("tcp:[::]:8000-8001-[fec0::15]:80-81").unwrap(), expected);
    }

    #[test]
    fn ranges_that_cannot_be_are_refused_and_named() {
        for (text, part) in [
            ("tcp::8000-8010-:80-81", "not equally many"),
            ("tcp::8010-8000-:80", "lowest port"),
            ("tcp::8000-8010-:65530", "no 11 ports"),
            ("tcp::80-:80-81", "not equally many"),
            ("tcp::0-5-:80", "'0' is not a port"),
            ("tcp:22-22", "expected"),
            ("22", "expected"),
        ] {
            let error = rules(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
