//! Models.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        model::{Model, ModelName},
    },
    store::{
        Store, StoreError,
        row::Row,
        transaction::{reading, writing},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateModel {
    Created,
    NameTaken,
}

impl Store {
    pub async fn create_model(
        &self,
        model: &Model,
        by: Option<Uuid>,
    ) -> Result<CreateModel, StoreError> {
        writing!(self, "create_model", async |tx| {
            let created = tx
                .query(
                    "INSERT INTO models
                         (id, name, architecture, input_schema, recipe, policy, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
                )
                .bind(model.id)
                .bind(model.name.as_ref())
                .json(&model.architecture)
                .json(&model.schema)
                .json(&model.recipe)
                .json(&model.policy)
                .time(model.created_at)
                .execute()
                .await?;
            if created == 0 {
                return Ok(CreateModel::NameTaken);
            }
            tx.query("INSERT INTO ordinals (model_id, next_ordinal) VALUES ($1, 0)")
                .bind(model.id)
                .execute_one()
                .await?;
            let details = serde_json::json!({
                "by": by,
                "name": model.name,
                "architecture": model.architecture,
                "recipe": model.recipe,
                "policy": model.policy,
            });
            tx.record(model.created_at, AuditKind::ModelCreated, model.id, model.id, details);
            Ok(CreateModel::Created)
        })
    }

    /// Asks the database once for each model: none changes, and none is removed.
    pub async fn model(&self, name: &ModelName) -> Result<Option<Model>, StoreError> {
        let known = self.known_models().get(name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let model = reading!(self, "model", async |tx| {
            let sql = "SELECT * FROM models WHERE name = $1";
            let row = tx.query(sql).bind(name.as_ref()).fetch_optional().await?;
            row.as_ref().map(read_model).transpose()
        })?;
        self.known_models().extend(model.iter().map(|it| (name.clone(), it.clone())));
        Ok(model)
    }

    pub async fn model_by_id(&self, id: Uuid) -> Result<Option<Model>, StoreError> {
        reading!(self, "model_by_id", async |tx| {
            let sql = "SELECT * FROM models WHERE id = $1";
            let row = tx.query(sql).bind(id).fetch_optional().await?;
            row.as_ref().map(read_model).transpose()
        })
    }

    /// By id ascending. They are few; what they hold is not loaded.
    pub async fn all_models(&self) -> Result<Vec<Model>, StoreError> {
        reading!(self, "all_models", async |tx| {
            let rows = tx.query("SELECT * FROM models ORDER BY id").fetch_all().await?;
            rows.iter().map(read_model).collect()
        })
    }

    /// By id ascending, after `after`.
    pub async fn models(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<Model>, StoreError> {
        reading!(self, "models", async |tx| {
            let sql = "SELECT * FROM models WHERE id > $1 ORDER BY id LIMIT $2";
            let after = after.unwrap_or(Uuid::nil());
            let rows = tx.query(sql).bind(after).bind(i64::from(limit)).fetch_all().await?;
            rows.iter().map(read_model).collect()
        })
    }
}

pub(super) fn read_model(row: &Row) -> Result<Model, StoreError> {
    Ok(Model {
        id: row.uuid("id")?,
        name: read_name(row, "name")?,
        architecture: row.json("architecture")?,
        schema: row.json("input_schema")?,
        recipe: row.json("recipe")?,
        policy: row.json("policy")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) fn read_name(row: &Row, column: &'static str) -> Result<ModelName, StoreError> {
    let name: String = row.get(column)?;
    name.parse().map_err(|error| row.damaged(column, error))
}
