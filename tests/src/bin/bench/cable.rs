//! Our cable over ssh beside VDE's: dpipe with vde_plug at both ends, between two of vde_switch, over the same sshd.
//!
//! The sshd is a real one, on loopback. Measured: iperf3 over TCP between a host on either switch, and the mean of 500 pings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::hosts::{HOSTS, Hosts, beside, number, print_ratios, run};

const PORT: u16 = 2298;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Vde,
    Ours,
}

/// Prints the figures of this many rounds, and the medians of the ratios.
pub fn compare(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "bench cable: at least one round");
    let sshd = Sshd::start()?;
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
    let mut running = Running(Vec::new());
    for (dir, host) in dirs.iter().zip(&HOSTS) {
        // A session of its own, as a daemon has.
        let mut command = Command::new("setsid");
        command.arg(&switch).args(["-s", dir, "-t", host.interface]);
        running.start(command.stdin(Stdio::piped()))?;
    }
    hosts.take_interfaces()?;
    running.start(cable.stdin(Stdio::null()))?;
    hosts.wait_for_ping()?;
    let figures = (number(&hosts.iperf(&[])?, "/end/sum_received/bits_per_second")? / 1e9, hosts.ping()?);
    println!("{name:<26} {:>11.2} {:>9.1}", figures.0, figures.1);
    drop(running);
    Ok(figures)
}

/// Programs that end with this.
struct Running(Vec<Child>);

impl Running {
    fn start(&mut self, command: &mut Command) -> Result<()> {
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

/// An sshd on loopback, with keys of its own. Dropping it removes both.
struct Sshd {
    dir: PathBuf,
    _running: Running,
}

impl Sshd {
    fn start() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("etherloom-bench-{}", std::process::id()));
        // Privilege separation wants /run/sshd.
        for dir in [&dir, &PathBuf::from("/run/sshd")] {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
        for key in ["host", "id"] {
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)).status();
            ensure!(made.context("ssh-keygen")?.success(), "ssh-keygen failed");
        }
        let programs = beside("plug")?.parent().context("bench: where it is")?.display().to_string();
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-f", "/dev/null", "-p", &PORT.to_string(), "-o", "ListenAddress=127.0.0.1", "-h"]);
        sshd.arg(dir.join("host")).args(["-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none"]);
        sshd.args(["-o", &format!("AuthorizedKeysFile={}", dir.join("id.pub").display())]);
        sshd.args(["-o", &format!("SetEnv=PATH={programs}:/usr/bin:/bin")]);
        let mut running = Running(Vec::new());
        running.start(&mut sshd)?;
        Ok(Self { dir, _running: running })
    }

    fn command(&self) -> String {
        let key = self.dir.join("id");
        let quiet = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        format!("ssh -i {} {quiet}", key.display())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
