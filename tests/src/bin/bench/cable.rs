//! Our cable over ssh beside VDE's: dpipe with vde_plug at both ends, between two of vde_switch, over the same sshd.
//!
//! The sshd is a real one, on loopback. Measured: iperf3 over TCP between a host on either switch, and the mean of 500 pings.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::hosts::{HOSTS, Hosts, Running, SECONDS, beside, number, print_ratios};
use crate::sshd::{PORT, Sshd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Vde,
    Ours,
}

/// Prints the figures of this many rounds, and the medians of the ratios.
pub fn compare(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "bench cable: at least one round");
    let sshd = Sshd::start("", "127.0.0.1")?;
    let mut ratios: [Vec<f64>; 2] = Default::default();
    println!("{:<26} {:>11} {:>9}", "cable over ssh", "TCP Gbit/s", "ping us");
    for _ in 0..rounds {
        let [vde, ours] = [Peer::Vde, Peer::Ours].map(|peer| measure(peer, &sshd));
        let (vde, ours) = (vde?, ours?);
        ratios[0].push(ours.0 / vde.0);
        ratios[1].push(ours.1 / vde.1);
    }
    print_ratios("our cable", &["TCP to dpipe and vde_plug", "ping to dpipe and vde_plug"], ratios);
    Ok(())
}

fn measure(peer: Peer, sshd: &Sshd) -> Result<(f64, f64)> {
    let hosts = Hosts::new()?;
    let dirs = ["a", "b"].map(|name| sshd.dir.join(name).display().to_string());
    let [a, b] = &dirs;
    let ssh = sshd.command();
    let (switch, mut cable, name) = match peer {
        Peer::Vde => {
            let mut dpipe = Command::new("dpipe");
            dpipe.args(["vde_plug", a, "="]).args(ssh.split(' '));
            dpipe.args(["-p", &PORT.to_string(), "root@127.0.0.1", "vde_plug", b]);
            ("vde_switch".into(), dpipe, "dpipe, vde_plug")
        }
        Peer::Ours => {
            let mut plug = Command::new(beside("plug")?);
            plug.args([&format!("vde://{a}"), &format!("ssh://root@127.0.0.1:{PORT}{b}")]).env("PLUG_SSH", &ssh);
            (beside("vswitch")?, plug, "plug")
        }
    };
    let mut running = Running::default();
    for (dir, host) in dirs.iter().zip(&HOSTS) {
        // A session of its own, as a daemon has.
        let mut command = Command::new("setsid");
        command.arg(&switch).args(["-s", dir, "-t", host.interface]);
        running.start(command.stdin(Stdio::piped()))?;
    }
    hosts.take_interfaces()?;
    running.start(cable.stdin(Stdio::null()))?;
    hosts.wait_for_ping()?;
    let figures = (number(&hosts.iperf(SECONDS, &[])?, "/end/sum_received/bits_per_second")? / 1e9, hosts.ping()?);
    println!("{name:<26} {:>11.2} {:>9.1}", figures.0, figures.1);
    drop(running);
    Ok(figures)
}
