//! Completion for fish: one `complete` command for each option.

use std::fmt::Write as _;

use super::{Merged, function, merge, quote, short_help, takes_taps, words};
use crate::options::{Operand, Program, Style, Value};

/// The file.
#[must_use]
pub fn fish(program: &Program) -> String {
    let function = format!("_{}", function(program.name));
    let name = program.name;
    let mut text = format!("# Completion of {name} for fish. Generated from the program's table of options.\n");
    if takes_taps(program) {
        let _ = writeln!(
            text,
            "\nfunction {function}_taps\n    for flags in /sys/class/net/*/tun_flags\n        \
         basename (dirname $flags)\n    end\nend"
        );
    }
    if !program.schemes.is_empty() {
        push_links(&mut text, program, &function);
    }
    let _ = writeln!(text, "\ncomplete -c {name} -f");
    let commands = program.commands.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let outside = if commands.is_empty() { String::new() } else { format!("not {function}_in {commands}") };
    if !commands.is_empty() {
        // A command is the first word, so its name elsewhere is something else.
        let _ = writeln!(
            text,
            "\nfunction {function}_in\n    set -l words (commandline -opc)\n    \
             test (count $words) -gt 1; and contains -- $words[2] $argv\nend\n\n\
             function {function}_first\n    test (count (commandline -opc)) -eq 1\nend\n"
        );
        for command in program.commands {
            let _ = writeln!(
                text,
                "complete -c {name} -n {function}_first -a {} -d {}",
                quote(command.name),
                quote(command.summary)
            );
        }
    }
    let options: Vec<_> = program.options().collect();
    for merged in merge(options) {
        push_option(&mut text, program, &function, &outside, &merged);
    }
    push_operands(&mut text, program, &function, &outside, program.operands);
    for command in program.commands {
        let inside = format!("{function}_in {}", command.name);
        text.push('\n');
        for merged in merge(command.options) {
            push_option(&mut text, program, &function, &inside, &merged);
        }
        push_operands(&mut text, program, &function, &inside, command.operands);
    }
    text
}

fn push_links(text: &mut String, program: &Program, function: &str) {
    let _ = writeln!(text, "\nfunction {function}_links");
    for scheme in program.schemes {
        let help = short_help(scheme.help);
        let _ = writeln!(text, "    printf '%s\\t%s\\n' {} {}", quote(&format!("{}://", scheme.name)), quote(&help));
        if scheme.address == Value::Interface {
            let _ = writeln!(
                text,
                "    for tap in ({function}_taps)\n        printf '%s\\n' {}://$tap\n    end",
                scheme.name
            );
        }
    }
    text.push_str("end\n");
}

fn push_option(text: &mut String, program: &Program, function: &str, condition: &str, merged: &Merged<'_>) {
    let _ = write!(text, "complete -c {}", program.name);
    if !condition.is_empty() {
        let _ = write!(text, " -n {}", quote(condition));
    }
    if let Some(letter) = merged.option.short {
        let _ = write!(text, " -s {letter}");
    }
    for name in merged.option.names {
        let kind = match program.style {
            Style::Gnu => "-l",
            Style::Qemu => "-o",
        };
        let _ = write!(text, " {kind} {name}");
    }
    if let Some((_, true)) = merged.argument() {
        text.push_str(" -r");
        push_values(text, function, &merged.values);
    }
    let _ = writeln!(text, " -d {}", quote(&short_help(merged.option.help)));
}

/// What stands without a dash: by position it could not be told apart, so each kind is offered everywhere.
fn push_operands(text: &mut String, program: &Program, function: &str, condition: &str, operands: &[Operand]) {
    let mut offered = Vec::new();
    for operand in operands.iter().filter(|operand| operand.value != Value::Text) {
        if offered.contains(&operand.value) {
            continue;
        }
        offered.push(operand.value);
        let _ = write!(text, "complete -c {}", program.name);
        if !condition.is_empty() {
            let _ = write!(text, " -n {}", quote(condition));
        }
        push_values(text, function, &[operand.value]);
        text.push('\n');
    }
}

fn push_values(text: &mut String, function: &str, values: &[Value]) {
    let _ = match values.first() {
        Some(Value::File) => write!(text, " -F"),
        Some(Value::Directory) => write!(text, " -fa '(__fish_complete_directories (commandline -ct))'"),
        Some(Value::Group) => write!(text, " -fa '(__fish_complete_groups)'"),
        Some(Value::Interface) => write!(text, " -fa '({function}_taps)'"),
        Some(Value::Locator) => write!(text, " -fa '({function}_links)'"),
        Some(Value::Choice(_)) => write!(text, " -fa {}", quote(&words(values).join(" "))),
        Some(Value::Text) | None => write!(text, " -f"),
    };
}
