use super::*;
use crate::options::Value;

static OPTIONS: [OptionSpec; 10] = [
    OptionSpec::new(&["sock", "vdesock", "unix"], "").short('s').takes("DIR", Value::Directory),
    OptionSpec::new(&["hub"], "").short('x'),
    OptionSpec::new(&["daemon"], "").short('d'),
    OptionSpec::new(&["mode"], "").short('m').takes("MODE", Value::Text),
    OptionSpec::new(&["mgmt"], "").short('M').takes("SOCK", Value::File),
    OptionSpec::new(&["mgmtmode"], "").takes("MODE", Value::Text),
    OptionSpec::new(&["tap"], "").short('t').takes("TAP", Value::Interface).repeatable(),
    OptionSpec::new(&["watch"], "").may_take("SECONDS", Value::Text),
    OptionSpec::new(&["snooping"], "").yields(),
    OptionSpec::new(&["snapping"], "").yields(),
];

fn parse(style: Style, line: &str) -> Result<Vec<(String, Option<String>)>, String> {
    Parser::new(style, OPTIONS.iter().collect(), line.split_whitespace().map(str::to_owned))
        .map(|item| match item {
            Ok(Item::Option(option, value)) => Ok((option.name().to_owned(), value)),
            Ok(Item::Operand(word)) => Ok(("operand".to_owned(), Some(word))),
            Err(error) => Err(error.to_string()),
        })
        .collect()
}

/// The items as `name` and `name=value`.
fn gnu(line: &str) -> String {
    let item = |(name, value): (String, Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name,
    };
    match parse(Style::Gnu, line) {
        Ok(items) => items.into_iter().map(item).collect::<Vec<_>>().join(" "),
        Err(error) => error,
    }
}

#[test]
fn one_option_has_many_spellings() {
    for line in [
        "--sock /d",
        "--sock=/d",
        "-sock /d",
        "-sock=/d",
        "-s /d",
        "-s/d",
        "--vdesock /d",
        "-unix=/d",
        "--so /d",
        "-so=/d",
        "--u /d",
        "-v /d",
    ] {
        assert_eq!(gnu(line), "sock=/d", "{line}");
    }
}

#[test]
fn letters_bundle_and_the_last_may_have_its_argument_attached() {
    assert_eq!(gnu("-xd"), "hub daemon");
    assert_eq!(gnu("-xdm660 -x"), "hub daemon mode=660 hub");
    assert_eq!(gnu("-xs /d"), "hub sock=/d");
    assert_eq!(gnu("-ttap0"), "tap=tap0");
    assert_eq!(gnu("-xq"), "unknown option '-q'");
}

#[test]
fn a_name_is_preferred_to_letters_but_not_to_one_letter() {
    assert_eq!(gnu("-da"), "daemon");
    assert_eq!(gnu("-d"), "daemon");
    assert_eq!(gnu("-tap tap0"), "tap=tap0");
    assert_eq!(gnu("-m 660"), "mode=660");
    assert_eq!(gnu("-mod 660"), "mode=660");
    assert_eq!(gnu("-mgmt /m"), "mgmt=/m");
}

#[test]
fn an_abbreviation_of_several_is_an_error_that_lists_them() {
    assert_eq!(gnu("--mg x"), "option '--mg' is ambiguous: --mgmt, --mgmtmode");
    assert_eq!(gnu("-mg x"), "option '-mg' is ambiguous: --mgmt, --mgmtmode");
    assert_eq!(gnu("--m=1"), "option '--m=1' is ambiguous: --mode, --mgmt, --mgmtmode");
}

#[test]
fn an_option_that_yields_is_abbreviated_only_where_no_other_fits() {
    assert_eq!(gnu("--s /d"), "sock=/d");
    assert_eq!(gnu("--sno"), "snooping");
    assert_eq!(gnu("--sn"), "option '--sn' is ambiguous: --snooping, --snapping");
}

#[test]
fn an_argument_may_look_like_an_option() {
    assert_eq!(gnu("--sock -x"), "sock=-x");
    assert_eq!(gnu("-s -- -x"), "sock=-- hub");
    assert_eq!(gnu("--sock="), "sock=");
}

#[test]
fn an_argument_that_may_be_left_out_is_attached_or_a_number() {
    assert_eq!(gnu("--watch"), "watch");
    assert_eq!(gnu("--watch=0.5"), "watch=0.5");
    assert_eq!(gnu("--watch 2 -x"), "watch=2 hub");
    assert_eq!(gnu("--watch -x"), "watch hub");
    assert_eq!(gnu("--watch word"), "watch operand=word");
}

#[test]
fn operands_may_stand_anywhere_and_two_dashes_end_options() {
    assert_eq!(gnu("a -x b"), "operand=a hub operand=b");
    assert_eq!(gnu("-x -- -x --"), "hub operand=-x operand=--");
    assert_eq!(gnu("-"), "operand=-");
    assert_eq!(gnu(""), "");
}

#[test]
fn mistakes_are_named_on_one_line() {
    assert_eq!(gnu("--sokc x"), "unknown option '--sokc': did you mean --sock?");
    assert_eq!(gnu("--hubb=1"), "unknown option '--hubb=1': did you mean --hub?");
    assert_eq!(gnu("--xyzzy"), "unknown option '--xyzzy'");
    assert_eq!(gnu("--=x"), "unknown option '--=x'");
    assert_eq!(gnu("-q"), "unknown option '-q'");
    assert_eq!(gnu("--x"), "unknown option '--x'");
    assert_eq!(gnu("--hub=1"), "--hub takes no argument");
    assert_eq!(gnu("--sock"), "--sock needs an argument: DIR");
    assert_eq!(gnu("-s"), "--sock needs an argument: DIR");
    let odd = Parser::new(Style::Gnu, OPTIONS.iter().collect(), ["--a\nb\u{1b}[0m".to_owned()].into_iter());
    let errors: Vec<_> = odd.map(|item| item.unwrap_err().to_string()).collect();
    assert_eq!(errors, ["unknown option '--a\\nb\\u{1b}[0m'"]);
}

#[test]
fn qemus_names_are_whole_words_and_arguments_the_next() {
    let qemu = |line| parse(Style::Qemu, line).map(|items| items.len());
    assert_eq!(qemu("-hub --sock -x -mode 1"), Ok(3));
    assert_eq!(qemu("-sock=1"), Err("unknown option '-sock=1': did you mean -sock?".to_owned()));
    assert_eq!(qemu("-x"), Err("unknown option '-x'".to_owned()));
    assert_eq!(qemu("-so 1"), Err("unknown option '-so': did you mean -sock?".to_owned()));
    assert_eq!(qemu("-sock"), Err("-sock needs an argument: DIR".to_owned()));
    assert_eq!(parse(Style::Qemu, "--").unwrap(), [("operand".to_owned(), Some("--".to_owned()))]);
}
