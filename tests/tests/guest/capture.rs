//! `-net dump`, read by tshark on this machine: every protocol decoded, no frame malformed.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{Host, Vm, image};

/// A capture brought to this machine; the file goes when this does.
pub struct Capture {
    path: std::path::PathBuf,
}

impl Capture {
    /// Takes it from the host.
    pub fn take(host: &Host, file: &str) -> Result<Capture> {
        let name = file.rsplit('/').next().unwrap_or(file);
        let path = tests::cache_dir()?.join(format!("{}-{name}", std::process::id()));
        std::fs::write(&path, host.get(file)?)?;
        Ok(Capture { path })
    }

    /// The frames that a display filter lets through, a line each.
    pub fn frames(&self, filter: &str) -> Result<Vec<String>> {
        let mut tshark = Command::new(image::program("tshark", "tshark")?);
        let output = tshark.arg("-r").arg(&self.path).args(["-Y", filter]).output().context("run tshark")?;
        // A file cut short is told on standard error, and by the exit status.
        ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_dump_decodes_and_no_frame_is_malformed() -> Result<()> {
    let host = Host::shared()?;
    let file = "/run/lab/decodes.pcap";
    let mut vm = host.boot(&Vm::new().args(&format!("-net nic,model=virtio -net user -net dump,file={file}")))?;
    vm.run("lease")?;
    host.run("head -c 2000000 /dev/zero >/run/lab/www/zeros")?;
    vm.run("nslookup server.test; ping -c 1 10.0.2.2; wget -qO /tmp/zeros http://10.99.0.1/zeros")?;
    vm.run("nc 10.99.0.1 9000 </tmp/zeros")?;
    assert!(vm.poweroff()?.status.success());

    let capture = Capture::take(&host, file)?;
    host.run(format!("rm {file} /run/lab/www/zeros"))?;
    for (filter, at_least) in [
        ("dhcp.option.dhcp == 1", 1),
        ("dhcp.option.dhcp == 2", 1),
        ("dhcp.option.dhcp == 3", 1),
        ("dhcp.option.dhcp == 5", 1),
        ("dns.qry.name == server.test && dns.flags.response == 0", 1),
        ("dns.a == 10.99.0.1", 1),
        ("arp", 2),
        ("icmp.type == 0", 1),
        ("tcp.flags.syn == 1 && tcp.flags.ack == 1", 2),
        ("tcp.len > 1000", 30),
        ("http.request.uri == \"/zeros\"", 1),
    ] {
        let frames = capture.frames(filter)?;
        assert!(frames.len() >= at_least, "{filter}: {} frames", frames.len());
    }
    assert_eq!(capture.frames("_ws.malformed")?, Vec::<String>::new());
    Ok(())
}
