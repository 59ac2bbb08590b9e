//! Guests: a stock Debian kernel with `lab/guest-init`, in a VMM on a test host.
//!
//! [`Vm`] says what to boot, [`Guest`] is one that runs. Commands go over the serial console, each under a number that its output
//! comes back between (`lab/guest-init` has the other end), so nothing but the console has to work for a test to speak to its guest.
//! Any VMM with QEMU's command line will do: [`Vmm`]. Neighbours: `host.rs` (where it runs), `image.rs` (what it boots).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::debian::Kernel;
use crate::host::{Exec, Host, Output, Process, quote};
use crate::image;

/// How long a guest may take to boot.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// Which program runs the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// Ours, built from this workspace.
    Etherloom,
    /// Debian's QEMU with KVM, for comparison.
    Qemu,
    /// A program with our command line.
    Path(PathBuf),
}

impl Vmm {
    /// Ours, unless `ETHERLOOM_VMM` says `qemu` or names a program.
    pub fn choose() -> Vmm {
        match std::env::var("ETHERLOOM_VMM").as_deref() {
            Ok("qemu") => Vmm::Qemu,
            Ok(path) if !path.is_empty() => Vmm::Path(path.into()),
            _ => Vmm::Etherloom,
        }
    }

    /// How it is started on a host: a path, and what QEMU needs said and ours does not.
    pub fn command(&self, host: &Host) -> Result<String> {
        Ok(match self {
            Vmm::Etherloom => host.install(&crate::built("vmm", "vmm")?)?,
            Vmm::Path(path) => host.install(path)?,
            Vmm::Qemu => {
                format!("{} -enable-kvm -cpu host", image::program("qemu-system-x86_64", "qemu-system-x86")?.display())
            }
        })
    }
}

impl Vmm {
    /// Our arguments as this VMM spells them: QEMU dumps with a filter.
    fn words(&self, args: &str) -> String {
        match self {
            Vmm::Qemu => args
                .replace("-net user", "-net user,id=dumped")
                .replace("-net dump", "-object filter-dump,id=dump,netdev=dumped")
                .replace(",len=", ",maxlen="),
            _ => args.to_owned(),
        }
    }
}

/// What to boot, in the words of the VMM's command line.
#[derive(Clone, Debug)]
pub struct Vm {
    vmm: Vmm,
    memory: u32,
    kernel: Option<PathBuf>,
    words: String,
    args: String,
    unprivileged: bool,
}

impl Default for Vm {
    fn default() -> Vm {
        Vm::new()
    }
}

impl Vm {
    /// A guest with 256 MiB, one processor, the stock bzImage and no network option at all.
    pub fn new() -> Vm {
        let words = "console=ttyS0 quiet loglevel=1 panic=-1 lab=serve".to_owned();
        Vm { vmm: Vmm::choose(), memory: 256, kernel: None, words, args: String::new(), unprivileged: false }
    }

    /// More arguments, as on a shell's command line.
    pub fn args(mut self, args: &str) -> Vm {
        self.args = format!("{} {args}", self.args);
        self
    }

    /// Memory in MiB.
    pub fn memory(mut self, mib: u32) -> Vm {
        self.memory = mib;
        self
    }

    /// Another kernel than the stock bzImage.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Vm {
        self.kernel = Some(path.into());
        self
    }

    /// More words for the kernel's command line.
    pub fn append(mut self, words: &str) -> Vm {
        self.words = format!("{} {words}", self.words);
        self
    }

    /// With a guest that powers off as soon as `/init` runs, instead of serving commands.
    pub fn brief(mut self) -> Vm {
        self.words = self.words.replace("lab=serve", "lab=off");
        self
    }

    /// The VMM to run it in.
    pub fn vmm(mut self, vmm: Vmm) -> Vm {
        self.vmm = vmm;
        self
    }

    /// With the VMM as a user without privileges.
    pub fn unprivileged(mut self) -> Vm {
        self.unprivileged = true;
        self
    }

    /// The command line that boots it on a host.
    pub fn command(&self, host: &Host) -> Result<String> {
        let stock = Kernel::stock()?;
        let kernel = host.image(self.kernel.as_ref().unwrap_or(&stock.bzimage))?;
        let initrd = host.image(&image::guest_initrd(&stock)?)?;
        Ok(format!(
            "{} -m {} {} -kernel {} -initrd {} -append {}{}",
            self.vmm.command(host)?,
            self.memory,
            if self.args.contains("-daemonize") { "-display none -serial none" } else { "-nographic" },
            quote(&kernel),
            quote(&initrd),
            quote(&self.words),
            self.vmm.words(&self.args)
        ))
    }
}

