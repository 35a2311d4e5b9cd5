//! OpenDSR 2.0: requests of data controllers, in the specification's own shapes. One request there is
//! one deletion request here for each model that its identities may name a subject of.
//!
//! Every answer, an error too, is signed over its body (`answer.rs`).

mod answer;
mod request;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::State as FromState,
    http::{StatusCode, header},
    response::IntoResponse,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

pub use self::answer::{OpenDsrError, error_form, signed};
use self::{
    answer::{
        OpenDsrCancellation, OpenDsrDiscovery, OpenDsrProgress, OpenDsrReceipt, SupportedIdentity,
    },
    request::{Format, Identity, OpenDsrRequest},
};
use crate::{
    domain::{
        alias::AliasKind,
        deletion::{Target, TargetKind},
        identity::Pseudonym,
        model::{Model, ModelName},
    },
    http::{
        auth::{Caller, Deleting, Watching},
        body::{Json, Segments},
        documentation::{GuardedOpenDsr, OpenDsrFails, PublicOpenDsr},
        problem::{Problem, Resource},
        state::State,
    },
    intake::{identity::sha256, processor::Processor},
    store::{Acceptance, Intake, IntakeCancellation, NewCallback, NewDeletion, NewIntake},
};

/// Below which the façade lies.
pub const PATH: &str = "/opendsr/v2";

const CERTIFICATE: &str = "/opendsr/v2/certificate.pem";

/// Models that are looked at together.
const PAGE: u32 = 200;

/// The façade as the configuration sets it up.
pub struct OpenDsr {
    pub processor: Processor,
    /// Scheme and authority under which controllers reach it.
    pub url: String,
    pub subjects: Vec<SubjectIdentity>,
    /// Identity types that are aliases of subjects.
    pub aliases: Vec<(String, AliasKind)>,
}

/// An identity that is a subject's id.
#[derive(Clone, Debug)]
pub struct SubjectIdentity {
    /// Such as `controller_customer_id`.
    pub identity_type: String,
    /// Whose subjects it names; every model's when absent.
    pub model: Option<ModelName>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SubjectRequestPath {
    /// `subject_request_id` of the request.
    id: Uuid,
}

/// What is supported, and where the certificate is that answers are signed with.
#[utoipa::path(
    get, path = "/opendsr/v2/discovery", tag = "opendsr", operation_id = "discover_opendsr",
    responses((status = 200, description = "What is supported", body = OpenDsrDiscovery), PublicOpenDsr)
)]
pub async fn discovery(
    FromState(state): FromState<Arc<State>>,
) -> Result<Answer<OpenDsrDiscovery>, Problem> {
    let opendsr = configured(&state)?;
    let names = opendsr.subjects.iter().map(|subject| (subject.identity_type.as_str(), "raw"));
    let aliases = opendsr.aliases.iter();
    let aliases = aliases.flat_map(|(name, _)| [(name.as_str(), "raw"), (name.as_str(), "sha256")]);
    let supported: BTreeSet<_> = names.chain(aliases).collect();
    let supported = supported.into_iter().map(SupportedIdentity::new).collect();
    let processor_certificate = format!("{}{CERTIFICATE}", opendsr.url);
    Ok(Answer(OpenDsrDiscovery::new(supported, processor_certificate)))
}

/// The certificate that answers are signed with, and those that lead to its issuer.
#[utoipa::path(
    get, path = "/opendsr/v2/certificate.pem", tag = "opendsr",
    operation_id = "read_opendsr_certificate",
    responses(
        (status = 200, description = "PEM", body = String, content_type = "application/x-pem-file"),
        PublicOpenDsr,
    )
)]
pub async fn certificate(
    FromState(state): FromState<Arc<State>>,
) -> Result<impl IntoResponse, Problem> {
    let certificate = configured(&state)?.processor.certificate().to_owned();
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], certificate))
}

/// Asks to erase a data subject. Durable when it is answered; the same request again is the same
/// request.
#[utoipa::path(
    post, path = "/opendsr/v2/requests", tag = "opendsr", operation_id = "create_subject_request",
    security(("bearer" = [])), request_body = OpenDsrRequest,
    responses(
        (status = 201, description = "Durable", body = OpenDsrReceipt),
        OpenDsrFails<400>, OpenDsrFails<404>, GuardedOpenDsr,
    )
)]
pub async fn create(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Deleting>,
    Json { value: request, bytes }: Json<OpenDsrRequest>,
) -> Result<impl IntoResponse, Problem> {
    let opendsr = configured(&state)?;
    let asked = request.read(&state.reach)?;
    let received_at = state.clock.now();
    let mut deletions = Vec::new();
    for (model, subjects) in opendsr.concerned(&state, &asked.identities).await? {
        let due_within = Duration::from_hours(u64::from(model.policy.due_within_days) * 24);
        deletions.push(NewDeletion {
            id: state.ids.next(received_at),
            model_id: model.id,
            targets: subjects,
            api_key_id: caller.api_key_id,
            approval_above_share: model.policy.approval_above_share,
            received_at,
            due_by: asked.due_by(received_at, due_within),
            idempotency: None,
        });
    }
    let due_by = deletions.iter().map(|deletion| deletion.due_by).max();
    let intake = NewIntake {
        id: asked.id,
        body: state.service_key.fingerprint(&bytes),
        api_key_id: caller.api_key_id,
        received_at,
        due_by: due_by.unwrap_or(received_at),
        deletions,
        callbacks: asked
            .callbacks
            .iter()
            .map(|url| NewCallback { id: state.ids.next(received_at), url: url.clone() })
            .collect(),
    };
    let limit = state.limits.queued_deletions;
    let intake = match state.store.accept_intake(&intake, limit).await? {
        Acceptance::Accepted(intake) | Acceptance::Repeated(intake) => intake,
        Acceptance::KeyReused => {
            return Err(Problem::InvalidSubjectRequest(
                "`subject_request_id` came before with another body".into(),
            ));
        }
        Acceptance::QueueFull => return Err(Problem::QueueFull { limit }),
        Acceptance::QuotaExceeded(excess) => return Err(Problem::QuotaExceeded(excess)),
    };
    let receipt = OpenDsrReceipt::new(&intake, BASE64_STANDARD.encode(&bytes));
    Ok((StatusCode::CREATED, Answer(receipt)))
}

