//! The VMM as a process: privileges, terminals, signals, what is left behind.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::host::Exec;
use tests::{Host, Process, Vm};

use crate::capture::Capture;
use crate::on_user;

/// How many boots in a row are looked at; `ETHERLOOM_BOOTS` says otherwise.
const BOOTS: usize = 5;

#[test]
fn boots_in_a_row_leave_nothing_behind() -> Result<()> {
    let boots = std::env::var("ETHERLOOM_BOOTS").ok().and_then(|count| count.parse().ok()).unwrap_or(BOOTS);
    let host = Host::shared()?;
    let vm = Vm::new().brief().args("-net nic,model=virtio -net user,hostfwd=tcp::2299-:22 -pidfile /run/lab/left.pid");
    host.run(vm.command(&host)?)?;
    let before = host.traces()?;
    for boot in 2..=boots {
        host.run(Exec::new(vm.command(&host)?)).with_context(|| format!("boot {boot}"))?;
    }
    assert_eq!(before, host.traces()?, "after {boots} boots");
    assert!(!before.contains("left.pid"), "the pid file stays: {before}");
    Ok(())
}

#[test]
fn a_user_without_privileges_runs_the_same_guest() -> Result<()> {
    let host = Host::shared()?;
    let mut vm = host.boot(&on_user().unprivileged())?;
    assert_eq!(host.run(format!("stat -c %u /proc/{}", vm.process().pid()))?.trim(), "65534");
    assert_eq!(vm.run("lease")?, "eth0: 10.0.2.15/24 router 10.0.2.2 dns 10.0.2.3\n");
    assert!(vm.run("nslookup server.test")?.contains("10.99.0.1"));
    assert_eq!(vm.run("echo woven | nc 10.99.0.1 7")?, "woven\n");
    assert!(vm.poweroff()?.status.success());
    Ok(())
}

#[test]
fn daemonize_returns_when_the_machine_is_set_up_and_sigterm_ends_it() -> Result<()> {
    let host = Host::shared()?;
    let pidfile = "/run/lab/daemon.pid";
    let vm = on_user().args(&format!("-daemonize -pidfile {pidfile} -name woven"));
    host.run(vm.command(&host)?)?;
    let pid = host.run(format!("cat {pidfile}"))?.trim().to_owned();
    host.run(format!("kill -0 {pid}"))?;
    // Nothing of the caller's is kept open, nor its directory.
    let tty = host.run(format!("readlink /proc/{pid}/fd/0 /proc/{pid}/fd/1"))?;
    assert_eq!(tty, "/dev/null\n/dev/null\n");
    host.run(format!(
        "kill {pid}; for i in $(seq 100); do kill -0 {pid} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
    ))?;
    host.run(format!("[ ! -e {pidfile} ]"))?;
    Ok(())
}

#[test]
fn ctrl_a_x_leaves_the_terminal_sane_and_the_dump_whole() -> Result<()> {
    leaves_the_terminal_sane("ctrl-a-x", |_, terminal| terminal.send(b"\x01x"))
}

#[test]
fn sigterm_leaves_the_terminal_sane_and_the_dump_whole() -> Result<()> {
    leaves_the_terminal_sane("sigterm", |host, _| host.run("kill -TERM $(cat /run/lab/tty.pid)").map(drop))
}

#[test]
fn sigint_leaves_the_terminal_sane_and_the_dump_whole() -> Result<()> {
    leaves_the_terminal_sane("sigint", |host, _| host.run("kill -INT $(cat /run/lab/tty.pid)").map(drop))
}

#[test]
fn sigkill_leaves_the_dump_whole() -> Result<()> {
    let host = Host::shared()?;
    let file = "/run/lab/sigkill.pcap";
    let mut vm = host.boot(&Vm::new().args(&format!("-net nic,model=virtio -net user -net dump,file={file}")))?;
    vm.run("lease; ping -c 3 -i 0.2 10.0.2.2")?;
    vm.process().signal(libc::SIGKILL)?;
    vm.wait_exit()?;
    let capture = Capture::take(&host, file)?;
    host.run(format!("rm {file}"))?;
    assert_eq!(capture.frames("icmp.type == 0")?.len(), 3);
    Ok(())
}

/// Boots on a terminal with a dump, takes a lease, ends the VMM as told, and compares the terminal's settings.
fn leaves_the_terminal_sane(name: &str, end: impl FnOnce(&Host, &mut Process) -> Result<()>) -> Result<()> {
    let host = Host::shared()?;
    let file = format!("/run/lab/{name}.pcap");
    let vm =
        Vm::new().args(&format!("-net nic,model=virtio -net user -net dump,file={file} -pidfile /run/lab/tty.pid"));
    // A shell around it, as a person has one; it outlives what the terminal sends.
    let session = format!("trap : INT; stty -g; {}; echo; echo ended $?; stty -g", vm.command(&host)?);
    let mut terminal = host.spawn(Exec::new(session).tty())?;
    let ready = terminal.wait_for(b"\x1eready", 0, Duration::from_secs(90))?;
    terminal.send(b"1 lease\n")?;
    let leased = terminal.wait_for(b"\x1e1] 0", ready, Duration::from_secs(60))?;
    // Ctrl-C on the raw terminal is a key for the guest, not the end of the VMM.
    terminal.send(b"\x03")?;
    terminal.send(b"\n2 echo still here\n")?;
    terminal.wait_for(b"still here", leased, Duration::from_secs(60))?;
    end(&host, &mut terminal)?;
    let output = terminal.wait(Duration::from_secs(30))?;
    let text = output.text();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let (first, last) = (lines.first().context("no stty before")?, lines.last().context("no stty after")?);
    assert_eq!(first, last, "stty before and after:\n{text}");
    assert!(first.contains(':'), "{text}");
    host.run("[ ! -e /run/lab/tty.pid ]")?;
    let capture = Capture::take(&host, &file)?;
    host.run(format!("rm {file}"))?;
    assert!(!capture.frames("dhcp.option.dhcp == 5")?.is_empty());
    assert_eq!(capture.frames("_ws.malformed")?, Vec::<String>::new());
    Ok(())
}
