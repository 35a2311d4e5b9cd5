//! Aliases: what else a subject is known by, such as an e-mail address, in the form in which others
//! name it by its hash.
//!
//! Standards of California's DROP (technical specifications of the California Privacy Protection
//! Agency, 1.2.0): an identifier is standardised, and hashed with SHA-256 as UTF-8. The ledger keeps
//! neither, but an HMAC over the hash ([`super::identity::ServiceKey::alias`]).

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::identity::Digest;

/// One of DROP's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AliasKind {
    Email,
    Phone,
    /// Mobile advertising id.
    Maid,
    /// Id of a connected television.
    Ctvid,
    /// Hash of the hashes of first name, last name, date of birth and ZIP code.
    Ndz,
    /// Hash of the hashes of first name, last name and vehicle identification number.
    NameVin,
}

#[derive(Debug, thiserror::Error)]
#[error("there are the aliases email, phone, maid, ctvid, ndz and name_vin")]
pub struct AliasKindError;

impl AliasKind {
    pub const ALL: [Self; 6] =
        [Self::Email, Self::Phone, Self::Maid, Self::Ctvid, Self::Ndz, Self::NameVin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Maid => "maid",
            Self::Ctvid => "ctvid",
            Self::Ndz => "ndz",
            Self::NameVin => "name_vin",
        }
    }

    /// What a value must be, for errors.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Email => "an e-mail address",
            Self::Phone => "a phone number",
            Self::Maid => "a mobile advertising id of 32 hexadecimal digits",
            Self::Ctvid => "a connected television's id of 8 to 32 letters and digits",
            Self::Ndz | Self::NameVin => "DROP's hash, 32 bytes in base64",
        }
    }

    /// The hash of a value, standardised before; `None` where it is no such identifier. Composite
    /// ones come as DROP's hash already: standardising names is their sender's.
    pub fn digest(self, value: &str) -> Option<Digest> {
        let kept = |is_kept: fn(char) -> bool| {
            value.chars().filter(|letter| is_kept(*letter)).flat_map(char::to_lowercase).collect()
        };
        let standard: String = match self {
            Self::Email => kept(|letter| !letter.is_whitespace()),
            Self::Phone => {
                let digits: String = kept(|letter| letter.is_ascii_digit());
                digits[digits.len().saturating_sub(10)..].to_owned()
            }
            Self::Maid => kept(|letter| letter.is_ascii_hexdigit()),
            Self::Ctvid => kept(|letter| letter.is_ascii_alphanumeric()),
            Self::Ndz | Self::NameVin => return from_base64(value),
        };
        let fits = match self {
            Self::Email => standard.contains('@'),
            Self::Phone => !standard.is_empty(),
            Self::Maid => standard.len() == 32,
            Self::Ctvid => (8..=32).contains(&standard.len()),
            Self::Ndz | Self::NameVin => true,
        };
        fits.then(|| Digest::of(standard.as_bytes()))
    }
}

/// A hash as DROP's lists have it.
pub fn from_base64(text: &str) -> Option<Digest> {
    let bytes = BASE64_STANDARD.decode(text.trim()).ok()?;
    bytes.try_into().ok().map(Digest::from_bytes)
}

impl fmt::Display for AliasKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AliasKind {
    type Err = AliasKindError;

    fn from_str(text: &str) -> Result<Self, AliasKindError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(AliasKindError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Agency's worked examples.
    #[test]
    fn hashes_are_those_of_the_specification() {
        for (kind, value, hash) in [
            (
                AliasKind::Email,
                "Anna.Smith@Domain.com",
                "KA18MT/ph6IHYjzT9zwETySDQyvSh87YuoSBpOQtkhE=",
            ),
            (
                AliasKind::Email,
                " danielle.johnson12@example.com",
                "mKDnDvwF2inxrKcK1hJN2TRkxPfL6kzNNTtU12eH8Bw=",
            ),
            (AliasKind::Phone, "+1(415)555-9317", "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="),
            (AliasKind::Phone, "+84(90)123 4567", "ptzVkgbv9DonwvPCHmXmJ2SEOaolSh37z3ZzY/Gmm+U="),
            (AliasKind::Phone, "+354(123)4567", "Btrzydf5K6ALAKKXJGFHSx7u5bDzHC9WlVYtpq1n2rY="),
            (AliasKind::Phone, "5551273811", "jr/RAWYVN+ODBf2vRxwBASPwiO4x27OGI1y3IDhcwLo="),
        ] {
            assert_eq!(kind.digest(value), from_base64(hash), "{value}");
            assert!(from_base64(hash).is_some());
        }
    }

    #[test]
    fn what_is_no_such_identifier_has_no_hash() {
        for (kind, value) in [
            (AliasKind::Email, "anna"),
            (AliasKind::Phone, "none"),
            (AliasKind::Maid, "cdda802e-fb9c-47ad-9866-0794d394c91"),
            (AliasKind::Ctvid, "a-b-c"),
            (AliasKind::Ndz, "KA18MT"),
            (AliasKind::NameVin, "anna@example.org"),
        ] {
            assert_eq!(kind.digest(value), None, "{kind} {value}");
        }
        let maid = "CDDA802E-FB9C-47AD-9866-0794D394C912";
        assert_eq!(
            AliasKind::Maid.digest(maid),
            Some(Digest::of(b"cdda802efb9c47ad98660794d394c912"))
        );
        let ndz = "PQOfn1RffEKmqMmNAzDKKaoZCwxWbQZkQzPWmQo9REA=";
        assert_eq!(AliasKind::Ndz.digest(ndz), from_base64(ndz));
        for kind in AliasKind::ALL {
            assert_eq!(kind.as_str().parse::<AliasKind>().unwrap(), kind);
        }
    }
}
