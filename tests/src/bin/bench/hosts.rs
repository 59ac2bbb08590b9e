//! Two hosts made of network namespaces, and what is measured between them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Seconds of an iperf3, where nothing else is said.
pub const SECONDS: u32 = 4;

/// A host, its interface and its address there.
pub struct HostNames {
    pub name: &'static str,
    pub interface: &'static str,
    pub address: &'static str,
}

/// The hosts.
pub const HOSTS: [HostNames; 2] = [
    HostNames { name: "bench-a", interface: "bench0", address: "10.77.0.1" },
    HostNames { name: "bench-b", interface: "bench1", address: "10.77.0.2" },
];

/// The two hosts. Dropping this removes them.
pub struct Hosts(&'static [HostNames; 2]);

impl Hosts {
    pub fn new() -> Result<Self> {
        Self::of(&HOSTS)
    }

    /// Hosts with these names.
    pub fn of(names: &'static [HostNames; 2]) -> Result<Self> {
        let hosts = Self(names);
        hosts.remove();
        for host in names {
            run(&format!("ip netns add {}", host.name))?;
        }
        Ok(hosts)
    }

    fn remove(&self) {
        for host in self.0 {
            let _ = Command::new("ip").args(["netns", "del", host.name]).stderr(Stdio::null()).status();
        }
    }

    /// Gives each host its interface, once that is there.
    pub fn take_interfaces(&self) -> Result<()> {
        for HostNames { name, interface, address } in self.0 {
            wait_for(|| {
                let mut show = Command::new("ip");
                show.args(["link", "show", interface]).stderr(Stdio::null()).stdout(Stdio::null());
                show.status().is_ok_and(|status| status.success())
            })?;
            run(&format!("ip link set {interface} netns {name}"))?;
            run(&format!("ip -n {name} addr add {address}/24 dev {interface}"))?;
            run(&format!("ip -n {name} link set {interface} up"))?;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        Ok(())
    }

    /// Waits until the first reaches the second.
    pub fn wait_for_ping(&self) -> Result<()> {
        wait_for(|| self.in_host(0, "ping", &["-q", "-c", "1", "-W", "1", self.0[1].address]).is_ok())
    }

    /// Runs a program on a host.
    pub fn in_host(&self, host: usize, program: &str, arguments: &[&str]) -> Result<String> {
        let mut words = vec!["netns", "exec", self.0[host].name, program];
        words.extend(arguments);
        output(Command::new("ip").args(words))
    }

    /// The JSON report of a client on the first host, which sends for so many seconds.
    pub fn iperf(&self, seconds: u32, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut server = Command::new("ip")
            .args(["netns", "exec", self.0[1].name, "iperf3", "-s", "-1"])
            .stdout(Stdio::null())
            .spawn()
            .context("iperf3")?;
        sleep(Duration::from_millis(400));
        let seconds = seconds.to_string();
        let mut words = vec!["-c", self.0[1].address, "-t", &seconds, "-J"];
        words.extend(arguments);
        let report = self.in_host(0, "iperf3", &words);
        if report.is_err() {
            server.kill().context("iperf3")?;
        }
        server.wait().context("iperf3")?;
        serde_json::from_str(&report?).context("iperf3: its report")
    }

    /// The mean round trip in microseconds.
    pub fn ping(&self) -> Result<f64> {
        let report = self.in_host(0, "ping", &["-q", "-i", "0.002", "-c", "500", self.0[1].address])?;
        let line = report.lines().find(|line| line.contains("min/avg/max")).context("ping: no summary")?;
        let mean: f64 = line.split('/').nth(4).context("ping: no mean")?.parse().context("ping: its mean")?;
        Ok(mean * 1e3)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A program of ours, which is built beside this one.
pub fn beside(program: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe().context("bench: where it is")?.with_file_name(program))
}

/// Prints the medians of the ratios of several rounds, and each of them.
pub fn print_ratios<const N: usize>(of: &str, names: &[&str; N], ratios: [Vec<f64>; N]) {
    println!("\n{of}, as a ratio (median of {}):", ratios.first().map_or(0, Vec::len));
    for (name, mut values) in names.iter().zip(ratios) {
        values.sort_by(f64::total_cmp);
        let all: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
        println!("{name:<28} {:>6.2}   ({})", values[values.len() / 2], all.join(" "));
    }
}

/// A number of an iperf3's report.
pub fn number(report: &serde_json::Value, pointer: &str) -> Result<f64> {
    report
        .pointer(pointer)
        .and_then(serde_json::Value::as_f64)
        .with_context(|| format!("iperf3: no {pointer}: {report}"))
}

/// Datagrams that arrived.
pub fn received(report: &serde_json::Value) -> Result<f64> {
    Ok(number(report, "/end/sum/packets")? - number(report, "/end/sum/lost_packets")?)
}

/// Programs that end with this.
#[derive(Default)]
pub struct Running(Vec<Child>);

impl Running {
    /// Starts one, which is heard by nobody.
    pub fn start(&mut self, command: &mut Command) -> Result<()> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.0.push(child.with_context(|| format!("{command:?}"))?);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            let _ = run(&format!("kill -TERM {}", child.id()));
            let _ = child.wait();
        }
    }
}

/// Waits until something is there, which is part of what joins the hosts.
pub fn wait_for(mut is_there: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is_there() {
        if begun.elapsed() > Duration::from_secs(10) {
            bail!("bench: the hosts are not joined after 10 s");
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs a command line, which must succeed.
pub fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    output(Command::new(words.next().unwrap_or_default()).args(words)).map(drop)
}

/// What a command says, which must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
