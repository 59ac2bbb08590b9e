//! The man pages and completions that `manuals` writes, read by what they are for: groff, bash, zsh and fish.

#![allow(clippy::unwrap_used, reason = "outside of #[test] functions, but tests all the same")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use program::links::LINKS;
use program::options::{Operand, OptionSpec, Program, Style, Topic, Value};
use program::{completion, help, manual};
use tests::PROGRAMS;

/// Everything that is written, in a directory that goes with this.
struct Written(PathBuf);

impl Written {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("etherloom-manuals-{test}-{}", std::process::id()));
        output(Command::new(env!("CARGO_BIN_EXE_manuals")).arg(&directory));
        Self(directory)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program that succeeds and says nothing on standard error; returns its standard output.
fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{command:?}: {status}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Every option, those of the commands too.
fn options(program: &Program) -> impl Iterator<Item = &'static OptionSpec> {
    program.options().chain(program.commands.iter().flat_map(|command| command.options))
}

#[test]
fn groff_finds_no_fault_with_a_page_and_shows_everything_in_it() {
    let written = Written::new("groff");
    for program in PROGRAMS {
        let page = written.path(&format!("man/{}.1", program.name));
        assert!(fs::read(&page).unwrap().is_ascii(), "{}", page.display());
        // Plain text, on lines that are long enough for every option.
        let mut groff = Command::new("groff");
        groff.args(["-man", "-ww", "-Tascii", "-P-cbu", "-rLL=200n"]).arg(&page);
        let text = output(&mut groff);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            assert!(text.contains(&format!("\n{heading}\n")), "{}: {heading}", program.name);
        }
        for option in options(program) {
            let head = help::head(option, program.style);
            assert!(text.contains(&format!("\n       {head}")), "{}: {head}", program.name);
            assert!(words.contains(option.help), "{}: {head}", program.name);
        }
        for form in program.synopsis() {
            assert!(text.contains(&form), "{form}");
        }
        let entries = [program.exit_statuses, program.files, program.environment].concat();
        for (name, meaning) in entries {
            assert!(text.contains(&format!("\n       {name}")) && words.contains(meaning), "{}: {name}", program.name);
        }
        for (purpose, _) in program.examples {
            assert!(words.contains(purpose), "{}: {purpose}", program.name);
        }
    }
}

#[test]
fn each_shell_takes_its_completions_for_valid() {
    let written = Written::new("syntax");
    for program in PROGRAMS {
        let name = program.name;
        for (shell, file) in
            [("bash", format!("bash/{name}")), ("zsh", format!("zsh/_{name}")), ("fish", format!("fish/{name}.fish"))]
        {
            assert_eq!(output(Command::new(shell).arg("-n").arg(written.path(&format!("completions/{file}")))), "");
        }
    }
}

