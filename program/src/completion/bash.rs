//! Completion for bash 4.3 and later, without the bash-completion package.
//!
//! bash splits a command line at `=` and `:` too (COMP_WORDBREAKS) and replaces only the last piece. The function joins
//! the pieces again, completes the whole word, and answers with what is behind the last break.

use std::fmt::Write as _;

use super::{Merged, function, merge, quote, words};
use crate::options::{Operand, OptionSpec, Program, Style, Value};

/// The file.
#[must_use]
pub fn bash(program: &Program) -> String {
    let function = function(program.name);
    let options: Vec<&OptionSpec> = program.options().collect();
    let mut kinds = String::new();
    let mut names = String::new();
    let mut operands = String::new();
    push_options(&mut kinds, &mut names, "", merge(options));
    push_operands(&mut operands, "", program.operands);
    for command in program.commands {
        push_options(&mut kinds, &mut names, command.name, merge(command.options));
        push_operands(&mut operands, command.name, command.operands);
    }
    let commands = program.commands.iter().map(|command| command.name).collect::<Vec<_>>();
    let command_pattern = if commands.is_empty() { "''".to_owned() } else { commands.join("|") };
    let mut schemes = String::new();
    for scheme in program.schemes {
        let value = kind(&[scheme.address]);
        let _ = writeln!(
            schemes,
            "            {}://*) {function}_values {} \"$2{}://\" \"${{3#*://}}\" ;;",
            scheme.name,
            quote(&value),
            scheme.name
        );
    }
    let scheme_words = program.schemes.iter().map(|scheme| format!("{}://", scheme.name)).collect::<Vec<_>>();
    TEMPLATE
        .replace("@PROGRAM@", program.name)
        .replace("@FUNCTION@", &function)
        .replace("@KINDS@", &kinds)
        .replace("@OPERANDS@", &operands)
        .replace("@NAMES@", &names)
        .replace("@SCHEMES@", &schemes)
        .replace("@SCHEME_WORDS@", &scheme_words.join(" "))
        .replace("@COMMANDS@", &commands.join(" "))
        .replace("@COMMAND_PATTERN@", &command_pattern)
        .replace("@DASHES@", if program.style == Style::Gnu { "--" } else { "-" })
        .replace("@ATTACHED@", if program.style == Style::Gnu { "-*=*" } else { "''" })
}

/// The arms that say what each option takes, and the one that lists the options.
fn push_options(kinds: &mut String, names: &mut String, command: &str, options: Vec<Merged<'_>>) {
    let mut long = Vec::new();
    let mut letters = Vec::new();
    for merged in &options {
        long.extend(merged.option.names.iter().map(|name| (*name).to_owned()));
        letters.extend(merged.option.short.map(|letter| format!("-{letter}")));
        if !merged.values.is_empty() && merged.argument().is_some_and(|(_, is_required)| is_required) {
            let spellings = merged.option.names.iter().map(|name| (*name).to_owned());
            let spellings = spellings.chain(merged.option.short.map(String::from));
            let patterns: Vec<_> = spellings.map(|name| format!("{command} {name}")).collect();
            push_case(kinds, &patterns, &kind(&merged.values));
        }
    }
    let _ = writeln!(names, "    {}) names=({}) letters=({}) ;;", quote(command), long.join(" "), letters.join(" "));
}

fn push_operands(cases: &mut String, command: &str, operands: &[Operand]) {
    for (index, operand) in operands.iter().enumerate() {
        push_case(cases, &[format!("{command} {index}")], &kind(&[operand.value]));
    }
}

fn push_case(cases: &mut String, patterns: &[String], kind: &str) {
    let patterns: Vec<_> = patterns.iter().map(|pattern| quote(pattern)).collect();
    let _ = writeln!(cases, "    {}) kind={} ;;", patterns.join("|"), quote(kind));
}

/// What the functions below call a kind of value.
fn kind(values: &[Value]) -> String {
    match values.first() {
        Some(Value::File) => "file".to_owned(),
        Some(Value::Directory) => "directory".to_owned(),
        Some(Value::Interface) => "interface".to_owned(),
        Some(Value::Group) => "group".to_owned(),
        Some(Value::Locator) => "link".to_owned(),
        Some(Value::Choice(_)) => format!("words {}", words(values).join(" ")),
        Some(Value::Text) | None => "text".to_owned(),
    }
}

