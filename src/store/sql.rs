//! One statement type for both databases, so that every verb is written once.

use futures_util::{StreamExt, TryStreamExt};
use sqlx::{
    Encode, PgConnection, Postgres, Sqlite, SqliteConnection, Type, postgres::PgArguments,
    sqlite::SqliteArguments, types::Json,
};
use uuid::Uuid;

use crate::{
    domain::{
        identity::{Digest, Pseudonym},
        timestamp::Timestamp,
    },
    store::{
        StoreError,
        row::{Row, Values},
    },
};

/// A value that both databases take.
pub(super) trait Bind<'v>:
    Encode<'v, Sqlite> + Type<Sqlite> + Encode<'v, Postgres> + Type<Postgres>
{
}

impl<'v, T> Bind<'v> for T where
    T: Encode<'v, Sqlite> + Type<Sqlite> + Encode<'v, Postgres> + Type<Postgres>
{
}

/// The text of a statement; two of them where the dialects differ.
#[derive(Clone, Copy)]
pub(super) struct Sql {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

impl From<&'static str> for Sql {
    fn from(both: &'static str) -> Self {
        Self { sqlite: both, postgres: both }
    }
}

/// `$before IN (the keys or ids bound as $number) $after`; bind with [`Statement::bind_keys`] or
/// [`Statement::bind_ids`].
macro_rules! in_keys {
    ($before:expr, $number:literal, $after:literal) => {
        $crate::store::sql::Sql {
            sqlite: concat!(
                $before,
                " IN (SELECT unhex(value) FROM json_each($",
                $number,
                ")) ",
                $after
            ),
            postgres: concat!($before, " = ANY($", $number, ") ", $after),
        }
    };
}

/// `$before IN (the integers bound as $number) $after`; bind with [`Statement::bind_integers`].
macro_rules! in_integers {
    ($before:expr, $number:literal, $after:literal) => {
        $crate::store::sql::Sql {
            sqlite: concat!($before, " IN (SELECT value FROM json_each($", $number, ")) ", $after),
            postgres: concat!($before, " = ANY($", $number, ") ", $after),
        }
    };
}

pub(super) use {in_integers, in_keys};

/// A statement with its binds, about to run on the connection that it borrows.
#[must_use = "a statement does nothing until it is executed"]
pub(super) struct Statement<'c> {
    operation: &'static str,
    query: Query<'c>,
}

enum Query<'c> {
    Sqlite(sqlx::query::Query<'static, Sqlite, SqliteArguments>, &'c mut SqliteConnection),
    Postgres(sqlx::query::Query<'static, Postgres, PgArguments>, &'c mut PgConnection),
}

impl<'c> Statement<'c> {
    pub(super) fn sqlite(
        operation: &'static str,
        sql: &'static str,
        connection: &'c mut SqliteConnection,
    ) -> Self {
        Self { operation, query: Query::Sqlite(sqlx::query(sql), connection) }
    }

    pub(super) fn postgres(
        operation: &'static str,
        sql: &'static str,
        connection: &'c mut PgConnection,
    ) -> Self {
        Self { operation, query: Query::Postgres(sqlx::query(sql), connection) }
    }

