use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::json;

use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn agent(id: &str, seed: u8) -> Agent {
    Agent::new(id, &BASE64_STANDARD.encode(key(seed).verifying_key().as_bytes())).unwrap()
}

fn trust() -> Trust {
    Trust::new("THE_BUSINESS", vec![agent("FIRST", 1), agent("SECOND", 2)]).unwrap()
}

fn now() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn fields() -> Value {
    json!({
        "agent-id": "FIRST",
        "business-id": "THE_BUSINESS",
        "issued-at": "2026-11-26T11:59:00.250+00:00",
        "expires-at": "2026-11-26T12:14:00Z",
        "exercise": "deletion",
    })
}

fn sealed(message: &[u8], seed: u8) -> String {
    let signature = key(seed).sign(message).to_bytes();
    BASE64_STANDARD.encode([signature.as_slice(), message].concat())
}

fn opened(fields: &Value, seed: u8) -> Result<Message, MessageError> {
    let trust = trust();
    let text = sealed(fields.to_string().as_bytes(), seed);
    trust.open(trust.agent("FIRST").unwrap(), text.as_bytes(), now())
}

#[test]
fn a_message_of_the_agent_for_this_business_is_opened() {
    let message = opened(&fields(), 1).unwrap();
    assert_eq!(Value::Object(message.fields), fields());
    assert_eq!(message.bytes, fields().to_string().as_bytes());
    assert_eq!(message.issued_at, "2026-11-26T11:59:00.25Z".parse().unwrap());
    // As a file's last line it is the same.
    let text = sealed(fields().to_string().as_bytes(), 1) + "\r\n";
    let trust = trust();
    assert!(trust.open(&trust.agents[0], text.as_bytes(), now()).is_ok());
}

/// RFC 8032, section 7.1, TEST 2: what libsodium's `crypto_sign` makes of the byte 0x72 is the
/// signature with that byte behind it.
#[test]
fn the_signature_stands_before_what_it_signs() {
    let key = "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=";
    let signed = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                  085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c0072";
    let text = BASE64_STANDARD.encode(hex::decode(signed).unwrap());
    let agent = Agent::new("RFC", key).unwrap();
    // It verifies, and is then no JSON.
    assert_eq!(agent.unseal(text.as_bytes()), Err(MessageError::NoObject));
    let other = text.replace("AHI=", "AHM=");
    assert_ne!(other, text);
    assert_eq!(agent.unseal(other.as_bytes()), Err(MessageError::Forged));
}

#[test]
fn what_another_has_signed_or_changed_is_forged() {
    assert_eq!(opened(&fields(), 2), Err(MessageError::Forged));
    let trust = trust();
    let text = sealed(fields().to_string().as_bytes(), 1);
    let mut bytes = BASE64_STANDARD.decode(&text).unwrap();
    for position in [0, 63, 64, bytes.len() - 1] {
        bytes[position] ^= 1;
        let text = BASE64_STANDARD.encode(&bytes);
        let changed = trust.open(&trust.agents[0], text.as_bytes(), now());
        assert_eq!(changed, Err(MessageError::Forged), "byte {position}");
        bytes[position] ^= 1;
    }
    for text in ["", "AAAA", "no base64 at all", &text[..80], &fields().to_string()] {
        let broken = trust.open(&trust.agents[0], text.as_bytes(), now());
        assert_eq!(broken, Err(MessageError::Encoding), "{text}");
    }
    for message in ["", "[]", "7", "{"] {
        let text = sealed(message.as_bytes(), 1);
        let odd = trust.open(&trust.agents[0], text.as_bytes(), now());
        assert_eq!(odd, Err(MessageError::NoObject), "{message}");
    }
}

#[test]
fn each_claim_is_held_to() {
    for (claim, untrue) in [
        (Claim::AgentId, "SECOND"),
        (Claim::BusinessId, "ANOTHER_BUSINESS"),
        (Claim::IssuedAt, "2026-11-26T12:00:00.000001Z"),
        (Claim::ExpiresAt, "2026-11-26T12:00:00Z"),
        (Claim::ExpiresAt, "2026-11-26T14:00:00+03:00"),
    ] {
        let mut fields = fields();
        fields[claim.name()] = json!(untrue);
        assert_eq!(opened(&fields, 1), Err(MessageError::Untrue(claim)), "{untrue}");
        for odd in [json!(null), json!(7)] {
            fields[claim.name()] = odd;
            assert_eq!(opened(&fields, 1), Err(MessageError::Malformed(claim)));
        }
        fields.as_object_mut().unwrap().remove(claim.name());
        assert_eq!(opened(&fields, 1), Err(MessageError::Malformed(claim)));
    }
    for text in ["2026-11-26T11:59:00", "now", "1764158340", ""] {
        let mut fields = fields();
        fields["issued-at"] = json!(text);
        assert_eq!(opened(&fields, 1), Err(MessageError::Malformed(Claim::IssuedAt)), "{text}");
    }
}

