//! Completions for the shells, from a program's table: each a file that the shell loads by itself when it is installed.
//!
//! | file | where a Debian shell looks for it |
//! |---|---|
//! | `bash` | `/usr/share/bash-completion/completions/NAME` |
//! | `zsh` | `/usr/share/zsh/vendor-completions/_NAME` |
//! | `fish` | `/usr/share/fish/vendor_completions.d/NAME.fish` |
//!
//! Invariant: text from the table is quoted; nothing in it is run.

mod bash;
mod fish;
mod zsh;

pub use bash::bash;
pub use fish::fish;
pub use zsh::zsh;

use crate::options::{Argument, OptionSpec, Program, Value};

/// Options as a shell sees them: several forms of one name are one option.
fn merge<'a>(options: impl IntoIterator<Item = &'a OptionSpec>) -> Vec<Merged<'a>> {
    let mut merged: Vec<Merged<'a>> = Vec::new();
    for option in options {
        let value = option.argument.value();
        match merged.iter_mut().find(|known| known.option.names == option.names) {
            Some(known) => {
                known.values.extend(value);
                known.is_repeatable |= option.repeatable;
            }
            None => {
                merged.push(Merged { option, values: value.into_iter().collect(), is_repeatable: option.repeatable })
            }
        }
    }
    merged
}

struct Merged<'a> {
    /// The first form.
    option: &'a OptionSpec,
    /// What an argument can be, if there is one.
    values: Vec<Value>,
    is_repeatable: bool,
}

impl Merged<'_> {
    /// What the argument is called, and whether it must be there.
    fn argument(&self) -> Option<(&'static str, bool)> {
        match self.option.argument {
            Argument::None => None,
            Argument::Required(name, _) => Some((name, true)),
            Argument::Optional(name, _) => Some((name, false)),
        }
    }
}

/// The words that a value can be or begin with, if that is known.
fn words(values: &[Value]) -> Vec<&'static str> {
    let words = values.iter().filter_map(|value| match value {
        Value::Choice(words) => Some(words.iter().copied()),
        _ => None,
    });
    words.flatten().collect()
}

/// Whether a TAP of this host is anything that the program takes.
fn takes_taps(program: &Program) -> bool {
    let commands = program.commands.iter();
    let options = program.options().chain(commands.clone().flat_map(|command| command.options));
    let values = options.filter_map(|option| option.argument.value());
    let values = values.chain(commands.flat_map(|command| command.operands).map(|operand| operand.value));
    values.chain(program.schemes.iter().map(|scheme| scheme.address)).any(|value| value == Value::Interface)
}

/// In single quotes, for every one of the shells.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a program's functions are called.
fn function(name: &str) -> String {
    let identifier: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("_{identifier}")
}

/// What an option does, in one short line: the first clause, without what is in brackets behind it.
fn short_help(help: &str) -> String {
    let mut clause = String::new();
    for word in help.split_whitespace().take_while(|word| !word.starts_with('(')) {
        if !clause.is_empty() {
            clause.push(' ');
        }
        clause.push_str(word.trim_end_matches(['.', ';', ':', ',']));
        if word.ends_with(['.', ';', ':']) {
            break;
        }
        if word.ends_with(',') {
            clause.push(',');
        }
    }
    clause.trim_end_matches(',').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_name_are_one_option() {
        let forms = [
            OptionSpec::new(&["net"], "a").takes("nic", Value::Choice(&["nic,"])).repeatable(),
            OptionSpec::new(&["name"], "b").takes("NAME", Value::Text),
            OptionSpec::new(&["net"], "c").takes("none", Value::Choice(&["none"])),
        ];
        let merged = merge(&forms);
        assert_eq!(merged.len(), 2);
        assert_eq!(words(&merged[0].values), ["nic,", "none"]);
        assert!(merged[0].is_repeatable && !merged[1].is_repeatable);
    }

    #[test]
    fn text_is_quoted_and_shortened() {
        assert_eq!(quote("host's $(x)"), r"'host'\''s $(x)'");
        assert_eq!(short_help("Be a hub: every frame goes to every port."), "Be a hub");
        assert_eq!(short_help("a port, as in user:// (default none)"), "a port, as in user://");
        assert_eq!(function("vde-switch"), "_vde_switch");
    }
}
