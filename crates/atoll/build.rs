//! Finds the static keeper and guest agent that are embedded in the binary.
//!
//! How it works: `cargo xtask build` builds both first and passes their paths in `ATOLL_EMBED_KEEPER` and
//! `ATOLL_EMBED_GUEST`; a plain `cargo check` or `clippy` has neither, and gets an empty file: such a binary says at its
//! start that it was not built by `cargo xtask build`.
//!
//! Deliberately absent: building them here (a build script that calls cargo deadlocks on its lock).

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (variable, name) in [("ATOLL_EMBED_KEEPER", "keeper"), ("ATOLL_EMBED_GUEST", "guest")] {
        println!("cargo:rerun-if-env-changed={variable}");
        let source = match env::var_os(variable).map(PathBuf::from) {
            Some(path) => {
                println!("cargo:rerun-if-changed={}", path.display());
                path
            }
            None => {
                let empty = out.join(format!("no-{name}"));
                fs::write(&empty, b"").expect("OUT_DIR is writable");
                empty
            }
        };
        println!("cargo:rustc-env=ATOLL_EMBEDDED_{}={}", name.to_uppercase(), source.display());
    }
}