/// What bash's function answers, with bash's own words of a line: split at spaces, `=` and runs of `:`.
fn bash(written: &Written, line: &str) -> Vec<String> {
    const SCRIPT: &str = r#"
        source "$1"; COMP_LINE=$3 COMP_POINT=${#3}; function=$2; shift 3
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); "$function"
        [[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut words: Vec<String> = vec![String::new()];
    for c in line.chars() {
        let last = words.last_mut().unwrap();
        let is_break = |text: &str| !text.is_empty() && text.chars().all(|c| c == '=' || c == ':');
        if c == ' ' {
            words.push(String::new());
        } else if last.is_empty() || is_break(last) == matches!(c, '=' | ':') {
            last.push(c);
        } else {
            words.push(c.to_string());
        }
    }
    let program = words[0].clone();
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", SCRIPT, "bash"]).arg(written.path(&format!("completions/bash/{program}")));
    bash.arg(format!("_{program}")).arg(line).args(words).current_dir("/");
    output(&mut bash).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let written = Written::new("bash");
    let links = LINKS.iter().map(|scheme| format!("{}://", scheme.name)).collect::<Vec<_>>().join(" ");
    for (line, expected) in [
        ("vswitch ev", "events"),
        ("vswitch --sno", "--snooping"),
        ("vswitch -so", "-sock"),
        ("vswitch --no", "--no-persist --nostdin --no-api"),
        ("vswitch -d sh", ""),
        ("vswitch show --w", "--watch"),
        ("vswitch dump 3 -w /etc/hostnam", "/etc/hostname"),
        ("vswitch -s /us", "/usr"),
        ("vswitch --sock /us", "/usr"),
        ("vswitch --sock=/us", "/usr"),
        ("vswitch --sock -x -g roo", "root"),
        ("vswitch --port ", &links),
        ("vswitch --port pcap:///etc/hostnam", "///etc/hostname"),
        ("vswitch --port=pcap:///etc/hostnam", "///etc/hostname"),
        ("vswitch --port vde:///us", "///usr"),
        ("vswitch --metrics u", "unix:"),
        ("vswitch -- --sn", ""),
        ("vmm -ker", "-kernel"),
        ("vmm --ker", "--kernel"),
        ("vmm -kernel /etc/hostnam", "/etc/hostname"),
        ("vmm -append console=ttyS0 -cpu h", "host"),
        ("vmm -net n", "nic,model= nic,macaddr= nic,netdev= none"),
        ("vmm -net nic,model=", ""),
    ] {
        assert_eq!(bash(&written, line).join(" "), expected, "{line}");
    }
}

#[test]
fn bash_and_fish_know_every_option_and_no_other() {
    let written = Written::new("options");
    for program in PROGRAMS {
        let spellings = |options: &mut dyn Iterator<Item = &'static OptionSpec>| -> BTreeSet<String> {
            options.flat_map(|option| option.spellings(program.style)).collect()
        };
        let mut scopes = vec![(program.name.to_owned(), spellings(&mut program.options()))];
        for command in program.commands {
            scopes.push((format!("{} {}", program.name, command.name), spellings(&mut command.options.iter())));
        }
        for (words, expected) in scopes {
            let line = format!("{words} -");
            assert_eq!(BTreeSet::from_iter(bash(&written, &line)), expected, "bash: {line}");
            assert_eq!(BTreeSet::from_iter(fish(&written, &line)), expected, "fish: {line}");
        }
    }
}

/// What fish would offer for a line, without descriptions.
fn fish(written: &Written, line: &str) -> Vec<String> {
    let program = line.split(' ').next().unwrap();
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"]);
    fish.arg(written.path(&format!("completions/fish/{program}.fish"))).arg(line).current_dir("/");
    fish.env("HOME", &written.0);
    output(&mut fish).lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn fish_completes_commands_options_and_values() {
    let written = Written::new("fish");
    for (line, expected) in [
        ("vswitch ", "dump events explain mac show"),
        ("vswitch --sno", "--snooping"),
        ("vswitch -d sh", ""),
        ("vswitch show --w", "--watch"),
        ("vswitch --sock=/us", "--sock=/usr/"),
        ("vswitch -g roo", "root"),
        ("vswitch --metrics u", "unix:"),
        ("vswitch -f /etc/hostnam", "/etc/hostname"),
        ("vmm -ker", "-kernel"),
        ("vmm -cpu m", "max"),
        ("vmm -net no", "none"),
        ("vmm -kernel /etc/hostnam", "/etc/hostname"),
    ] {
        assert_eq!(fish(&written, line).join(" "), expected, "{line}");
    }
}

/// A program that takes what the others do not: links and choices by position.
static CABLE: Program = Program {
    name: "cable",
    summary: "joins two links",
    style: Style::Gnu,
    usage: &["LINK LINK [MODE]"],
    description: &["Joins two links."],
    topics: &[Topic {
        title: "Options",
        options: &[OptionSpec::new(&["tap"], "A TAP.").takes("TAP", Value::Interface)],
    }],
    commands: &[],
    operands: &[
        Operand { name: "LINK", value: Value::Locator },
        Operand { name: "LINK", value: Value::Locator },
        Operand { name: "MODE", value: Value::Choice(&["fast", "slow"]) },
    ],
    schemes: LINKS,
    sections: &[],
    exit_statuses: &[],
    files: &[],
    environment: &[],
    examples: &[],
    see_also: &[],
};

#[test]
fn operands_are_completed_by_position_where_the_shell_can() {
    let written = Written::new("operands");
    fs::write(written.path("completions/bash/cable"), completion::bash(&CABLE)).unwrap();
    fs::write(written.path("completions/zsh/_cable"), completion::zsh(&CABLE)).unwrap();
    fs::write(written.path("completions/fish/cable.fish"), completion::fish(&CABLE)).unwrap();
    fs::write(written.path("cable.1"), manual::page(&CABLE)).unwrap();
    output(Command::new("groff").args(["-man", "-ww", "-z"]).arg(written.path("cable.1")));
    assert_eq!(bash(&written, "cable n"), ["null://"]);
    assert_eq!(bash(&written, "cable --tap x null:// n"), ["null://"]);
    assert_eq!(bash(&written, "cable null:// null:// "), ["fast", "slow"]);
    assert!(bash(&written, "cable null:// null:// fast n").is_empty());
    assert_eq!(fish(&written, "cable n"), ["null://"]);
    assert_eq!(fish(&written, "cable null:// null:// f"), ["fast"]);
    let typed = ["cable n", "cable null:// nu", "cable null:// null:// s"];
    assert_eq!(zsh(&written, &typed), ["cable null://|", "cable null:// null://|", "cable null:// null:// slow |"]);
}

/// What a tab makes of lines in zsh, each with a bar behind it.
fn zsh(written: &Written, lines: &[&str]) -> Vec<String> {
    let mut zsh = Command::new("timeout");
    zsh.args(["300", "zsh", "-f", "-c", ZSH, "zsh"]).arg(written.path("completions/zsh"));
    zsh.args(lines).current_dir("/").env("HOME", &written.0);
    output(&mut zsh).lines().map(str::to_owned).collect()
}

/// Types each line and a tab into an interactive zsh on a pseudo-terminal; prints what the lines have become, each with
/// a bar behind it.
const ZSH: &str = r#"
    zmodload zsh/zpty zsh/zselect
    expect() {
        out=
        local piece
        while [[ $out != *${~1}* ]]; do
            if zpty -r -t shell piece; then
                out+=$piece
            elif zpty -t shell; then
                zselect -t 2
            else
                exit 1
            fi
        done
    }
    zpty shell 'TERM=dumb zsh -f -i'
    # The line editor asks for bracketed paste when it is ready.
    expect '2004h'
    zpty -w shell "fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D; setopt no_beep"
    expect '2004h'
    zpty -w shell 'show() { print -r -- "@@"$BUFFER"@@"; BUFFER=; zle accept-line }; zle -N show'
    expect '2004h'
    zpty -w shell 'bindkey "^X" show; print rea""dy'
    expect 'ready*2004h'
    shift
    for line; do
        zpty -w -n shell "$line"$'\t\x18'
        expect '@@*@@*2004h'
        print -r -- "${${out#*@@}%%@@*}|"
    done
    zpty -d shell
"#;

#[test]
fn zsh_completes_commands_options_and_values() {
    let written = Written::new("zsh");
    let cases = [
        ("vswitch expl", "vswitch explain |"),
        ("vswitch --sno", "vswitch --snooping |"),
        ("vswitch show --js", "vswitch show --json |"),
        ("vswitch dump 3 --wr", "vswitch dump 3 --write=|"),
        ("vswitch -s /us", "vswitch -s /usr/|"),
        ("vswitch --rcfile=/etc/hostnam", "vswitch --rcfile=/etc/hostname |"),
        ("vswitch -g roo", "vswitch -g root |"),
        ("vswitch --port pca", "vswitch --port pcap://|"),
        ("vswitch --port pcap:///etc/hostnam", "vswitch --port pcap:///etc/hostname |"),
        ("vswitch --port vde:///us", "vswitch --port vde:///usr/|"),
        ("vswitch --metrics 127", "vswitch --metrics 127.0.0.1:|"),
        ("vmm -initr", "vmm -initrd |"),
        ("vmm -net dum", "vmm -net dump,file=|"),
        ("vmm -cpu m", "vmm -cpu max |"),
        ("vmm -kernel /etc/hostnam", "vmm -kernel /etc/hostname |"),
    ];
    assert_eq!(zsh(&written, &cases.map(|(line, _)| line)), cases.map(|(_, expected)| expected));
    for program in PROGRAMS {
        let text = fs::read_to_string(written.path(&format!("completions/zsh/_{}", program.name))).unwrap();
        for spelling in options(program).flat_map(|option| option.spellings(program.style)) {
            let is_there = [")", "*"].iter().any(|before| {
                ["[", "+[", "=[", "-[", "=-["].iter().any(|after| text.contains(&format!("{before}{spelling}{after}")))
            });
            assert!(is_there, "{}: {spelling}", program.name);
        }
    }
}

#[test]
fn shells_offer_the_taps_of_this_host() {
    let written = Written::new("taps");
    if std::env::var_os("MANUALS_IN_NAMESPACE").is_none() {
        return run_in_namespaces("shells_offer_the_taps_of_this_host");
    }
    output(Command::new("mount").args(["-t", "sysfs", "none", "/sys"]));
    output(Command::new("ip").args(["tuntap", "add", "mode", "tap", "name", "lab0"]));
    assert_eq!(bash(&written, "vswitch -t "), ["lab0"]);
    assert_eq!(bash(&written, "vswitch --port tap://"), ["//lab0"]);
    assert_eq!(fish(&written, "vswitch -t "), ["lab0"]);
    assert_eq!(fish(&written, "vswitch --port tap://l"), ["tap://lab0"]);
    let typed = ["vswitch --tap=l", "vswitch --port tap://l"];
    assert_eq!(zsh(&written, &typed), ["vswitch --tap=lab0 |", "vswitch --port tap://lab0 |"]);
}

/// Runs a test again in network and mount namespaces of its own; as a user of no rights in a user namespace too.
fn run_in_namespaces(test: &str) {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount"]);
    if !fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg(std::env::current_exe().unwrap()).args(["--exact", test]).env("MANUALS_IN_NAMESPACE", "1");
    let Output { status, stdout, stderr } = unshare.output().unwrap();
    let said = [stdout, stderr].concat();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&said));
}
