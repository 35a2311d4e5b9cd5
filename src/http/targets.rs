//! Identifiers of persons and samples in bodies, on their way to being pseudonyms.

use std::collections::HashSet;

use utoipa::openapi::{
    ArrayBuilder, ObjectBuilder, RefOr, Schema,
    schema::{KnownFormat, SchemaFormat, Type},
};
use uuid::Uuid;

use crate::{
    domain::{
        deletion::{Target, TargetKind},
        identity::ServiceKey,
    },
    http::problem::{Problem, Spot},
};

/// Longest identifier in bytes.
pub const IDENTIFIER_MAX: usize = 256;

/// Whether a text can name a person or a sample.
pub fn is_identifier(text: &str) -> bool {
    (1..=IDENTIFIER_MAX).contains(&text.len())
}

/// What a body names, in its order, without repetitions; subjects come first.
///
/// # Errors
/// When nothing is named, more than `limit`, or something that can be no identifier.
pub fn targets<'a>(
    key: &ServiceKey,
    model_id: Uuid,
    subjects: &'a [String],
    samples: &'a [String],
    limit: usize,
) -> Result<Vec<(&'a str, Target)>, Problem> {
    let found = subjects.len() + samples.len();
    if found == 0 {
        return Err(Problem::NoTargets);
    }
    if found > limit {
        return Err(Problem::TooManyTargets { found, limit });
    }
    let subjects = subjects.iter().map(|id| (TargetKind::Subject, id));
    let samples = samples.iter().map(|id| (TargetKind::Sample, id));
    let mut seen = HashSet::with_capacity(found);
    let mut targets = Vec::with_capacity(found);
    for (kind, id) in subjects.chain(samples) {
        if !is_identifier(id) {
            return Err(Problem::InvalidBody {
                detail: format!(
                    "each {} is named by 1 to {IDENTIFIER_MAX} bytes; one has {}",
                    kind.as_str(),
                    id.len()
                ),
                spot: Spot::default(),
            });
        }
        let target = target(key, model_id, kind, id);
        if seen.insert(target) {
            targets.push((id.as_str(), target));
        }
    }
    Ok(targets)
}

pub fn target(key: &ServiceKey, model_id: Uuid, kind: TargetKind, id: &str) -> Target {
    let key = match kind {
        TargetKind::Sample => key.sample(model_id, id),
        TargetKind::Subject => key.subject(id),
    };
    Target { kind, key }
}

/// Schema of one identifier. Its length counts bytes, which JSON Schema cannot say.
pub fn identifier_schema() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(IDENTIFIER_MAX))
        .description(Some("1 to 256 bytes of UTF-8"))
        .into()
}

/// Schema of a list of identifiers in a deletion request.
pub fn identifiers_schema() -> RefOr<Schema> {
    list_schema(super::deletion_requests::TARGETS_MAX)
}

/// Schema of a list of identifiers in a question for lineage.
pub fn traced_schema() -> RefOr<Schema> {
    list_schema(super::lineage::TARGETS_MAX)
}

fn list_schema(limit: usize) -> RefOr<Schema> {
    RefOr::T(Schema::Array(
        ArrayBuilder::new().items(identifier_schema()).max_items(Some(limit)).build(),
    ))
}

/// Schema of a time; an absent one may also be `null`.
pub fn optional_time_schema() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Null]))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(subjects: &[&str], samples: &[&str]) -> Result<usize, Problem> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = ServiceKey::new([1; 32]);
        targets(&key, Uuid::nil(), &own(subjects), &own(samples), 3).map(|targets| targets.len())
    }

    #[test]
    fn requests_name_something_but_not_too_much() {
        assert_eq!(names(&["a"], &["a"]).unwrap(), 2);
        assert_eq!(names(&["a", "a", "b"], &[]).unwrap(), 2, "repetitions count once");
        assert!(matches!(names(&[], &[]), Err(Problem::NoTargets)));
        let many = names(&["a", "b"], &["c", "d"]);
        assert!(matches!(many, Err(Problem::TooManyTargets { found: 4, limit: 3 })));
    }

    #[test]
    fn identifiers_have_a_length() {
        assert!(names(&[&"x".repeat(256)], &[]).is_ok());
        for odd in [String::new(), "x".repeat(257), "é".repeat(129)] {
            let refused = names(&[], &[&odd]).unwrap_err();
            assert!(matches!(refused, Problem::InvalidBody { .. }));
        }
    }
}
