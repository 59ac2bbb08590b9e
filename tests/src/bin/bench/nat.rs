//! Our user-mode NAT beside slirp4netns and pasta: the way between a network namespace and this host.
//!
//! They serve a namespace one after the other. Measured, at an Ethernet's MTU and at the longest: iperf3 over TCP from
//! the namespace, into it, and to a port that is forwarded to it; the time that one byte takes to a server and back; and
//! connections that are made, carry a byte both ways and are closed, one after the other. The servers are on this host's
//! loopback. pasta splices forwarded connections: it does not carry them over the TAP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use netlab::world::Host;

use crate::hosts::{Running, beside, number, output, print_ratios, run, wait_for};

const NAMESPACE: &str = "bench-nat";
const MTUS: [u16; 2] = [1500, 65520];
/// Seconds of an iperf3.
const SECONDS: u32 = 3;
/// The port of the iperf3 outside, of the one inside, and the one that is forwarded to the latter.
const OUTSIDE: u16 = 5201;
const INSIDE: u16 = 5202;
const FORWARDED: u16 = 5203;
const ROUND_TRIPS: usize = 3000;
const CONNECTIONS: usize = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Slirp4netns,
    Pasta,
    Ours,
}

/// What was seen: Gbit/s from the namespace, into it, and to the forwarded port; the median round trip in microseconds;
/// connections per second.
type Figures = [f64; 5];

/// Prints the figures of this many rounds, and the medians of the ratios.
pub fn compare(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "bench nat: at least one round");
    for (i, mtu) in MTUS.into_iter().enumerate() {
        if i > 0 {
            println!();
        }
        let mut to_slirp4netns: [Vec<f64>; 5] = Default::default();
        let mut to_pasta: [Vec<f64>; 5] = Default::default();
        println!(
            "{:<26} {:>11} {:>11} {:>11} {:>9} {:>9}",
            format!("NAT, MTU {mtu}"),
            "out Gbit/s",
            "in Gbit/s",
            "port Gbit/s",
            "trip us",
            "conn/s"
        );
        for _ in 0..rounds {
            let [slirp4netns, pasta, ours] =
                [Peer::Slirp4netns, Peer::Pasta, Peer::Ours].map(|peer| measure(peer, mtu));
            let (slirp4netns, pasta, ours) = (slirp4netns?, pasta?, ours?);
            for (i, ours) in ours.into_iter().enumerate() {
                to_slirp4netns[i].push(ours / slirp4netns[i]);
                to_pasta[i].push(ours / pasta[i]);
            }
        }
        let names = ["out", "in", "forwarded port", "round trip", "connections per second"];
        print_ratios("our NAT to slirp4netns", &names, to_slirp4netns);
        print_ratios("our NAT to pasta", &names, to_pasta);
    }
    Ok(())
}

fn measure(peer: Peer, mtu: u16) -> Result<Figures> {
    let namespace = Namespace::new()?;
    let mut running = Running::default();
    running.start(&mut peer.command(mtu)?)?;
    let mut gateway = None;
    wait_for(|| {
        gateway = namespace.gateway();
        gateway.is_some()
    })?;
    let gateway = gateway.with_context(|| format!("{peer:?}: no route"))?;
    if peer == Peer::Slirp4netns {
        forward_by_slirp4netns()?;
    }
    let outside = gateway.to_string();
    let out = iperf(None, OUTSIDE, Some(NAMESPACE), (&outside, OUTSIDE), &[])?;
    let into = iperf(None, OUTSIDE, Some(NAMESPACE), (&outside, OUTSIDE), &["-R"])?;
    let port = iperf(Some(NAMESPACE), INSIDE, None, ("127.0.0.1", FORWARDED), &[])?;
    let (trip, rate) = talk(gateway)?;
    let name = format!("{peer:?}").to_lowercase();
    println!("{name:<26} {out:>11.2} {into:>11.2} {port:>11.2} {trip:>9.1} {rate:>9.0}");
    Ok([out, into, port, trip, rate])
}

