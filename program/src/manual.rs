//! A program's manual page, section 1, from its table: roff with the man macros (groff_man(7)).
//!
//! Invariant: text from the table is never taken for a request: what roff would read is written as a special character,
//! and a line never begins with a dot of the text's own. Hyphens are minus signs, so that what is copied from the page
//! can be run.

use std::fmt::Write as _;

use crate::options::{Argument, Command, Entries, Meaning, OptionSpec, Program, Style};

/// Columns of an example, inside its indentation.
const EXAMPLE_WIDTH: usize = 70;

/// The page.
#[must_use]
pub fn page(program: &Program) -> String {
    let mut page = Page::default();
    page.header(program);
    page.section("SYNOPSIS");
    for (index, form) in program.synopsis().iter().enumerate() {
        if index > 0 {
            page.line(".br");
        }
        page.form(form);
    }
    page.section("DESCRIPTION");
    page.paragraphs(program.description);
    page.section("OPTIONS");
    for topic in program.topics {
        let _ = writeln!(page.text, ".SS \"{}\"", escape(topic.title));
        topic.options.iter().for_each(|option| page.option(program.style, option));
    }
    if !program.commands.is_empty() {
        page.section("COMMANDS");
        program.commands.iter().for_each(|command| page.command(program, command));
    }
    if !program.schemes.is_empty() {
        page.section("LINKS");
        for scheme in program.schemes {
            page.entry(&argument(scheme.form), scheme.help);
        }
    }
    for section in program.sections {
        match section.entries {
            Entries::Fixed(entries) => page.entries(section.title, entries),
            Entries::Made(make) => {
                page.section(section.title);
                make().iter().for_each(|(name, meaning)| page.entry(&bold(name), meaning));
            }
        }
    }
    page.entries("EXIT STATUS", program.exit_statuses);
    page.entries("FILES", program.files);
    page.entries("ENVIRONMENT", program.environment);
    page.examples(program.examples);
    if !program.see_also.is_empty() {
        page.section("SEE ALSO");
        let names: Vec<_> = program.see_also.iter().map(|name| word(name)).collect();
        page.line(&names.join(", "));
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn header(&mut self, program: &Program) {
        let version = env!("CARGO_PKG_VERSION");
        let title = escape(&program.name.to_uppercase());
        let _ = writeln!(self.text, ".TH \"{title}\" \"1\" \"\" \"Etherloom {version}\" \"User Commands\"");
        // No hyphenation and a ragged edge: names of options stay whole.
        self.line(".nh\n.ad l");
        self.section("NAME");
        self.line(&format!("{} \\- {}", escape(program.name), escape(program.summary)));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        let _ = writeln!(self.text, ".SH \"{}\"", escape(title));
    }

    /// The form of a command line.
    fn form(&mut self, form: &str) {
        let mut words = form.split(' ');
        let name = bold(words.next().unwrap_or_default());
        let words: Vec<_> = std::iter::once(name).chain(words.map(argument)).collect();
        self.line(&words.join(" "));
    }

    /// Running text: one line for each sentence.
    fn prose(&mut self, text: &str) {
        let mut line = String::new();
        for token in text.split_whitespace() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word(token));
            if token.ends_with('.') {
                self.line(&line);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.line(&line);
        }
    }

    fn paragraphs(&mut self, paragraphs: &[&str]) {
        for paragraph in paragraphs {
            self.line(".PP");
            self.prose(paragraph);
        }
    }

    fn option(&mut self, style: Style, option: &OptionSpec) {
        let names = option.spellings(style).iter().map(|name| bold(name)).collect::<Vec<_>>().join(", ");
        let head = match option.argument {
            Argument::None => names,
            Argument::Required(name, _) => format!("{names} {}", argument(name)),
            Argument::Optional(name, _) => format!("{names}[={}]", argument(name)),
        };
        self.entry(&head, option.help);
    }

    /// A head that is roff already, and what it means.
    fn entry(&mut self, head: &str, meaning: &str) {
        self.line(".TP");
        self.line(head);
        self.prose(meaning);
    }

    fn entries(&mut self, title: &str, entries: &[Meaning]) {
        if entries.is_empty() {
            return;
        }
        self.section(title);
        for (name, meaning) in entries {
            self.entry(&bold(name), meaning);
        }
    }

    fn command(&mut self, program: &Program, command: &Command) {
        self.line(".SS");
        self.form(&command.usage(program.name));
        self.paragraphs(command.description);
        command.options.iter().for_each(|option| self.option(program.style, option));
    }

    fn examples(&mut self, examples: &[Meaning]) {
        if examples.is_empty() {
            return;
        }
        self.section("EXAMPLES");
        for (purpose, command) in examples {
            self.paragraphs(&[purpose]);
            self.line(".PP\n.RS 4\n.nf");
            self.line(&continued(command).iter().map(|line| escape(line)).collect::<Vec<_>>().join("\n"));
            self.line(".fi\n.RE");
        }
    }
}

