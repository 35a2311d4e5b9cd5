//! What a controller posts. What it says of persons is repeated in no error.

use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::timestamp::Timestamp,
    http::{
        problem::Problem,
        targets::{IDENTIFIER_MAX, is_identifier},
    },
    intake::identity::{Format, Identity},
    outbound::Reach,
};

/// Most identities in one request: they are all one person's.
const IDENTITIES_MAX: usize = 100;

const CALLBACKS_MAX: usize = 10;

/// The regulations that OpenDSR knows, and the days that they give from the subject's request on:
/// one month (GDPR, article 12, 3), 45 days (CCPA, section 1798.130, a, 2).
const REGULATIONS: [(&str, u64); 2] = [("gdpr", 30), ("ccpa", 45)];

/// A request of a data subject. Extensions are passed over.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "regulation": "gdpr",
    "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
    "subject_request_type": "erasure",
    "submitted_time": "2026-11-23T18:00:00Z",
    "subject_identities": [{
        "identity_type": "controller_customer_id",
        "identity_value": "writer-017",
        "identity_format": "raw",
    }],
}))]
pub struct OpenDsrRequest {
    #[schema(required, nullable = false, pattern = "^(gdpr|ccpa)$")]
    regulation: Option<String>,
    /// UUID v4 in lower case, the controller's.
    #[schema(
        required,
        nullable = false,
        pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
    )]
    subject_request_id: Option<String>,
    /// `erasure`; `access` and `portability` are refused.
    #[schema(required, nullable = false, pattern = "^erasure$")]
    subject_request_type: Option<String>,
    /// When the data subject asked.
    #[schema(required, nullable = false, format = DateTime)]
    submitted_time: Option<String>,
    #[schema(required, nullable = false, min_items = 1, max_items = 100)]
    subject_identities: Option<Vec<OpenDsrIdentity>>,
    /// 2.0, or another of the same major version.
    #[schema(pattern = "^2(\\.[0-9]+)*$")]
    api_version: Option<String>,
    /// Who is told as the status changes; each lies where the configuration lets callbacks go.
    #[schema(max_items = 10)]
    status_callback_urls: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the specification names them")]
pub struct OpenDsrIdentity {
    #[schema(required, nullable = false, example = "controller_customer_id")]
    identity_type: Option<String>,
    /// 1 to 256 bytes.
    #[schema(required, nullable = false, min_length = 1, max_length = 256)]
    identity_value: Option<String>,
    #[schema(required, nullable = false, pattern = "^(raw|sha1|md5|sha256)$")]
    identity_format: Option<String>,
}

/// A request that can be served.
pub(super) struct Asked<'a> {
    pub id: Uuid,
    pub identities: Vec<Identity<'a>>,
    pub callbacks: &'a [String],
    /// When the regulation has it done at the latest.
    pub latest: Timestamp,
}

impl OpenDsrRequest {
    /// # Errors
    /// Names the field that is missing or not as the specification has it.
    pub(super) fn read(&self, reach: &Reach) -> Result<Asked<'_>, Problem> {
        let regulation = required(self.regulation.as_ref(), "regulation")?;
        let granted = REGULATIONS.iter().find(|(name, _)| name == regulation);
        let (_, days) = granted.ok_or_else(|| invalid("`regulation` must be gdpr or ccpa"))?;
        let id = required(self.subject_request_id.as_ref(), "subject_request_id")?;
        let is_v4 = |id: &Uuid| id.get_version_num() == 4;
        let parsed = id.parse().ok().filter(is_v4).filter(|parsed| parsed.to_string() == *id);
        let id = parsed
            .ok_or_else(|| invalid("`subject_request_id` must be a UUID v4 in lower case"))?;
        match required(self.subject_request_type.as_ref(), "subject_request_type")?.as_str() {
            "erasure" => {}
            "access" | "portability" => {
                return Err(invalid("of `subject_request_type` only erasure is supported"));
            }
            _ => return Err(invalid("`subject_request_type` must be erasure")),
        }
        let submitted = required(self.submitted_time.as_ref(), "submitted_time")?;
        let submitted: Timestamp =
            submitted.parse().map_err(|_| invalid("`submitted_time` must be an RFC 3339 time"))?;
        if self.api_version.as_ref().is_some_and(|version| !is_second(version)) {
            return Err(invalid("`api_version` must be 2.0"));
        }
        let callbacks = self.status_callback_urls.as_deref().unwrap_or_default();
        if callbacks.len() > CALLBACKS_MAX {
            return Err(invalid("`status_callback_urls` must be 10 at most"));
        }
        for url in callbacks {
            // What is wrong with an address may repeat a part of it, and that may name a person.
            reach.check(url).map_err(|_| {
                invalid("each of `status_callback_urls` must be an https: address on the Internet")
            })?;
        }
        let identities = required(self.subject_identities.as_ref(), "subject_identities")?;
        if !(1..=IDENTITIES_MAX).contains(&identities.len()) {
            return Err(invalid("`subject_identities` must be 1 to 100 identities"));
        }
        let identities = identities.iter().map(OpenDsrIdentity::read);
        Ok(Asked {
            id,
            identities: identities.collect::<Result<_, _>>()?,
            callbacks,
            latest: submitted.plus(Duration::from_hours(days * 24)),
        })
    }
}

