//! The database by its public interface, on real SQLite files.

mod accounts;
mod life;
mod migrations;
mod pages;
mod sandboxes;
mod support;
mod transactions;
