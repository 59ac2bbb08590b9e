//! The lines on the control socket of an impaired link.
//!
//! | line | answer |
//! |---|---|
//! | `set KEY=VALUE…` | `ok`; all of it, or nothing at all, is set |
//! | `show` | the settings and what has happened, a few lines |
//! | `show --json` | the same, as one line of JSON |
//! | `blackhole TIME` | `ok`; as `set blackhole=TIME` |
//! | `reset` | `ok`; nothing is done any more, and frames are numbered from 0 again |
//! | `help` | the lines and the keys |
//!
//! Neighbours: `control` outside for the socket, `settings` for the keys, the link around it for what the lines do.

use super::settings::KEYS;

/// A line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Keys and values, in order.
    Set(Vec<(String, String)>),
    /// What is set, and what has happened.
    Show {
        /// As JSON.
        json: bool,
    },
    /// Nothing is done any more.
    Reset,
    /// What can be said.
    Help,
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["set", pairs @ ..] if !pairs.is_empty() => {
                let pair = |word: &&str| match word.split_once('=') {
                    Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                    None => Err(format!("'{}': expected KEY=VALUE", word.escape_debug())),
                };
                pairs.iter().map(pair).collect::<Result<_, _>>().map(Self::Set)
            }
            ["set"] => Err("set needs KEY=VALUE, as in set loss=5%".to_owned()),
            ["show"] => Ok(Self::Show { json: false }),
            ["show", "--json"] => Ok(Self::Show { json: true }),
            ["blackhole", time] => Ok(Self::Set(vec![("blackhole".to_owned(), (*time).to_owned())])),
            ["blackhole"] => Err("blackhole needs a time, as in blackhole 5".to_owned()),
            ["reset"] => Ok(Self::Reset),
            ["help"] => Ok(Self::Help),
            _ => Err(format!("'{}': expected set, show, blackhole, reset or help", line.trim().escape_debug())),
        }
    }
}

/// The answer to `help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "set KEY=VALUE...  change settings; KEY=off takes one back\n\
         show [--json]     the settings, and what has happened to frames\n\
         blackhole TIME    lose everything for so long\n\
         reset             do nothing to frames any more\n\
         help              this\n\
         Keys, for both directions, or with tx. or rx. in front for one:\n",
    );
    for key in &KEYS {
        text.push_str(&format!("  {}={}\n      {}\n", key.name, key.form, key.help));
    }
    text.push_str("  seed=N\n      Draw all chances anew.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let pairs = |pairs: &[(&str, &str)]| {
            Ok(Command::Set(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()))
        };
        assert_eq!(Command::parse("set loss=5% tx.delay=50ms"), pairs(&[("loss", "5%"), ("tx.delay", "50ms")]));
        assert_eq!(Command::parse(" blackhole  5 \r\n"), pairs(&[("blackhole", "5")]));
        assert_eq!(Command::parse("show --json"), Ok(Command::Show { json: true }));
        assert_eq!(Command::parse("reset"), Ok(Command::Reset));
    }

    #[test]
    fn lines_that_make_no_sense_are_named() {
        for (line, expected) in [
            ("set", "set needs KEY=VALUE"),
            ("set loss", "'loss': expected KEY=VALUE"),
            ("shwo \u{1b}[2J", "'shwo \\u{1b}[2J': expected set, show"),
            ("blackhole", "blackhole needs a time"),
            ("reset now", "'reset now': expected"),
        ] {
            let error = Command::parse(line).unwrap_err();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_every_key() {
        let text = help();
        assert!(KEYS.iter().all(|key| text.contains(&format!("  {}={}\n", key.name, key.form))), "{text}");
    }
}
