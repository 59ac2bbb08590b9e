//! A program's options, once: what is parsed, `--help`, the man page and the shells' completions all come from one
//! [`Program`], a plain static table.
//!
//! Invariant: an option that is not in the table does not exist, and one that is there is in all of them.
//!
//! Neighbours: `parser` reads a command line by the table, `help`, `manual` and `completion` print it.

pub use crate::parser::{Item, OptionError, Parser, printable};

/// How a program's options are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// getopt_long_only(3): short letters that bundle, long names behind one dash or two, `=`, unique abbreviations.
    Gnu,
    /// QEMU's: whole names behind one dash or two; an argument is always the next word.
    Qemu,
}

/// What an argument is, as far as a shell can complete it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing a shell could know.
    Text,
    /// A path to a file.
    File,
    /// A path to a directory.
    Directory,
    /// A TAP of this host.
    Interface,
    /// A group of this host.
    Group,
    /// A link: one of the program's [`Scheme`]s, and what is behind it.
    Locator,
    /// One of these words, or one that begins with them if they end in `=` or `,`.
    Choice(&'static [&'static str]),
}

/// Whether an option takes an argument, and what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// None.
    None,
    /// One that must be there.
    Required(&'static str, Value),
    /// One that may be there: behind `=`, or as the next word if that begins with a digit.
    Optional(&'static str, Value),
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// The names, without dashes. The first is the one messages use, the others are aliases.
    pub names: &'static [&'static str],
    /// The letter, if it has one.
    pub short: Option<char>,
    /// The argument.
    pub argument: Argument,
    /// Whether it may be given several times, each with an effect.
    pub repeatable: bool,
    /// Whether an abbreviation that fits this option and others means the others: for options that are newer than
    /// scripts that abbreviate.
    pub yields: bool,
    /// What it does, in plain text.
    pub help: &'static str,
}

impl OptionSpec {
    /// An option without argument. `names` is not empty.
    #[must_use]
    pub const fn new(names: &'static [&'static str], help: &'static str) -> Self {
        Self { names, short: None, argument: Argument::None, repeatable: false, yields: false, help }
    }

    /// Gives it a letter.
    #[must_use]
    pub const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// Gives it an argument.
    #[must_use]
    pub const fn takes(self, name: &'static str, value: Value) -> Self {
        Self { argument: Argument::Required(name, value), ..self }
    }

    /// Gives it an argument that may be left out.
    #[must_use]
    pub const fn may_take(self, name: &'static str, value: Value) -> Self {
        Self { argument: Argument::Optional(name, value), ..self }
    }

    /// Lets it be given several times.
    #[must_use]
    pub const fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// Lets abbreviations mean others first.
    #[must_use]
    pub const fn yields(self) -> Self {
        Self { yields: true, ..self }
    }

    /// The name that messages use, without dashes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    /// The name that messages use, with the dashes of the style.
    #[must_use]
    pub fn dashed(&self, style: Style) -> String {
        style.dashed(self.name())
    }

    /// Every way to write it, the letter first.
    #[must_use]
    pub fn spellings(&self, style: Style) -> Vec<String> {
        let letter = self.short.map(|letter| format!("-{letter}"));
        letter.into_iter().chain(self.names.iter().map(|name| style.dashed(name))).collect()
    }
}

impl Style {
    /// A name behind the dashes of the style.
    #[must_use]
    pub fn dashed(self, name: &str) -> String {
        match self {
            Self::Gnu => format!("--{name}"),
            Self::Qemu => format!("-{name}"),
        }
    }
}

impl Argument {
    /// The kind of value, if there is an argument.
    #[must_use]
    pub fn value(self) -> Option<Value> {
        match self {
            Self::None => None,
            Self::Required(_, value) | Self::Optional(_, value) => Some(value),
        }
    }
}

/// Options that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// The heading.
    pub title: &'static str,
    /// The options, in the order of `--help`. One that is written in several ways may be there several times.
    pub options: &'static [OptionSpec],
}

/// What stands behind a program's options or a command's: an argument by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub value: Value,
}

