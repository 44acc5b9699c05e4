//! Connections and transactions.
//!
//! How it works: SQLite in WAL mode with `synchronous=FULL` on the writing side, because ownership of machines is written here and
//! must outlive a power cut. A transaction that is dropped is rolled back.
//!
//! Deliberately absent: retries. One writer needs none.

use std::path::Path;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, QueryResult, Statement,
    TransactionTrait, Value,
};
use sea_orm_migration::MigratorTrait as _;

use crate::migrations::Migrator;
use crate::{Step, StoreError};

const READERS: u32 = 4;
const BUSY: Duration = Duration::from_secs(5);

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    read: DatabaseConnection,
    write: DatabaseConnection,
}

impl Store {
    /// Opens a SQLite database, making and migrating it.
    ///
    /// # Errors
    /// When it cannot be opened, or was written by a newer version.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        let write = connect(path, 1).await?;
        Migrator::up(&write, None).await.map_err(StoreError::at("migrate"))?;
        let read = connect(path, READERS).await?;
        Ok(Self { read, write })
    }

    /// Begins a change; nothing of it holds before [`WriteTransaction::commit`]. Its step names it for the kill matrix.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn begin(&self, step: Step) -> Result<WriteTransaction, StoreError> {
        let inner = self.write.begin().await.map_err(StoreError::at("begin a transaction"))?;
        Ok(WriteTransaction { inner, step })
    }

    /// Closes both pools.
    pub async fn close(&self) {
        // Closing fails only for connections that are broken already.
        let _ = self.read.clone().close().await;
        let _ = self.write.clone().close().await;
    }

    pub(crate) async fn rows(
        &self,
        action: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<QueryResult>, StoreError> {
        let statement = Statement::from_sql_and_values(self.read.get_database_backend(), sql, values);
        self.read.query_all_raw(statement).await.map_err(StoreError::at(action))
    }

    pub(crate) async fn row(
        &self,
        action: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Option<QueryResult>, StoreError> {
        let statement = Statement::from_sql_and_values(self.read.get_database_backend(), sql, values);
        self.read.query_one_raw(statement).await.map_err(StoreError::at(action))
    }

    /// Makes every insert into the audit log fail, or work again.
    #[cfg(feature = "faults")]
    pub async fn fail_audit_inserts(&self, fail: bool) -> Result<(), StoreError> {
        let sql = if fail {
            "CREATE TRIGGER fault BEFORE INSERT ON audit_logs BEGIN SELECT RAISE(ABORT, 'injected'); END"
        } else {
            "DROP TRIGGER fault"
        };
        self.write.execute_unprepared(sql).await.map(drop).map_err(StoreError::at("inject a fault"))
    }
}

async fn connect(path: &Path, connections: u32) -> Result<DatabaseConnection, StoreError> {
    let mut options = ConnectOptions::new("sqlite://replaced-below");
    options
        .max_connections(connections)
        .min_connections(1)
        // A file's connections do not age. With either limit sqlx's pool (0.9.0) has a task that goes over all idle connections, and
        // their count is below zero, so without end, for the moment between one's return and its being counted: the task then never
        // yields again, and its runtime never ends.
        .idle_timeout(None)
        .max_lifetime(None)
        .sqlx_logging(false)
        .acquire_timeout(Duration::from_secs(30));
    let path = path.to_owned();
    options.map_sqlx_sqlite_opts(move |sqlite| {
        // Set as a path: an URL would read `?` and `%` in it.
        sqlite
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
    });
    Database::connect(options).await.map_err(StoreError::at("open"))
}

/// A change under way.
#[derive(Debug)]
pub struct WriteTransaction {
    inner: DatabaseTransaction,
    step: Step,
}

impl WriteTransaction {
    /// Makes it hold.
    ///
    /// # Errors
    /// When it does not; then nothing of it does.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.step.before();
        self.inner.commit().await.map_err(StoreError::at("commit"))?;
        self.step.after();
        Ok(())
    }

    /// Runs a statement; answers how many rows it touched.
    pub(crate) async fn execute(&self, action: &'static str, sql: &str, values: Vec<Value>) -> Result<u64, StoreError> {
        let statement = Statement::from_sql_and_values(self.inner.get_database_backend(), sql, values);
        let done = self.inner.execute_raw(statement).await.map_err(StoreError::at(action))?;
        Ok(done.rows_affected())
    }

    /// Reads one row as this transaction sees it.
    pub(crate) async fn row(
        &self,
        action: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Option<QueryResult>, StoreError> {
        let statement = Statement::from_sql_and_values(self.inner.get_database_backend(), sql, values);
        self.inner.query_one_raw(statement).await.map_err(StoreError::at(action))
    }
}
