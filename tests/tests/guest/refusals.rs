//! What cannot work is refused: one clear line on standard error, exit status 1 or 2, nothing on standard output.

use std::time::Duration;

use anyhow::Result;
use tests::debian::Kernel;
use tests::host::Exec;
use tests::{Host, Vmm, image};

/// Runs the VMM with these arguments (`$KERNEL` and `$INITRD` are set); the line it refuses them with.
fn refusal(host: &Host, arguments: &str) -> Result<String> {
    refusal_of(host, |vmm| Exec::new(format!("exec {vmm} {arguments}")))
}

fn refusal_of(host: &Host, command: impl FnOnce(&str) -> Exec) -> Result<String> {
    let kernel = Kernel::stock()?;
    let (bzimage, initrd) = (host.image(&kernel.bzimage)?, host.image(&image::guest_initrd(&kernel)?)?);
    let files = format!("export KERNEL={bzimage} INITRD={initrd}; ");
    let exec = command(&Vmm::choose().command(host)?).patience(Duration::from_secs(60));
    let output = host.try_run(exec.after(&files))?;
    assert!(matches!(output.status.code(), Some(1 | 2)), "not refused: {output}");
    assert_eq!(output.text(), "", "standard output");
    let errors = output.errors();
    assert_eq!(errors.trim_end().lines().count(), 1, "not one line: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    Ok(errors)
}

#[test]
fn a_kernel_that_is_not_there() -> Result<()> {
    let host = Host::shared()?;
    let line = refusal(&host, "-kernel /run/lab/none")?;
    assert!(line.contains("/run/lab/none") && line.contains("No such file"), "{line}");
    Ok(())
}

#[test]
fn a_file_that_is_no_kernel() -> Result<()> {
    let host = Host::shared()?;
    for file in ["/etc/passwd", "/dev/null", "/tmp", "$INITRD"] {
        let line = refusal(&host, &format!("-kernel {file}"))?;
        assert!(line.contains(file.trim_start_matches('$')) || line.contains("guest.cpio"), "{file}: {line}");
    }
    Ok(())
}

#[test]
fn a_truncated_kernel() -> Result<()> {
    let host = Host::shared()?;
    let kernel = Kernel::stock()?;
    for (image, name) in [(&kernel.bzimage, "bzImage"), (&kernel.vmlinux, "vmlinux")] {
        for length in ["100", "600", "20000", "1000000"] {
            host.run(format!("head -c {length} {} >/tmp/short-{name}", image.display()))?;
            let line = refusal(&host, &format!("-kernel /tmp/short-{name}"))?;
            assert!(line.contains(&format!("/tmp/short-{name}")), "{length} bytes of {name}: {line}");
            host.run(format!("rm /tmp/short-{name}"))?;
        }
    }
    Ok(())
}

#[test]
fn an_initrd_that_is_not_there_or_does_not_fit() -> Result<()> {
    let host = Host::shared()?;
    let line = refusal(&host, "-kernel $KERNEL -initrd /run/lab/none")?;
    assert!(line.contains("/run/lab/none"), "{line}");
    host.run("truncate -s 200M /tmp/large")?;
    let line = refusal(&host, "-m 128 -kernel $KERNEL -initrd /tmp/large")?;
    assert!(line.contains("/tmp/large"), "{line}");
    host.run("rm /tmp/large")?;
    Ok(())
}

#[test]
fn too_little_memory_for_the_kernel() -> Result<()> {
    let host = Host::shared()?;
    refusal(&host, "-m 2 -kernel $KERNEL")?;
    Ok(())
}

#[test]
fn an_unknown_option_or_suboption() -> Result<()> {
    let host = Host::shared()?;
    for (arguments, named) in [
        ("-kernel $KERNEL -frobnicate", "frobnicate"),
        ("-kernel $KERNEL -net nic,frob=1", "frob"),
        ("-kernel $KERNEL -net user,frob=1", "frob"),
        ("-kernel $KERNEL -net frob", "frob"),
        ("-kernel $KERNEL -net nic,model=frob", "frob"),
        ("-kernel $KERNEL -net nic,macaddr=frob", "frob"),
        ("-kernel $KERNEL -net user,hostfwd=frob", "frob"),
        ("-kernel $KERNEL -net user,hostfwd=tcp::99999-:22", "99999"),
        ("-kernel $KERNEL -device frob", "frob"),
        ("-kernel $KERNEL -device virtio-net-pci,netdev=frob", "frob"),
        ("-kernel", "-kernel"),
        ("-nographic", "kernel"),
    ] {
        let line = refusal(&host, arguments)?;
        assert!(line.contains(named), "{arguments}: {line}");
    }
    Ok(())
}

#[test]
fn no_memory_and_no_processor() -> Result<()> {
    let host = Host::shared()?;
    for (arguments, named) in [("-m 0", "-m 0"), ("-smp 0", "-smp 0"), ("-m frob", "frob"), ("-smp 100000", "100000")] {
        let line = refusal(&host, &format!("-kernel $KERNEL {arguments}"))?;
        assert!(line.contains(named), "{arguments}: {line}");
    }
    Ok(())
}

#[test]
fn a_hostfwd_port_in_use() -> Result<()> {
    let host = Host::shared()?;
    let taken = host.spawn("exec socat TCP-LISTEN:2277,fork,reuseaddr EXEC:cat")?;
    host.run("until ss -Hltn 'sport = :2277' | grep -q .; do sleep 0.05; done")?;
    let line = refusal(&host, "-kernel $KERNEL -net nic -net user,hostfwd=tcp::2277-:22")?;
    assert!(line.contains("2277") && line.contains("in use"), "{line}");
    drop(taken);
    Ok(())
}

#[test]
fn no_dev_kvm_or_one_that_may_not_be_opened_or_is_none() -> Result<()> {
    let host = Host::shared()?;
    // Each in a mount namespace of its own, so that nobody else is disturbed.
    for (spoil, user) in [
        ("mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3", ""),
        (
            "cp -a /dev/null /run/kvm && chmod 600 /run/kvm && mount --bind /run/kvm /dev/kvm && rm -f /run/kvm",
            "nobody",
        ),
        ("mount --bind /dev/null /dev/kvm", ""),
        ("mount --bind /etc/passwd /dev/kvm", ""),
    ] {
        let line = refusal_of(&host, |vmm| {
            let drop = if user.is_empty() { "" } else { "setpriv --reuid 65534 --regid 65534 --clear-groups" };
            Exec::new(format!(
                "exec unshare --mount sh -c '{spoil} && exec {drop} {vmm} -nographic -net none -kernel $KERNEL'"
            ))
        })?;
        assert!(line.contains("/dev/kvm"), "{spoil}: {line}");
    }
    Ok(())
}

#[test]
fn a_pid_file_or_a_dump_that_cannot_be_written() -> Result<()> {
    let host = Host::shared()?;
    let line = refusal(&host, "-kernel $KERNEL -pidfile /none/vmm.pid")?;
    assert!(line.contains("/none/vmm.pid"), "{line}");
    let line = refusal(&host, "-kernel $KERNEL -net nic -net user -net dump,file=/none/dump.pcap")?;
    assert!(line.contains("/none/dump.pcap"), "{line}");
    Ok(())
}
