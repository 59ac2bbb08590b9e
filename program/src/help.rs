//! The text of `--help`, from a program's table.

use std::fmt::Write as _;

use crate::options::{Argument, Command, OptionSpec, Program, Style};

/// Columns of a line.
const WIDTH: usize = 80;
/// Where help begins beside a short option.
const COLUMN: usize = 26;

/// `--help` of a program.
#[must_use]
pub fn program(program: &Program) -> String {
    let mut text = String::new();
    let mut heads = program.synopsis().into_iter();
    let _ = writeln!(text, "usage: {}", heads.next().unwrap_or_default());
    for form in heads {
        let _ = writeln!(text, "       {form}");
    }
    for paragraph in program.description {
        text.push('\n');
        push_wrapped(&mut text, 0, paragraph);
    }
    for topic in program.topics {
        let _ = writeln!(text, "\n{}:", topic.title);
        push_options(&mut text, program.style, topic.options);
    }
    if !program.commands.is_empty() {
        let _ = writeln!(text, "\nCommands ({} COMMAND --help says more):", program.name);
        for command in program.commands {
            push_entry(&mut text, &format!("  {}", command.name), command.summary);
        }
    }
    if !program.schemes.is_empty() {
        text.push_str("\nLinks:\n");
        for scheme in program.schemes {
            push_entry(&mut text, &format!("  {}", scheme.form), scheme.help);
        }
    }
    text
}

/// `--help` of one of its commands.
#[must_use]
pub fn command(program: &Program, command: &Command) -> String {
    let mut text = format!("usage: {}\n", command.usage(program.name));
    for paragraph in command.description {
        text.push('\n');
        push_wrapped(&mut text, 0, paragraph);
    }
    text.push_str("\nOptions:\n");
    push_options(&mut text, program.style, command.options);
    text
}

/// `--version` of a program.
#[must_use]
pub fn version(program: &Program) -> String {
    format!("{} (Etherloom) {}\n", program.name, env!("CARGO_PKG_VERSION"))
}

/// An option as a list of options has it: every spelling, and what its argument is called.
#[must_use]
pub fn head(option: &OptionSpec, style: Style) -> String {
    let names = option.spellings(style).join(", ");
    match option.argument {
        Argument::None => names,
        Argument::Required(argument, _) => format!("{names} {argument}"),
        Argument::Optional(argument, _) => format!("{names}[={argument}]"),
    }
}

fn push_options(text: &mut String, style: Style, options: &[OptionSpec]) {
    for option in options {
        let head = head(option, style);
        match style {
            // Long arguments: the help stands below.
            Style::Qemu => {
                let _ = writeln!(text, "  {head}");
                push_wrapped(text, 8, option.help);
            }
            Style::Gnu if option.short.is_some() => push_entry(text, &format!("  {head}"), option.help),
            Style::Gnu => push_entry(text, &format!("      {head}"), option.help),
        }
    }
}

/// A head, and what it means beside it, or below if there is no room.
fn push_entry(text: &mut String, head: &str, meaning: &str) {
    let width = head.chars().count();
    let mut lines = wrap(meaning, WIDTH - COLUMN).into_iter();
    if width + 2 > COLUMN {
        let _ = writeln!(text, "{head}");
    } else if let Some(first) = lines.next() {
        let _ = writeln!(text, "{head:COLUMN$}{first}");
    }
    for line in lines {
        let _ = writeln!(text, "{:COLUMN$}{line}", "");
    }
}

fn push_wrapped(text: &mut String, indent: usize, paragraph: &str) {
    for line in wrap(paragraph, WIDTH - indent) {
        let _ = writeln!(text, "{:indent$}{line}", "");
    }
}

/// Lines of at most `width` columns, broken at spaces; a longer word has a line for itself.
fn wrap(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_keep_long_words_whole() {
        assert_eq!(wrap("ab cd efgh i", 5), ["ab cd", "efgh", "i"]);
        assert_eq!(wrap("abcdefgh i", 5), ["abcdefgh", "i"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn help_stands_beside_a_short_head_and_below_a_long_one() {
        let mut text = String::new();
        push_entry(&mut text, "  -x, --hub", "be a hub");
        push_entry(&mut text, "      --a-rather-long-option NAME", "do something");
        let below = " ".repeat(COLUMN);
        let beside = " ".repeat(COLUMN - "  -x, --hub".len());
        assert_eq!(
            text,
            format!("  -x, --hub{beside}be a hub\n      --a-rather-long-option NAME\n{below}do something\n")
        );
    }
}
