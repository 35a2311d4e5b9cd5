//! One row type for both databases.

use sqlx::{
    Decode, Postgres, Row as _, Sqlite, Type, postgres::PgRow, sqlite::SqliteRow, types::Json,
};
use uuid::Uuid;

use crate::{
    domain::{
        identity::{Digest, Pseudonym},
        timestamp::Timestamp,
    },
    store::StoreError,
};

/// A value that both databases give.
pub(super) trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

/// One row of a result; columns by name.
pub(super) struct Row {
    pub(super) operation: &'static str,
    pub(super) values: Values,
}

pub(super) enum Values {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(super) fn get<T: Column>(&self, column: &'static str) -> Result<T, StoreError> {
        let value = match &self.values {
            Values::Sqlite(row) => row.try_get(column),
            Values::Postgres(row) => row.try_get(column),
        };
        value.map_err(|error| self.damaged(column, error))
    }

    pub(super) fn uuid(&self, column: &'static str) -> Result<Uuid, StoreError> {
        self.get(column)
    }

    pub(super) fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.get(column).map(Timestamp::from_micros)
    }

    pub(super) fn time_or_none(
        &self,
        column: &'static str,
    ) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
    }

    pub(super) fn count<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, StoreError> {
        let value: i64 = self.get(column)?;
        T::try_from(value).map_err(|_| self.damaged(column, format!("{value} is out of range")))
    }

    pub(super) fn count_or_none<T: TryFrom<i64>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        match self.get::<Option<i64>>(column)? {
            Some(_) => self.count(column).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn key(&self, column: &'static str) -> Result<Pseudonym, StoreError> {
        let bytes = self.get::<Vec<u8>>(column)?;
        self.bytes_32(column, &bytes).map(Pseudonym::from_bytes)
    }

    pub(super) fn digest(&self, column: &'static str) -> Result<Digest, StoreError> {
        let bytes = self.get::<Vec<u8>>(column)?;
        self.bytes_32(column, &bytes).map(Digest::from_bytes)
    }

    pub(super) fn json<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: serde::de::DeserializeOwned,
        Json<T>: Column,
    {
        self.get::<Json<T>>(column).map(|json| json.0)
    }

    /// An enum by its stable name.
    pub(super) fn word<T: serde::de::DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        let word: String = self.get(column)?;
        serde_json::from_value(word.into()).map_err(|error| self.damaged(column, error))
    }

    pub(super) fn word_or_none<T: serde::de::DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        match self.get::<Option<String>>(column)? {
            Some(_) => self.word(column).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn damaged(&self, column: &str, detail: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged { operation: self.operation, detail: format!("in {column}: {detail}") }
    }

    fn bytes_32(&self, column: &'static str, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
        let length = bytes.len();
        <[u8; 32]>::try_from(bytes)
            .map_err(|_| self.damaged(column, format!("{length} bytes, not 32")))
    }
}
