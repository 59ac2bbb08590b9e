//! `ssh://[USER@]HOST[:PORT]/SWITCH`: a cable to another host by the user's own ssh.
//!
//! Theory of operation. `ssh` runs `plug --cable SWITCH` on the far side, whose first word is a hello (see
//! `link::stream::wire`), so both ends know that they are ours. Where the far shell finds no plug (its status 127), the same
//! path is tried under which this program runs here, since the path of a shell that ssh runs is often short; and then
//! vde_plug, with which frames pass in its framing. Who admits whom, by which key, through which other hosts: that is ssh's
//! business and its configuration's. Ours is only what a cable needs: no terminal, no compression (frames of guests do not
//! shrink, and it costs more than it saves), and to be told when the far side is silent.
//!
//! The command that is run can be named as for git: the option `ssh`, then the environment's `PLUG_SSH`; either is a line
//! for the shell, and stands before our own arguments, so that its settings win over ours (ssh_config(5)).
//!
//! vde_plug does not say when it is there. So OpenSSH is told to say when it is connected: a `LocalCommand` writes a line
//! that `coprocess` knows, to standard error, since its standard output carries the frames. Where that command is the
//! user's own or not permitted, or another process has the connection (`ControlPath`: it then is not run), there is carrier
//! from the beginning.
//!
//! With `data=quic` frames go over QUIC while that is connected (`detour`).
//!
//! Neighbours: `coprocess` for the running of it, `reconnect` for doing it again.

use std::io;
use std::process::Command;
use std::time::Instant;

use link::{
    Capabilities, Counters, DropCounts, Link, LinkState, Locator, LocatorError, Offloads, RxBatch, TxBatch, Way,
};
use mio::{Registry, Token};

use crate::coprocess::{Begin, CONNECTED, Coprocess, End};
use crate::detour::{Detour, Invitation};
use crate::fault::FaultKind;
use crate::quic::Identity;

/// The far side's program, unless it is told otherwise.
const REMOTE: &str = "plug";
/// OpenSSH's program.
const OPENSSH: &str = "ssh";
/// What is run where there is no plug.
const FALLBACK: &str = "vde_plug";
/// The shell's status for a command that does not exist (POSIX.1-2017 XCU 2.8.2).
const NOT_FOUND: i32 = 127;
/// What ssh says when it has failed itself (ssh(1)).
const SSH_FAILED: i32 = 255;
/// What ssh is told, unless its command line says something else before.
const SETTINGS: [&str; 4] = ["Compression=no", "ServerAliveInterval=5", "ServerAliveCountMax=3", "ConnectTimeout=4"];
/// Words of ssh's that mean that another try will not help.
const DENIALS: [&str; 4] = [
    "Permission denied",
    "Host key verification failed",
    "Too many authentication failures",
    "No supported authentication",
];

/// A cable to be laid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshConfig {
    /// The locator, for messages.
    pub name: String,
    /// As whom.
    pub user: Option<String>,
    /// The host, or its alias in ssh's configuration.
    pub host: String,
    /// The port.
    pub port: Option<u16>,
    /// What to join on the far side: a switch's directory or a locator; empty for its usual switch.
    pub target: String,
    /// The command line that stands for ssh.
    pub ssh: Option<String>,
    /// The program on the far side, which may have arguments.
    pub remote: Option<String>,
    /// Whether frames go over QUIC where that passes.
    pub quic: bool,
}

