//! The audit log as a transparency log: C2SP tlog-tiles over tlog-checkpoint. Hashes, checkpoints
//! and the public key are for everybody, as stock clients expect; entries need a key unless the
//! configuration opens them.

use std::sync::Arc;

use axum::{
    extract::State as FromState,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    audit::tile::Tile,
    http::{
        auth::{Auditing, Caller},
        body::Segments,
        documentation::{Fails, NotFound},
        problem::{Problem, Resource},
        state::State,
    },
};

/// Checkpoints move on: nothing holds one for longer than this.
const MUTABLE: &str = "public, max-age=1";

/// What a tile holds never changes.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Likewise, but only for who may read entries.
const IMMUTABLE_PRIVATE: &str = "private, max-age=31536000, immutable";

const TEXT: &str = "text/plain; charset=utf-8";

const BYTES: &str = "application/octet-stream";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TilePath {
    /// 0 holds leaf hashes, each hash above is the root of a full tile below.
    #[param(pattern = "^(0|[1-9]|[1-5][0-9]|6[0-3])$", example = "0")]
    level: String,
    /// Index in groups of three digits, all but the last after an `x`; of a partial tile also its
    /// width: `000`, `x001/234`, `000.p/7`.
    #[param(pattern = r"^(x[0-9]{3}/)*[0-9]{3}(\.p/[1-9][0-9]{0,2})?$", example = "000.p/1")]
    tile: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct BundlePath {
    /// As of a tile of level 0.
    #[param(pattern = r"^(x[0-9]{3}/)*[0-9]{3}(\.p/[1-9][0-9]{0,2})?$", example = "000.p/1")]
    tile: String,
}

/// The signed head of the log, C2SP tlog-checkpoint; signed now if the log has grown.
#[utoipa::path(
    get, path = "/audit/checkpoint", tag = "audit", operation_id = "read_checkpoint",
    responses(
        (status = 200, description = "A signed note", body = String, content_type = "text/plain"),
        Fails<500>, Fails<503>,
    )
)]
pub async fn checkpoint(FromState(state): FromState<Arc<State>>) -> Result<Response, Problem> {
    let note = state.notary.checkpoint().await?.note.to_string();
    Ok(([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, MUTABLE)], note).into_response())
}

/// The key that signs checkpoints, as a signed note's verifier key.
#[utoipa::path(
    get, path = "/audit/public-key", tag = "audit", operation_id = "read_log_key",
    responses(
        (status = 200, description = "name+id+key", body = String, content_type = "text/plain"),
        Fails<500>, Fails<503>,
    )
)]
pub async fn public_key(FromState(state): FromState<Arc<State>>) -> Response {
    let key = format!("{}\n", state.notary.verifier_key());
    ([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, MUTABLE)], key).into_response()
}

/// Hashes of the log's tree, C2SP tlog-tiles. A tile is there once a checkpoint was signed over a
/// tree that has it.
#[utoipa::path(
    get, path = "/audit/tile/{level}/{*tile}", tag = "audit", operation_id = "read_tile",
    params(TilePath),
    responses(
        (status = 200, description = "32 bytes a hash", body = String,
         content_type = "application/octet-stream"),
        NotFound, Fails<500>, Fails<503>,
    )
)]
pub async fn tile(
    FromState(state): FromState<Arc<State>>,
    Segments(path): Segments<TilePath>,
) -> Result<Response, Problem> {
    let tile = parse(&path.level, &path.tile)?;
    let bytes = state.notary.tile(tile).await?.ok_or(Problem::NotFound(Resource::Tile))?;
    Ok(([(header::CONTENT_TYPE, BYTES), (header::CACHE_CONTROL, IMMUTABLE)], bytes).into_response())
}

/// Entries of the log, C2SP tlog-tiles: each after its length in two bytes; compressed for who accepts
/// gzip. Needs no key where `audit.entries_public` is set.
#[utoipa::path(
    get, path = "/audit/tile/entries/{*tile}", tag = "audit", operation_id = "read_entries",
    security((), ("bearer" = [])), params(BundlePath),
    responses(
        (status = 200, description = "An entry bundle", body = String,
         content_type = "application/octet-stream"),
        NotFound, Fails<401>, Fails<403>, Fails<500>, Fails<503>,
    )
)]
pub async fn entries(
    FromState(state): FromState<Arc<State>>,
    caller: Result<Caller<Auditing>, Problem>,
    Segments(path): Segments<BundlePath>,
) -> Result<Response, Problem> {
    let caching = if state.limits.entries_public {
        IMMUTABLE
    } else {
        caller?;
        IMMUTABLE_PRIVATE
    };
    let tile = parse("0", &path.tile)?;
    let bytes = state.notary.entries(tile).await?.ok_or(Problem::NotFound(Resource::Tile))?;
    Ok(([(header::CONTENT_TYPE, BYTES), (header::CACHE_CONTROL, caching)], bytes).into_response())
}

fn parse(level: &str, path: &str) -> Result<Tile, Problem> {
    Tile::parse(level, path).map_err(|_| Problem::NotFound(Resource::Tile))
}