#[test]
fn a_revocation_needs_no_claims_but_those_it_has_must_hold() {
    let trust = trust();
    let opened = |fields: &Value, seed: u8| {
        let text = sealed(fields.to_string().as_bytes(), seed);
        trust.open_revocation(&trust.agents[0], text.as_bytes(), now())
    };
    assert_eq!(opened(&json!({"reason": "I want to stay"}), 1), Ok(()));
    assert_eq!(opened(&json!({}), 1), Ok(()));
    assert_eq!(opened(&json!({}), 2), Err(MessageError::Forged));
    let late = json!({"expires-at": "2026-11-26T11:00:00Z"});
    assert_eq!(opened(&late, 1), Err(MessageError::Untrue(Claim::ExpiresAt)));
    let other = json!({"business-id": "ANOTHER_BUSINESS"});
    assert_eq!(opened(&other, 1), Err(MessageError::Untrue(Claim::BusinessId)));
}

#[test]
fn a_message_is_good_for_what_it_was_signed_for_only() {
    let trust = trust();
    let mut set_up = fields();
    set_up.as_object_mut().unwrap().remove("exercise");
    set_up[VERSION] = json!("0.9.4");
    let with = |field: &str, value: &str| {
        let mut fields = set_up.clone();
        fields[field] = json!(value);
        sealed(fields.to_string().as_bytes(), 1)
    };
    let sets_up = |text: &str| trust.open_set_up(&trust.agents[0], text.as_bytes(), now());
    let revokes = |text: &str| trust.open_revocation(&trust.agents[0], text.as_bytes(), now());
    assert!(sets_up(&with(VERSION, "0.9.4")).is_ok());
    assert_eq!(revokes(&with(VERSION, "0.9.4")), Err(MessageError::Misplaced), "a set-up");
    for (field, value) in [("exercise", "deletion"), ("email", "a@example.org"), ("jti", "17")] {
        assert_eq!(sets_up(&with(field, value)), Err(MessageError::Misplaced), "{field}");
        assert_eq!(revokes(&with(field, value)), Err(MessageError::Misplaced), "{field}");
    }
    let mut revocation = set_up.clone();
    revocation.as_object_mut().unwrap().remove(VERSION);
    revocation["reason"] = json!("I want to stay");
    let revocation = sealed(revocation.to_string().as_bytes(), 1);
    assert_eq!(revokes(&revocation), Ok(()));
    assert_eq!(sets_up(&revocation), Err(MessageError::Misplaced), "a revocation");
}

#[test]
fn a_message_is_good_for_an_hour_at_most() {
    let mut fields = fields();
    fields["expires-at"] = json!("2026-11-26T12:59:00.250Z");
    assert!(opened(&fields, 1).is_ok());
    fields["expires-at"] = json!("2026-11-26T12:59:00.251Z");
    assert_eq!(opened(&fields, 1), Err(MessageError::TooLong));
    fields.as_object_mut().unwrap().remove("exercise");
    let (trust, text) = (trust(), sealed(fields.to_string().as_bytes(), 1));
    let revoked = trust.open_revocation(&trust.agents[0], text.as_bytes(), now());
    assert_eq!(revoked, Err(MessageError::TooLong));
}

#[test]
fn agents_have_ids_and_keys_of_their_own() {
    let first = BASE64_STANDARD.encode(key(1).verifying_key().as_bytes());
    for odd in ["", "AAAA", &first[1..], "not base64"] {
        assert!(matches!(Agent::new("A", odd), Err(AgentError::Key(_))), "{odd}");
    }
    // The neutral element signs for everybody.
    let mut weak = [0; 32];
    weak[0] = 1;
    assert!(matches!(Agent::new("A", &BASE64_STANDARD.encode(weak)), Err(AgentError::Key(_))));
    for id in ["", "a\nb", &"x".repeat(257)] {
        assert!(matches!(Agent::new(id, &first), Err(AgentError::Id(_))), "{id}");
        assert!(matches!(Trust::new(id, Vec::new()), Err(AgentError::Id(_))), "{id}");
    }
    let twice = Trust::new("B", vec![agent("A", 1), agent("A", 2)]);
    assert!(matches!(twice, Err(AgentError::Twice(_))));
    assert!(trust().agent("THIRD").is_none());
}
