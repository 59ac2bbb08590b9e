//! Guests on our switch: each joins it as a VDE client, by the words that QEMU's users know.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{Guest, Host, Lease, Process, Vm};

const DIR: &str = "/run/lab/switch";
/// What one guest sends the other.
const BULK: usize = 20_000_000;

/// A switch on a host, its control socket there.
fn switch_on(host: &Lease) -> Result<Process> {
    let vswitch = host.install(&tests::built("vswitch", "vswitch")?)?;
    let switch = host.spawn(format!("exec {vswitch} -s {DIR} --nostdin"))?;
    host.run(format!("until [ -S {DIR}/ctl ]; do sleep 0.05; done"))?;
    Ok(switch)
}

/// A guest on the switch with an address of its own.
fn guest_on(host: &Lease, number: u8) -> Result<Guest> {
    let nic = format!("-net nic,model=virtio,macaddr=52:54:00:00:00:{number:02x} -net vde,sock={DIR}");
    let mut guest = host.boot(&Vm::new().args(&nic))?;
    guest.run(&format!("ip addr add 10.88.0.{number}/24 dev eth0 && ip link set eth0 up"))?;
    Ok(guest)
}

#[test]
fn two_guests_move_data_through_our_switch_uncut() -> Result<()> {
    let host = Host::shared()?;
    let switch = switch_on(&host)?;
    let (mut a, mut b) = (guest_on(&host, 1)?, guest_on(&host, 2)?);
    assert!(a.run("ping -c 3 -W 5 10.88.0.2")?.contains("3 packets received"));
    let sum = a.run(&format!("head -c {BULK} /dev/urandom >/tmp/bulk && sha256sum </tmp/bulk"))?;
    b.run("(socat -b 262144 -u TCP-LISTEN:9000 CREATE:/tmp/bulk; touch /tmp/done) >/dev/null 2>&1 &")?;
    let send = "until socat -b 262144 -u OPEN:/tmp/bulk TCP:10.88.0.2:9000; do sleep 0.2; done";
    assert_eq!(a.run_within(send, Duration::from_secs(180))?.0, 0);
    b.run_within("until [ -e /tmp/done ]; do sleep 0.1; done", Duration::from_secs(60))?;
    assert_eq!(b.run("sha256sum </tmp/bulk")?, sum);
    // Longer frames than a wire takes have come in, so nothing was cut on the way.
    let statistics = "cat /sys/class/net/eth0/statistics/rx_packets";
    let frames: usize = b.run(statistics)?.trim().parse().context("rx_packets")?;
    assert!(frames < BULK / 3000, "{frames} frames for {BULK} bytes");
    drop((a, b));
    switch.signal(libc::SIGTERM)?;
    host.run(format!("until [ ! -e {DIR} ]; do sleep 0.05; done"))?;
    Ok(())
}
