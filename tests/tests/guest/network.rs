//! What the guest sees of the user-mode NAT: the lease, names, TCP, UDP, ICMP, forwarded ports, several NICs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::host::Exec;
use tests::{Host, Vm};

use crate::on_user;

/// 100 MB, as the download and the upload have it.
const BULK: usize = 100_000_000;

#[test]
fn no_network_option_means_one_nic_on_user() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new())?;
    assert_eq!(vm.run("ls /sys/class/net")?.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
    assert_eq!(vm.run("cat /sys/class/net/eth0/address")?.trim(), "52:54:00:12:34:56");
    assert_eq!(vm.run("lease")?, "eth0: 10.0.2.15/24 router 10.0.2.2 dns 10.0.2.3\n");
    let lease = vm.run("cat /run/lease.eth0")?;
    for option in ["ip=10.0.2.15", "mask=24", "router=10.0.2.2", "dns=10.0.2.3", "serverid=10.0.2.2"] {
        assert!(lease.lines().any(|line| line == option), "{option} is not in the lease:\n{lease}");
    }
    Ok(())
}

#[test]
fn net_none_means_no_nic() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().args("-net none"))?;
    assert_eq!(vm.run("ls /sys/class/net")?.trim(), "lo");
    Ok(())
}

#[test]
fn names_are_resolved_by_the_hosts_dns_server() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user())?;
    vm.run("lease")?;
    assert!(vm.run("nslookup server.test")?.contains("Address: 10.99.0.1"));
    assert!(vm.run("nslookup alias.test")?.contains("canonical name = server.test"));
    assert!(vm.run("nslookup -type=txt txt.test")?.contains("woven"));
    let (status, said) = vm.try_run("nslookup missing.test")?;
    assert!(status != 0 && said.contains("NXDOMAIN"), "{status}: {said}");
    // A name in a program: the guest's own resolver asks the same way.
    assert!(vm.run("ping -c 1 -W 5 server.test")?.contains("10.99.0.1"));
    Ok(())
}

#[test]
fn a_hundred_megabytes_go_down_and_up_unchanged() -> Result<()> {
    let host = Host::shared()?;
    host.run(format!("head -c {BULK} /dev/urandom >/run/lab/www/bulk"))?;
    let sum = host.run("sha256sum </run/lab/www/bulk")?;
    let mut vm = host.boot(&on_user().memory(384))?;
    vm.run("lease")?;
    let patience = Duration::from_secs(180);
    let down = vm.run_within("wget -qO /tmp/bulk http://server.test/bulk && sha256sum </tmp/bulk", patience)?;
    assert_eq!(down, (0, sum.clone()), "download");
    // (nc writes by the kilobyte, and each write costs milliseconds where KVM is emulated.)
    let up = vm.run_within("socat -b 262144 -t 60 - TCP:10.99.0.1:9000 </tmp/bulk", patience)?;
    assert_eq!(up, (0, sum), "upload");
    host.run("rm /run/lab/www/bulk")?;
    Ok(())
}

#[test]
fn tcp_ends_in_either_direction_first() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user())?;
    vm.run("lease")?;
    // The guest ends its half and still hears the rest.
    assert_eq!(vm.run("echo woven | nc 10.99.0.1 7")?, "woven\n");
    // The server ends first.
    host.run("echo page >/run/lab/www/page")?;
    assert_eq!(vm.run("wget -qO- http://10.99.0.1/page")?, "page\n");
    // Many at once.
    let many = "for i in $(seq 20); do wget -qO- http://10.99.0.1/page & done; wait";
    assert_eq!(vm.run(many)?, "page\n".repeat(20));
    Ok(())
}

#[test]
fn udp_goes_both_ways() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user())?;
    vm.run("lease")?;
    // A server that is not the NAT's own: datagrams out, datagrams back.
    assert!(vm.run("nslookup server.test 10.99.0.1")?.contains("Address: 10.99.0.1"));
    assert_eq!(vm.run("echo woven | socat -t 5 - UDP:10.99.0.1:7")?, "woven\n");
    for direction in ["", "-R"] {
        let report = vm.run(&format!("iperf3 -c 10.99.0.1 -u -b 1M -l 1200 -t 2 {direction}"))?;
        let line = report.lines().find(|line| line.contains("receiver")).context("iperf3: no receiver's line")?;
        assert!(line.contains("(0%)"), "datagrams lost: {line}");
    }
    Ok(())
}

#[test]
fn the_host_reaches_the_guest_by_hostfwd_tcp() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&Vm::new().args("-net nic,model=virtio -net user,hostfwd=tcp::2280-:80"))?;
    vm.run("lease")?;
    vm.run("echo from the guest >/www/index.html; httpd -h /www")?;
    assert_eq!(host.run("busybox wget -qO- http://127.0.0.1:2280/")?, "from the guest\n");
    // From elsewhere too: no address was named, so every one of the host's is meant.
    let elsewhere = "ip netns exec remote busybox wget -qO- http://10.99.0.254:2280/";
    assert_eq!(host.run(elsewhere)?, "from the guest\n");
    // A forwarded port with nobody behind it in the guest ends the connection rather than holding it.
    vm.run("killall httpd")?;
    let output =
        host.try_run(Exec::new("busybox wget -T 20 -qO- http://127.0.0.1:2280/").patience(Duration::from_secs(30)))?;
    assert!(!output.status.success(), "{output}");
    Ok(())
}