const TEMPLATE: &str = r#"# Completion of @PROGRAM@ for bash. Generated from the program's table of options.

# What the option $2 of the command $1 takes: sets kind, empty if nothing.
@FUNCTION@_kind() {
    local name=${2#-}
    case "$1 ${name#-}" in
@KINDS@    *) kind= ;;
    esac
}

# What the command $1 takes as its operand number $2: sets kind.
@FUNCTION@_operand() {
    case "$1 $2" in
@OPERANDS@    *) kind= ;;
    esac
}

# The options of the command $1: sets names and letters.
@FUNCTION@_options() {
    case $1 in
@NAMES@    esac
}

# Adds values of kind $1 that begin with $3, each behind $2.
@FUNCTION@_values() {
    local values=() value word
    case $1 in
    file)
        mapfile -t values < <(compgen -f -- "$3")
        compopt -o filenames 2>/dev/null
        ;;
    directory)
        mapfile -t values < <(compgen -d -- "$3")
        compopt -o filenames 2>/dev/null
        ;;
    interface)
        for value in /sys/class/net/*/tun_flags; do
            value=${value%/tun_flags}
            [[ ${value##*/} == '*' ]] || values+=("${value##*/}")
        done
        ;;
    group) mapfile -t values < <(compgen -g -- "$3") ;;
    link)
        case $3 in
@SCHEMES@        *)
            values=(@SCHEME_WORDS@)
            compopt -o nospace 2>/dev/null
            ;;
        esac
        ;;
    words*)
        read -r -a values <<<"${1#words}"
        for word in "${values[@]}"; do
            [[ $word == "$3"*[=,:/] ]] && compopt -o nospace 2>/dev/null
        done
        ;;
    esac
    for value in "${values[@]}"; do
        [[ $value == "$3"* ]] && COMPREPLY+=("$2$value")
    done
    return 0
}

@FUNCTION@() {
    local line=${COMP_LINE:0:COMP_POINT} words=() token i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        token=${COMP_WORDS[i]}
        if [[ $i == 0 || $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            words+=('')
        fi
        [[ ${#token} -le ${#line} ]] || token=$line
        words[-1]+=$token
        line=${line#"$token"}
    done
    local last=$((${#words[@]} - 1)) command= kind= start=1 operands=0 ended=
    local current=${words[last]} names=() letters=()
    COMPREPLY=()
    if [[ $last -gt 1 ]]; then
        case ${words[1]} in
        @COMMAND_PATTERN@) command=${words[1]} start=2 ;;
        esac
    fi
    for ((i = start; i < last; i++)); do
        if [[ $kind ]]; then
            kind=
        elif [[ $ended ]]; then
            operands=$((operands + 1))
        else
            case ${words[i]} in
            --) ended=1 ;;
            @ATTACHED@) ;;
            -?*) @FUNCTION@_kind "$command" "${words[i]}" ;;
            *) operands=$((operands + 1)) ;;
            esac
        fi
    done
    if [[ $kind ]]; then
        @FUNCTION@_values "$kind" '' "$current"
    elif [[ ! $ended && $current == @ATTACHED@ && $current ]]; then
        @FUNCTION@_kind "$command" "${current%%=*}"
        @FUNCTION@_values "$kind" "${current%%=*}=" "${current#*=}"
    else
        [[ $last -gt 1 ]] || @FUNCTION@_values 'words @COMMANDS@' '' "$current"
        @FUNCTION@_operand "$command" "$operands"
        @FUNCTION@_values "$kind" '' "$current"
        if [[ ! $ended && ( $current == -* || ${#COMPREPLY[@]} -eq 0 ) ]]; then
            @FUNCTION@_options "$command"
            case $current in
            --*) names=("${names[@]/#/--}") letters=() ;;
            -?*) names=("${names[@]/#/-}") ;;
            *) names=("${names[@]/#/@DASHES@}") ;;
            esac
            @FUNCTION@_values "words ${names[*]} ${letters[*]}" '' "$current"
        fi
    fi
    # Only what is behind the last break replaces something.
    local break cut=
    for break in = :; do
        if [[ $COMP_WORDBREAKS == *"$break"* && $current == *"$break"* ]]; then
            token=${current%"$break"*}$break
            [[ ${#token} -le ${#cut} ]] || cut=$token
        fi
    done
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}

complete -F @FUNCTION@ @PROGRAM@
"#;
