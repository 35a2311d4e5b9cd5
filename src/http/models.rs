//! Models: create, list, read.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State as FromState,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{
        chain::Chain,
        model::{Model, ModelName, Policy, Recipe},
        network::{Architecture, NetworkSpec},
        sample::SampleCounts,
        schema::InputSchema,
        timestamp::Timestamp,
    },
    http::{
        auth::{Administering, Auditing, Caller},
        body::{Json, Params, Segments},
        documentation::{BadRequest, Conflict, Guarded, NotFound, WithBody},
        page::{Page, PageLimit},
        problem::Problem,
        state::State,
        versions::VersionView,
    },
    store::CreateModel,
    unlearning::{self, Method},
};

/// A model to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "digits",
    "network": {"preset": "mlp", "hidden": [64]},
    "schema": {"tensor": {"shape": [64], "scale": 16}}
}))]
pub struct NewModel {
    name: ModelName,
    network: Architecture,
    schema: InputSchema,
    #[serde(default)]
    recipe: Recipe,
    #[serde(default)]
    policy: Policy,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelView {
    id: Uuid,
    name: ModelName,
    network: Architecture,
    schema: InputSchema,
    recipe: Recipe,
    policy: Policy,
    created_at: Timestamp,
}

/// A model, its samples and its current version.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDetails {
    #[serde(flatten)]
    model: ModelView,
    samples: SampleCounts,
    /// Absent until the first training has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    current_version: Option<VersionView>,
    /// Deletion requests of all models that wait or are being served.
    deletion_queue: u64,
}

impl From<Model> for ModelView {
    fn from(model: Model) -> Self {
        let Model { id, name, architecture, schema, recipe, policy, created_at } = model;
        Self { id, name, network: architecture, schema, recipe, policy, created_at }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ModelPath {
    /// Name of a model.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", example = "digits")]
    pub model: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ModelsQuery {
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Creates a model. It answers once it has samples and a training run has ended.
#[utoipa::path(
    post, path = "/v1/models", tag = "models", operation_id = "create_model",
    security(("bearer" = [])), request_body = NewModel,
    responses(
        (status = 201, description = "Created", body = ModelView,
         headers(("Location" = String, description = "The model"))),
        Conflict, WithBody, Guarded,
    )
)]
pub async fn create(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Json { value: new, .. }: Json<NewModel>,
) -> Result<impl IntoResponse, Problem> {
    validate(&new).map_err(Problem::InvalidModel)?;
    let created_at = state.clock.now();
    let model = Model {
        id: state.ids.next(created_at),
        name: new.name,
        architecture: new.network,
        schema: new.schema,
        recipe: new.recipe,
        policy: new.policy,
        created_at,
    };
    match state.store.create_model(&model, caller.api_key_id).await? {
        CreateModel::NameTaken => Err(Problem::ModelExists),
        CreateModel::Created => {
            let location = format!("/v1/models/{}", model.name);
            let headers = [(header::LOCATION, location)];
            Ok((StatusCode::CREATED, headers, Answer(ModelView::from(model))))
        }
    }
}

/// Lists models, oldest first.
#[utoipa::path(
    get, path = "/v1/models", tag = "models", operation_id = "list_models",
    security(("bearer" = [])), params(ModelsQuery),
    responses((status = 200, description = "A page", body = Page<ModelView>), BadRequest, Guarded)
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Params(query): Params<ModelsQuery>,
) -> Result<Answer<Page<ModelView>>, Problem> {
    let models = state.store.models(query.cursor, query.limit.with_one_more()).await?;
    Ok(Answer(query.limit.page(models, |model| model.id.to_string(), ModelView::from)))
}

/// Reads a model, with its current version and its samples' number.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "models", operation_id = "read_model",
    security(("bearer" = [])), params(ModelPath),
    responses((status = 200, description = "The model", body = ModelDetails), NotFound, Guarded)
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<ModelPath>,
) -> Result<Answer<ModelDetails>, Problem> {
    let model = state.model(&path.model).await?;
    let samples = state.store.sample_counts(model.id).await?;
    let current_version = state.store.current_version(model.id).await?.map(VersionView::from);
    let deletion_queue = state.store.queue_depth().await?;
    Ok(Answer(ModelDetails { model: model.into(), samples, current_version, deletion_queue }))
}

/// Everything that can be known to be wrong before there is data.
fn validate(new: &NewModel) -> Result<(), String> {
    new.schema.validate().map_err(|error| error.to_string())?;
    new.recipe.validate().map_err(|error| format!("recipe: {error}"))?;
    new.policy.validate().map_err(|error| format!("policy: {error}"))?;
    check_method(&new.policy, &new.network).map_err(|reason| format!("policy: {reason}"))?;
    if let InputSchema::Columns(columns) = &new.schema {
        let odd = |name: &str| name.len() > 200 || name.chars().any(char::is_control);
        if let Some(position) = columns.iter().position(|column| odd(&column.name)) {
            return Err(format!(
                "schema: the name of column {position} is longer than 200 bytes or holds a \
                 control character"
            ));
        }
    }
    check_network(&new.network, &new.schema).map_err(|error| format!("network: {error}"))
}

