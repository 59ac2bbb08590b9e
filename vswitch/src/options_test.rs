use program::options::{Argument, OptionSpec};

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn switch(line: &str) -> Config {
    match parse("vswitch", words(line)).unwrap() {
        Invocation::Switch(config) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn question(line: &str) -> Question {
    match parse("vswitch", words(line)).unwrap() {
        Invocation::Watch(request) => request.question,
        other => panic!("{line}: {other:?}"),
    }
}

fn printed(name: &str, line: &str) -> String {
    match parse(name, words(line)).unwrap() {
        Invocation::Print(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse("vswitch", words(line)).unwrap_err().to_string()
}

fn ports(line: &str) -> Vec<String> {
    switch(line).ports.iter().map(Locator::to_string).collect()
}

#[test]
fn no_option_at_all_is_vde_switchs_switch() {
    let config = switch("");
    assert_eq!(config, Config::default());
    assert_eq!((config.numports, config.priority, config.mode, config.dir_mode), (32, 0x8000, 0o600, 0o2700));
    assert!(config.api && !config.nostdin && !config.daemon && config.mgmt.is_none());
    assert_eq!(config.dir, default_dir());
}

#[test]
fn vde_switchs_options_mean_what_they_mean_there() {
    let config = switch(
        "-n 64 -x -F --priority 4096 --macaddr 02:00:00:00:00:01 --hashsize 100 -s /d -m 0660 --dirmode 02770 -g kvm \
         -d -p /p -f /f -M /m --mgmtmode 666 --mgmtgroup 100 --nostdin -D 3 -t tap0",
    );
    let expected = Config {
        numports: 64,
        hub: true,
        fstp: true,
        priority: 4096,
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        hash_size: Some(128),
        dir: "/d".into(),
        mode: 0o660,
        dir_mode: 0o2770,
        group: Some("kvm".to_owned()),
        daemon: true,
        pidfile: Some("/p".into()),
        rcfile: Some("/f".into()),
        mgmt: Some("/m".into()),
        mgmt_mode: 0o666,
        mgmt_group: Some("100".to_owned()),
        nostdin: true,
        ports: vec!["tap://tap0?up=try".parse().unwrap()],
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(
        switch(
            "-numports 64 -hub -fstp -priority 4096 -macaddr 2:0:0:0:0:1 -hashsize 128 -sock=/d -mod 660 -dirm 2770 \
             -gr kvm -daemon -pid /p -rc /f -mgmt /m -mgmtmode 0666 -mgmtg 100 -no -tap tap0",
        ),
        expected
    );
}

#[test]
fn abbreviations_mean_what_they_mean_in_vde_switch() {
    // The names that vde_switch 2.3.2 lists, and what is another name of what.
    let theirs = "numports hub fstp macaddr priority hashsize sock vdesock=sock unix=sock mode dirmode group daemon \
                  pidfile rcfile mgmt mgmtmode mgmtgroup debugclients tap nostdin help version";
    let theirs: Vec<(&str, &str)> =
        theirs.split_whitespace().map(|name| name.split_once('=').unwrap_or((name, name))).collect();
    for abbreviation in theirs.iter().flat_map(|(name, _)| (1..=name.len()).map(|end| &name[..end])) {
        let exact = theirs.iter().find(|(name, _)| *name == abbreviation).map(|(_, option)| *option);
        let mut fitting: Vec<_> =
            theirs.iter().filter(|(name, _)| name.starts_with(abbreviation)).map(|(_, option)| *option).collect();
        fitting.dedup();
        let expected = exact.or_else(|| fitting.pop().filter(|_| fitting.is_empty()));
        let found = match PROGRAM.parse([format!("--{abbreviation}"), "1".to_owned()]).next().unwrap() {
            Ok(Item::Option(option, _)) => Some(option.name()),
            Err(OptionError::Ambiguous { .. }) => None,
            other => panic!("--{abbreviation}: {other:?}"),
        };
        assert_eq!(found, expected, "--{abbreviation}");
    }
}

#[test]
fn the_directorys_permissions_follow_its_sockets_as_in_vde_switch() {
    // As watched: vde_switch 2.3.2, -m MODE without --dirmode.
    for (mode, directory) in [
        (0o600, 0o2700),
        (0o640, 0o2750),
        (0o620, 0o2730),
        (0o660, 0o2770),
        (0o604, 0o2705),
        (0o610, 0o2700),
        (0o000, 0o2000),
        (0o777, 0o2777),
        (0o444, 0o2555),
    ] {
        assert_eq!(switch(&format!("-m {mode:o}")).dir_mode, directory, "{mode:o}");
    }
    assert_eq!(switch("--dirmode 700 -m 666").dir_mode, 0o700);
}

#[test]
fn ports_keep_their_order_whichever_option_they_come_from() {
    assert_eq!(ports("-t a --port null:// --tap=b"), ["tap://a?up=try", "null://", "tap://b?up=try"]);
    assert_eq!(ports("-t a --persist"), ["tap://a?up=try&persist=on"]);
    assert_eq!(ports("--no-persist -t a --port tap://b"), ["tap://a?up=try&persist=off", "tap://b"]);
}

#[test]
fn our_own_options_are_there() {
    let config = switch("--rstp --ageing 10 --snooping --no-api --metrics unix:/run/m");
    assert!(config.fstp && config.snooping && !config.api);
    assert_eq!(config.ageing, Duration::from_secs(10));
    assert_eq!(config.metrics, Some(MetricsAddress::Unix("/run/m".into())));
    let metrics = |line| switch(line).metrics.unwrap();
    assert_eq!(metrics("--metrics 127.0.0.1:9100"), MetricsAddress::Tcp("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(metrics("--metrics [::1]:9100"), MetricsAddress::Tcp("[::1]:9100".parse().unwrap()));
}

#[test]
fn of_an_option_given_several_times_the_last_counts() {
    let config = switch("-s /a -n 5 -s /b -n 6");
    assert_eq!((config.dir, config.numports), ("/b".into(), 6));
}

#[test]
fn commands_ask_a_switch() {
    assert_eq!(
        parse("vswitch", words("show -s /d --json")).unwrap(),
        Invocation::Watch(WatchRequest { dir: "/d".into(), question: Question::Show { json: true, every: None } })
    );
    let every = |line| match question(line) {
        Question::Show { every, .. } => every,
        other => panic!("{other:?}"),
    };
    assert_eq!(every("show --watch"), Some(Duration::from_secs(1)));
    assert_eq!(every("show -w 2 -j"), Some(Duration::from_secs(2)));
    assert_eq!(every("show --watch=0.5"), Some(Duration::from_millis(500)));
    assert_eq!(question("mac"), Question::Mac { json: false });
    assert_eq!(question("events -j"), Question::Events { json: true });
    assert_eq!(
        question("explain --port 3 2:0:0:0:0:1 ff:ff:ff:ff:ff:ff --vlan 7"),
        Question::Explain {
            port: PortId::new(3),
            vlan: VlanId::new(7).unwrap(),
            source: MacAddr([2, 0, 0, 0, 0, 1]),
            destination: MacAddr::BROADCAST,
        }
    );
    let port = PortId::new(2).unwrap();
    assert_eq!(question("dump 2 -w /f"), Question::Dump { port, file: Some("/f".into()) });
    assert_eq!(question("dump 2"), Question::Dump { port, file: None });
}

#[test]
fn run_as_vde_switch_there_are_no_commands() {
    let error = parse("vde_switch", words("show")).unwrap_err().to_string();
    assert_eq!(error, "unexpected argument 'show'");
    assert!(matches!(parse("vde_switch", words("-x")), Ok(Invocation::Switch(config)) if config.hub));
    assert!(printed("vde_switch", "-h").starts_with("usage: vde_switch [OPTION]...\n\n"));
    assert!(printed("vde_switch", "-v").starts_with("vde_switch (Etherloom) "));
}

#[test]
fn help_comes_before_mistakes_that_follow_it() {
    assert!(printed("vswitch", "-x --help --bogus").starts_with("usage: vswitch [OPTION]...\n       vswitch show "));
    assert!(printed("vswitch", "dump -h").starts_with("usage: vswitch dump [-s DIR] [-w FILE] PORT\n"));
    assert!(printed("vswitch", "--version").starts_with("vswitch (Etherloom) 0."));
}

#[test]
fn every_option_and_command_of_the_table_is_taken() {
    let value = |option: &OptionSpec| match option.name() {
        "macaddr" => "2:0:0:0:0:1",
        "port" => "null://",
        "metrics" => "127.0.0.1:1",
        _ => "1",
    };
    let lines = |option: &OptionSpec| -> Vec<Vec<String>> {
        let spellings = option.spellings(Style::Gnu).into_iter();
        let argument = (option.argument != Argument::None).then(|| value(option).to_owned());
        spellings.map(|name| [Some(name), argument.clone()].into_iter().flatten().collect()).collect()
    };
    for line in PROGRAM.options().flat_map(lines) {
        parse("vswitch", line.clone()).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
    for command in PROGRAM.commands {
        let operands = command.operands.iter().map(|operand| if operand.name == "PORT" { "1" } else { "2:0:0:0:0:1" });
        let operands: Vec<_> = operands.map(str::to_owned).collect();
        let options = command.options.iter().filter(|option| option.name() != "port");
        for line in options.flat_map(lines).chain([Vec::new()]) {
            let line = [vec![command.name.to_owned()], line, operands.clone()].concat();
            parse("vswitch", line.clone()).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        }
    }
}

#[test]
fn help_shows_every_option_and_command() {
    let text = printed("vswitch", "--help");
    for spelling in PROGRAM.options().flat_map(|option| option.spellings(Style::Gnu)) {
        assert!(text.contains(&format!(" {spelling}")), "{spelling}");
    }
    for command in PROGRAM.commands {
        assert!(text.contains(&format!("\n  {} ", command.name)), "{}", command.name);
        let text = printed("vswitch", &format!("{} --help", command.name));
        for spelling in command.options.iter().flat_map(|option| option.spellings(Style::Gnu)) {
            assert!(text.contains(&format!(" {spelling}")), "{} {spelling}", command.name);
        }
    }
    assert!(text.lines().all(|line| line.len() <= 80 || line.contains("usage") || line.starts_with("       vswitch")));
}

#[test]
fn help_states_the_defaults_that_hold() {
    let text = printed("vswitch", "--help").split_whitespace().collect::<Vec<_>>().join(" ");
    let config = Config::default();
    for (words, value) in [
        ("ports there are, 1 to 65535 (default ", config.numports.to_string()),
        ("0 to 65535 (default ", config.priority.to_string()),
        ("1 to 1000000 seconds (default ", config.ageing.as_secs().to_string()),
        ("sockets there, in octal (default ", format!("{:04o}", config.mode)),
        ("set-group-ID: ", format!("{:05o}", config.dir_mode)),
        ("Its permissions, in octal (default ", format!("{:04o}", config.mgmt_mode)),
    ] {
        assert!(text.contains(&format!("{words}{value})")), "{words}{value}");
    }
}

#[test]
fn every_link_that_help_lists_is_one_that_plug_knows() {
    for scheme in PROGRAM.schemes {
        let form = scheme.form.replace("PORT", "1").replace("{LINK}", "{null://}");
        let locator: Locator = form.parse().unwrap();
        assert_eq!(locator.scheme, scheme.name);
        // A form may have words in the place of numbers.
        let is_known = !matches!(plug::check(&locator), Err(link::LocatorError::UnknownKind(_)));
        assert!(is_known, "{}", scheme.form);
    }
}

#[test]
fn mistakes_are_named_on_one_line() {
    for (line, expected) in [
        ("--mode 999", "--mode 999: expected permissions in octal, 0 to 777"),
        ("-m rw", "--mode rw: expected permissions in octal, 0 to 777"),
        ("-m +7", "--mode +7: expected permissions in octal, 0 to 777"),
        ("-m 1777", "--mode 1777: expected permissions in octal, 0 to 777"),
        ("-n 0", "--numports 0: expected a number, 1 to 65535"),
        ("-n many", "--numports many: expected a number, 1 to 65535"),
        ("--priority 65536", "--priority 65536: expected a number, 0 to 65535"),
        ("--hashsize 0", "--hashsize 0: expected a number, 1 to 1073741824"),
        ("--ageing 0", "--ageing 0: expected a number, 1 to 1000000"),
        ("--macaddr 1:0:0:0:0:1", "--macaddr 1:0:0:0:0:1: a station's address cannot be a group address"),
        ("--sock=", "--sock '': expected a path"),
        ("--group=", "--group '': expected the name of a group"),
        ("-t a/b", "--tap a/b: expected the name of an interface, 1 to 15 bytes"),
        ("-t sixteen-bytes-16", "--tap sixteen-bytes-16: expected the name of an interface, 1 to 15 bytes"),
        ("--port hat://", "--port: unknown kind of link 'hat'"),
        ("--port tap0", "--port: 'tap0' is not a locator: expected scheme://address, as in tap://tap0 or user://"),
        ("--port null://?x=1", "--port: null: unknown option 'x'"),
        ("--metrics 9100", "--metrics 9100: expected unix:PATH or 127.0.0.1:PORT"),
        ("--metrics unix:", "--metrics unix:: expected unix:PATH or 127.0.0.1:PORT"),
        ("--metrics 0.0.0.0:9100", "--metrics 0.0.0.0:9100: only a loopback address: the figures are for this host"),
        ("--persist --no-persist", "--persist and --no-persist exclude each other"),
        ("--prt x", "unknown option '--prt': did you mean --port?"),
        ("--hub=1", "--hub takes no argument"),
        ("-t", "--tap needs an argument: TAP"),
        ("--mg x", "option '--mg' is ambiguous: --mgmt, --mgmtmode, --mgmtgroup"),
        ("shwo", "unexpected argument 'shwo': did you mean show?"),
        ("-x show", "unexpected argument 'show': a command is the first word"),
        ("tap0", "unexpected argument 'tap0'"),
        ("show x", "unexpected argument 'x'"),
        ("show --watch=0", "--watch 0: expected seconds, 0.1 to 86400"),
        ("show --hub", "unknown option '--hub'"),
        ("dump", "dump needs PORT"),
        ("dump 0", "PORT 0: '0' is not a port number (1 to 65535)"),
        ("explain 2:0:0:0:0:1", "explain needs DST"),
        ("explain --vlan 4095 a b", "--vlan 4095: '4095' is not a VLAN (0 to 4094)"),
    ] {
        assert_eq!(error(line), expected, "{line}");
    }
}