/// A command line on lines that a shell joins again; an option's argument stays with it.
fn continued(command: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in command.split(' ') {
        match pieces.last_mut() {
            Some(option) if option.starts_with('-') && !option.contains(' ') && !word.starts_with('-') => {
                option.push(' ');
                option.push_str(word);
            }
            _ => pieces.push(word.to_owned()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + piece.len() > EXAMPLE_WIDTH => {
                line.push_str(" \\");
                lines.push(format!("    {piece}"));
            }
            Some(line) => {
                line.push(' ');
                line.push_str(&piece);
            }
            None => lines.push(piece),
        }
    }
    lines
}

/// Text as it is.
fn escape(text: &str) -> String {
    let mut roff = String::new();
    for c in text.chars() {
        match c {
            '\\' => roff.push_str("\\(rs"),
            '-' => roff.push_str("\\-"),
            '\'' => roff.push_str("\\(aq"),
            '`' => roff.push_str("\\(ga"),
            '^' => roff.push_str("\\(ha"),
            '~' => roff.push_str("\\(ti"),
            '"' => roff.push_str("\\(dq"),
            // Only a dot that begins a line would be a request; here nobody knows.
            '.' if roff.is_empty() => roff.push_str("\\&."),
            c => roff.push(c),
        }
    }
    roff
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(text))
}

/// A word of running text: options and other pages are bold.
fn word(word: &str) -> String {
    let text = word.trim_end_matches([',', '.', ':', ';', ')']);
    let is_option = text.strip_prefix('-').is_some_and(|rest| rest.contains(|c: char| c.is_ascii_alphabetic()));
    if is_option {
        return format!("{}{}", bold(text), escape_rest(&word[text.len()..]));
    }
    match word.split_once("(1)") {
        Some((name, rest)) if !name.is_empty() && !name.contains('(') => {
            format!("{}(1){}", bold(name), escape_rest(rest))
        }
        _ => escape(word),
    }
}

/// What follows something on its line.
fn escape_rest(text: &str) -> String {
    escape(text).trim_start_matches("\\&").to_owned()
}

/// The form of an argument: what stands for something else is in italics.
fn argument(form: &str) -> String {
    let mut roff = String::new();
    let mut rest = form;
    while let Some(start) = rest.find(|c: char| c.is_ascii_uppercase()) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(from.len());
        let (placeholder, after) = from.split_at(end);
        roff.push_str(&escape_rest(before));
        // One letter among alternatives is itself.
        if placeholder.len() == 1 && before.ends_with(['[', '|']) && after.starts_with([']', '|']) {
            roff.push_str(placeholder);
        } else {
            let _ = write!(roff, "\\fI{placeholder}\\fR");
        }
        rest = after;
    }
    roff.push_str(&escape_rest(rest));
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_text_is_a_request() {
        assert_eq!(escape(".br"), "\\&.br");
        assert_eq!(escape("'a\\b' ~`^\" --x"), "\\(aqa\\(rsb\\(aq \\(ti\\(ga\\(ha\\(dq \\-\\-x");
        let mut page = Page::default();
        page.prose("Ends here. .so /etc/passwd 'br");
        assert_eq!(page.text, "Ends here.\n\\&.so /etc/passwd \\(aqbr\n");
    }

    #[test]
    fn options_and_pages_stand_out_in_running_text() {
        assert_eq!(word("--tap,"), "\\fB\\-\\-tap\\fR,");
        assert_eq!(word("-s."), "\\fB\\-s\\fR.");
        assert_eq!(word("--"), "\\-\\-");
        assert_eq!(word("-1"), "\\-1");
        assert_eq!(word("vde_plug(1),"), "\\fBvde_plug\\fR(1),");
        assert_eq!(word("(1)"), "(1)");
    }

    #[test]
    fn an_arguments_form_shows_what_is_to_be_replaced() {
        assert_eq!(argument("[size=]SIZE[M|G]"), "[size=]\\fISIZE\\fR[M|G]");
        assert_eq!(argument("nic[,model=M]..."), "nic[,model=\\fIM\\fR]...");
        assert_eq!(argument("[-s"), "[\\-s");
        assert_eq!(argument("[OPTION]..."), "[\\fIOPTION\\fR]...");
    }

    #[test]
    fn a_long_example_is_continued_as_a_shell_reads_it() {
        let lines = continued(&format!("{} tail", "x".repeat(EXAMPLE_WIDTH)));
        assert_eq!(lines, [format!("{} \\", "x".repeat(EXAMPLE_WIDTH)), "    tail".to_owned()]);
        let lines = continued(&format!("{} -o value -x", "x".repeat(EXAMPLE_WIDTH - 4)));
        assert_eq!(lines[1..], ["    -o value -x"]);
    }
}
