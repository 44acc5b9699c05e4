//! What can go wrong with the database.

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
        move |source| Self::Database { action, source }
    }
}
