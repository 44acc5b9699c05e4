//! The steps of the control plane that are no transaction, by name.
//!
//! How it works: see `atoll-failpoint`; the kill matrix has a case for each.
//!
//! Deliberately absent: transactions (`atoll_store::Step`).

atoll_failpoint::steps! {
    /// A step.
    pub enum Step {
        /// A guest is asked to start a process.
        ExecStart = "control.exec-start",
    }
}