impl SshConfig {
    /// Takes a locator apart: `ssh://[USER@]HOST[:PORT][/DIR]?ssh=COMMAND&remote=PROGRAM&locator=LOCATOR&data=quic`.
    ///
    /// # Errors
    /// [`LocatorError`] names what does not fit.
    pub fn parse(mut locator: Locator) -> Result<Self, LocatorError> {
        let name = locator.to_string();
        let address = std::mem::take(&mut locator.address);
        let options = &mut locator.options;
        let (place, dir) = address.find('/').map_or((address.as_str(), ""), |at| address.split_at(at));
        let bad = |why: &str| options.bad_value("host", place, &why);
        let (user, place) =
            place.rsplit_once('@').map_or((None, place), |(user, place)| (Some(user.to_owned()), place));
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port),
            None => place.find(':').map_or((place, ""), |at| place.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().map_err(|_| bad("expected a port, 1 to 65535, behind the colon"))?),
            None if port.is_empty() => None,
            None => return Err(bad("expected [USER@]HOST[:PORT]")),
        };
        // A host that begins with a dash would be an option of ssh's.
        let is_odd = |text: &str| text.is_empty() || text.starts_with('-') || text.contains(char::is_whitespace);
        if is_odd(host) || user.as_deref().is_some_and(is_odd) {
            return Err(bad("expected [USER@]HOST[:PORT]"));
        }
        let host = host.to_owned();
        let target = match options.take("locator")? {
            Some(target) if dir.is_empty() => target,
            Some(target) => return Err(options.bad_value("locator", &target, &format!("'{dir}' is given already"))),
            None => dir.to_owned(),
        };
        let (ssh, remote) = (options.take("ssh")?, options.take("remote")?);
        let quic = match options.take("data")?.as_deref() {
            None | Some("ssh") => false,
            Some("quic") => true,
            Some(other) => return Err(options.bad_value("data", other, &"expected ssh or quic")),
        };
        locator.options.finish()?;
        Ok(Self { name, user, host, port, target, ssh, remote, quic })
    }

    /// What stands for ssh.
    fn line(&self) -> String {
        let by_hand = self.ssh.clone().or_else(|| std::env::var("PLUG_SSH").ok());
        by_hand.filter(|words| !words.trim().is_empty()).unwrap_or_else(|| OPENSSH.to_owned())
    }

    /// The command line, with this one on the far side, whose output begins so.
    fn command(&self, remote: &str, begin: Begin) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script(&self.line(), begin), OPENSSH]);
        command.args(["-T", "-x"]).args(SETTINGS.iter().flat_map(|setting| ["-o", setting]));
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &self.user {
            command.args(["-l", user]);
        }
        command.args(["--", &self.host, remote]);
        command
    }

    fn start(&self, far: Far, identity: Option<&Identity>) -> io::Result<Coprocess> {
        let data = identity.map(|identity| format!("--data=quic,{} ", identity.fingerprint())).unwrap_or_default();
        let target = format!("{data}{}", quoted(&self.target));
        let told = self.remote.as_deref();
        let (remote, begin) = match far {
            Far::Plug => (format!("{} --cable {target}", told.unwrap_or(REMOTE)), Begin::Hello),
            Far::SamePath => (format!("{} --cable {target}", quoted(&own_path())), Begin::Hello),
            Far::VdePlug => {
                let begin = if is_openssh(&self.line()) { Begin::Connected } else { Begin::Frames };
                (format!("{} {}", told.unwrap_or(FALLBACK), quoted(&self.target)), begin)
            }
        };
        let command = self.command(remote.trim_end(), begin);
        let started = Coprocess::start(command, &self.name, &self.host, begin);
        started.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FaultKind::Transport.error(format!("{}: ssh is not installed", self.name)),
            _ => error,
        })
    }

    /// Whether the far side was said to be vde_plug.
    fn first(&self) -> Far {
        let program = self.remote.as_deref().and_then(|remote| remote.split_whitespace().next()).unwrap_or(REMOTE);
        if program.rsplit('/').next() == Some(FALLBACK) { Far::VdePlug } else { Far::Plug }
    }
}

/// What runs on the far side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    Plug,
    /// Plug, under the path that it has here.
    SamePath,
    VdePlug,
}

impl Far {
    /// What is tried where this is not there.
    fn next(self) -> Option<Self> {
        match self {
            Self::Plug => Some(Self::SamePath),
            Self::SamePath => Some(Self::VdePlug),
            Self::VdePlug => None,
        }
    }
}

