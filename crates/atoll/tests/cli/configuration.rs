//! The settings and their generated reference.

use std::path::Path;

use crate::support::{atoll, ended, run};

#[test]
fn the_reference_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let dir = tempfile::tempdir().unwrap();
    let generated = run(dir.path(), &["up", "--print-config-reference"]);
    assert_eq!(generated.code, Some(0));
    let committed = std::fs::read_to_string(path).unwrap();
    assert_eq!(committed, generated.stdout, "run: atoll up --print-config-reference > docs/configuration.md");
}

#[test]
fn the_effective_configuration_names_each_value_with_its_source() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".env"), "ATOLL_LOG=debug\nATOLL_LISTEN=127.0.0.1:1\n").unwrap();
    let mut command = atoll(dir.path(), &["up", "--print-config", "--data", "/tmp/x", "--accelerator", "tcg"]);
    let printed = ended(&command.env("ATOLL_LISTEN", "127.0.0.1:2").output().unwrap());
    insta::assert_snapshot!(printed.stdout);
    assert_eq!(printed.code, Some(0));
}
