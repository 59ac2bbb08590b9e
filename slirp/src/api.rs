//! The API socket: one JSON request a connection, one JSON answer, as slirp4netns(1) has it under "API SOCKET".
//!
//! | request | answer |
//! |---|---|
//! | `{"execute":"add_hostfwd","arguments":{"proto","host_addr","host_port","guest_addr","guest_port"}}` | `{"return":{"id":N}}` |
//! | `{"execute":"list_hostfwd"}` | `{"return":{"entries":[{"id","proto","host_addr",…}]}}` |
//! | `{"execute":"remove_hostfwd","arguments":{"id":N}}` | `{"return":{}}` |
//! | `{"execute":"list_flows"}`, which is ours | `{"return":{"flows":[…],"drops":{REASON:FRAMES}}}` |
//!
//! `proto` is `tcp` or `udp`, which may end in `4` or `6`: with a `6`, or an IPv6 `host_addr`, a rule without
//! `guest_addr` leads to the namespace's IPv6 address, else to the IPv4 one. Without `host_addr` it is 0.0.0.0, or `::`
//! with a `6`.
//!
//! What cannot be is answered by `{"error":{"desc":TEXT}}`. A request is complete when it is valid JSON, or when the client
//! sends no more, and has less than 4096 bytes. Nothing here blocks: an answer goes out as the client takes it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use link::socket_file::{self, SocketError, SocketFile};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nat::{Entrance, Forward, ForwardId, Host, Nat, Protocol};
use serde_json::{Value, json};

use crate::cli::DefaultGuest;

/// Bytes that a request is shorter than.
const MAX_REQUEST: usize = 4096;
/// How often a client is read from before it is told that it says too much: bytes left unread would cut its answer off.
const PATIENCE: usize = 64;
/// Clients at a time; one more, and the oldest goes.
const MAX_CLIENTS: usize = 32;

/// The socket and those who are connected.
pub(crate) struct Api {
    listener: UnixListener,
    file: SocketFile,
    /// Where rules lead that name no guest.
    guest: DefaultGuest,
    /// The oldest first.
    clients: VecDeque<Client>,
    /// The listener's token; those who connect get the tokens above.
    token: Token,
    next: usize,
}

struct Client {
    token: Token,
    stream: UnixStream,
    heard: Vec<u8>,
    /// The answer, and how much of it was sent.
    answer: Option<(Vec<u8>, usize)>,
}

/// Whether a client stays.
#[derive(PartialEq, Eq)]
enum Turn {
    Wait,
    Done,
}

impl Api {
    /// Makes the socket, in place of one that nobody listens on. Rules that name no guest lead to `guest`.
    ///
    /// # Errors
    /// Somebody listens there, something else is in the way, the path is too long, or there is no permission.
    pub(crate) fn open(path: &Path, guest: DefaultGuest) -> Result<Self, SocketError> {
        const MODE: u32 = 0o600;
        let absolute: PathBuf = std::path::absolute(path).map_err(socket_file::system("find", path))?;
        let (fd, file) = socket_file::listen(absolute, MODE, None, 8)?;
        let listener = UnixListener::from_std(fd.into());
        Ok(Self { listener, file, guest, clients: VecDeque::new(), token: Token(0), next: 1 })
    }

    /// Makes its readiness appear under `token`, and that of its clients under the tokens above.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.token = token;
        self.next = token.0 + 1;
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// Serves who has become ready.
    pub(crate) fn serve<H: Host>(&mut self, registry: &Registry, token: Token, now: Instant, nat: &mut Nat<H>) {
        if token == self.token {
            return self.accept(registry);
        }
        let guest = self.guest;
        let Some(place) = self.clients.iter().position(|client| client.token == token) else { return };
        let Some(client) = self.clients.get_mut(place) else { return };
        // An error, of whatever kind, is the end of the connection.
        if client.serve(|request| answer(nat, guest, now, request)).unwrap_or(Turn::Done) == Turn::Done {
            self.clients.remove(place);
        }
    }

    fn accept(&mut self, registry: &Registry) {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let token = Token(self.next);
                    self.next += 1;
                    if self.clients.len() >= MAX_CLIENTS {
                        self.clients.pop_front();
                    }
                    match registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
                        Ok(()) => self.clients.push_back(Client { token, stream, heard: Vec::new(), answer: None }),
                        Err(error) => log::warn!("{}: {}", self.file.path().display(), link::reason(&error)),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if [io::ErrorKind::Interrupted, io::ErrorKind::ConnectionAborted].contains(&error.kind()) => {}
                Err(error) => {
                    return log::warn!("{}: {}", self.file.path().display(), link::reason(&error));
                }
            }
        }
    }
}

impl Client {
    /// Goes on until it would have to wait.
    fn serve(&mut self, execute: impl FnOnce(&[u8]) -> Value) -> io::Result<Turn> {
        if self.answer.is_none() {
            let Some(request) = self.hear()? else { return Ok(Turn::Wait) };
            let answer = match request {
                Ok(request) => execute(&request),
                Err(TooLarge) => error("bad request: too large message"),
            };
            self.answer = Some((answer.to_string().into_bytes(), 0));
        }
        let Some((answer, sent)) = &mut self.answer else { return Ok(Turn::Wait) };
        while let Some(rest) = answer.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(len) => *sent += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Wait),
                Err(error) => return Err(error),
            }
        }
        self.stream.shutdown(Shutdown::Both)?;
        Ok(Turn::Done)
    }

    /// A complete request, if there is one now.
    fn hear(&mut self) -> io::Result<Option<Result<Vec<u8>, TooLarge>>> {
        let mut buffer = [0; MAX_REQUEST];
        let mut left = PATIENCE;
        loop {
            let is_over = match self.stream.read(&mut buffer) {
                Ok(0) => true,
                Ok(len) => {
                    let room = MAX_REQUEST.saturating_sub(self.heard.len());
                    self.heard.extend_from_slice(&buffer[..len.min(room)]);
                    left = left.saturating_sub(1);
                    if left > 0 {
                        continue;
                    }
                    false
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) => return Err(error),
            };
            if self.heard.len() >= MAX_REQUEST {
                return Ok(Some(Err(TooLarge)));
            }
            let parsed: Result<Value, _> = serde_json::from_slice(&self.heard);
            let more_may_mend = parsed.is_err_and(|error| error.is_eof());
            return Ok((is_over || !more_may_mend).then(|| Ok(std::mem::take(&mut self.heard))));
        }
    }
}

