//! Hosts with an sshd, and cables to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use netlab::process::{Process, program};
use netlab::world::{Host, command, has_interface, run};

/// The port that every sshd of a lab listens at.
const PORT: u16 = 2299;

/// A host with an sshd, and the interface `eth0` on which others reach it.
pub struct Far {
    /// The host.
    pub host: Host,
    /// Its address.
    pub address: &'static str,
    sshd: Option<Process>,
    /// What is between it and the lab's network, unless that is a wire.
    _path: Option<Process>,
}

impl Far {
    /// A host with this address, of eight bits, on the lab's own network, and an sshd.
    pub fn new(name: &'static str, address: &'static str) -> Self {
        prepare();
        let host = Host::new(name);
        run(&format!("ip link add to-{name} type veth peer name eth0 netns {name}"));
        Self::joined(host, name, address, None)
    }

    /// The same, behind a path that is as bad as these settings of an impaired link.
    pub fn behind(name: &'static str, address: &'static str, settings: &str) -> Self {
        prepare();
        let host = Host::new(name);
        let (near, far) = (format!("to-{name}"), format!("at-{name}"));
        let plug = program("plug");
        let mut path = Process::start(&format!("{} impair://{{tap://{near}}}?{settings} tap://{far}", plug.display()));
        path.wait_until("the path is there", || has_interface(&near) && has_interface(&far));
        run(&format!("ip link set {far} netns {name} name eth0"));
        Self::joined(host, name, address, Some(path))
    }

    fn joined(host: Host, name: &str, address: &'static str, path: Option<Process>) -> Self {
        run(&format!("ip link set to-{name} master underlay up"));
        host.set_address("eth0", &format!("{address}/24"));
        let mut far = Self { host, address, sshd: None, _path: path };
        far.serve();
        far
    }

    /// Starts its sshd.
    pub fn serve(&mut self) {
        let line = format!("/usr/sbin/sshd -D -e -f /run/ssh/config -p {PORT} -o ListenAddress={}", self.address);
        let mut sshd = Process::start(&self.host.line(&line));
        sshd.wait_for("Server listening");
        self.sshd = Some(sshd);
    }

    /// Sends its sshd a signal.
    pub fn signal_sshd(&self, signal: i32) {
        self.sshd.as_ref().unwrap().signal(signal);
    }

    /// The locator of a switch on this host.
    pub fn locator(&self, path: &str) -> String {
        format!("ssh://root@{}:{PORT}{path}", self.address)
    }

    /// The command line that runs a command on this host.
    pub fn ssh(&self, words: &str) -> String {
        format!("{SSH} -p {PORT} root@{} {words}", self.address)
    }

    /// Starts a program of ours here, with everything it says in its log.
    pub fn start(&self, line: &str) -> Process {
        start_on(&self.host, line)
    }
}

/// What ssh is told to find its way in the lab.
const SSH: &str = "ssh -i /run/ssh/id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";

/// Starts a program of ours on a host, with everything it says in its log.
pub fn start_on(host: &Host, line: &str) -> Process {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    start(&host.line(&format!("{} {rest}", program(name).display())))
}

/// Starts the program at this path here; the line has its name.
pub fn start_path(path: &str, line: &str) -> Process {
    start(&format!("{path} {}", line.split_once(' ').unwrap().1))
}

fn start(line: &str) -> Process {
    let mut command = command(line);
    command.env("ETHERLOOM_LOG", "info").env("PLUG_SSH", SSH);
    Process::start_command(command, line)
}

/// The lab's network and the keys, once. The lab's first host is on it too, at 192.168.7.254.
fn prepare() {
    if Path::new("/run/ssh").exists() {
        return;
    }
    for dir in ["/run/ssh", "/run/sshd"] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for key in ["host", "id", "stranger"] {
        let keygen = command(&format!("ssh-keygen -q -t ed25519 -f /run/ssh/{key} -N")).arg("").status().unwrap();
        assert!(keygen.success());
    }
    let programs = program("plug").parent().unwrap().display().to_string();
    let config = format!(
        "HostKey /run/ssh/host\nAuthorizedKeysFile /run/ssh/id.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv PATH={programs}:/usr/sbin:/usr/bin:/sbin:/bin\n"
    );
    fs::write("/run/ssh/config", config).unwrap();
    run("ip link add underlay type bridge");
    Host::HERE.set_address("underlay", "192.168.7.254/24");
}
