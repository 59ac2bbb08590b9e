//! dpipe's command lines, and what each is taken for.

use std::os::unix::ffi::OsStringExt;

use super::*;

fn parse(line: &str) -> Result<Plan, PipeError> {
    Plan::parse(line.split_whitespace())
}

fn pipeline(line: &str) -> Pipeline {
    match parse(line) {
        Ok(Plan::Pipe(pipeline)) => pipeline,
        other => panic!("{line}: {other:?}"),
    }
}

/// Every pipe as writer, `>`, reader; a quote marks the alternate pair.
fn wiring(line: &str) -> Vec<String> {
    let Pipeline { stages, pipes, .. } = pipeline(line);
    let name = |stage: &Stage, mark: &str| format!("{}{mark}", stage.words[0].to_string_lossy());
    let mut wires = vec![(Vec::new(), Vec::new()); pipes];
    for stage in &stages {
        wires[stage.output].0.push(name(stage, ""));
        wires[stage.input].1.push(name(stage, ""));
        if let Some((input, output)) = stage.alternate {
            wires[output].0.push(name(stage, "'"));
            wires[input].1.push(name(stage, "'"));
        }
    }
    let mut wires: Vec<String> =
        wires.iter().map(|(from, to)| format!("{}>{}", from.join("+"), to.join("+"))).collect();
    wires.sort();
    wires
}

#[test]
fn commands_are_joined_as_the_manual_has_it() {
    assert_eq!(wiring("a = b"), ["a>b", "b>a"]);
    assert_eq!(wiring("a = b = c"), ["a>b", "b'>c", "b>a", "c>b'"]);
    assert_eq!(wiring("a =} b }= c"), ["a>b", "b>c", "c>a"]);
    assert_eq!(wiring("a ={ b {= c"), ["a>c", "b>a", "c>b"]);
    assert_eq!(wiring("a =} b }={ c {= d = e"), ["a>b", "b>d", "c>a", "d'>e", "d>c", "e>d'"]);
    assert_eq!(wiring("a =} b }=} c }= d"), ["a>b", "b>c", "c>d", "d>a"]);
    assert_eq!(wiring("a ={ b {={ c {= d"), ["a>d", "b>a", "c>b", "d>c"]);
    assert_eq!(wiring("a = b =} c }= d"), ["a>b", "b'>c", "b>a", "c>d", "d>b'"]);
    assert_eq!(wiring("a ={ b {=} c }= d"), ["a>c", "b>a", "c>d", "d>b"]);
}

#[test]
fn words_that_are_no_signs_are_the_commands() {
    let words = |line: &str| pipeline(line).stages.into_iter().map(|stage| stage.words).collect::<Vec<_>>();
    assert_eq!(
        words("a == =x x= {} =}{ }{= = b -d --help"),
        [vec!["a", "==", "=x", "x=", "{}", "=}{", "}{="], vec!["b", "-d", "--help"]]
    );
    assert_eq!(words("-d -- -a = b"), [["-a"], ["b"]]);
    let broken = OsString::from_vec(vec![b'x', 0xff]);
    let Ok(Plan::Pipe(plan)) = Plan::parse(["a".into(), broken.clone(), "=".into(), "b".into()]) else { panic!() };
    assert_eq!(plan.stages[0].words, [OsString::from("a"), broken]);
}

#[test]
fn options_stand_before_the_first_command() {
    let plan = pipeline("-d -p /run/p --pgrpfile=/run/g a = b -N");
    assert!(plan.daemon);
    assert_eq!((plan.pid_file, plan.group_file), (Some("/run/p".into()), Some("/run/g".into())));
    assert_eq!(plan.wrapper, Wrapper::Waits);
    assert_eq!(pipeline("-n a = b").wrapper, Wrapper::Becomes);
    for line in ["-N a = b", "-nN a = b", "-Nn a = b", "--nowrapnoclean a = b"] {
        assert_eq!(pipeline(line).wrapper, Wrapper::BecomesAndLeaves, "{line}");
    }
    assert_eq!(pipeline("-ndp/run/p a = b").pid_file, Some("/run/p".into()));
    for line in ["-h", "--help", "-d -h a = b"] {
        assert_eq!(parse(line).unwrap(), Plan::Help, "{line}");
    }
}

#[test]
fn fewer_than_two_commands_get_the_usage() {
    for line in ["", "a", "a b c", "-n a", "--"] {
        assert_eq!(parse(line).unwrap(), Plan::Usage, "{line}");
    }
}

#[test]
fn a_line_that_makes_no_sense_is_named_by_its_sign() {
    let refused = |line: &str, words: &str| {
        let error = parse(line).unwrap_err();
        assert_eq!((error.to_string(), error.exit_status()), (words.to_owned(), 2), "{line}");
    };
    refused("=", "there is no command before '='");
    refused("= a", "there is no command before '='");
    refused("a =", "there is no command behind '='");
    refused("a = b =", "there is no command behind '='");
    refused("a = = b", "there is no command before '='");
    refused("a =} }= b", "there is no command before '}='");
    refused("a }= b", "'}=': it closes what was not opened");
    refused("a = b {=} c", "'{=}': it closes what was not opened");
    refused("a =} b = c", "'=': '=}' is not closed by it");
    refused("a =} b {= c", "'{=': '=}' is not closed by it");
    refused("a =} b ={ c", "'={': '=}' is not closed by it");
    refused("a ={ b {=} c {= d", "'{=': '{=}' is not closed by it");
    refused("a =} b", "'=}' opens a filter, and the last command is none");
    refused("a =} b }={ c", "'}={' opens a filter, and the last command is none");
    refused("-x a = b", "unknown option '-x'");
    refused("-p", "--pidfile needs an argument: FILE");
    refused("--pidfile= a = b", "--pidfile: expected a path");
}