/// A request of 4096 bytes or more.
struct TooLarge;

fn error(desc: &str) -> Value {
    json!({ "error": { "desc": desc } })
}

/// Does what a request asks for.
fn answer<H: Host>(nat: &mut Nat<H>, guest: DefaultGuest, now: Instant, request: &[u8]) -> Value {
    match execute(nat, guest, now, request) {
        Ok(answer) => json!({ "return": answer }),
        Err(desc) => error(&format!("bad request: {desc}")),
    }
}

fn execute<H: Host>(nat: &mut Nat<H>, guest: DefaultGuest, now: Instant, request: &[u8]) -> Result<Value, String> {
    let request: Value = serde_json::from_slice(request).map_err(|_| "cannot parse JSON")?;
    let arguments = &request["arguments"];
    match request["execute"].as_str().ok_or("no execute found")? {
        "add_hostfwd" => add(nat, guest, arguments).map_err(|what| format!("add_hostfwd: {what}")),
        "list_hostfwd" => Ok(json!({ "entries": nat.forwards().iter().map(rule).collect::<Vec<_>>() })),
        "remove_hostfwd" => {
            let id = arguments["id"].as_u64().and_then(|id| u32::try_from(id).ok());
            match id.is_some_and(|id| nat.remove_forward(ForwardId(id))) {
                true => Ok(json!({})),
                false => Err("remove_hostfwd: bad arguments.id".to_owned()),
            }
        }
        "list_flows" => Ok(flows(nat, now)),
        _ => Err("unknown execute".to_owned()),
    }
}

fn add<H: Host>(nat: &mut Nat<H>, guest: DefaultGuest, arguments: &Value) -> Result<Value, String> {
    let (protocol, any, is_ipv6) = match arguments["proto"].as_str() {
        Some("tcp" | "tcp4") => (Protocol::Tcp, IpAddr::V4(Ipv4Addr::UNSPECIFIED), false),
        Some("udp" | "udp4") => (Protocol::Udp, Ipv4Addr::UNSPECIFIED.into(), false),
        Some("tcp6") if guest.ipv6.is_some() => (Protocol::Tcp, Ipv6Addr::UNSPECIFIED.into(), true),
        Some("udp6") if guest.ipv6.is_some() => (Protocol::Udp, Ipv6Addr::UNSPECIFIED.into(), true),
        _ => return Err("bad arguments.proto".to_owned()),
    };
    let address = |key: &str, default: IpAddr| match arguments[key].as_str().unwrap_or_default() {
        "" => Ok(default),
        text => text.parse().map_err(|_| format!("bad arguments.{key}")),
    };
    let port = |key: &str| {
        let port = arguments[key].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0);
        port.ok_or_else(|| format!("bad arguments.{key}"))
    };
    let (host, host_port) = (address("host_addr", any)?, port("host_port")?);
    let guest = match guest.ipv6 {
        Some(guest) if is_ipv6 || host.is_ipv6() => guest.into(),
        _ => guest.ipv4.into(),
    };
    let (guest, guest_port) = (address("guest_addr", guest)?, port("guest_port")?);
    let host = Entrance::Port(SocketAddr::new(host, host_port));
    let rule = Forward { protocol, host, guest: (Some(guest), guest_port) };
    let id = nat.add_forward(rule).map_err(|error| {
        log::warn!("{error}");
        format!("slirp_add_hostfwd failed: {error}")
    })?;
    Ok(json!({ "id": id.0 }))
}

fn rule(rule: &nat::ForwardState) -> Value {
    let mut entry = match &rule.host {
        Entrance::Port(host) => json!({
            "proto": name(rule.protocol), "host_addr": host.ip().to_string(), "host_port": host.port(),
        }),
        Entrance::Path(path) => json!({ "proto": "unix", "host_path": path.to_string_lossy() }),
    };
    entry["id"] = rule.id.0.into();
    entry["guest_addr"] = rule.guest.ip().to_string().into();
    entry["guest_port"] = rule.guest.port().into();
    entry
}

fn flows<H: Host>(nat: &Nat<H>, now: Instant) -> Value {
    let flow = |flow: nat::FlowState| {
        json!({
            "proto": name(flow.protocol),
            "guest": flow.guest.to_string(),
            "remote": flow.remote.map(|remote| remote.to_string()),
            "state": flow.state,
            "sent": flow.sent,
            "received": flow.received,
            "age_ms": now.saturating_duration_since(flow.begun).as_millis() as u64,
        })
    };
    let drops = nat.drops().iter().map(|(reason, frames)| (reason.name().to_owned(), frames.into()));
    json!({
        "flows": nat.flow_states().into_iter().map(flow).collect::<Vec<_>>(),
        "drops": Value::Object(drops.collect()),
    })
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
