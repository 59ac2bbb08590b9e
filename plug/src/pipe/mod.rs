//! `dpipe`: commands whose standard input and output are joined crosswise, as vdeplug4's dpipe(1) does.
//!
//! | file | what it holds |
//! |---|---|
//! | `grammar` | the command line: which command reads and writes which pipe. Pure |
//! | `processes` | the pipes, the processes, their end and its status |
//!
//! Theory: the commands of a line lie on one ring of pipes. A command in between cuts the ring into two where it talks
//! to both sides, and lies on one half of it where it filters one direction:
//!
//! ```text
//! a = b          a ──> b ──> a
//! a = b = c      a ──> b ──> a    b.alternate ──> c ──> b.alternate
//! a =} b }= c    a ──> b ──> c ──> a
//! a ={ b {= c    a ──> c ──> b ──> a
//! ```
//!
//! What differs from vdeplug 4.0.1 (watched with strace): a line that makes no sense ends with status 2 instead of 0;
//! brackets that do not fit are refused instead of being arguments; `==` and `=x` are arguments instead of signs; a pid
//! file that cannot be written is an error; in the background the working directory stays, so that relative paths mean
//! what they meant, and a command that cannot be run ends the others; after a signal it waits for the commands; they
//! have SIGPIPE's usual effect; a signal that was ignored (nohup) stays so; a session's leader can run it.
//!
//! Neighbours: `program::options` reads the options, `program::process` goes to the background and writes pid files.

mod grammar;
mod processes;

use std::io;

use program::help;
use program::options::{OptionError, OptionSpec, Program, Style, Topic, Value, printable};
use program::process::ProcessError;

pub use grammar::{Pipeline, Plan, Stage, Wrapper};

/// Why a pipe cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// An option that does not exist, or without its argument.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An option with an empty path.
    #[error("{option}: expected a path")]
    NoPath {
        /// The option, with its dashes.
        option: String,
    },
    /// Nothing on one side of a sign.
    #[error("there is no command {side} '{sign}'")]
    NoCommand {
        /// Which side, `before` or `behind`.
        side: &'static str,
        /// The sign, as written.
        sign: String,
    },
    /// A bracket before a sign that closes nothing, or not what was opened.
    #[error("'{sign}': {}", closing(.open))]
    Bracket {
        /// The sign, as written.
        sign: String,
        /// The sign that opened the filter, if there is one.
        open: Option<String>,
    },
    /// A filter at the end of the line.
    #[error("'{sign}' opens a filter, and the last command is none")]
    Open {
        /// The sign that opened it.
        sign: String,
    },
    /// A command that cannot be run in the background, where nobody would hear of it.
    #[error("{}: {}", printable(.command), link::reason(.source))]
    Command {
        /// Its name.
        command: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The background or a pid file.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The operating system refused something that every pipe needs.
    #[error("cannot {act}: {}", link::reason(.source))]
    Host {
        /// What was to be done.
        act: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl PipeError {
    /// The exit status: 2 if the command line makes no sense, 1 if something failed.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Option(_)
            | Self::NoPath { .. }
            | Self::NoCommand { .. }
            | Self::Bracket { .. }
            | Self::Open { .. } => 2,
            Self::Command { .. } | Self::Process(_) | Self::Host { .. } => 1,
        }
    }
}

fn closing(open: &Option<String>) -> String {
    match open {
        Some(open) => format!("'{open}' is not closed by it"),
        None => "it closes what was not opened".to_owned(),
    }
}

