//! The HTTP interface, and the only place that knows status codes. One file per resource;
//! `problem.rs` turns every error into an answer.

mod api_keys;
mod approvals;
mod audit_events;
mod auth;
mod body;
mod certificates;
mod deletion_requests;
mod documentation;
mod drop_lists;
mod drp;
mod extensions;
pub mod inference;
mod intake;
mod layers;
mod lineage;
mod local;
mod models;
mod opendsr;
mod operations;
mod page;
mod problem;
mod rate;
mod samples;
mod state;
mod targets;
#[cfg(test)]
mod tests;
mod tombstones;
mod training_runs;
mod transparency;
mod versions;
mod webhook_messages;
mod webhooks;

use std::sync::Arc;

use axum::{Router, middleware, routing::post};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer};
use utoipa::OpenApi as _;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

use self::problem::{Problem, Resource};
pub use self::{
    auth::{Access, KeyCache},
    drp::Drp,
    opendsr::OpenDsr,
    rate::Rates,
    state::{Draining, Limits, State},
};

/// The whole service as one axum router.
pub fn router(state: Arc<State>) -> Router {
    let (router, _) = documented().split_for_parts();
    let router = router
        .fallback(async || Problem::NotFound(Resource::Route))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed);
    let router = match &state.access {
        Access::Open => router.layer(middleware::from_fn(local::only)),
        Access::Keys(_) => router,
    };
    router
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), layers::observe))
        .with_state(state)
}

/// The `OpenAPI` 3.1 document of the same routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = documented().into_openapi();
    // Axum writes the rest of a path as {*rest}, OpenAPI knows no such thing.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths =
        paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

fn documented() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::with_openapi(documentation::Document::openapi())
        .routes(routes!(models::create, models::list))
        .routes(routes!(models::read))
        .routes(routes!(samples::ingest))
        .routes(routes!(lineage::trace))
        .routes(routes!(training_runs::start, training_runs::list))
        .routes(routes!(training_runs::read, training_runs::cancel))
        .routes(routes!(versions::list))
        .routes(routes!(versions::read))
        .routes(routes!(versions::contributors))
        .routes(routes!(tombstones::lift))
        .routes(routes!(deletion_requests::create, deletion_requests::list))
        .routes(routes!(deletion_requests::read, deletion_requests::cancel))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::refuse))
        .routes(routes!(extensions::extend))
        .routes(routes!(certificates::read))
        .routes(routes!(drop_lists::run))
        .routes(routes!(audit_events::list))
        .routes(routes!(transparency::checkpoint))
        .routes(routes!(transparency::public_key))
        .routes(routes!(transparency::tile))
        .routes(routes!(transparency::entries).layer(CompressionLayer::new()))
        .routes(routes!(api_keys::create, api_keys::list))
        .routes(routes!(api_keys::read, api_keys::revoke))
        .routes(routes!(api_keys::rotate))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::read, webhooks::change, webhooks::remove))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(webhooks::activate))
        .routes(routes!(webhook_messages::list))
        .routes(routes!(webhook_messages::redeliver))
        .routes(routes!(inference::server))
        .routes(routes!(inference::live))
        .routes(routes!(inference::ready))
        .routes(routes!(inference::model))
        .routes(routes!(inference::model_ready))
        .routes(routes!(inference::infer))
        .routes(routes!(inference::version))
        .routes(routes!(inference::version_ready))
        .routes(routes!(inference::infer_version))
        .routes(routes!(opendsr::discovery))
        .routes(routes!(opendsr::certificate))
        .routes(routes!(opendsr::create))
        .routes(routes!(opendsr::read, opendsr::cancel))
        .routes(routes!(drp::set_up, drp::check))
        .routes(routes!(drp::exercise))
        // As agents of versions before 0.9.3 write it.
        .route("/drp/v1/data-rights-request/", post(drp::exercise))
        .routes(routes!(drp::read, drp::revoke))
        .routes(routes!(operations::openapi_yaml))
        .routes(routes!(operations::metrics))
}
