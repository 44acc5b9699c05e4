//! The network crate through its public interface: plans against committed text, claims, and real namespaces.

mod foreign;
mod golden;
mod namespaces;
mod slots;
