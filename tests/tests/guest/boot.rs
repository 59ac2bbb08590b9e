//! Kernels, processors, devices, reboot and power off.

use anyhow::Result;
use tests::debian::Kernel;
use tests::{Host, Vm};

#[test]
fn a_guest_powers_off_and_the_vmm_exits_0() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new())?;
    assert!(vm.run("uname -v")?.contains("Debian"));
    assert_eq!(vm.run("nproc")?.trim(), "1");
    let ended = vm.poweroff()?;
    assert!(ended.status.success(), "{ended}");
    assert_eq!(ended.errors(), "");
    Ok(())
}

#[test]
fn an_elf_vmlinux_boots() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().kernel(Kernel::stock()?.vmlinux))?;
    assert_eq!(vm.run("lease")?, "eth0: 10.0.2.15/24 router 10.0.2.2 dns 10.0.2.3\n");
    assert!(vm.poweroff()?.status.success());
    Ok(())
}

#[test]
fn two_vcpus_come_up() -> Result<()> {
    vcpus_come_up(2)
}

#[test]
fn four_vcpus_come_up() -> Result<()> {
    vcpus_come_up(4)
}

fn vcpus_come_up(count: usize) -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().args(&format!("-smp {count}")))?;
    assert_eq!(vm.run("nproc")?.trim(), count.to_string());
    // Every processor has an APIC id of its own and takes part: a program runs on each, and the NIC works beside them.
    assert_eq!(vm.run("grep ^apicid /proc/cpuinfo | sort -u | wc -l")?.trim(), count.to_string());
    for cpu in 0..count {
        assert_eq!(vm.run(&format!("taskset -c {cpu} echo on {cpu}"))?, format!("on {cpu}\n"));
    }
    assert!(vm.run("lease")?.contains("10.0.2.15"));
    assert!(vm.run("wget -qO- http://10.99.0.1/ 2>&1 || true")?.contains("404"));
    assert!(vm.poweroff()?.status.success());
    Ok(())
}

#[test]
fn memory_is_what_was_asked_for() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().memory(512))?;
    let kib: u64 = vm.run("awk '/MemTotal/ {print $2}' /proc/meminfo")?.trim().parse()?;
    assert!((430 << 10..=512 << 10).contains(&kib), "{kib} KiB");
    Ok(())
}

#[test]
fn virtio_rng_feeds_the_guest() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().args("-net none -device virtio-rng-pci"))?;
    assert_eq!(vm.run("cat /sys/class/misc/hw_random/rng_current")?.trim(), "virtio_rng.0");
    let draw = "dd if=/dev/hwrng bs=64 count=1 2>/dev/null | xxd -p -c 64";
    let (one, two) = (vm.run(draw)?, vm.run(draw)?);
    assert_eq!(one.trim().len(), 128, "{one}");
    assert_ne!(one, two);
    Ok(())
}

#[test]
fn the_clock_is_the_hosts() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new())?;
    let before: i64 = host.run("date +%s")?.trim().parse()?;
    let guest: i64 = vm.run("date +%s")?.trim().parse()?;
    assert!((before - 2..=before + 5).contains(&guest), "host {before}, guest {guest}");
    Ok(())
}

#[test]
fn a_reboot_boots_again_and_keeps_no_descriptor() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new())?;
    let count = format!("ls /proc/{}/fd | wc -l", vm.process().pid());
    vm.run("lease")?;
    let before = host.run(count.as_str())?;
    for _ in 0..2 {
        vm.send("reboot -f")?;
        vm.wait_ready()?;
        assert!(vm.run("lease")?.contains("10.0.2.15/24"));
    }
    let after = host.run(count.as_str())?;
    assert_eq!(before, after, "descriptors before and after two reboots");
    assert!(vm.poweroff()?.status.success());
    Ok(())
}

#[test]
fn a_reboot_ends_the_vmm_with_no_reboot() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().args("-no-reboot"))?;
    vm.send("reboot -f")?;
    let ended = vm.wait_exit()?;
    assert!(ended.status.success(), "{ended}");
    Ok(())
}
