//! The transactions there are, by name.
//!
//! How it works: every change begins with one of these, so that the kill matrix has a case for each.
//!
//! Deliberately absent: what they change.

atoll_failpoint::steps! {
    /// What a transaction writes down.
    pub enum Step {
        /// The first admin, team, key and host.
        FirstStart = "tx.first-start",
        /// A sandbox is to be made.
        CreateIntent = "tx.create-intent",
        /// It runs.
        CreateDone = "tx.create-done",
        /// It could not be made.
        CreateFailed = "tx.create-failed",
        /// A sandbox is to be ended.
        DestroyIntent = "tx.destroy-intent",
        /// It is gone, or could not be ended.
        DestroyDone = "tx.destroy-done",
        /// A process is to be started under an idempotency key.
        BackgroundIntent = "tx.background-intent",
        /// It runs, or could not be started.
        BackgroundDone = "tx.background-done",
        /// Something that a host did by itself.
        HostEvent = "tx.host-event",
        /// A host runs what was taken for unfinished or lost.
        ReconcileRunning = "tx.reconcile-running",
        /// A host does not have what should be there.
        ReconcileOver = "tx.reconcile-over",
        /// A call that an earlier Atoll began has its outcome.
        OperationResumed = "tx.operation-resumed",
        /// A sandbox is to be paused.
        PauseIntent = "tx.pause-intent",
        /// It is paused, or could not be.
        PauseDone = "tx.pause-done",
        /// A sandbox is to be resumed.
        ResumeIntent = "tx.resume-intent",
        /// It runs again, or could not be resumed.
        ResumeDone = "tx.resume-done",
        /// The limits of a sandbox are changed.
        LifetimeIntent = "tx.lifetime-intent",
        /// Its host has them, or refused them.
        LifetimeDone = "tx.lifetime-done",
        /// A template is to be made.
        SnapshotIntent = "tx.snapshot-intent",
        /// It is there, or could not be made.
        SnapshotDone = "tx.snapshot-done",
        /// A template is to be deleted.
        TemplateRemoved = "tx.template-removed",
        /// Its files are gone, or could not be removed.
        TemplateGone = "tx.template-gone",
        /// A host keeps what was taken for running.
        ReconcilePaused = "tx.reconcile-paused",
        /// A host runs what was taken for paused.
        ReconcileResumed = "tx.reconcile-resumed",
        /// When sandboxes were used.
        Uses = "tx.uses",
    }
}
