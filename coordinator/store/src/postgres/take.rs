//! Takes over what another database holds.

use sqlx::{AssertSqlSafe, Postgres, query};
use tokio::sync::mpsc;

use super::fault::written;
use super::store::PostgresStore;
use super::writer::Transaction;
use super::writes::writable;
use crate::error::StoreError;
use crate::tables::{Chunk, Identity, Kind, TABLES, Values};

/// Whether anything is there that a move would bring.
const HOLDS: &str = "
SELECT EXISTS (SELECT FROM jobs) OR EXISTS (SELECT FROM journal) OR EXISTS (SELECT FROM configs)
    OR EXISTS (SELECT FROM drains) OR EXISTS (SELECT FROM tokens)";

impl PostgresStore {
    /// Whether it is the coordinator `identity` already.
    pub(crate) async fn is_of(&self, identity: &Identity) -> Result<bool, StoreError> {
        let asked = query("SELECT FROM identity WHERE id = $1")
            .bind(&identity.id)
            .fetch_optional(self.readers());
        Ok(self.read(asked).await?.is_some())
    }

    /// Becomes the coordinator `identity` with the rows of all `chunks`, the last of which is none;
    /// returns how many of each table. Without a last one it waits for ever, and nothing is written.
    ///
    /// # Errors
    /// It holds something already, or fails; then nothing has changed.
    pub(crate) async fn take(
        &self,
        identity: Identity,
        mut chunks: mpsc::Receiver<Option<Chunk>>,
    ) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let mut transaction = self.begin().await?;
        transaction.check_empty().await?;
        let mut rows: Vec<_> = TABLES.iter().map(|table| (table.name, 0)).collect();
        loop {
            // Without the word that these were all, whoever reads them has failed.
            let chunk = match chunks.recv().await {
                Some(Some(chunk)) => chunk,
                Some(None) => break,
                None => return std::future::pending().await,
            };
            let of_table = rows.iter_mut().find(|(name, _)| *name == chunk.table.name);
            of_table.into_iter().for_each(|(_, all)| *all += chunk.rows);
            transaction.insert(chunk).await?;
        }
        transaction.be(&identity.id).await?;
        transaction.greatest = identity.greatest;
        transaction.commit(rows).await
    }
}

impl Transaction<'_> {
    async fn check_empty(&mut self) -> Result<(), StoreError> {
        let asked = sqlx::query_scalar(HOLDS).fetch_one(&mut self.connection);
        if written(self.database, asked).await? {
            return Err(StoreError::Taken {
                place: self.database.to_string(),
            });
        }
        Ok(())
    }

    async fn be(&mut self, id: &str) -> Result<(), StoreError> {
        let asked = query("UPDATE identity SET id = $1")
            .bind(id)
            .execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }

    async fn insert(&mut self, chunk: Chunk) -> Result<(), StoreError> {
        let table = chunk.table;
        let arrays = (1..).zip(table.columns).map(|(i, (_, kind))| match kind {
            Kind::Number => format!("${i}::bigint[]"),
            Kind::Text => format!("${i}::text[]"),
        });
        let arrays: Vec<String> = arrays.collect();
        let statement = format!(
            "INSERT INTO {} ({}) SELECT * FROM UNNEST({})",
            table.name,
            table.names(),
            arrays.join(", ")
        );
        let mut insert = query::<Postgres>(AssertSqlSafe(statement));
        for ((name, _), values) in table.columns.iter().zip(chunk.columns) {
            insert = match values {
                Values::Numbers(numbers) => {
                    if (table.name, *name) == ("journal", "seq") {
                        let last = numbers.iter().flatten().copied();
                        self.journal = last.fold(self.journal, i64::max);
                    }
                    insert.bind(numbers)
                }
                Values::Texts(texts) => {
                    let writable = |text: String| writable(&text).into_owned();
                    let texts = texts.into_iter().map(|text| text.map(writable));
                    insert.bind(texts.collect::<Vec<_>>())
                }
            };
        }
        let asked = insert.execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }
}
