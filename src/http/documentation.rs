//! What the `OpenAPI` document says of the service as a whole and of its errors.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, Modify, OpenApi, PartialSchema as _, ToSchema as _,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Type,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::http::{
    drp::DrpError,
    inference::ErrorBody,
    opendsr::OpenDsrError,
    problem::{MEDIA_TYPE, ProblemDetails},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "forgetd",
        description = "A deletion-request service for machine-learned models: it answers \
                       predictions, forgets the samples of persons on request, and shows what it \
                       did. Errors are RFC 9457 problem details, under /v2 the form of the Open \
                       Inference Protocol, under /opendsr OpenDSR's, under /drp that of the Data \
                       Rights Protocol.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(ProblemDetails, ErrorBody, OpenDsrError, DrpError)),
    modifiers(&Security),
    tags(
        (name = "models", description = "Models, their samples and their versions"),
        (name = "deletion-requests", description = "Requests to forget, from receipt to completion"),
        (name = "audit", description = "What was done, in order"),
        (name = "access", description = "API keys and their limits"),
        (name = "webhooks", description = "Who is told of what happens, by Standard Webhooks"),
        (name = "inference", description = "Open Inference Protocol v2"),
        (name = "opendsr", description = "OpenDSR 2.0, for data controllers; every answer is signed"),
        (name = "drp", description = "Data Rights Protocol 0.9.4, for Authorized Agents"),
        (name = "operations", description = "For those who run the service"),
    )
)]
pub struct Document;

/// Names of the schemes in the operations' `security`.
const BEARER: &str = "bearer";
const AGENT: &str = "agent";

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, description) in [
            (BEARER, "An API key. Its scopes are predict, delete, audit and admin (everything)."),
            (AGENT, "The token that `POST /drp/v1/agent/{agent_id}` gave the agent."),
        ] {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
            let scheme = scheme.description(Some(description)).build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

/// A problem that an operation of /v1 may answer.
pub struct Fails<const STATUS: u16>;

pub type BadRequest = Fails<400>;
pub type NotFound = Fails<404>;
pub type Conflict = Fails<409>;

/// Problems of every operation of /v1: the key, the ledger, ourselves.
pub struct Guarded;

/// Problems of every operation that reads a body.
pub struct WithBody;

/// An error that an operation of OpenDSR may answer.
pub struct OpenDsrFails<const STATUS: u16>;

/// Errors of every operation of OpenDSR that asks for a key.
pub struct GuardedOpenDsr;

/// Errors of every operation of OpenDSR that asks for none.
pub struct PublicOpenDsr;

/// An error that an operation of the Data Rights Protocol may answer.
pub struct DrpFails<const STATUS: u16>;

/// Errors of every operation of the Data Rights Protocol that asks for a token.
pub struct GuardedDrp;

/// Errors of the Data Rights Protocol where a signed message comes in.
pub struct WithMessage;

/// Errors of every operation of /v2 that asks for a key.
pub struct GuardedInference;

/// Errors of /v2 where a model is named.
pub struct NotServed;

/// Errors of /v2 where tensors come in.
pub struct WithTensors;

type Responses = BTreeMap<String, RefOr<Response>>;

impl<const STATUS: u16> IntoResponses for Fails<STATUS> {
    fn responses() -> Responses {
        problems(&[STATUS])
    }
}

impl IntoResponses for Guarded {
    fn responses() -> Responses {
        problems(&[401, 403, 429, 500, 503])
    }
}

impl IntoResponses for WithBody {
    fn responses() -> Responses {
        problems(&[400, 408, 413, 415, 422])
    }
}

impl<const STATUS: u16> IntoResponses for OpenDsrFails<STATUS> {
    fn responses() -> Responses {
        opendsr(&[STATUS])
    }
}

impl IntoResponses for GuardedOpenDsr {
    fn responses() -> Responses {
        opendsr(&[401, 403, 429, 500, 503])
    }
}

impl IntoResponses for PublicOpenDsr {
    fn responses() -> Responses {
        opendsr(&[404, 500, 503])
    }
}

impl<const STATUS: u16> IntoResponses for DrpFails<STATUS> {
    fn responses() -> Responses {
        drp(&[STATUS])
    }
}

impl IntoResponses for GuardedDrp {
    fn responses() -> Responses {
        drp(&[401, 403, 429, 500, 503])
    }
}

impl IntoResponses for WithMessage {
    fn responses() -> Responses {
        drp(&[400, 408, 413, 415])
    }
}

impl IntoResponses for GuardedInference {
    fn responses() -> Responses {
        errors(&[401, 403, 429, 500, 503])
    }
}

impl IntoResponses for NotServed {
    fn responses() -> Responses {
        errors(&[404])
    }
}

impl IntoResponses for WithTensors {
    fn responses() -> Responses {
        errors(&[400, 408, 413, 415])
    }
}

fn problems(statuses: &[u16]) -> Responses {
    responses(statuses, MEDIA_TYPE, &ProblemDetails::name())
}

fn opendsr(statuses: &[u16]) -> Responses {
    responses(statuses, "application/json", &OpenDsrError::name())
}

fn drp(statuses: &[u16]) -> Responses {
    responses(statuses, "application/json", &DrpError::name())
}

fn errors(statuses: &[u16]) -> Responses {
    responses(statuses, "application/json", &ErrorBody::name())
}

fn responses(statuses: &[u16], media_type: &str, schema: &str) -> Responses {
    let response = |status: u16| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let mut response =
            ResponseBuilder::new().description(meaning(status)).content(media_type, content);
        if matches!(status, 429 | 503) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
            let header = HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("Seconds after which to try again"))
                .build();
            response = response.header("Retry-After", header);
        }
        if status == 401 {
            let header = HeaderBuilder::new().schema(Some(String::schema())).build();
            response = response.header("WWW-Authenticate", header);
        }
        RefOr::T(response.build())
    };
    statuses.iter().map(|status| (status.to_string(), response(*status))).collect()
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request cannot be understood",
        401 => "There is no valid API key or token",
        403 => "The API key or token does not cover this",
        404 => "What the path or the body names does not exist",
        408 => "The body did not come in time",
        409 => "It conflicts with the present state",
        413 => "The body is too large",
        415 => "The content type is not supported",
        422 => "The request is understood, but its content cannot be accepted",
        429 => "Too much waits already, or the caller's requests come too fast",
        503 => "Cannot be answered now; nothing was changed",
        _ => "An internal error",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::http::openapi;

    #[test]
    fn every_operation_documents_its_errors_and_has_a_name_of_its_own() {
        let document = serde_json::to_value(openapi()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.contains_key("503"), "{method} {path}");
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} is there twice");
                let guarded = operation.get("security").is_some();
                assert_eq!(guarded, responses.contains_key("401"), "{method} {path}");
            }
        }
        assert!(names.len() > 20);
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn references(value: &serde_json::Value, found: &mut BTreeSet<String>) {
            match value {
                serde_json::Value::Object(fields) => {
                    for (name, value) in fields {
                        match value.as_str() {
                            Some(target) if name == "$ref" => {
                                found.insert(target.to_owned());
                            }
                            _ => references(value, found),
                        }
                    }
                }
                serde_json::Value::Array(values) => {
                    for value in values {
                        references(value, found);
                    }
                }
                _ => {}
            }
        }
        let document = serde_json::to_value(openapi()).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for target in found {
            assert!(document.pointer(&target[1..]).is_some(), "{target}");
        }
    }
}