#[test]
fn the_host_reaches_the_guest_by_hostfwd_udp() -> Result<()> {
    let host = Host::shared()?;
    let forwards = "hostfwd=tcp:127.0.0.1:5299-:5201,hostfwd=udp:127.0.0.1:5299-:5201,hostfwd=udp::2207-:7";
    let mut vm = host.boot(&Vm::new().args(&format!("-net nic,model=virtio -net user,{forwards}")))?;
    vm.run("lease")?;
    vm.run("iperf3 -s -D; socat UDP-LISTEN:7,fork EXEC:cat >/dev/null 2>&1 &")?;
    vm.run("until netstat -lnu | grep -q ':7 '; do sleep 0.1; done")?;
    assert_eq!(host.run("echo woven | socat -t 5 - UDP:127.0.0.1:2207")?, "woven\n");
    let report = host.run("iperf3 -c 127.0.0.1 -p 5299 -u -b 500K -l 1200 -t 2")?;
    let line = report.lines().find(|line| line.contains("receiver")).context("iperf3: no receiver's line")?;
    assert!(line.contains("(0%)"), "datagrams lost: {line}");
    Ok(())
}

#[test]
fn a_closed_port_is_refused() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user())?;
    vm.run("lease")?;
    let begun = Instant::now();
    let (status, said) = vm.try_run("echo | nc 10.99.0.1 9999")?;
    assert!(status != 0 && said.contains("refused"), "{status}: {said}");
    assert!(begun.elapsed() < Duration::from_secs(3), "refused after {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn a_connection_that_times_out_on_the_host_times_out() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user())?;
    vm.run("lease")?;
    // The host gives up after 3 s, the guest after 7: a NAT that says "refused" when the host's time is up is caught at it.
    host.run("echo 1 >/proc/sys/net/ipv4/tcp_syn_retries")?;
    vm.run("echo 2 >/proc/sys/net/ipv4/tcp_syn_retries")?;
    let (status, said) = vm.try_run("echo | nc 10.99.0.66 80")?;
    host.run("echo 6 >/proc/sys/net/ipv4/tcp_syn_retries")?;
    assert!(status != 0 && said.contains("timed out"), "{status}: {said}");
    Ok(())
}

#[test]
fn ping_reaches_the_gateway_and_where_the_host_may_ping_beyond() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user())?;
    vm.run("lease")?;
    assert!(vm.run("ping -c 2 -i 0.2 -W 5 10.0.2.2")?.contains(" 0% packet loss"));
    assert!(vm.run("ping -c 2 -i 0.2 -W 5 -s 1400 10.99.0.1")?.contains(" 0% packet loss"));
    Ok(())
}

#[test]
fn outward_ping_goes_unanswered_where_the_host_may_not() -> Result<()> {
    let host = Host::shared()?;
    let range = "/proc/sys/net/ipv4/ping_group_range";
    let open = host.run(format!("cat {range}; echo '1 0' >{range}"))?;
    // As a user: root may ping through a raw socket.
    let pinged = ping_beyond_and_here(&host);
    host.run(format!("echo '{}' >{range}", open.trim()))?;
    let (beyond, here) = pinged?;
    assert!(beyond.contains("100% packet loss"), "{beyond}");
    assert!(here.contains(" 0% packet loss"), "{here}");
    Ok(())
}

/// What pings to 10.99.0.1 and to the gateway say, from a guest whose VMM has no privileges.
fn ping_beyond_and_here(host: &Host) -> Result<(String, String)> {
    let mut vm = host.boot(&on_user().unprivileged())?;
    vm.run("lease")?;
    let (_, beyond) = vm.try_run("ping -c 2 -i 0.2 -W 2 10.99.0.1")?;
    Ok((beyond, vm.run("ping -c 2 -i 0.2 -W 5 10.0.2.2")?))
}

#[test]
fn two_nics_on_two_links_work_at_once() -> Result<()> {
    let host = Host::shared()?;
    let nics = "-netdev user,id=a -device virtio-net-pci,netdev=a,mac=52:54:00:00:00:0a \
                -netdev user,id=b,net=10.0.3.0/24 -device virtio-net-pci,netdev=b,mac=52:54:00:00:00:0b";
    let mut vm = host.boot(&Vm::new().args(nics))?;
    assert_eq!(vm.run("cat /sys/class/net/eth?/address")?, "52:54:00:00:00:0a\n52:54:00:00:00:0b\n");
    assert_eq!(vm.run("lease eth0")?, "eth0: 10.0.2.15/24 router 10.0.2.2 dns 10.0.2.3\n");
    assert_eq!(vm.run("lease eth1")?, "eth1: 10.0.3.15/24 router 10.0.3.2 dns 10.0.3.3\n");
    host.run("head -c 3000000 /dev/urandom >/run/lab/www/blob")?;
    let sum = host.run("sha256sum </run/lab/www/blob")?;
    // One server by each link, both at once.
    vm.run("ip route add 10.99.0.1 via 10.0.2.2; ip route add 10.99.0.2 via 10.0.3.2")?;
    host.run("ip netns exec remote sh -c 'busybox httpd -p 10.99.0.2:80 -h /run/lab/www'")?;
    vm.run("wget -qO /tmp/a http://10.99.0.1/blob & wget -qO /tmp/b http://10.99.0.2/blob & wait")?;
    host.run("ip netns exec remote pkill -f '^busybox httpd -p 10.99.0.2'")?;
    assert_eq!(vm.run("sha256sum </tmp/a; sha256sum </tmp/b")?, sum.repeat(2));
    Ok(())
}