impl OpenDsrIdentity {
    fn read(&self) -> Result<Identity<'_>, Problem> {
        let kind = required(self.identity_type.as_ref(), "identity_type")?;
        let value = required(self.identity_value.as_ref(), "identity_value")?;
        if !is_identifier(value) {
            return Err(invalid(&format!("`identity_value` must be 1 to {IDENTIFIER_MAX} bytes")));
        }
        let format = match required(self.identity_format.as_ref(), "identity_format")?.as_str() {
            "raw" => Format::Raw,
            "sha256" => Format::Sha256,
            "sha1" | "md5" => Format::Unsupported,
            _ => return Err(invalid("`identity_format` must be raw, sha1, md5 or sha256")),
        };
        Ok(Identity { kind, value, format })
    }
}

fn required<'a, T>(field: Option<&'a T>, name: &str) -> Result<&'a T, Problem> {
    field.ok_or_else(|| invalid(&format!("`{name}` is required")))
}

fn is_second(version: &str) -> bool {
    version.split('.').next() == Some("2")
        && version
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn invalid(detail: &str) -> Problem {
    Problem::InvalidSubjectRequest(detail.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body() -> Value {
        json!({
            "regulation": "gdpr",
            "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-01T00:00:00Z",
            "subject_identities": [{
                "identity_type": "controller_customer_id",
                "identity_value": "alice",
                "identity_format": "raw",
            }],
            "api_version": "2.0",
            "group_id": null,
        })
    }

    fn internet() -> Reach {
        Reach::internet(false, &[], &[])
    }

    fn refusal(field: &str, value: Value) -> String {
        let mut body = body();
        body[field] = value;
        let request: OpenDsrRequest = serde_json::from_value(body).unwrap();
        let Err(problem) = request.read(&internet()) else { panic!("{field} was taken") };
        problem.detail().into_owned()
    }

    #[test]
    fn a_request_as_the_specification_has_it_is_taken() {
        let request: OpenDsrRequest = serde_json::from_value(body()).unwrap();
        let asked = request.read(&internet()).unwrap();
        assert_eq!(asked.identities.len(), 1);
        assert_eq!(asked.latest.to_string(), "2026-12-01T00:00:00Z");
    }

    #[test]
    fn refusals_name_the_field_and_repeat_nothing() {
        for field in [
            "regulation",
            "subject_request_id",
            "subject_request_type",
            "submitted_time",
            "subject_identities",
        ] {
            assert!(refusal(field, Value::Null).contains(field));
        }
        for field in ["regulation", "subject_request_id", "subject_request_type", "submitted_time"]
        {
            let said = refusal(field, json!("alice"));
            assert!(said.contains(field) && !said.contains("alice"), "{said}");
        }
        assert!(refusal("subject_request_type", json!("access")).contains("only erasure"));
        assert!(refusal("api_version", json!("1.0")).contains("api_version"));
        for id in ["A7551968-D5D6-44B2-9831-815AC9017798", "01a20ea0-a52e-7730-b728-0c4395466718"] {
            assert!(refusal("subject_request_id", json!(id)).contains("v4"));
        }
        for (field, value) in [
            ("identity_value", json!("")),
            ("identity_format", json!("x")),
            ("identity_type", json!(null)),
        ] {
            let mut identity = body()["subject_identities"][0].clone();
            identity[field] = value;
            assert!(refusal("subject_identities", json!([identity])).contains(field));
        }
        assert!(refusal("subject_identities", json!([])).contains("1 to 100"));
        for url in ["http://example.org/", "https://10.0.0.1/alice", "alice"] {
            let said = refusal("status_callback_urls", json!([url]));
            assert!(said.contains("https:") && !said.contains("alice"), "{said}");
        }
        let many = vec!["https://example.org/"; 11];
        assert!(refusal("status_callback_urls", json!(many)).contains("10 at most"));
    }
}
