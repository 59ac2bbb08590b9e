//! Our VMM and Debian's QEMU one after the other in one host, same kernel, same initrd.
//!
//! Measured: the time from starting the VMM to `/init`; iperf3 over `-net user` both ways, guest as client, 5 s each; ping to the
//! gateway; resident memory beyond the guest's RAM. [`boots`] boots guests in a row instead and looks for what they leave.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::host::Exec;
use tests::{Guest, Host, Vm, Vmm};

/// Boots per VMM: the least of them counts, as what disturbs a boot only ever adds.
const BOOTS: usize = 3;

/// Guest memory in MiB.
const MEMORY: u32 = 256;

/// What is measured of one VMM.
#[derive(Default)]
struct Figures {
    boot: f64,
    out: f64,
    into: f64,
    ping: f64,
    memory: f64,
}

/// Prints the figures of both.
pub fn compare() -> Result<()> {
    let host = Host::start()?;
    eprintln!("bench: {:?} host is up", host.kind());
    let ours = measure(&host, Vmm::Etherloom)?;
    let qemu = measure(&host, Vmm::Qemu)?;
    println!("{:<34} {:>10} {:>10} {:>14}", "", "vmm", "QEMU 7.2", "vmm : QEMU");
    row("boot to /init, s", ours.boot, qemu.boot);
    row("iperf3 guest to host, Mbit/s", ours.out, qemu.out);
    row("iperf3 host to guest, Mbit/s", ours.into, qemu.into);
    row("ping to the gateway, ms", ours.ping, qemu.ping);
    row("memory beyond the guest's RAM, MB", ours.memory, qemu.memory);
    Ok(())
}

fn row(what: &str, ours: f64, qemu: f64) {
    println!("{what:<34} {ours:>10.2} {qemu:>10.2} {:>14.2}", ours / qemu);
}

fn measure(host: &Host, vmm: Vmm) -> Result<Figures> {
    let vm = Vm::new().vmm(vmm.clone()).memory(MEMORY).args("-net nic,model=virtio -net user");
    let mut figures = Figures { boot: f64::INFINITY, ..Figures::default() };
    for boot in 1..=BOOTS {
        let mut guest = host.launch(&vm)?;
        let (elapsed, _) = guest.wait_init()?;
        eprintln!("bench: {vmm:?}: boot {boot} of {BOOTS}: {:.2} s", elapsed.as_secs_f64());
        figures.boot = figures.boot.min(elapsed.as_secs_f64());
        guest.wait_ready()?;
        if boot == BOOTS {
            guest.run("lease")?;
            figures.out = guest.throughput("")?;
            figures.into = guest.throughput("-R")?;
            figures.ping = ping(&mut guest)?;
            figures.memory = overhead(host, guest.process().pid())?;
        }
        ensure!(guest.poweroff()?.status.success(), "{vmm:?}: not a clean end");
    }
    eprintln!("bench: {vmm:?}: {:.1} Mbit/s out, {:.1} in, ping {:.2} ms", figures.out, figures.into, figures.ping);
    Ok(figures)
}

/// The average round trip in ms (`round-trip min/avg/max = a/b/c ms`).
fn ping(guest: &mut Guest) -> Result<f64> {
    let report = guest.run("ping -c 20 -i 0.1 10.0.2.2")?;
    let line = report.lines().rfind(|line| line.contains("min/avg/max")).context("ping: no summary")?;
    line.rsplit("= ")
        .next()
        .and_then(|figures| figures.split('/').nth(1))
        .context("ping: no average")?
        .parse()
        .context("ping")
}

/// Resident megabytes of a VMM less those of its guest's RAM, which are its mappings of exactly the guest's size, or the two around
/// the hole: any mapping of at least half of it.
fn overhead(host: &Host, pid: i32) -> Result<f64> {
    let smaps = host.run(format!("cat /proc/{pid}/smaps"))?;
    let (mut total, mut ram, mut size) = (0.0, 0.0, 0.0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match key {
            "Size:" => size = value.parse::<f64>().context("smaps: a size")?,
            "Rss:" => {
                let rss: f64 = value.parse().context("smaps: a resident size")?;
                total += rss;
                if size >= f64::from(MEMORY) * 1024.0 / 2.0 {
                    ram += rss;
                }
            }
            _ => {}
        }
    }
    ensure!(ram > 0.0, "process {pid}: no mapping is the guest's RAM");
    Ok((total - ram) / 1024.0)
}

/// Boots this many guests, and fails if one leaves anything behind.
pub fn boots(count: usize) -> Result<()> {
    let host = Host::start()?;
    let vm =
        Vm::new().brief().args("-net nic,model=virtio -net user,hostfwd=tcp::2299-:22 -pidfile /run/lab/boots.pid");
    let command = vm.command(&host)?;
    let begun = Instant::now();
    let mut before = None;
    for boot in 1..=count {
        let output = host.try_run(Exec::new(command.as_str()).patience(Duration::from_secs(120)))?;
        if !output.status.success() || !output.text().contains("init: up") {
            bail!("boot {boot}: {output}");
        }
        let left = host.traces()?;
        match &before {
            None => before = Some(left),
            Some(before) => ensure!(*before == left, "boot {boot}: before it\n{before}\nafter it\n{left}"),
        }
        if boot % 10 == 0 {
            eprintln!(
                "bench: {boot} boots, {:.1} s each, nothing left behind",
                begun.elapsed().as_secs_f32() / boot as f32
            );
        }
    }
    println!("{count} boots, none failed, no process, file, socket or interface left behind");
    Ok(())
}