/// A cable to another host.
pub struct Ssh {
    config: SshConfig,
    far: Far,
    process: Coprocess,
    /// Our key on the other way.
    identity: Option<Identity>,
    /// Whether the other way has been looked for.
    has_looked: bool,
    detour: Detour,
    watch: Option<(Registry, Token)>,
    drops: DropCounts,
}

impl Ssh {
    /// Starts ssh; it connects later.
    ///
    /// # Errors
    /// There is no ssh.
    pub fn open(config: SshConfig) -> io::Result<Self> {
        let far = config.first();
        let identity = if config.quic { Some(Identity::ephemeral().map_err(io::Error::other)?) } else { None };
        let process = config.start(far, identity.as_ref())?;
        Ok(Self {
            config,
            far,
            process,
            identity,
            has_looked: false,
            detour: Detour::default(),
            watch: None,
            drops: DropCounts::default(),
        })
    }

    /// Runs something else instead.
    fn fall_back(&mut self, far: Far) -> io::Result<()> {
        if far == Far::VdePlug {
            let name = &self.config.name;
            log::warn!("{name}: there is no {REMOTE} on the far side: {FALLBACK} is run, and frames pass whole");
        }
        self.drops.merge(&self.process.counters().drops);
        self.far = far;
        self.process = self.config.start(self.far, self.identity.as_ref())?;
        if let Some((registry, token)) = &self.watch {
            self.process.register(registry, *token)?;
        }
        Ok(())
    }

    /// Whether the far side has offered another way that is still to be taken.
    fn is_invited(&self) -> bool {
        self.identity.is_some() && !self.has_looked && self.process.offer().is_some()
    }

    /// Takes the other way that the far side has offered.
    fn take_detour(&mut self) {
        self.has_looked = true;
        let name = &self.config.name;
        let invitation = self.process.offer().and_then(|offer| offer.parse::<Invitation>().ok());
        let (Some(invitation), Some(identity)) = (invitation, self.identity.clone()) else {
            log::warn!("{name}: what the far side offers for data makes no sense: it stays on ssh");
            return;
        };
        match Detour::connect(name, identity, &invitation) {
            Ok(mut detour) => {
                if let Some((registry, token)) = &self.watch {
                    detour.register(registry, *token);
                }
                self.detour = detour;
            }
            Err(why) => log::warn!("{name}: it stays on ssh: {why}"),
        }
    }

    /// What the end of ssh means.
    fn fault(&self, end: &End) -> io::Error {
        let name = &self.config.name;
        let words = end.last_words.last().map(|words| format!(": {words}")).unwrap_or_default();
        let code = end.status.and_then(|status| status.code());
        let is_denied = end.last_words.iter().any(|line| DENIALS.iter().any(|denial| line.contains(denial)));
        let kind = code.and_then(|code| u8::try_from(code).ok()).and_then(FaultKind::of_status);
        match (code, kind) {
            (Some(NOT_FOUND), _) => {
                FaultKind::Unavailable.error(format!("{name}: neither {REMOTE} nor {FALLBACK} is there{words}"))
            }
            _ if FaultKind::of(&end.error) == FaultKind::Protocol => {
                FaultKind::Protocol.error(format!("{name}: {}", end.error))
            }
            (Some(SSH_FAILED), _) if is_denied => FaultKind::Denied.error(format!("{name}: not admitted{words}")),
            (Some(SSH_FAILED), _) => FaultKind::Transport.error(format!("{name}: ssh has failed{words}")),
            (_, Some(FaultKind::Ended)) if end.has_run => {
                FaultKind::Ended.error(format!("{name}: the far side has ended"))
            }
            (_, Some(kind)) if kind != FaultKind::Ended => kind.error(format!("{name}: the far side has ended{words}")),
            _ => FaultKind::Transport.error(format!("{name}: the connection has ended{words}")),
        }
    }
}

impl Link for Ssh {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn capabilities(&self) -> Capabilities {
        self.detour.capabilities().unwrap_or_else(|| self.process.capabilities())
    }