impl Plan {
    /// Does it: prints, or runs the commands until the last of them has ended. Must be called while the process has one
    /// thread.
    ///
    /// Returns the exit status: the last command's; 0 if it was killed by a signal and 127 if it could not be run, as
    /// dpipe has it; after a signal to this process, 0 for SIGTERM and 128 and its number for others.
    ///
    /// # Errors
    /// [`PipeError`], whose [`PipeError::exit_status`] is the program's then.
    pub fn run(self) -> Result<u8, PipeError> {
        match self {
            Self::Help => print!("{}", help::program(&PROGRAM)),
            Self::Usage => {
                let synopsis = PROGRAM.synopsis().join("\n       ");
                eprintln!("usage: {synopsis}\n{} --help says more", PROGRAM.name);
            }
            Self::Pipe(pipeline) => return processes::run(pipeline),
        }
        Ok(0)
    }
}

/// The program and its options.
pub static PROGRAM: Program = Program {
    name: "dpipe",
    summary: "bidirectional pipe between commands",
    style: Style::Gnu,
    usage: &["[OPTION]... COMMAND [ARG]... = COMMAND [ARG]... [= COMMAND [ARG]...]..."],
    description: &[
        "Runs commands whose standard input and output are joined crosswise: what the first writes, the second reads, \
         and the other way round.",
        "A command between two others talks to the one before it by standard input and output, and to the one behind \
         it by two more descriptors, whose numbers are in ALTERNATE_STDIN and ALTERNATE_STDOUT.",
        "Written =} COMMAND }= it stands only in the way from left to right, and ={ COMMAND {= only in the way from \
         right to left: a filter that needs no more than standard input and output. The signs }=}, {={, }={ and {=} \
         close one filter and open the next.",
        "Each sign is a word of its own. Options stand before the first command; those behind it are the command's.",
        "Each pipe holds 256 KiB where that is permitted: more than a hundred frames of 1500 bytes, and 2 ms at \
         1 Gbit/s. More would only make what is queued older on a slow cable.",
        "It ends when all commands have ended. The signals TERM, INT, HUP and QUIT are passed on to the process group \
         of the commands, and it waits for them.",
    ],
    topics: &[
        Topic {
            title: "Processes",
            options: &[
                OptionSpec::new(
                    &["daemon"],
                    "Run in the background. It returns when all commands run, or says which does not.",
                )
                .short('d'),
                OptionSpec::new(&["pidfile"], "Write the process id to this file.")
                    .short('p')
                    .takes("FILE", Value::File),
                OptionSpec::new(
                    &["pgrpfile"],
                    "Write the id of the commands' process group to this file, negative, as kill(1) takes it.",
                )
                .short('P')
                .takes("FILE", Value::File),
                OptionSpec::new(
                    &["nowrapproc"],
                    "Become the last command instead of waiting for all; a second process removes the files that -p \
                     and -P have written when it ends.",
                )
                .short('n'),
                OptionSpec::new(&["nowrapnoclean"], "The same, but the files stay.").short('N'),
            ],
        },
        Topic { title: "Help", options: &[OptionSpec::new(&["help"], "Print this and exit.").short('h')] },
    ],
    commands: &[],
    operands: &[],
    schemes: &[],
    sections: &[],
    exit_statuses: &[
        ("0", "The last command ended with 0 or by a signal; or SIGTERM ended all."),
        ("1", "The pipes, the background or a file failed, or with -d a command; one line on standard error says why."),
        ("2", "The command line makes no sense; one line on standard error says why."),
        ("127", "The last command could not be run."),
        ("128+N", "Signal N ended all, unless it is SIGTERM."),
        ("other", "The last command's."),
    ],
    files: &[],
    environment: &[(
        "ALTERNATE_STDIN, ALTERNATE_STDOUT",
        "Set for the commands: the descriptors of one that talks to both sides, towards the one behind it.",
    )],
    examples: &[
        ("A cable between two switches, one on another host:", "dpipe vde_plug /run/lab = ssh host vde_plug /run/lab"),
        ("The same with a bad line in between:", "dpipe vde_plug /run/a = wirefilter -l 5 = vde_plug /run/b"),
        ("What passes from left to right, counted:", "dpipe vde_plug /run/a =} pv }= vde_plug /run/b"),
    ],
    see_also: &["vde_plug(1)", "vswitch(1)"],
};
