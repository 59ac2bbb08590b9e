//! `make demo`: a stock Debian kernel boots in our VMM, gets a lease from our NAT and moves real data both ways.
//!
//! Prints what a person wants to see, in order, and no more than fits a screen or two. `ETHERLOOM_VMM=qemu` shows QEMU instead.
//! Neighbour: `bench.rs`, which measures.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::host::{Kind, quote};
use tests::{Host, Vm, image};

/// Where the network arguments of the demo's guest lead: a NIC, the NAT with a port of the host forwarded to it, a dump of both.
const NETWORK: &str =
    "-net nic,model=virtio -net user,hostfwd=tcp:127.0.0.1:2280-:80 -net dump,file=/run/lab/demo.pcap,len=512";

/// What is told of the guest's boot.
const BOOT_LINES: &str = "Linux version|Hypervisor detected|Memory:|smp: Brought up|virtio_net|Run /init";

fn main() {
    if let Err(error) = demo() {
        eprintln!("demo: {error:#}");
        std::process::exit(1);
    }
}

fn demo() -> Result<()> {
    let tshark = image::program("tshark", "tshark")?;
    let kind = Kind::choose()?;
    step(match kind {
        Kind::Local => "A host for the guest: this machine's /dev/kvm, in network namespaces of its own",
        Kind::Outer => {
            "A host for the guest: no svm or vmx here, so QEMU emulates a machine that has it (slow, but real)"
        }
    });
    let begun = Instant::now();
    let host = Host::start_kind(kind)?;
    say(&format!("up in {:.1} s; behind it a server, 10.99.0.1 (DNS, HTTP, iperf3)", begun.elapsed().as_secs_f32()));

    step("The guest's boot");
    let vm = Vm::new().args(NETWORK);
    let command = vm.command(&host)?;
    say(&short(&command));
    let mut guest = host.launch(&vm)?;
    let (boot, _) = guest.wait_init()?;
    guest.wait_ready()?;
    let dmesg = guest.run(&format!("dmesg | grep -E '{BOOT_LINES}' | cut -c1-100"))?;
    dmesg.lines().for_each(say);
    say(&format!("/init runs {:.1} s after the VMM was started", boot.as_secs_f32()));

    step("Its lease");
    say(guest.run("lease eth0")?.trim());
    let looked_up = guest.run("nslookup server.test 2>&1")?;
    let address = looked_up.lines().rfind(|line| line.starts_with("Address")).unwrap_or_default();
    say(&format!("server.test, asked of the guest's DNS: {address}"));
    let ping = guest.run("ping -c 3 -i 0.2 10.0.2.2")?;
    say(ping.lines().last().unwrap_or_default());

    step("Data, 5 s each way (iperf3 to 10.99.0.1)");
    say(&format!("guest to server: {:.1} Mbit/s", guest.throughput("")?));
    say(&format!("server to guest: {:.1} Mbit/s", guest.throughput("-R")?));

    step("Into the guest, by hostfwd");
    guest.run("echo \"<p>Hello from $(uname -sr) inside the guest</p>\" >/www/index.html; httpd -h /www")?;
    say("host$ busybox wget -qO- http://127.0.0.1:2280/");
    say(host.run("busybox wget -qO- http://127.0.0.1:2280/")?.trim());

    step("Power off");
    let ended = guest.poweroff()?;
    say(&format!("the VMM ended: {}", ended.status));
    ensure!(ended.status.success(), "the VMM: {ended}");

    let pcap = tests::cache_dir()?.join("demo.pcap");
    fs::write(&pcap, host.get("/run/lab/demo.pcap")?).with_context(|| format!("write {}", pcap.display()))?;
    step(&format!("Every frame of it (their first 512 bytes): {}", pcap.display()));
    say(&format!("$ tshark -r {} | head", quote(&pcap.display().to_string())));
    let frames = Command::new(tshark).arg("-r").arg(&pcap).args(["-c", "10"]).output().context("run tshark")?;
    String::from_utf8_lossy(&frames.stdout).lines().for_each(|line| say(line.get(..116).unwrap_or(line)));
    println!("\nDone in {:.0} s.", begun.elapsed().as_secs_f32());
    Ok(())
}

/// The command as a person would type it: programs and files without their directories.
fn short(command: &str) -> String {
    let bare = |word: &str| match word.trim_matches('\'').rsplit_once('/') {
        Some((dir, file)) if dir.is_empty() || dir.starts_with('/') => file.to_owned(),
        _ => word.to_owned(),
    };
    format!("$ {}", command.split(' ').map(bare).collect::<Vec<_>>().join(" "))
}

fn step(title: &str) {
    println!("\n== {title}");
    let _ = std::io::stdout().flush();
}

fn say(line: &str) {
    println!("   {line}");
    let _ = std::io::stdout().flush();
}
