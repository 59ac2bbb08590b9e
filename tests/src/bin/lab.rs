//! For the developer's hand: `lab COMMAND...` starts a test host, runs the commands there one after the other, and ends it.
//!
//! `$VMM`, `$KERNEL` and `$INITRD` are set for them, so that a guest on one's own terminal is
//! `lab '$VMM -m 256 -nographic -kernel $KERNEL -initrd $INITRD -append console=ttyS0'`. Neighbour: `host.rs`.

use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::debian::Kernel;
use tests::host::Exec;
use tests::{Host, Vmm, image};

fn main() {
    if let Err(error) = run() {
        eprintln!("lab: {error:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let commands: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!commands.is_empty(), "usage: lab COMMAND...");
    let host = Host::start()?;
    let kernel = Kernel::stock()?;
    let initrd = image::guest_initrd(&kernel)?;
    let vmm = Vmm::choose().command(&host)?;
    for command in commands {
        let kernel = kernel.bzimage.display();
        let setting = format!("VMM='{vmm}'; KERNEL={kernel}; INITRD={}; {command}", initrd.display());
        let mut process = host.spawn(Exec::new(setting))?;
        let mut seen = 0;
        while process.status().is_none() {
            seen += show(&process.stdout_from(seen))?;
            thread::sleep(Duration::from_millis(20));
        }
        show(&process.stdout_from(seen))?;
        let output = process.wait(Duration::ZERO)?;
        std::io::stderr().write_all(&output.stderr)?;
        if !output.status.success() {
            eprintln!("lab: {}", output.status);
        }
    }
    Ok(())
}

fn show(bytes: &[u8]) -> Result<usize> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(bytes.len())
}