impl Host {
    /// Boots a guest and waits until it takes commands.
    pub fn boot(&self, vm: &Vm) -> Result<Guest> {
        let mut guest = self.launch(vm)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Starts a guest without waiting for it.
    pub fn launch(&self, vm: &Vm) -> Result<Guest> {
        let command = vm.command(self)?;
        let mut exec = Exec::new(format!("exec {command}"));
        if vm.unprivileged {
            exec = exec.unprivileged();
        }
        let started = Instant::now();
        let process = self.spawn(exec)?;
        Ok(Guest { process, command, started, seen: 0, next: 1 })
    }
}

/// A running guest; its VMM is killed when it is dropped.
pub struct Guest {
    process: Process,
    command: String,
    started: Instant,
    /// How much of the console has been taken for answers.
    seen: usize,
    next: u32,
}

impl Guest {
    /// The VMM's command line.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The VMM's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until the guest takes commands (again, after a reboot).
    pub fn wait_ready(&mut self) -> Result<()> {
        self.seen = self.process.wait_for(b"\x1eready", self.seen, BOOT_PATIENCE).context("boot")? + 6;
        Ok(())
    }

    /// Waits until `/init` runs: the time since the VMM was started, and the guest's own clock.
    pub fn wait_init(&mut self) -> Result<(Duration, f64)> {
        let at = self.process.wait_for(b"init: up ", self.seen, BOOT_PATIENCE).context("boot to /init")?;
        let elapsed = self.started.elapsed();
        let end = self.process.wait_for(b"\n", at, BOOT_PATIENCE)?;
        let line = self.process.stdout_from(at + 9);
        let uptime = String::from_utf8_lossy(&line[..end - at - 9]).trim().parse().context("init: its uptime")?;
        Ok((elapsed, uptime))
    }

    /// Runs a command in the guest; an error unless it succeeds. Returns what it printed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let (status, output) = self.try_run(command)?;
        ensure!(status == 0, "guest: `{command}`: status {status}: {output}");
        Ok(output)
    }

    /// Runs a command in the guest: its exit status and what it printed.
    pub fn try_run(&mut self, command: &str) -> Result<(i32, String)> {
        self.run_within(command, crate::host::PATIENCE)
    }

    /// As [`Guest::try_run`], with this long to wait for it.
    pub fn run_within(&mut self, command: &str, patience: Duration) -> Result<(i32, String)> {
        let nonce = self.send(command)?;
        let context = || format!("guest: `{command}`");
        let begin = format!("\x1e{nonce}[");
        let end = format!("\x1e{nonce}] ");
        let start = self.process.wait_for(begin.as_bytes(), self.seen, patience).with_context(context)? + begin.len();
        let stop = self.process.wait_for(end.as_bytes(), start, patience).with_context(context)?;
        let line = self.process.wait_for(b"\n", stop, patience).with_context(context)?;
        self.seen = line;
        let answer = self.process.stdout_from(start);
        let output = String::from_utf8_lossy(&answer[..stop - start]).replace("\r\n", "\n");
        let status = String::from_utf8_lossy(&answer[stop - start + end.len()..line - start]).trim().parse();
        Ok((status.with_context(|| format!("guest: `{command}`: no status"))?, output))
    }

    /// The Mbit/s of five seconds of iperf3 to 10.99.0.1 as the receiver has them; the other way with `-R`.
    pub fn throughput(&mut self, direction: &str) -> Result<f64> {
        let report = self.run(&format!("iperf3 -c 10.99.0.1 -t 5 -f m {direction}"))?;
        let line =
            report.lines().find(|line| line.trim_end().ends_with("receiver")).context("iperf3: no receiver's line")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let unit = words.iter().position(|word| *word == "Mbits/sec").context("iperf3: no rate")?;
        words[unit - 1].parse().context("iperf3: its rate")
    }

    /// Everything on the console so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.process.stdout_from(0)).into_owned()
    }

    /// Powers the guest off and waits for the VMM's end.
    pub fn poweroff(mut self) -> Result<Output> {
        self.send("poweroff -f")?;
        self.wait_exit()
    }

    /// Waits for the VMM's end.
    pub fn wait_exit(&mut self) -> Result<Output> {
        self.process.wait(Duration::from_secs(30)).context("wait for the VMM's end")
    }

    /// Sends a command without waiting for its answer, as for one that ends the guest.
    pub fn send(&mut self, command: &str) -> Result<u32> {
        if command.contains('\n') {
            bail!("guest: a command is one line: {command:?}");
        }
        let nonce = self.next;
        self.next += 1;
        self.process.send(format!("{nonce} {command}\n").as_bytes())?;
        Ok(nonce)
    }
}