/// A command of a program: its first word.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a few words, for the list of commands.
    pub summary: &'static str,
    /// More about it, a paragraph each.
    pub description: &'static [&'static str],
    /// Its options.
    pub options: &'static [OptionSpec],
    /// What it needs, by position.
    pub operands: &'static [Operand],
}

/// A kind of link that a program can open.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    /// What stands before `://`.
    pub name: &'static str,
    /// What stands behind it.
    pub address: Value,
    /// How it is written in full.
    pub form: &'static str,
    /// What it is.
    pub help: &'static str,
}

/// A name or a number, and what it means.
pub type Meaning = (&'static str, &'static str);

/// A section of the man page that only this program has.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// What is explained there.
    pub entries: Entries,
}

/// Words and what they mean, for a [`Section`].
#[derive(Clone, Copy, Debug)]
pub enum Entries {
    /// Written down for it.
    Fixed(&'static [Meaning]),
    /// Made from another table.
    Made(fn() -> Vec<(String, &'static str)>),
}

/// A program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The name it is run by.
    pub name: &'static str,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// How its options are written.
    pub style: Style,
    /// What may follow its name on a command line, one form each; commands are added to them.
    pub usage: &'static [&'static str],
    /// What it does, a paragraph each.
    pub description: &'static [&'static str],
    /// Its options.
    pub topics: &'static [Topic],
    /// Its commands, if it has some.
    pub commands: &'static [Command],
    /// What it takes by position, without a command.
    pub operands: &'static [Operand],
    /// The links it can open.
    pub schemes: &'static [Scheme],
    /// What else the man page explains.
    pub sections: &'static [Section],
    /// Exit statuses.
    pub exit_statuses: &'static [Meaning],
    /// Files.
    pub files: &'static [Meaning],
    /// Environment variables.
    pub environment: &'static [Meaning],
    /// What a command line is for, and the command line.
    pub examples: &'static [Meaning],
    /// Related pages, as in `vmm(1)`.
    pub see_also: &'static [&'static str],
}

impl Program {
    /// The options that stand without a command, in order.
    pub fn options(&self) -> impl Iterator<Item = &'static OptionSpec> + use<> {
        self.topics.iter().flat_map(|topic| topic.options)
    }

    /// The command of that name.
    #[must_use]
    pub fn command(&self, name: &str) -> Option<&'static Command> {
        self.commands.iter().find(|command| command.name == name)
    }

    /// The forms of a command line, each with the program's name.
    #[must_use]
    pub fn synopsis(&self) -> Vec<String> {
        let own = self.usage.iter().map(|form| format!("{} {form}", self.name));
        own.chain(self.commands.iter().map(|command| command.usage(self.name))).collect()
    }

    /// Reads a command line without the program's name and without a command.
    pub fn parse<I: IntoIterator<Item = String>>(&self, words: I) -> Parser<I::IntoIter> {
        Parser::new(self.style, self.options().collect(), words.into_iter())
    }

    /// Reads what follows one of its commands.
    pub fn parse_command<I: IntoIterator<Item = String>>(&self, command: &Command, words: I) -> Parser<I::IntoIter> {
        Parser::new(self.style, command.options.iter().collect(), words.into_iter())
    }

    /// What has been mistyped as `word`, if one of its commands is near.
    #[must_use]
    pub fn nearest_command(&self, word: &str) -> Option<&'static str> {
        crate::parser::nearest(word, self.commands.iter().map(|command| command.name))
    }
}

impl Command {
    /// The form of its command line.
    #[must_use]
    pub fn usage(&self, program: &str) -> String {
        let mut text = format!("{program} {}", self.name);
        for option in self.options.iter().filter(|option| option.name() != "help") {
            let spelling = option.spellings(Style::Gnu).into_iter().next().unwrap_or_default();
            match option.argument {
                Argument::None => text.push_str(&format!(" [{spelling}]")),
                Argument::Required(name, _) => text.push_str(&format!(" [{spelling} {name}]")),
                Argument::Optional(name, _) => text.push_str(&format!(" [{spelling}[={name}]]")),
            }
        }
        for operand in self.operands {
            text.push(' ');
            text.push_str(operand.name);
        }
        text
    }
}
