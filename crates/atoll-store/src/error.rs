//! What can go wrong with the database.
//!
//! How it works: one enum; a full disk is told apart, because it is the operator's to mend and passes.
//!
//! Deliberately absent: SQL in texts: what was being done is said in words.

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or cannot be reached.
    #[error("the database failed while it was to {action}")]
    Database {
        /// What was being done.
        action: &'static str,
        /// Why.
        #[source]
        source: sea_orm::DbErr,
    },
    /// The disk is full.
    #[error("the disk that holds the database is full: free space on it")]
    NoSpace,
    /// A stored value is none that this version wrote.
    #[error("the database holds a {what} that is not understood: {value}")]
    Foreign {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
}

impl StoreError {
    pub(crate) fn at(action: &'static str) -> impl FnOnce(sea_orm::DbErr) -> Self {
        move |source| if is_full(&source) { Self::NoSpace } else { Self::Database { action, source } }
    }
}

/// Whether SQLite found no space (its codes 13, SQLITE_FULL, and 4874, SQLITE_IOERR_SHMSIZE).
fn is_full(error: &sea_orm::DbErr) -> bool {
    use sea_orm::{DbErr, RuntimeErr, sqlx};
    let (DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))
    | DbErr::Conn(RuntimeErr::SqlxError(error))) = error
    else {
        return false;
    };
    let sqlx::Error::Database(error) = error.as_ref() else { return false };
    matches!(error.code().as_deref(), Some("13" | "4874"))
}
