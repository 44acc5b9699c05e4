//! The jail, tried: an attacker in QEMU's place, and the common death of keeper and VMM.
//!
//! How it works: this program is its own attacker. The real keeper starts it in a copy of the real tree, under QEMU's name and with
//! QEMU's arguments; it tries each act and reports on the console, which the keeper carries. Then the same program runs as
//! root outside the jail, where it must succeed at everything that the machine grants root at all, so that the test can
//! fail.
//!
//! Deliberately absent: libtest, whose `main` could not be the attacker's. `NAME` as an argument runs the tests that bear it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]
#![allow(unsafe_code, reason = "an attacker makes system calls")]

mod attack;
mod deaths;
mod filter;
mod jail;
mod limits;
#[path = "../scene/mod.rs"]
mod scene;

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("filter_denies_what_opens_namespaces", filter::denies_what_opens_namespaces),
    ("attacker_fails_inside_and_succeeds_outside", jail::attacker_fails_inside_and_succeeds_outside),
    ("no_vmm_outlives_its_keeper", deaths::no_vmm_outlives_its_keeper),
    ("limits_stand_in_the_groups", limits::limits_stand_in_the_groups),
];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words[0] == atoll_keeper::tree::PROGRAM {
        attack::inside(&words);
    }
    if let [_, flag, plan] = &words[..]
        && flag == "--attack"
    {
        return attack::outside(plan);
    }
    if words.iter().any(|word| word == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let wanted = words[1..].iter().find(|word| !word.starts_with('-') && word.parse::<u32>().is_err());
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str()))) {
        // A test that fails panics, and the program with it.
        test();
        println!("test {name} ... ok");
    }
}
