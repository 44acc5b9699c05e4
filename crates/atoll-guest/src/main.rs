//! The binary: everything is in the library beside it.
//!
//! How it works: it calls the library's one entry.
//!
//! Deliberately absent: anything else.

fn main() -> std::process::ExitCode {
    atoll_guest::main()
}
