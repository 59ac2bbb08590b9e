//! The name server at the NAT's DNS address: hands questions on to the host's name servers, as the host's
//! configuration names them at that moment, and their answers back.
//!
//! Messages are not interpreted beyond their header (RFC 1035 §4.1.1). Each question gets a host socket of its own,
//! connected to one server, and an identifier of ours, so that nobody off the path can answer it (RFC 5452 §9). A
//! server that is silent for two seconds, refuses, or fails, is followed by the next one; after two rounds the guest
//! is told SERVFAIL, and at once if the host has no name server at all. TCP to port 53 is relayed by `tcp`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::DropReason;

use crate::env::Env;
use crate::host::{Datagram, Host, Kind, SocketId};
use crate::slab::Slab;
use crate::timers::Timer;

/// The port of name servers.
pub(crate) const PORT: u16 = 53;

/// Questions under way at most.
const MAX_QUERIES: usize = 1024;

/// How long a server may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often each server is asked.
const ROUNDS: usize = 2;

/// Bytes of a message's header.
const HEADER: usize = 12;

/// In the third and fourth byte of the header: it is an answer; recursion is available; the result.
const ANSWER: u8 = 0x80;
const RECURSION: u8 = 0x80;
const RESULT: u8 = 0x0f;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// The questions under way.
#[derive(Default)]
pub(crate) struct Dns {
    queries: Slab<Query>,
    by_key: HashMap<(SocketAddr, u16), u32>,
}

struct Query {
    guest: SocketAddr,
    /// The guest's identifier.
    ident: u16,
    /// The question with our identifier.
    question: Vec<u8>,
    servers: Vec<SocketAddr>,
    /// How many times a server was asked.
    asked: usize,
    armed: Option<Instant>,
}

impl Dns {
    /// Takes a guest's question.
    pub(crate) fn input<H: Host>(
        &mut self,
        env: &mut Env<H>,
        guest: SocketAddr,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let header: &[u8; HEADER] = payload.first_chunk().ok_or(DropReason::Malformed)?;
        if header[2] & ANSWER != 0 || guest.port() == 0 {
            return Err(DropReason::Malformed);
        }
        let ident = u16::from_be_bytes([header[0], header[1]]);
        if let Some(&place) = self.by_key.get(&(guest, ident)) {
            let same = self.queries.get_mut(place).is_some_and(|query| query.question[2..] == payload[2..]);
            if same {
                // The guest repeats itself; so do we.
                return Ok(());
            }
            self.remove(env, place);
        }
        if self.queries.len() >= MAX_QUERIES {
            return Err(DropReason::Limit);
        }
        let mut question = payload.to_vec();
        question[..2].copy_from_slice(&(env.random.next() as u16).to_be_bytes());
        let servers = env.host.resolvers();
        let query = Query { guest, ident, question, servers, asked: 0, armed: None };
        let place = self.queries.insert(query);
        self.by_key.insert((guest, ident), place);
        self.ask(env, place);
        Ok(())
    }

    /// A server has answered, or its host has refused.
    pub(crate) fn ready<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        while let Some(query) = self.queries.get_mut(place) {
            match env.host.receive_from(id(place), &mut env.datagram) {
                Ok((len, _)) => {
                    let Some(answer) = env.datagram.get_mut(..len) else { continue };
                    if !query.is_answered_by(answer) {
                        continue;
                    }
                    let failed = matches!(answer[3] & RESULT, SERVFAIL | REFUSED);
                    if failed && query.asked < query.servers.len() {
                        return self.ask(env, place);
                    }
                    answer[..2].copy_from_slice(&query.ident.to_be_bytes());
                    let answer = answer.to_vec();
                    let guest = query.guest;
                    self.remove(env, place);
                    return reply(env, guest, &answer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.ask(env, place),
            }
        }
    }

    /// A question's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, place: u32, at: Instant) {
        if let Some(query) = self.queries.get_mut(place)
            && query.armed == Some(at)
        {
            query.armed = None;
            self.ask(env, place);
        }
    }

    /// Asks the next server, or gives up.
    fn ask<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        env.host.close(id(place));
        let Some(query) = self.queries.get_mut(place) else { return };
        while query.asked < query.servers.len() * ROUNDS {
            let server = query.servers[query.asked % query.servers.len()];
            query.asked += 1;
            let asked = env
                .host
                .datagram(id(place), Datagram::Connected(server))
                .and_then(|_| env.host.send_to(id(place), &query.question, server, None));
            match asked {
                Ok(()) => {
                    // The patience with the former server must not cut this one's short.
                    query.armed = None;
                    return env.timers.arm(Timer::Dns(place), &mut query.armed, env.now + PATIENCE);
                }
                Err(error) => log::debug!("dns: cannot ask {server}: {error}"),
            }
            env.host.close(id(place));
        }
        let mut answer = std::mem::take(&mut query.question);
        let guest = query.guest;
        answer[..2].copy_from_slice(&query.ident.to_be_bytes());
        answer[2] |= ANSWER;
        answer[3] = RECURSION | SERVFAIL;
        self.remove(env, place);
        reply(env, guest, &answer);
    }

    fn remove<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        env.host.close(id(place));
        if let Some(query) = self.queries.remove(place) {
            self.by_key.remove(&(query.guest, query.ident));
        }
    }
}

impl Query {
    fn is_answered_by(&self, message: &[u8]) -> bool {
        message.len() >= HEADER && message[..2] == self.question[..2] && message[2] & ANSWER != 0
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Dns, index: place }
}

fn reply<H>(env: &mut Env<H>, guest: SocketAddr, message: &[u8]) {
    let Some(mac) = env.neighbours.get(guest.ip()) else { return };
    let from = (env.name_server(guest.ip()), PORT);
    env.queue_datagram(mac, from, (guest.ip(), guest.port()), message);
}
