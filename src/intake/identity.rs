//! Whom the identities of a request name: subjects by their ids, or by their aliases.

use crate::domain::{
    alias::{self, AliasKind},
    identity::Digest,
    model::ModelName,
};

/// Which identities name subjects, as the configuration says.
#[derive(Clone, Debug)]
pub struct Naming {
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

/// One thing that a request says of the person whom it is about.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub kind: &'a str,
    pub value: &'a str,
    pub format: Format,
}

/// How a value is written, as far as we read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    Sha256,
    Unsupported,
}

/// Whom identities name.
#[derive(Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// Ids of subjects, each of one model or of every one.
    pub subjects: Vec<(Option<&'a ModelName>, &'a str)>,
    /// Hashes of aliases.
    pub aliases: Vec<(AliasKind, Digest)>,
}

/// Repeats nothing that an identity says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    #[error("no identity is of a type and format that names subjects")]
    Nobody,
    #[error("an identity is not {expected}")]
    Value { expected: &'static str },
}

impl Naming {
    /// The types of identities that may name somebody.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        let subjects = self.subjects.iter().map(|subject| subject.identity_type.as_str());
        subjects.chain(self.aliases.iter().map(|(name, _)| name.as_str()))
    }

    /// # Errors
    /// When no identity is one that names subjects, or the value of one is no such identifier.
    pub fn named<'a>(&'a self, identities: &[Identity<'a>]) -> Result<Named<'a>, NamingError> {
        let mut named = Named { subjects: Vec::new(), aliases: Vec::new() };
        for identity in identities {
            let subjects = self.subjects.iter().filter(|it| it.identity_type == identity.kind);
            if identity.format == Format::Raw {
                named.subjects.extend(subjects.map(|it| (it.model.as_ref(), identity.value)));
            }
            if let Some((_, kind)) = self.aliases.iter().find(|(name, _)| name == identity.kind) {
                named.aliases.extend(identity.hash(*kind)?.map(|hash| (*kind, hash)));
            }
        }
        if named.subjects.is_empty() && named.aliases.is_empty() {
            return Err(NamingError::Nobody);
        }
        Ok(named)
    }
}

impl Identity<'_> {
    /// The hash of an alias of this kind; `None` where it is written in a way that is not read.
    fn hash(&self, kind: AliasKind) -> Result<Option<Digest>, NamingError> {
        let (hash, expected) = match self.format {
            Format::Raw => (kind.digest(self.value), kind.expected()),
            Format::Sha256 => (sha256(self.value), "SHA-256 in hexadecimal or base64"),
            Format::Unsupported => return Ok(None),
        };
        hash.map(Some).ok_or(NamingError::Value { expected })
    }
}

/// The alias that an identity type of OpenDSR is; 2.0, section 5.1, lists them.
pub fn opendsr_alias(identity_type: &str) -> Option<AliasKind> {
    Some(match identity_type {
        "email" => AliasKind::Email,
        "android_advertising_id"
        | "fire_advertising_id"
        | "ios_advertising_id"
        | "microsoft_advertising_id" => AliasKind::Maid,
        "roku_advertising_id" => AliasKind::Ctvid,
        _ => return None,
    })
}

/// The alias that a claim of the Data Rights Protocol is; 0.9.4, section 3.04, lists them.
pub fn drp_alias(claim: &str) -> Option<AliasKind> {
    match claim {
        "email" => Some(AliasKind::Email),
        "phone_number" => Some(AliasKind::Phone),
        _ => None,
    }
}

/// SHA-256 as controllers write it: in hexadecimal, or in base64 as DROP does. It is taken to be one
/// of the identifier as DROP standardises it; OpenDSR does not say.
fn sha256(text: &str) -> Option<Digest> {
    text.to_ascii_lowercase().parse().ok().or_else(|| alias::from_base64(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming() -> Naming {
        let subject = |identity_type: &str, model: Option<&str>| SubjectIdentity {
            identity_type: identity_type.into(),
            model: model.map(|name| name.parse().unwrap()),
        };
        Naming {
            subjects: vec![subject("customer", None), subject("user", Some("app"))],
            aliases: vec![("email".into(), AliasKind::Email)],
        }
    }

    fn identity<'a>(kind: &'a str, value: &'a str, format: Format) -> Identity<'a> {
        Identity { kind, value, format }
    }

    #[test]
    fn identities_name_subjects_by_their_ids_and_by_their_aliases() {
        let naming = naming();
        let hash = AliasKind::Email.digest("anna@example.org").unwrap();
        let hexadecimal = hash.to_string();
        let named = naming.named(&[
            identity("customer", "17", Format::Raw),
            identity("user", "anna", Format::Raw),
            identity("email", " Anna@example.org", Format::Raw),
            identity("email", &hexadecimal, Format::Sha256),
            identity("email", "anna", Format::Unsupported),
            identity("fax", "none", Format::Raw),
        ]);
        let app = "app".parse().unwrap();
        let expected = Named {
            subjects: vec![(None, "17"), (Some(&app), "anna")],
            aliases: vec![(AliasKind::Email, hash); 2],
        };
        assert_eq!(named, Ok(expected));
    }

    #[test]
    fn who_names_nobody_or_no_identifier_is_told_so() {
        let naming = naming();
        for nobody in [
            identity("fax", "1", Format::Raw),
            identity("customer", "1", Format::Sha256),
            identity("email", "1", Format::Unsupported),
        ] {
            assert_eq!(naming.named(&[nobody]), Err(NamingError::Nobody), "{nobody:?}");
        }
        assert_eq!(naming.named(&[]), Err(NamingError::Nobody));
        for format in [Format::Raw, Format::Sha256] {
            let error = naming.named(&[identity("email", "anna", format)]).unwrap_err();
            assert!(matches!(error, NamingError::Value { .. }));
            assert!(!error.to_string().contains("anna"));
        }
    }

    #[test]
    fn hashes_are_read_in_both_spellings() {
        let hash = AliasKind::Email.digest("Anna.Smith@Domain.com").unwrap();
        assert_eq!(sha256("KA18MT/ph6IHYjzT9zwETySDQyvSh87YuoSBpOQtkhE="), Some(hash));
        assert_eq!(sha256(&hash.to_string().to_uppercase()), Some(hash));
        assert_eq!(sha256("anna.smith@domain.com"), None);
    }
}
