//! Our cables on a bad path: over ssh, and over QUIC with ssh to admit it (`data=quic`).
//!
//! Four hosts: two with the cable's ends and, between them, the path, which is our own `impair://`; and one behind the switch
//! at either end. Measured: iperf3 over TCP between the outer two, and the delay of UDP beside it; and, for comparison, both
//! over the path itself. All use the same congestion control.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use netlab::probes::Probes;
use netlab::world::Host;

use crate::hosts::{HOSTS, HostNames, Hosts, Running, beside, number, print_ratios, run};
use crate::sshd::{PORT, Sshd};

/// The path, in each direction.
const PATH: &str = "delay=50ms&loss=1%&rate=100mbit";
/// RFC 5681: what every kernel lets a namespace use.
const CONGESTION: &str = "reno";
/// Seconds of a transfer: a connection that loses something in every round trip is slow to find its pace.
const SECONDS: u32 = 20;

/// The hosts at both ends of the path.
const ENDS: [HostNames; 2] = [
    HostNames { name: "bench-near", interface: "benchw0", address: "10.78.0.1" },
    HostNames { name: "bench-far", interface: "benchw1", address: "10.78.0.2" },
];

/// What was seen.
struct Figures {
    tcp_mbps: f64,
    /// The delay in milliseconds, one way, that 99 of 100 datagrams stayed below.
    p99_ms: f64,
    /// Of a hundred datagrams so many came.
    came: f64,
}

/// Prints the figures of this many rounds, each with other losses, and the medians of the ratios.
pub fn compare(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "bench path: at least one round");
    let mut ratios: [Vec<f64>; 2] = Default::default();
    println!("{:<26} {:>11} {:>12} {:>8}", format!("{PATH}, {CONGESTION}"), "TCP Mbit/s", "UDP p99 ms", "came %");
    for seed in 1..=rounds {
        let path = Path::new(seed)?;
        let bare = measure(&path.ends, &ENDS)?;
        print("no cable", &bare);
        let (ssh, quic) = (path.measure_cable("ssh")?, path.measure_cable("quic")?);
        ratios[0].push(quic.tcp_mbps / ssh.tcp_mbps);
        ratios[1].push(quic.p99_ms / bare.p99_ms);
    }
    print_ratios("data=quic", &["TCP to ssh", "UDP p99 to no cable"], ratios);
    Ok(())
}

fn print(name: &str, figures: &Figures) {
    println!("{name:<26} {:>11.2} {:>12.1} {:>8.1}", figures.tcp_mbps, figures.p99_ms, figures.came);
}

fn measure(hosts: &Hosts, names: &[HostNames; 2]) -> Result<Figures> {
    let [from, to] = names.each_ref().map(|host| Host::there(host.name));
    let probes = Probes::start(&from, &to, &format!("{}:6000", names[1].address));
    let report = hosts.iperf(SECONDS, &[]);
    let (p99, came) = probes.stop().context("no datagram came")?;
    let tcp_mbps = number(&report?, "/end/sum_received/bits_per_second")? / 1e6;
    Ok(Figures { tcp_mbps, p99_ms: p99.as_secs_f64() * 1e3, came: came * 100.0 })
}

/// The two hosts with the path between them, and an sshd on the far one.
struct Path {
    ends: Hosts,
    sshd: Sshd,
    _path: Running,
}

impl Path {
    fn new(seed: usize) -> Result<Self> {
        let ends = Hosts::of(&ENDS)?;
        let mut path = Running::default();
        let [near, far] = ENDS.each_ref().map(|host| format!("tap://{}", host.interface));
        let mut plug = Command::new(beside("plug")?);
        path.start(plug.args([&format!("impair://{{{near}}}?{PATH}&seed={seed}"), &far]).stdin(Stdio::null()))?;
        ends.take_interfaces()?;
        use_congestion(&ENDS)?;
        let sshd = Sshd::start(&format!("ip netns exec {}", ENDS[1].name), ENDS[1].address)?;
        Ok(Self { ends, sshd, _path: path })
    }

    fn measure_cable(&self, data: &str) -> Result<Figures> {
        let outer = Hosts::new()?;
        let mut running = Running::default();
        let dirs = ["a", "b"].map(|name| self.sshd.dir.join(name).display().to_string());
        for (dir, host) in dirs.iter().zip(&HOSTS) {
            let mut switch = Command::new("setsid");
            switch.arg(beside("vswitch")?).args(["-s", dir, "-t", host.interface]);
            running.start(switch.stdin(Stdio::piped()))?;
        }
        outer.take_interfaces()?;
        use_congestion(&HOSTS)?;
        let [a, b] = dirs;
        let mut cable = Command::new("ip");
        cable.args(["netns", "exec", ENDS[0].name]).arg(beside("plug")?);
        let far = format!("ssh://root@{}:{PORT}{b}?data={data}", ENDS[1].address);
        cable.args([&format!("vde://{a}"), &far]).env("PLUG_SSH", self.sshd.command());
        running.start(cable.stdin(Stdio::null()))?;
        outer.wait_for_ping()?;
        let figures = measure(&outer, &HOSTS)?;
        print(&format!("plug ...?data={data}"), &figures);
        Ok(figures)
    }
}

fn use_congestion(hosts: &[HostNames]) -> Result<()> {
    let key = "net.ipv4.tcp_congestion_control";
    hosts.iter().try_for_each(|host| run(&format!("ip netns exec {} sysctl -qw {key}={CONGESTION}", host.name)))
}