impl Peer {
    fn command(self, mtu: u16) -> Result<Command> {
        let file = format!("/run/netns/{NAMESPACE}");
        let mtu = mtu.to_string();
        let mut command;
        match self {
            Self::Slirp4netns => {
                command = Command::new("slirp4netns");
                command.args(["-c", "-m", &mtu, "-a", &api_socket(), "--netns-type=path", &file, "tap0"]);
            }
            Self::Pasta => {
                let forward = format!("127.0.0.1/{FORWARDED}:{INSIDE}");
                command = Command::new("pasta");
                command.args(["--config-net", "--runas", "0", "-m", &mtu, "-t", &forward, "-f", "--netns-only"]);
                command.args(["--netns", &file, "--ns-ifname", "tap0"]);
            }
            Self::Ours => {
                let forward = format!("tcp:127.0.0.1:{FORWARDED}-:{INSIDE}");
                command = Command::new(beside("slirp")?);
                command.args(["--netns", &file, "--mtu", &mtu, "--host-loopback", "--hostfwd", &forward, "tap0"]);
            }
        }
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// The namespace. Dropping this removes it.
struct Namespace;

impl Namespace {
    fn new() -> Result<Self> {
        remove_namespace();
        run(&format!("ip netns add {NAMESPACE}"))?;
        let namespace = Self;
        run(&format!("ip -n {NAMESPACE} link set lo up"))?;
        Ok(namespace)
    }

    /// The NAT's address, which leads to this host's loopback, once there is one.
    fn gateway(&self) -> Option<Ipv4Addr> {
        let route = output(Command::new("ip").args(["-n", NAMESPACE, "-4", "route", "show", "default"])).ok()?;
        route.split_whitespace().nth(2)?.parse().ok()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove_namespace();
    }
}

fn remove_namespace() {
    let _ = Command::new("ip").args(["netns", "del", NAMESPACE]).stderr(Stdio::null()).status();
}

fn api_socket() -> String {
    std::env::temp_dir().join(format!("bench-nat-{}", std::process::id())).display().to_string()
}

fn forward_by_slirp4netns() -> Result<()> {
    let mut api = Err(anyhow!("slirp4netns: no API socket"));
    wait_for(|| {
        api = UnixStream::connect(api_socket()).context("slirp4netns: its API socket");
        api.is_ok()
    })?;
    let mut api = api?;
    let arguments = serde_json::json!({
        "proto": "tcp", "host_addr": "127.0.0.1", "host_port": FORWARDED, "guest_addr": "10.0.2.100", "guest_port": INSIDE,
    });
    let request = serde_json::json!({ "execute": "add_hostfwd", "arguments": arguments });
    api.write_all(request.to_string().as_bytes())?;
    api.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    api.read_to_string(&mut answer)?;
    std::fs::remove_file(api_socket())?;
    ensure!(answer.contains("return"), "slirp4netns: {answer}");
    Ok(())
}

/// Gbit/s of an iperf3 in one namespace to one in another; none is this host's.
fn iperf(server: Option<&str>, port: u16, client: Option<&str>, to: (&str, u16), arguments: &[&str]) -> Result<f64> {
    let listening = port.to_string();
    let mut server = inside(server, "iperf3")
        .args(["-s", "-1", "-p", &listening])
        .stdout(Stdio::null())
        .spawn()
        .context("iperf3")?;
    sleep(Duration::from_millis(400));
    let (seconds, port) = (SECONDS.to_string(), to.1.to_string());
    let report = output(inside(client, "iperf3").args(["-c", to.0, "-p", &port, "-t", &seconds, "-J"]).args(arguments));
    if report.is_err() {
        server.kill().context("iperf3")?;
    }
    server.wait().context("iperf3")?;
    let report: serde_json::Value = serde_json::from_str(&report?).context("iperf3: its report")?;
    Ok(number(&report, "/end/sum_received/bits_per_second")? / 1e9)
}

fn inside(namespace: Option<&str>, program: &str) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

/// The median of the round trips in microseconds, and connections per second, from the namespace to a server here.
fn talk(gateway: Ipv4Addr) -> Result<(f64, f64)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = SocketAddr::from((gateway, listener.local_addr()?.port()));
    let server = thread::spawn(move || listener.incoming().take(1 + CONNECTIONS).try_for_each(|peer| echo(peer?)));
    let client =
        Host::there(NAMESPACE).spawn(move || -> std::io::Result<_> { Ok((round_trip(to)?, connections(to)?)) });
    let figures = client.join().map_err(|_| anyhow!("bench nat: the client has panicked"))??;
    server.join().map_err(|_| anyhow!("bench nat: the server has panicked"))??;
    Ok(figures)
}

fn echo(mut peer: TcpStream) -> std::io::Result<()> {
    peer.set_nodelay(true)?;
    let mut byte = [0];
    while peer.read(&mut byte)? > 0 {
        peer.write_all(&byte)?;
    }
    Ok(())
}

fn round_trip(to: SocketAddr) -> std::io::Result<f64> {
    let mut server = TcpStream::connect(to)?;
    server.set_nodelay(true)?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        exchange(&mut server)?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[ROUND_TRIPS / 2].as_secs_f64() * 1e6)
}

fn connections(to: SocketAddr) -> std::io::Result<f64> {
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        exchange(&mut TcpStream::connect(to)?)?;
    }
    Ok(CONNECTIONS as f64 / begun.elapsed().as_secs_f64())
}

fn exchange(server: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [b'x'];
    server.write_all(&byte)?;
    server.read_exact(&mut byte)
}
