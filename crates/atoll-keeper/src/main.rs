//! The keeper's entry point: `atoll-keeper --sandbox ID --dir DIR`.
//!
//! How it works: the sandbox's id stands on the command line for whoever looks at `ps`; everything else is in
//! `DIR/spec.json`. Errors before the socket answers go to standard error, which the host agent points at a file.
//!
//! Deliberately absent: options.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let dir = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--sandbox", _, "--dir", dir] => PathBuf::from(dir),
        _ => return complain("usage: atoll-keeper --sandbox ID --dir DIR"),
    };
    match atoll_keeper::serve::run(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.chain()),
    }
}

#[expect(clippy::print_stderr, reason = "the keeper's log is its standard error")]
fn complain(text: &str) -> ExitCode {
    eprintln!("atoll-keeper: {text}");
    ExitCode::from(3)
}
