//! Completion for zsh: a function for `compinit` to find, made of `_arguments` specifications (zshcompsys(1)).

use std::fmt::Write as _;

use super::{Merged, function, merge, quote, short_help, takes_taps, words};
use crate::options::{Operand, Program, Style, Value};

/// The file.
#[must_use]
pub fn zsh(program: &Program) -> String {
    let function = function(program.name);
    let mut text = format!(
        "#compdef {}\n# Completion of {} for zsh. Generated from the program's table of options.\n",
        program.name, program.name
    );
    push_helpers(&mut text, program, &function);
    for command in program.commands {
        let _ = writeln!(text, "\n{function}_{}() {{", command.name);
        push_arguments(&mut text, program.style, &function, merge(command.options), command.operands);
        text.push_str("}\n");
    }
    let _ = writeln!(text, "\n{function}() {{");
    if !program.commands.is_empty() {
        push_commands(&mut text, program, &function);
    }
    let options: Vec<_> = program.options().collect();
    push_arguments(&mut text, program.style, &function, merge(options), program.operands);
    let _ = writeln!(text, "}}\n\n{function} \"$@\"");
    text
}

fn push_helpers(text: &mut String, program: &Program, function: &str) {
    if takes_taps(program) {
        let _ = writeln!(
            text,
            "\n{function}_taps() {{\n    local -a taps\n    taps=(/sys/class/net/*/tun_flags(N:h:t))\n    \
             compadd -a taps\n}}"
        );
    }
    if program.schemes.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{function}_links() {{");
    let mut keyword = "if";
    for scheme in program.schemes {
        let action = match action(&[scheme.address], function) {
            action if action.is_empty() => "_message address".to_owned(),
            action => action,
        };
        let _ = writeln!(
            text,
            "    {keyword} compset -P {}; then\n        {action}",
            quote(&format!("{}://", scheme.name))
        );
        keyword = "elif";
    }
    let names: Vec<_> = program.schemes.iter().map(|scheme| format!("{}://", scheme.name)).collect();
    let _ = writeln!(text, "    else\n        compadd -S '' -- {}\n    fi\n}}", names.join(" "));
}

/// The first word may be a command; then its own function goes on.
fn push_commands(text: &mut String, program: &Program, function: &str) {
    text.push_str("    local -a commands\n    commands=(\n");
    for command in program.commands {
        let summary = command.summary.replace(':', "\\:");
        let _ = writeln!(text, "        {}", quote(&format!("{}:{summary}", command.name)));
    }
    let names = program.commands.iter().map(|command| command.name).collect::<Vec<_>>().join("|");
    let _ = writeln!(
        text,
        "    )\n    if (( CURRENT > 2 )) && [[ $words[2] == ({names}) ]]; then\n        \
         shift words\n        (( CURRENT-- ))\n        \"{function}_$words[1]\"\n        return\n    fi\n    \
         if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n        _describe -t commands command commands\n        \
         return\n    fi"
    );
}

fn push_arguments(text: &mut String, style: Style, function: &str, options: Vec<Merged<'_>>, operands: &[Operand]) {
    // -s: letters bundle; -S: nothing is an option behind two dashes.
    text.push_str(if style == Style::Gnu { "    _arguments -s -S :" } else { "    _arguments :" });
    for merged in &options {
        for spec in specifications(merged, style, function) {
            let _ = write!(text, " \\\n        {}", quote(&spec));
        }
    }
    for (index, operand) in operands.iter().enumerate() {
        let action = action(&[operand.value], function);
        let _ = write!(text, " \\\n        {}", quote(&format!("{}:{}:{action}", index + 1, escape(operand.name))));
    }
    text.push('\n');
}

/// One specification for each spelling.
fn specifications(merged: &Merged<'_>, style: Style, function: &str) -> Vec<String> {
    let spellings = merged.option.spellings(style);
    let before = if merged.is_repeatable { "*".to_owned() } else { format!("({})", spellings.join(" ")) };
    let help = escape(&short_help(merged.option.help));
    let specification = |spelling: &String| match merged.argument() {
        None => format!("{before}{spelling}[{help}]"),
        Some((name, is_required)) => {
            let attach = match (style, spelling.starts_with("--"), is_required) {
                (Style::Qemu, ..) => "",
                (Style::Gnu, true, true) => "=",
                (Style::Gnu, true, false) => "=-",
                (Style::Gnu, false, true) => "+",
                (Style::Gnu, false, false) => "-",
            };
            let colons = if is_required { ":" } else { "::" };
            let action = action(&merged.values, function);
            format!("{before}{spelling}{attach}[{help}]{colons}{}:{action}", escape(name))
        }
    };
    spellings.iter().map(specification).collect()
}

fn action(values: &[Value], function: &str) -> String {
    match values.first() {
        Some(Value::File) => "_files".to_owned(),
        Some(Value::Directory) => "_files -/".to_owned(),
        Some(Value::Group) => "_groups".to_owned(),
        Some(Value::Interface) => format!("{function}_taps"),
        Some(Value::Locator) => format!("{function}_links"),
        Some(Value::Choice(_)) => {
            // A word that goes on gets no space.
            let (open, whole): (Vec<&str>, Vec<&str>) =
                words(values).iter().partition(|word| word.ends_with(['=', ',', ':', '/']));
            let add = |words: Vec<&str>, suffix: &str| match words.is_empty() {
                true => String::new(),
                false => {
                    let words =
                        words.iter().map(|word| format!("\"{}\"", word.replace(':', "\\:"))).collect::<Vec<_>>();
                    format!("compadd {suffix}-- {};", words.join(" "))
                }
            };
            format!("{{{}{}}}", add(whole, ""), add(open, "-S \"\" "))
        }
        Some(Value::Text) | None => String::new(),
    }
}

/// Text inside a specification.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        if matches!(c, '[' | ']' | ':' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}
