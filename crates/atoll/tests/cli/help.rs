//! What the help says, as snapshots: a change of the command line is a change of them.

use crate::support::run;

#[test]
fn help_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let top = run(dir.path(), &["--help"]);
    assert_eq!(top.code, Some(0));
    let commands: Vec<String> = top
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect();
    assert!(commands.len() >= 7, "{commands:?}");
    insta::assert_snapshot!("help", top.stdout);
    for name in commands {
        let help = run(dir.path(), &[&name, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{name}");
        assert!(help.stdout.lines().count() <= 50, "the help of {name} is longer than a screen");
        insta::assert_snapshot!(format!("help_{name}"), help.stdout);
    }
}
