//! Guests on test hosts.
use tests::*;
#[test]
fn up() -> anyhow::Result<()> {
    let host = Host::shared()?;
    eprintln!("{}", host.run("uname -a; ip addr; ls /run/lab; cat /etc/resolv.conf; df | head -20; ps ax | grep -v '\\[' ; busybox nslookup server.test")?);
    let mut vm = host.boot(&Vm::new().args("-no-reboot -net nic,model=virtio -net user"))?;
    eprintln!("{}", vm.console());
    eprintln!("{}", vm.run("lease")?);
    eprintln!("{:?}", vm.poweroff()?);
    Ok(())
}
