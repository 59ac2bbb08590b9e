//! Our switch beside the kernel's bridge and Debian's vde_switch, between two hosts made of network namespaces.
//!
//! Each host has a TAP (for the bridge, a veth) at MTU 1500. Measured: iperf3 over TCP, the mean of 500 pings, iperf3 with 64-byte
//! frames of UDP; the processor time of the switch's process for each of those frames and for each gigabyte of TCP; and its system
//! calls for each frame, counted by perf, which unlike strace does not slow them, in a run of their own.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::hosts::{HOSTS, Hosts, SECONDS, beside, number, print_ratios, received, run};

const BRIDGE: &str = "benchbr";
const DIR: &str = "/tmp/etherloom-bench.ctl";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Bridge,
    VdeSwitch,
    Ours,
}

impl Peer {
    const ALL: [Self; 3] = [Self::Bridge, Self::VdeSwitch, Self::Ours];

    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "kernel bridge",
            Self::VdeSwitch => "vde_switch",
            Self::Ours => "vswitch",
        }
    }
}

/// What is measured of one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    tcp_gbps: f64,
    rtt_us: f64,
    udp_kpps: f64,
    /// Microseconds of processor time for each 64-byte frame; of a process, so not of the bridge.
    us_per_frame: f64,
    /// Seconds of processor time for each gigabyte of TCP.
    s_per_gigabyte: f64,
    calls_per_frame: f64,
}

/// Prints the figures of this many rounds, and the medians of the ratios.
pub fn compare(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "bench switch: at least one round");
    let mut ratios: [Vec<f64>; 5] = Default::default();
    println!(
        "{:<14} {:>11} {:>9} {:>11} {:>12} {:>11} {:>12}",
        "", "TCP Gbit/s", "ping us", "UDP64 kpps", "us of CPU/fr", "CPU s/GB", "calls/frame"
    );
    for _ in 0..rounds {
        let [bridge, vde, ours] = Peer::ALL.map(measure);
        let (bridge, vde, ours) = (bridge?, vde?, ours?);
        let round = [
            ours.tcp_gbps / vde.tcp_gbps,
            ours.tcp_gbps / bridge.tcp_gbps,
            ours.udp_kpps / vde.udp_kpps,
            ours.rtt_us / vde.rtt_us,
            ours.us_per_frame / vde.us_per_frame,
        ];
        ratios.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
    }
    let names = [
        "TCP to vde_switch",
        "TCP to the bridge",
        "UDP64 to vde_switch",
        "ping to vde_switch",
        "CPU per frame to vde_switch",
    ];
    print_ratios("vswitch", &names, ratios);
    Ok(())
}

fn measure(peer: Peer) -> Result<Figures> {
    let lab = Lab::new(peer)?;
    let mut figures = Figures::default();
    let before = lab.cpu_seconds()?;
    let report = lab.hosts.iperf(SECONDS, &[])?;
    figures.tcp_gbps = number(&report, "/end/sum_received/bits_per_second")? / 1e9;
    let after_tcp = lab.cpu_seconds()?;
    figures.s_per_gigabyte = (after_tcp - before) * 1e9 / number(&report, "/end/sum_received/bytes")?;
    figures.rtt_us = lab.hosts.ping()?;
    let before_udp = lab.cpu_seconds()?;
    let report = lab.hosts.iperf(SECONDS, &["-u", "-b", "0", "-l", "22"])?;
    let frames = received(&report)?;
    figures.udp_kpps = frames / number(&report, "/end/sum/seconds")? / 1e3;
    figures.us_per_frame = (lab.cpu_seconds()? - before_udp) * 1e6 / frames;
    figures.calls_per_frame = lab.calls_per_frame()?;
    let dash = |value: f64| if peer == Peer::Bridge { "-".to_owned() } else { format!("{value:.2}") };
    println!(
        "{:<14} {:>11.2} {:>9.1} {:>11.1} {:>12} {:>11} {:>12}",
        peer.name(),
        figures.tcp_gbps,
        figures.rtt_us,
        figures.udp_kpps,
        dash(figures.us_per_frame),
        dash(figures.s_per_gigabyte),
        dash(figures.calls_per_frame)
    );
    Ok(figures)
}

/// Two hosts and what joins them. Dropping it removes everything.
struct Lab {
    hosts: Hosts,
    switch: Option<Child>,
}

impl Lab {
    fn new(peer: Peer) -> Result<Self> {
        let mut lab = Self { hosts: Hosts::new()?, switch: None };
        match peer {
            Peer::Bridge => {
                run(&format!("ip link add {BRIDGE} type bridge"))?;
                run(&format!("ip link set {BRIDGE} up"))?;
                for host in &HOSTS {
                    run(&format!("ip link add v{0} type veth peer name {0}", host.interface))?;
                    run(&format!("ip link set v{} master {BRIDGE} up", host.interface))?;
                }
            }
            Peer::VdeSwitch => lab.switch = Some(start("vde_switch".as_ref())?),
            Peer::Ours => lab.switch = Some(start(&beside("vswitch")?)?),
        }
        lab.hosts.take_interfaces()?;
        lab.hosts.wait_for_ping()?;
        Ok(lab)
    }

    /// Processor time of the switch so far.
    fn cpu_seconds(&self) -> Result<f64> {
        let Some(switch) = &self.switch else { return Ok(0.0) };
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", switch.id())).context("the switch's processor time")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        // SAFETY: sysconf takes no pointers.
        Ok(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    }

    /// System calls of the switch for each 64-byte frame that arrives.
    fn calls_per_frame(&self) -> Result<f64> {
        let Some(switch) = &self.switch else { return Ok(0.0) };
        let pid = switch.id().to_string();
        let counter = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid])
            .stderr(Stdio::piped())
            .spawn()
            .context("perf")?;
        sleep(Duration::from_millis(500));
        let report = self.hosts.iperf(SECONDS, &["-u", "-b", "0", "-l", "22"]);
        run(&format!("kill -INT {}", counter.id()))?;
        let counts = counter.wait_with_output().context("perf")?;
        let counts = String::from_utf8_lossy(&counts.stderr).into_owned();
        let line = counts.lines().find(|line| line.contains("sys_enter")).with_context(|| format!("perf: {counts}"))?;
        let calls: f64 = line.split(',').next().unwrap_or_default().parse().with_context(|| format!("perf: {line}"))?;
        Ok(calls / received(&report?)?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(switch) = &mut self.switch {
            let _ = run(&format!("kill -TERM {}", switch.id()));
            let _ = switch.wait();
        }
        let _ = run(&format!("ip link del {BRIDGE}"));
    }
}

/// A switch with both TAPs, on a directory of its own, and in a session of its own as a daemon has: the kernel shares the
/// processors out among sessions.
fn start(program: &std::path::Path) -> Result<Child> {
    let taps = HOSTS.iter().flat_map(|host| ["-t", host.interface]);
    let child = Command::new("setsid")
        .arg(program)
        .args(["-s", DIR])
        .args(taps)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    child.with_context(|| program.display().to_string())
}
