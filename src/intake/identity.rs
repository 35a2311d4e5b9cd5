//! OpenDSR's identities that are aliases of subjects.

use crate::domain::{
    alias::{self, AliasKind},
    identity::Digest,
};

/// The alias that an identity type is; OpenDSR 2.0, section 5.1, lists them.
pub fn alias_of(identity_type: &str) -> Option<AliasKind> {
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

/// SHA-256 as controllers write it: in hexadecimal, or in base64 as DROP does. It is taken to be one of
/// the identifier as DROP standardises it; OpenDSR does not say.
pub fn sha256(text: &str) -> Option<Digest> {
    text.to_ascii_lowercase().parse().ok().or_else(|| alias::from_base64(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_in_both_spellings() {
        let hash = AliasKind::Email.digest("Anna.Smith@Domain.com").unwrap();
        assert_eq!(sha256("KA18MT/ph6IHYjzT9zwETySDQyvSh87YuoSBpOQtkhE="), Some(hash));
        assert_eq!(sha256(&hash.to_string().to_uppercase()), Some(hash));
        assert_eq!(sha256("anna.smith@domain.com"), None);
    }
}