    pub(super) fn bind<'v>(self, value: impl Bind<'v>) -> Self {
        let query = match self.query {
            Query::Sqlite(query, connection) => Query::Sqlite(query.bind(value), connection),
            Query::Postgres(query, connection) => Query::Postgres(query.bind(value), connection),
        };
        Self { query, ..self }
    }

    pub(super) fn time(self, time: Timestamp) -> Self {
        self.bind(time.as_micros())
    }

    pub(super) fn count(self, count: u64) -> Self {
        self.bind(count.cast_signed())
    }

    pub(super) fn key(self, key: &Pseudonym) -> Self {
        self.bind(key.as_bytes().as_slice())
    }

    pub(super) fn digest(self, digest: &Digest) -> Self {
        self.bind(digest.as_bytes().as_slice())
    }

    pub(super) fn json<T: serde::Serialize>(self, value: &T) -> Self {
        self.bind(Json(value))
    }

    pub(super) fn bind_keys(self, keys: &[Pseudonym]) -> Self {
        let query = match self.query {
            Query::Sqlite(query, connection) => Query::Sqlite(query.bind(Json(keys)), connection),
            Query::Postgres(query, connection) => {
                let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes().as_slice()).collect();
                Query::Postgres(query.bind(keys), connection)
            }
        };
        Self { query, ..self }
    }

    pub(super) fn bind_ids(self, ids: &[Uuid]) -> Self {
        let query = match self.query {
            Query::Sqlite(query, connection) => {
                let ids: Vec<_> = ids.iter().map(|id| id.simple().to_string()).collect();
                Query::Sqlite(query.bind(Json(ids)), connection)
            }
            Query::Postgres(query, connection) => Query::Postgres(query.bind(ids), connection),
        };
        Self { query, ..self }
    }

    /// Keys, each with the model that it belongs to: one parameter on `SQLite`, an array of pairs; two
    /// arrays on `PostgreSQL`.
    pub(super) fn bind_keys_of(self, keys: &[(Uuid, Pseudonym)]) -> Self {
        let query = match self.query {
            Query::Sqlite(query, connection) => {
                let pairs: Vec<_> =
                    keys.iter().map(|(model_id, key)| (model_id.simple(), key)).collect();
                Query::Sqlite(query.bind(Json(pairs)), connection)
            }
            Query::Postgres(query, connection) => {
                let (models, keys): (Vec<_>, Vec<_>) = keys
                    .iter()
                    .map(|(model_id, key)| (*model_id, key.as_bytes().as_slice()))
                    .unzip();
                Query::Postgres(query.bind(models).bind(keys), connection)
            }
        };
        Self { query, ..self }
    }

    /// Samples with what is sealed of them, as two parameters: on `SQLite` all blobs end to end, and of each
    /// row its sample, the blob's offset from 1 and its length; on `PostgreSQL` two arrays.
    pub(super) fn bind_sealed(self, rows: &[(Uuid, impl AsRef<[u8]>)]) -> Self {
        let query = match self.query {
            Query::Sqlite(query, connection) => {
                let length = rows.iter().map(|(_, blob)| blob.as_ref().len()).sum();
                let mut blobs = Vec::with_capacity(length);
                let mut slices = Vec::with_capacity(rows.len());
                for (sample_id, blob) in rows {
                    let blob = blob.as_ref();
                    slices.push((sample_id.simple().to_string(), blobs.len() + 1, blob.len()));
                    blobs.extend_from_slice(blob);
                }
                Query::Sqlite(query.bind(blobs).bind(Json(slices)), connection)
            }
            Query::Postgres(query, connection) => {
                let (ids, blobs): (Vec<_>, Vec<&[u8]>) =
                    rows.iter().map(|(id, blob)| (*id, blob.as_ref())).unzip();
                Query::Postgres(query.bind(ids).bind(blobs), connection)
            }
        };
        Self { query, ..self }
    }

    /// An array, which only `PostgreSQL` knows.
    pub(super) fn array<'v, T>(self, values: T) -> Self
    where
        T: Encode<'v, Postgres> + Type<Postgres>,
    {
        let query = match self.query {
            Query::Postgres(query, connection) => Query::Postgres(query.bind(values), connection),
            Query::Sqlite(..) => unreachable!("arrays are bound in postgres.rs only"),
        };
        Self { query, ..self }
    }

    pub(super) fn bind_integers(self, integers: &[i64]) -> Self {
        let query = match self.query {
            Query::Sqlite(query, connection) => {
                Query::Sqlite(query.bind(Json(integers)), connection)
            }
            Query::Postgres(query, connection) => Query::Postgres(query.bind(integers), connection),
        };
        Self { query, ..self }
    }

    /// Number of rows affected.
    pub(super) async fn execute(self) -> Result<u64, StoreError> {
        let result = match self.query {
            Query::Sqlite(query, connection) => {
                query.execute(connection).await.map(|done| done.rows_affected())
            }
            Query::Postgres(query, connection) => {
                query.execute(connection).await.map(|done| done.rows_affected())
            }
        };
        result.map_err(|source| StoreError::of(self.operation, source))
    }

    /// Fails as damaged unless exactly one row was affected.
    pub(super) async fn execute_one(self) -> Result<(), StoreError> {
        let operation = self.operation;
        match self.execute().await? {
            1 => Ok(()),
            rows => Err(StoreError::Damaged {
                operation,
                detail: format!("{rows} rows where one was to be written"),
            }),
        }
    }

    pub(super) async fn fetch_all(self) -> Result<Vec<Row>, StoreError> {
        let operation = self.operation;
        let rows = match self.query {
            Query::Sqlite(query, connection) => query
                .fetch_all(connection)
                .await
                .map(|rows| rows.into_iter().map(Values::Sqlite).collect::<Vec<_>>()),
            Query::Postgres(query, connection) => query
                .fetch_all(connection)
                .await
                .map(|rows| rows.into_iter().map(Values::Postgres).collect()),
        };
        rows.map(|rows| rows.into_iter().map(|values| Row { operation, values }).collect())
            .map_err(|source| StoreError::of(operation, source))
    }

    /// Row by row, for rows that may be too many to be held together.
    pub(super) async fn for_each(
        self,
        mut take: impl FnMut(&Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let operation = self.operation;
        let mut rows = match self.query {
            Query::Sqlite(query, connection) => {
                query.fetch(connection).map_ok(Values::Sqlite).boxed()
            }
            Query::Postgres(query, connection) => {
                query.fetch(connection).map_ok(Values::Postgres).boxed()
            }
        };
        while let Some(values) = rows.next().await {
            let values = values.map_err(|source| StoreError::of(operation, source))?;
            take(&Row { operation, values })?;
        }
        Ok(())
    }

    pub(super) async fn fetch_optional(self) -> Result<Option<Row>, StoreError> {
        let operation = self.operation;
        let row = match self.query {
            Query::Sqlite(query, connection) => {
                query.fetch_optional(connection).await.map(|row| row.map(Values::Sqlite))
            }
            Query::Postgres(query, connection) => {
                query.fetch_optional(connection).await.map(|row| row.map(Values::Postgres))
            }
        };
        row.map(|row| row.map(|values| Row { operation, values }))
            .map_err(|source| StoreError::of(operation, source))
    }

    pub(super) async fn fetch_one(self) -> Result<Row, StoreError> {
        let operation = self.operation;
        self.fetch_optional().await?.ok_or_else(|| StoreError::Damaged {
            operation,
            detail: "no row where one must be".to_owned(),
        })
    }
}
