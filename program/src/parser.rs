//! Reads a command line by a program's table, with the habits of getopt_long_only(3) or of QEMU.
//!
//! Pure: words in, [`Item`]s out, one by one, so that `--help` answers before a later mistake is met.
//!
//! getopt_long_only: a word behind one dash is a letter if it is one letter that exists; else a long name or the one
//! name it abbreviates; else letters, the last of which may have its argument attached. Behind two dashes there are
//! names only.

use std::collections::VecDeque;

use crate::options::{Argument, OptionSpec, Style};

/// One thing that a command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An option, with its argument if it has one.
    Option(&'static OptionSpec, Option<String>),
    /// A word that is no option.
    Operand(String),
}

/// A word that fits no option, or an option that fits no word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown option '{}'{}", printable(.word), did_you_mean(.near.as_deref()))]
    Unknown {
        /// As written.
        word: String,
        /// The option with the nearest name, with its dashes.
        near: Option<String>,
    },
    /// An abbreviation of several options.
    #[error("option '{}' is ambiguous: {}", printable(.word), .candidates.join(", "))]
    Ambiguous {
        /// As written.
        word: String,
        /// What it could mean, with dashes.
        candidates: Vec<String>,
    },
    /// An option without its argument.
    #[error("{option} needs an argument: {argument}")]
    NoArgument {
        /// The option, with its dashes.
        option: String,
        /// What was expected.
        argument: &'static str,
    },
    /// An option with an argument that it does not take.
    #[error("{option} takes no argument")]
    TakesNone {
        /// The option, with its dashes.
        option: String,
    },
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!(": did you mean {near}?")).unwrap_or_default()
}

/// Text from outside on one line: control characters are written as escapes.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut shown, c| {
        if c.is_control() {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// The items of a command line, in order. After an error nothing that follows means anything.
#[derive(Debug)]
pub struct Parser<I> {
    style: Style,
    options: Vec<&'static OptionSpec>,
    words: I,
    /// Letters of a bundle that are still to be read.
    letters: VecDeque<char>,
    /// `--` has been there.
    only_operands: bool,
    /// A word that was looked at and is no argument.
    kept: Option<String>,
}

type Parsed = Result<Item, OptionError>;

impl<I: Iterator<Item = String>> Parser<I> {
    pub(crate) fn new(style: Style, options: Vec<&'static OptionSpec>, words: I) -> Self {
        Self { style, options, words, letters: VecDeque::new(), only_operands: false, kept: None }
    }

    fn next_word(&mut self) -> Option<String> {
        self.kept.take().or_else(|| self.words.next())
    }

    fn word(&mut self, word: String) -> Parsed {
        let (dashes, name) = match word.strip_prefix("--") {
            Some(name) => (2, name),
            None => (1, word.strip_prefix('-').unwrap_or_default()),
        };
        if name.is_empty() || !word.starts_with('-') {
            return Ok(Item::Operand(word));
        }
        match self.style {
            Style::Qemu => match self.options.iter().copied().find(|option| option.names.contains(&name)) {
                Some(option) => self.option(option, None),
                None => Err(self.unknown(&word, name)),
            },
            Style::Gnu => self.gnu(&word, dashes, name),
        }
    }

    fn gnu(&mut self, word: &str, dashes: usize, text: &str) -> Parsed {
        let mut rest = text.chars();
        let letter = rest.next().and_then(|letter| self.letter(letter)).filter(|_| dashes == 1);
        if let Some(option) = letter.filter(|_| rest.as_str().is_empty()) {
            return self.option(option, None);
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        match (self.long(word, name)?, letter) {
            (Some(option), _) => self.option(option, value),
            (None, Some(option)) => {
                self.letters = rest.collect();
                self.letter_option(option)
            }
            (None, None) => Err(self.unknown(word, name)),
        }
    }

    /// The option of that name, or the one that it abbreviates.
    fn long(&self, word: &str, name: &str) -> Result<Option<&'static OptionSpec>, OptionError> {
        if let Some(option) = self.options.iter().find(|option| option.names.contains(&name)) {
            return Ok(Some(option));
        }
        if name.is_empty() {
            return Ok(None);
        }
        let fits = |option: &&OptionSpec| option.names.iter().any(|full| full.starts_with(name));
        let (newer, older): (Vec<_>, Vec<_>) =
            self.options.iter().copied().filter(fits).partition(|option| option.yields);
        let candidates = if older.is_empty() { newer } else { older };
        match candidates[..] {
            [] => Ok(None),
            [option] => Ok(Some(option)),
            _ => Err(OptionError::Ambiguous {
                word: word.to_owned(),
                candidates: candidates
                    .iter()
                    .filter_map(|option| option.names.iter().find(|full| full.starts_with(name)))
                    .map(|full| self.style.dashed(full))
                    .collect(),
            }),
        }
    }

    fn letter(&self, letter: char) -> Option<&'static OptionSpec> {
        self.options.iter().copied().find(|option| option.short == Some(letter))
    }

    /// An option given by its letter; what follows in the bundle is its argument if it takes one.
    fn letter_option(&mut self, option: &'static OptionSpec) -> Parsed {
        let attached = match option.argument {
            Argument::None => None,
            _ => Some(self.letters.drain(..).collect::<String>()).filter(|rest| !rest.is_empty()),
        };
        self.option(option, attached)
    }

    fn option(&mut self, option: &'static OptionSpec, attached: Option<String>) -> Parsed {
        let value = match (option.argument, attached) {
            (Argument::None, None) => None,
            (Argument::None, Some(_)) => return Err(OptionError::TakesNone { option: option.dashed(self.style) }),
            (_, Some(value)) => Some(value),
            (Argument::Required(argument, _), None) => match self.next_word() {
                Some(word) => Some(word),
                None => return Err(OptionError::NoArgument { option: option.dashed(self.style), argument }),
            },
            (Argument::Optional(..), None) => {
                let word = self.next_word();
                let is_value = word.as_ref().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()));
                if is_value {
                    word
                } else {
                    self.kept = word;
                    None
                }
            }
        };
        Ok(Item::Option(option, value))
    }

    fn unknown(&self, word: &str, name: &str) -> OptionError {
        let names = self.options.iter().flat_map(|option| option.names).copied();
        OptionError::Unknown { word: word.to_owned(), near: nearest(name, names).map(|near| self.style.dashed(near)) }
    }
}

impl<I: Iterator<Item = String>> Iterator for Parser<I> {
    type Item = Parsed;

    fn next(&mut self) -> Option<Parsed> {
        if let Some(letter) = self.letters.pop_front() {
            return Some(match self.letter(letter) {
                Some(option) => self.letter_option(option),
                None => Err(OptionError::Unknown { word: format!("-{letter}"), near: None }),
            });
        }
        let word = self.next_word()?;
        if self.only_operands {
            return Some(Ok(Item::Operand(word)));
        }
        if word == "--" && self.style == Style::Gnu {
            self.only_operands = true;
            return self.next();
        }
        Some(self.word(word))
    }
}

/// The candidate that `word` is nearest to, if one is near.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(candidate, word), candidate))
        .filter(|&(distance, candidate)| distance <= 2 && distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "parser_test.rs"]
mod tests;
