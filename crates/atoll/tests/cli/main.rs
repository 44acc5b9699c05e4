//! The command line as its users meet it: help, outputs, exit codes. No VM boots here.

mod configuration;
mod help;
mod refusals;
mod support;
