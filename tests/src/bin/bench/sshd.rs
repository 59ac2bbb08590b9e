//! A real sshd for a while.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::hosts::{Running, beside};

/// Where it listens.
pub const PORT: u16 = 2298;

/// An sshd with keys of its own. Dropping it removes both.
pub struct Sshd {
    /// Where they are, and room for more.
    pub dir: PathBuf,
    _running: Running,
}

impl Sshd {
    /// Starts it at an address; by way of another program, as `ip netns exec HOST`, unless that is empty.
    pub fn start(wrapper: &str, address: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("etherloom-bench-{}", std::process::id()));
        // Privilege separation wants /run/sshd.
        for dir in [&dir, &PathBuf::from("/run/sshd")] {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
        for key in ["host", "id"] {
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)).status();
            ensure!(made.context("ssh-keygen")?.success(), "ssh-keygen failed");
        }
        let programs = beside("plug")?.parent().context("bench: where it is")?.display().to_string();
        let mut words = wrapper.split_whitespace().chain(["/usr/sbin/sshd"]);
        let mut sshd = Command::new(words.next().unwrap_or_default());
        sshd.args(words).args(["-D", "-f", "/dev/null", "-p", &PORT.to_string(), "-h"]);
        sshd.arg(dir.join("host")).args(["-o", &format!("ListenAddress={address}")]);
        sshd.args(["-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none"]);
        sshd.args(["-o", &format!("AuthorizedKeysFile={}", dir.join("id.pub").display())]);
        sshd.args(["-o", &format!("SetEnv=PATH={programs}:/usr/bin:/bin")]);
        let mut running = Running::default();
        running.start(&mut sshd)?;
        Ok(Self { dir, _running: running })
    }

    /// The command line of a client that is admitted.
    pub fn command(&self) -> String {
        let key = self.dir.join("id");
        let quiet = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        format!("ssh -i {} {quiet}", key.display())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
