//! The targets: one file each, entered in [`TARGETS`].
//!
//! How it works: a target is a function that gets any bytes at all and checks what must hold for all of them, with seeds that
//! show what a good input looks like and a dictionary of words that the format knows.
//!
//! Deliberately absent: I/O with the world; a target that needs a peer plays it in memory.

mod agent_answers;
mod agent_connection;
mod agent_decoders;
mod keeper_lines;
mod manifest;
mod memory_diff;
mod qmp;

/// What is fuzzed.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name on the command line, and of its directory in `fuzz/corpus`.
    pub(crate) name: &'static str,
    /// Good inputs.
    pub(crate) seeds: &'static [&'static [u8]],
    /// Words that the format knows.
    pub(crate) dictionary: &'static [&'static [u8]],
    /// Most bytes of memory that one input may cost.
    pub(crate) memory: usize,
    /// Must return, without a panic, for every input.
    pub(crate) run: fn(&[u8]),
}

/// All of them; `make soak` runs each for a minute.
pub(crate) const TARGETS: &[Target] = &[
    agent_answers::TARGET,
    agent_connection::TARGET,
    agent_decoders::TARGET,
    keeper_lines::TARGET,
    manifest::TARGET,
    memory_diff::TARGET,
    qmp::TARGET,
];
