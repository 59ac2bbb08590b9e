//! dpipe's command line: words in, commands and the pipes between them out. Nothing is opened here.
//!
//! Invariant: each pipe of a [`Pipeline`] has exactly one reader and one writer, and no command is both.
//!
//! A sign is a word made of `=` and at most one bracket on either side; any other word, `==` too, is a command's.
//!
//! Neighbours: `processes` makes it so; the table of options is in the module above.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::PathBuf;

use program::options::Item;

use super::{PROGRAM, PipeError};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// `--help`.
    Help,
    /// Less than two commands: as dpipe does, the usage is shown on standard error and the exit status is 0.
    Usage,
    /// Commands to be joined.
    Pipe(Pipeline),
}

/// Commands and the pipes that join them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Whether to go to the background.
    pub daemon: bool,
    /// What becomes of this process.
    pub wrapper: Wrapper,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// Where to write the process group's id, negative.
    pub group_file: Option<PathBuf>,
    /// The commands, at least two, in order.
    pub stages: Vec<Stage>,
    /// How many pipes there are.
    pub pipes: usize,
}

/// What becomes of the process that has started the commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wrapper {
    /// It waits for all of them.
    #[default]
    Waits,
    /// It becomes the last command, and another process removes the files.
    Becomes,
    /// It becomes the last command, and the files stay.
    BecomesAndLeaves,
}

/// A command and its pipes, which are numbers below [`Pipeline::pipes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name and its arguments; not empty.
    pub words: Vec<OsString>,
    /// The pipe it reads as standard input.
    pub input: usize,
    /// The pipe it writes as standard output.
    pub output: usize,
    /// The pipes it reads and writes towards the command behind it, if it talks to both sides.
    pub alternate: Option<(usize, usize)>,
}

impl Plan {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    /// [`PipeError`], one line that names the option or the sign.
    pub fn parse<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self, PipeError> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let mut pipeline = Pipeline {
            daemon: false,
            wrapper: Wrapper::default(),
            pid_file: None,
            group_file: None,
            stages: Vec::new(),
            pipes: 0,
        };
        // A command's words need not be UTF-8, so only those are converted that the option parser asks for.
        let taken = Cell::new(0);
        let asked = words.iter().inspect(|_| taken.set(taken.get() + 1));
        let mut first = None;
        for item in PROGRAM.parse(asked.map(|word| word.to_string_lossy().into_owned())) {
            match item? {
                Item::Operand(_) => {
                    first = Some(taken.get() - 1);
                    break;
                }
                Item::Option(option, value) => {
                    let path = || match value.filter(|path| !path.is_empty()) {
                        Some(path) => Ok(Some(PathBuf::from(path))),
                        None => Err(PipeError::NoPath { option: option.dashed(PROGRAM.style) }),
                    };
                    match option.name() {
                        "daemon" => pipeline.daemon = true,
                        "pidfile" => pipeline.pid_file = path()?,
                        "pgrpfile" => pipeline.group_file = path()?,
                        // With -N, in any order, it says nothing more.
                        "nowrapproc" if pipeline.wrapper == Wrapper::Waits => pipeline.wrapper = Wrapper::Becomes,
                        "nowrapproc" => {}
                        "nowrapnoclean" => pipeline.wrapper = Wrapper::BecomesAndLeaves,
                        "help" => return Ok(Self::Help),
                        name => unreachable!("--{name} is in the table but nobody takes it"),
                    }
                }
            }
        }
        let Some(commands) = first.and_then(|first| words.get(first..)) else { return Ok(Self::Usage) };
        let (commands, signs) = split(commands);
        if signs.is_empty() {
            return Ok(Self::Usage);
        }
        let places = check(&commands, &signs)?;
        (pipeline.stages, pipeline.pipes) = join(commands, &places);
        Ok(Self::Pipe(pipeline))
    }
}

/// Which way a filter stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Right,
    Left,
}

impl Way {
    fn of(bracket: &str) -> Option<Self> {
        match bracket {
            "}" => Some(Self::Right),
            "{" => Some(Self::Left),
            _ => None,
        }
    }
}

/// A word that separates commands: what it closes and what it opens.
#[derive(Clone, Debug)]
struct Sign {
    word: String,
    closes: Option<Way>,
    opens: Option<Way>,
}

impl Sign {
    fn parse(word: &OsString) -> Option<Self> {
        let word = word.to_str()?;
        let (before, behind) = word.split_once('=')?;
        let (closes, opens) = (Way::of(before), Way::of(behind));
        let is_sign = closes.is_some() != before.is_empty() && opens.is_some() != behind.is_empty();
        is_sign.then(|| Self { word: word.to_owned(), closes, opens })
    }
}

/// Parts the words at the signs: there is one command more than signs.
fn split(words: &[OsString]) -> (Vec<Vec<OsString>>, Vec<Sign>) {
    let (mut commands, mut signs) = (Vec::new(), Vec::new());
    let mut command = Vec::new();
    for word in words {
        match Sign::parse(word) {
            Some(sign) => {
                signs.push(sign);
                commands.push(std::mem::take(&mut command));
            }
            None => command.push(word.clone()),
        }
    }
    commands.push(command);
    (commands, signs)
}

/// Holds commands and brackets against the grammar. The answer is what each command in between filters, if it does.
fn check(commands: &[Vec<OsString>], signs: &[Sign]) -> Result<Vec<Option<Way>>, PipeError> {
    for (command, sign) in commands.iter().zip(signs) {
        if command.is_empty() {
            return Err(PipeError::NoCommand { side: "before", sign: sign.word.clone() });
        }
    }
    let mut open: Option<&Sign> = None;
    for sign in signs {
        if sign.closes != open.and_then(|open| open.opens) {
            return Err(PipeError::Bracket { sign: sign.word.clone(), open: open.map(|open| open.word.clone()) });
        }
        open = sign.opens.is_some().then_some(sign);
    }
    match (open, signs.last()) {
        (Some(open), _) => Err(PipeError::Open { sign: open.word.clone() }),
        (None, Some(sign)) if commands.last().is_none_or(Vec::is_empty) => {
            Err(PipeError::NoCommand { side: "behind", sign: sign.word.clone() })
        }
        (None, _) => Ok(signs.iter().rev().skip(1).rev().map(|sign| sign.opens).collect()),
    }
}

/// Gives each command its pipes. `between` has an entry for each command but the first and the last.
fn join(commands: Vec<Vec<OsString>>, between: &[Option<Way>]) -> (Vec<Stage>, usize) {
    let last = commands.len() - 1;
    let mut stages: Vec<Stage> = Vec::new();
    // What goes right from here, and what is awaited on the left of here. The first command makes both.
    let (mut right, mut left) = (0, 1);
    let mut pipes = 2;
    let mut new = || {
        pipes += 1;
        pipes - 1
    };
    for (place, words) in commands.into_iter().enumerate() {
        let mut stage = Stage { words, input: right, output: left, alternate: None };
        if place == 0 {
            (stage.input, stage.output) = (left, right);
        } else if place < last {
            match between.get(place - 1).copied().flatten() {
                Some(Way::Right) => {
                    right = new();
                    stage.output = right;
                }
                Some(Way::Left) => {
                    left = new();
                    stage.input = left;
                }
                None => {
                    (right, left) = (new(), new());
                    stage.alternate = Some((left, right));
                }
            }
        }
        stages.push(stage);
    }
    (stages, pipes)
}

#[cfg(test)]
#[path = "grammar_test.rs"]
mod tests;
