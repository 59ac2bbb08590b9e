//! The forwarding rules (`hostfwd`): host sockets that wait for connections and datagrams for a guest.
//!
//! A connection goes to `tcp`, a datagram to `udp`, which both let it appear to come from its sender's own address, or
//! from the gateway's if the guest could not answer that one.

use std::io;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use link::VnetHeader;

use crate::arp;
use crate::config::{Forward, Protocol};
use crate::env::{Env, Ready};
use crate::host::{Datagram, Host, Kind, SocketId};
use crate::tcp::Tcp;
use crate::timers::Timer;
use crate::udp::{self, Udp};

/// When to look again for connections that could not be taken for lack of sockets.
const STARVED: Duration = Duration::from_millis(200);

/// A rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("hostfwd={rule}: cannot listen on {}: {}", .rule.host, link::reason(.source))]
pub struct ForwardError {
    /// The rule.
    pub rule: Forward,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The rules that are in force.
#[derive(Default)]
pub(crate) struct Forwards {
    rules: Vec<Rule>,
}

struct Rule {
    protocol: Protocol,
    guest: SocketAddrV4,
    address: SocketAddrV4,
    listed: bool,
    armed: Option<Instant>,
}

impl Forwards {
    /// Sets up every rule of the configuration, or none.
    pub(crate) fn open<H: Host>(env: &mut Env<H>) -> Result<Self, ForwardError> {
        let mut forwards = Self::default();
        for rule in env.config.forwards.clone() {
            let id = id(forwards.rules.len() as u32);
            let address = match rule.protocol {
                Protocol::Tcp => env.host.listen(id, rule.host),
                Protocol::Udp => env.host.datagram(id, Datagram::Bound(rule.host)),
            }
            .map_err(|source| ForwardError { rule, source })?;
            let guest = env.config.forward_target(&rule);
            forwards.rules.push(Rule { protocol: rule.protocol, guest, address, listed: false, armed: None });
        }
        Ok(forwards)
    }

    /// The addresses on which the rules wait, in their order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.rules.iter().map(|rule| rule.address)
    }

    /// Takes what waits at a rule's socket.
    pub(crate) fn ready<H: Host>(&mut self, env: &mut Env<H>, tcp: &mut Tcp, place: u32) {
        let Some(rule) = self.rules.get_mut(place as usize) else { return };
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
                    log::warn!("hostfwd {}: cannot take a connection: {error}", rule.address);
                    return env.timers.arm(Timer::Forward(place), &mut rule.armed, env.now + STARVED);
                }
            }
        }
    }

    /// A rule's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, tcp: &mut Tcp, place: u32, at: Instant) {
        let Some(rule) = self.rules.get_mut(place as usize) else { return };
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
        let rule = self.rules.get_mut(place as usize)?;
        rule.listed = false;
        let Some(mac) = env.neighbours.get(*rule.guest.ip()) else {
            // The datagrams wait in the socket; those it has no room for, the system drops.
            arp::ask(env, *rule.guest.ip());
            rule.listed = env.neighbours.wait(*rule.guest.ip(), Ready::Forward(place));
            return None;
        };
        let target = udp::Rule { socket: id(place), guest: rule.guest };
        let (frame, more) = udp.output_forward(env, target, mac, out);
        if more {
            env.list(Ready::Forward(place), &mut rule.listed);
        }
        frame
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Forward, index: place }
}
