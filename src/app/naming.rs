//! Whom identities name, as a section of the configuration says.

use crate::{
    domain::alias::AliasKind,
    intake::identity::{Naming, SubjectIdentity},
};

use super::config::SubjectConfig;

#[derive(Debug, thiserror::Error)]
pub enum NamingConfigError {
    #[error("`subjects` and `aliases` name no identity")]
    Nobody,
    #[error("`aliases` holds {0:?}, which is no identity that can be an alias")]
    Alias(String),
}

/// `alias_of` says which alias an identity type of the protocol is.
///
/// # Errors
/// When no identity is configured, or one as an alias that is none.
pub(super) fn naming(
    subjects: &[SubjectConfig],
    aliases: &[String],
    alias_of: fn(&str) -> Option<AliasKind>,
) -> Result<Naming, NamingConfigError> {
    if subjects.is_empty() && aliases.is_empty() {
        return Err(NamingConfigError::Nobody);
    }
    let subject = |SubjectConfig { identity_type, model }: &SubjectConfig| SubjectIdentity {
        identity_type: identity_type.clone(),
        model: model.clone(),
    };
    let alias = |identity_type: &String| {
        let kind = alias_of(identity_type);
        let kind = kind.ok_or_else(|| NamingConfigError::Alias(identity_type.clone()))?;
        Ok((identity_type.clone(), kind))
    };
    Ok(Naming {
        subjects: subjects.iter().map(subject).collect(),
        aliases: aliases.iter().map(alias).collect::<Result<_, NamingConfigError>>()?,
    })
}
