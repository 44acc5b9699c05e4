//! Reading columns as the domain's types.
//!
//! How it works: a value that this version cannot have written is an error with the column's name, never a default.
//!
//! Deliberately absent: an ORM's entities.

use sea_orm::{QueryResult, TryGetable};

use crate::StoreError;

/// A column of a database type.
pub(crate) fn get<T: TryGetable>(row: &QueryResult, column: &'static str) -> Result<T, StoreError> {
    row.try_get("", column).map_err(StoreError::at("read a column"))
}

/// A text column that stands for something else.
pub(crate) fn parse<T>(
    row: &QueryResult,
    column: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let text: String = get(row, column)?;
    read(&text).ok_or(StoreError::Foreign { what: column, value: text.chars().take(80).collect() })
}

/// A number column that is never negative.
pub(crate) fn unsigned(row: &QueryResult, column: &'static str) -> Result<u32, StoreError> {
    let value: i64 = get(row, column)?;
    u32::try_from(value).map_err(|_| StoreError::Foreign { what: column, value: value.to_string() })
}