/// Reads where a request stands.
#[utoipa::path(
    get, path = "/opendsr/v2/requests/{id}", tag = "opendsr",
    operation_id = "read_subject_request", security(("bearer" = [])), params(SubjectRequestPath),
    responses(
        (status = 200, description = "Where it stands", body = OpenDsrProgress),
        OpenDsrFails<404>, GuardedOpenDsr,
    )
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Watching>,
    Segments(path): Segments<SubjectRequestPath>,
) -> Result<Answer<OpenDsrProgress>, Problem> {
    let opendsr = configured(&state)?;
    let intake = find(&state, path.id).await?;
    Ok(Answer(OpenDsrProgress::new(&intake, opendsr.processor.domain())))
}

/// Withdraws a request while it is pending.
#[utoipa::path(
    delete, path = "/opendsr/v2/requests/{id}", tag = "opendsr",
    operation_id = "cancel_subject_request", security(("bearer" = [])), params(SubjectRequestPath),
    responses(
        (status = 202, description = "OpenDsrCancellation", body = OpenDsrCancellation),
        OpenDsrFails<400>, OpenDsrFails<404>, GuardedOpenDsr,
    )
)]
pub async fn cancel(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Deleting>,
    Segments(path): Segments<SubjectRequestPath>,
) -> Result<impl IntoResponse, Problem> {
    configured(&state)?;
    let received_at = state.clock.now();
    match state.store.cancel_intake(path.id, received_at).await? {
        IntakeCancellation::Cancelled => {
            let intake = find(&state, path.id).await?;
            Ok((StatusCode::ACCEPTED, Answer(OpenDsrCancellation::new(&intake, received_at))))
        }
        IntakeCancellation::NotPending(status) => Err(Problem::InvalidSubjectRequest(format!(
            "the request is {status}; only pending requests can be cancelled"
        ))),
        IntakeCancellation::NothingOwn => Err(Problem::InvalidSubjectRequest(
            "an earlier request erases the subject, and this one cannot cancel that".into(),
        )),
        IntakeCancellation::Unknown => Err(Problem::NotFound(Resource::SubjectRequest)),
    }
}

fn configured(state: &State) -> Result<&OpenDsr, Problem> {
    state.opendsr.as_deref().ok_or(Problem::OpenDsrOff)
}

async fn find(state: &State, id: Uuid) -> Result<Intake, Problem> {
    let intake = state.store.intake(id).await?;
    intake.ok_or(Problem::NotFound(Resource::SubjectRequest))
}

impl OpenDsr {
    /// The models of which the identities may name subjects, and the subjects that they would be.
    ///
    /// # Errors
    /// When no identity is one that names subjects.
    async fn concerned(
        &self,
        state: &State,
        identities: &[Identity<'_>],
    ) -> Result<Vec<(Model, Vec<Target>)>, Problem> {
        let direct: Vec<_> = self
            .subjects
            .iter()
            .flat_map(|subject| identities.iter().map(move |identity| (subject, identity)))
            .filter(|(subject, it)| subject.identity_type == it.kind && it.format == Format::Raw)
            .collect();
        let aliases = self.aliases_of(state, identities)?;
        if direct.is_empty() && aliases.is_empty() {
            return Err(Problem::InvalidSubjectRequest(
                "no identity is of a supported type and format; /opendsr/v2/discovery lists them"
                    .into(),
            ));
        }
        let (mut concerned, mut after) = (Vec::new(), None);
        loop {
            let models = state.store.models(after, PAGE).await?;
            let Some(last) = models.last() else { return Ok(concerned) };
            after = Some(last.id);
            for model in models {
                let applies = |subject: &SubjectIdentity| {
                    subject.model.as_ref().is_none_or(|name| *name == model.name)
                };
                let named = direct.iter().filter(|(subject, _)| applies(subject));
                let mut subjects: BTreeSet<_> =
                    named.map(|(_, identity)| state.service_key.subject(identity.value)).collect();
                if !aliases.is_empty() {
                    let known = state.store.alias_subjects(model.id, &aliases).await?;
                    subjects.extend(known.into_values().flatten());
                }
                if !subjects.is_empty() {
                    let target = |key| Target { kind: TargetKind::Subject, key };
                    concerned.push((model, subjects.into_iter().map(target).collect()));
                }
            }
        }
    }

    fn aliases_of(
        &self,
        state: &State,
        identities: &[Identity<'_>],
    ) -> Result<Vec<Pseudonym>, Problem> {
        let mut aliases = Vec::new();
        for Identity { kind, value, format } in identities {
            let Some((_, alias)) = self.aliases.iter().find(|(name, _)| name == kind) else {
                continue;
            };
            let (hash, expected) = match format {
                Format::Raw => (alias.digest(value), alias.expected()),
                Format::Sha256 => (sha256(value), "SHA-256 in hexadecimal or base64"),
                Format::Unsupported => continue,
            };
            let hash = hash.ok_or_else(|| {
                Problem::InvalidSubjectRequest(format!("an `identity_value` must be {expected}"))
            })?;
            aliases.push(state.service_key.alias(*alias, &hash));
        }
        Ok(aliases)
    }
}