    /// The far side was told that everything is received.
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if offloads.any_segmentation() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.watch = Some((registry.try_clone()?, token));
        self.detour.register(registry, token);
        self.process.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.watch = None;
        self.detour.deregister(registry);
        self.process.deregister(registry)
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        let Some(end) = self.process.service(now) else {
            self.detour.service(now);
            return Ok(());
        };
        let is_missing = end.status.is_some_and(|status| status.code() == Some(NOT_FOUND));
        match self.far.next().filter(|_| is_missing && self.config.remote.is_none()) {
            Some(far) => self.fall_back(far),
            None => Err(self.fault(&end)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.process.deadline().into_iter().chain(self.detour.deadline()).min()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        if let Some(taken) = self.detour.send(batch) {
            return Ok(taken);
        }
        self.process.send(batch);
        Ok(batch.len())
    }

    fn answers(&self) -> bool {
        self.detour.answers()
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let received = self.process.receive(batch);
        // The hello, and the invitation in it, come before the first frame.
        if self.is_invited() {
            self.take_detour();
        }
        Ok(received + self.detour.receive(batch))
    }

    fn state(&self) -> LinkState {
        if self.process.is_up() { LinkState::Up } else { LinkState::Down }
    }

    fn way(&self) -> Option<Way> {
        let by_ssh = || self.process.is_up().then_some(Way { name: "ssh", peer: None });
        self.detour.way().or_else(by_ssh)
    }

    fn counters(&self) -> Counters {
        let mut counters = self.process.counters();
        counters.drops.merge(&self.drops);
        counters.merge(&self.detour.counters());
        counters
    }
}

/// Where plug is on this host: beside the program that runs, which may be another of ours.
fn own_path() -> String {
    std::env::current_exe().map_or_else(|_| REMOTE.to_owned(), |path| path.with_file_name(REMOTE).display().to_string())
}

/// What the shell runs, with ssh's arguments behind it: the command line. If that is OpenSSH's, it is asked first for the
/// settings that it would use. Where the processor computes AES, the ciphers among them are taken in another order, which is
/// then a third faster than the first by default; and it is had say that it is connected, where that is awaited.
fn script(line: &str, begin: Begin) -> String {
    if !is_openssh(line) {
        return format!("{line} \"$@\"");
    }
    let mut steps = Vec::new();
    if has_aes() || begin == Begin::Connected {
        steps.push(format!("g=$({line} -G -o PermitLocalCommand=yes \"$@\" 2>/dev/null)"));
    }
    if has_aes() {
        steps.push("c=$(echo \"$g\" | sed -n 's/^ciphers //p' | tr , '\\n')".to_owned());
        steps.push("c=$({ echo \"$c\" | grep -e -gcm@; echo \"$c\" | grep -v -e -gcm@; } | paste -sd,)".to_owned());
        steps.push("[ -z \"$c\" ] || set -- -o \"Ciphers=$c\" \"$@\"".to_owned());
    }
    if begin == Begin::Connected {
        // The command is for the user's shell, which may be none.
        steps.push(format!(
            "if echo \"$g\" | grep -q '^permitlocalcommand yes' && ! echo \"$g\" | grep -q -e '^localcommand ' \
             -e '^controlpath ' && \"${{SHELL:-/bin/sh}}\" -c : >/dev/null 2>&1 </dev/null\n\
             then set -- -o PermitLocalCommand=yes -o \"LocalCommand=/bin/sh -c 'echo {CONNECTED} >&2'\" \"$@\"\n\
             else echo {CONNECTED} >&2; fi"
        ));
    }
    steps.push(format!("exec {line} \"$@\""));
    steps.join("\n")
}

/// Whether a command line is of OpenSSH's program.
fn is_openssh(line: &str) -> bool {
    line.split_whitespace().next().is_some_and(|word| word.rsplit('/').next() == Some(OPENSSH))
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("aes");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// A word as every shell takes it for one, and as it is if nothing in it means something to a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_.:@%+=,-".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use link::FragmentMut;
    use link::stream::wire::{self, Hello};

    use super::*;

    fn parse(text: &str) -> Result<SshConfig, LocatorError> {
        SshConfig::parse(text.parse()?)
    }

    fn words(config: &SshConfig) -> Vec<String> {
        let command = config.command("plug --cable /run/lab", Begin::Hello);
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_locator_says_who_where_and_what() {
        let config = parse("ssh://root@[::1]:2222/run/lab").unwrap();
        assert_eq!((config.user.as_deref(), config.host.as_str(), config.port), (Some("root"), "::1", Some(2222)));
        assert_eq!(config.target, "/run/lab");
        let config = parse("ssh://gate").unwrap();
        assert_eq!(
            (config.user, config.host.as_str(), config.port, config.target),
            (None, "gate", None, String::new())
        );
        assert_eq!(parse("ssh://gate?locator=tap://tap0").unwrap().target, "tap://tap0");
        for text in ["ssh://", "ssh://-oProxyCommand=x/", "ssh://a b/", "ssh://host:x/", "ssh://[::1]x/", "ssh://-u@h/"]
        {
            assert!(parse(text).unwrap_err().to_string().starts_with("ssh: host="), "{text}");
        }
        assert!(parse("ssh://h/x?data=quic").unwrap().quic && parse("ssh://h/x?data=pigeon").is_err());
        assert!(parse("ssh://h/run/x?locator=tap://t").is_err() && parse("ssh://h?colour=red").is_err());
    }

    #[test]
    fn the_users_words_stand_before_ours() {
        let config = parse("ssh://root@host:22/run/lab?ssh=ssh -i /tmp/id").unwrap();
        let words = words(&config);
        assert_eq!((words[0].as_str(), words[1].as_str(), words[3].as_str()), ("/bin/sh", "-c", "ssh"));
        assert!(words[2].contains("exec ssh -i /tmp/id "), "{}", words[2]);
        assert_eq!(script("sshpass -e ssh", Begin::Connected), "sshpass -e ssh \"$@\"");
        assert!(words.ends_with(&["-p", "22", "-l", "root", "--", "host", "plug --cable /run/lab"].map(str::to_owned)));
        assert!(words.contains(&"Compression=no".to_owned()));
    }

    #[test]
    fn a_shell_takes_a_quoted_word_for_one() {
        assert_eq!(quoted("/run/lab"), "/run/lab");
        assert_eq!(quoted("it's; rm"), r"'it'\''s; rm'");
    }

    #[test]
    fn an_invitation_is_taken_however_soon_everything_else_is_said() {
        let fingerprint = Identity::ephemeral().unwrap().fingerprint();
        let data = format!("quic,127.0.0.1:9,{fingerprint}");
        let hello = Hello { receives: Offloads::ALL, confirms: true, data: Some(&data) }.line();
        let words = std::env::temp_dir().join(format!("ssh-words-{}", std::process::id()));
        std::fs::write(&words, [hello, wire::turn()].concat()).unwrap();
        let far = format!("cat {} -; :", words.display());
        let mut ssh = Ssh::open(parse(&format!("ssh://h/x?data=quic&ssh={far}")).unwrap()).unwrap();
        let mut buffer = vec![0; link::MAX_FRAME_LEN];
        let begun = Instant::now();
        while ssh.state() == LinkState::Down {
            assert!(begun.elapsed().as_secs() < 20);
            ssh.service(Instant::now()).unwrap();
        }
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut buffer)]);
        assert_eq!(ssh.receive(&mut batch).unwrap(), 0);
        std::fs::remove_file(words).unwrap();
        assert!(ssh.has_looked && ssh.deadline().is_some());
    }

    #[test]
    fn a_far_side_that_was_said_to_be_vde_plug_is_not_waited_for() {
        let first = |text: &str| parse(text).unwrap().first();
        assert_eq!(first("ssh://h/run/x"), Far::Plug);
        assert_eq!(first("ssh://h/run/x?remote=/usr/bin/vde_plug"), Far::VdePlug);
        assert_eq!(first("ssh://h/run/x?remote=/opt/plug"), Far::Plug);
    }
}