fn check_method(policy: &Policy, network: &Architecture) -> Result<(), String> {
    let method = unlearning::of_policy(policy).map_err(|error| Chain(&error).to_string())?;
    let wants_linear = match method {
        Method::Update(update) => update.perturbation().is_some(),
        Method::Retrain => false,
    };
    if wants_linear && !network.is_linear() {
        return Err(format!("method {:?} is for the preset `logistic` alone", policy.method));
    }
    Ok(())
}

/// The number of classes is known at training only, and the width of one-hot columns too.
fn check_network(network: &Architecture, schema: &InputSchema) -> Result<(), String> {
    const ANY_CLASSES: usize = 2;
    let input = match schema {
        InputSchema::Tensor(tensor) => tensor.shape.clone(),
        InputSchema::Columns(columns) => vec![columns.len()],
    };
    match network {
        Architecture::Preset(_) => {
            network.resolve(&input, ANY_CLASSES).map_err(|error| error.to_string())?;
        }
        Architecture::Layers(layers) => {
            let fits = match (&layers.input, schema) {
                (None, _) => true,
                (Some(expected), InputSchema::Tensor(_)) => *expected == input,
                (Some(expected), InputSchema::Columns(_)) => expected.len() == 1,
            };
            if !fits {
                return Err(format!(
                    "it expects inputs of shape {:?}, but the schema gives {input:?}",
                    layers.input.as_deref().unwrap_or_default()
                ));
            }
            let input = layers.input.clone().unwrap_or(input);
            let spec = NetworkSpec { input, layers: layers.layers.clone() };
            let shapes = spec.shapes().map_err(|error| error.to_string())?;
            let output = shapes.last().map(Vec::as_slice).unwrap_or_default();
            if output.len() != 1 {
                return Err(format!("the last layer gives shape {output:?}, not one per class"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "`json!` makes values")]
    fn refusal(changes: serde_json::Value) -> Option<String> {
        let mut new = serde_json::json!({
            "name": "m",
            "network": {"preset": "logistic"},
            "schema": {"tensor": {"shape": [3, 32, 32], "scale": 255}},
        });
        for (name, value) in changes.as_object().unwrap() {
            new[name] = value.clone();
        }
        validate(&serde_json::from_value(new).unwrap()).err()
    }

    #[test]
    fn what_can_be_known_before_there_is_data_is_refused_at_once() {
        assert_eq!(refusal(serde_json::json!({})), None);
        let refused = |changes, word: &str| {
            let reason = refusal(changes).unwrap();
            assert!(reason.contains(word), "{reason}");
        };
        let layers = |layers| serde_json::json!({"network": {"layers": layers}});
        refused(layers(serde_json::json!([{"linear": 10}])), "layer 0 (linear)");
        refused(layers(serde_json::json!(["relu"])), "[3, 32, 32]");
        refused(layers(serde_json::json!([])), "no layers");
        let body = serde_json::json!(["relu", {"group_norm": 2}]);
        refused(layers(serde_json::json!([{"residual": {"body": body}}])), "layer 0.body.1");
        let narrow = serde_json::json!({"preset": "resnet18", "width": 8});
        assert_eq!(refusal(serde_json::json!({"network": narrow})), None);
        refused(serde_json::json!({"policy": {"method": "magic"}}), "iau");
        refused(serde_json::json!({"policy": {"method": "ssd"}}), "iau");
        let policy = serde_json::json!({"method": "iau", "method_parameters": {"steps": 3}});
        refused(serde_json::json!({"policy": policy}), "steps");
        let certified = serde_json::json!({"method": "certified"});
        assert_eq!(refusal(serde_json::json!({"policy": certified})), None);
        let network = serde_json::json!({"preset": "mlp"});
        refused(serde_json::json!({"policy": certified, "network": network}), "logistic");
        refused(serde_json::json!({"recipe": {"epochs": 0}}), "epochs");
        refused(serde_json::json!({"schema": {"columns": []}}), "no columns");
        let column = serde_json::json!({"name": "a\u{0}", "kind": "numeric"});
        refused(serde_json::json!({"schema": {"columns": [column]}}), "column 0");
        let network = serde_json::json!({"input": [5], "layers": ["flatten", {"linear": 2}]});
        refused(serde_json::json!({"network": network}), "[5]");
    }

    #[test]
    fn columns_fit_any_width_of_linear_layers_but_no_convolution() {
        let columns = serde_json::json!({"columns": [{"name": "a", "kind": "categorical"}]});
        let network = serde_json::json!({"input": [7], "layers": [{"linear": 2}]});
        assert_eq!(refusal(serde_json::json!({"schema": columns, "network": network})), None);
        for preset in ["lenet5", "resnet18", "vgg19"] {
            let network = serde_json::json!({"preset": preset});
            let reason = refusal(serde_json::json!({"schema": columns, "network": network}));
            assert!(reason.unwrap().contains("layer 0 (conv2d) takes images"));
        }
    }
}
