//! What an agent asks for, out of what it has signed. What it says of persons is repeated in no
//! error.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{
    domain::{audit::canonical, timestamp::Timestamp},
    http::{
        problem::Problem,
        targets::{IDENTIFIER_MAX, is_identifier},
    },
    intake::{
        drp::{Claim, Message, VERSION},
        identity::{Format, Identity, Naming},
    },
    outbound::Reach,
};

/// Versions that are the same but for their name.
const VERSIONS: [&str; 2] = ["0.9.4", "1.0"];

/// Rights that the specification knows besides.
const OTHER_RIGHTS: [&str; 5] =
    ["access", "access:categories", "access:specific", "sale:opt-in", "sale:opt-out"];

/// What the CCPA gives a business (Civil Code, section 1798.130, a, 2).
const DUE_WITHIN: Duration = Duration::from_hours(45 * 24);

/// A deletion that can be served.
#[derive(Debug)]
pub(super) struct Exercise<'a> {
    pub agent_request_id: Option<&'a str>,
    pub callback: Option<&'a str>,
    /// The claims that may name somebody; not those that the agent has not verified.
    pub identities: Vec<Identity<'a>>,
}

impl<'a> Exercise<'a> {
    /// # Errors
    /// Names the field that is missing, not as the specification has it, or not supported.
    pub(super) fn read(
        fields: &'a Map<String, Value>,
        naming: &Naming,
        reach: &Reach,
    ) -> Result<Self, Problem> {
        check_version(fields)?;
        match text(fields, "exercise")? {
            Some("deletion") => {}
            Some(other) if OTHER_RIGHTS.contains(&other) => {
                return Err(invalid("of the rights only `deletion` can be exercised here"));
            }
            _ => return Err(invalid("`exercise` must be `deletion`")),
        }
        if text(fields, "regime")?.is_some_and(|regime| regime != "ccpa") {
            return Err(invalid("`regime` must be `ccpa`, or absent for a voluntary deletion"));
        }
        let agent_request_id = text(fields, "agent-request-id")?;
        let is_kept = |id: &str| is_identifier(id) && !id.contains(char::is_control);
        if agent_request_id.is_some_and(|id| !is_kept(id)) {
            return Err(invalid(&format!(
                "`agent-request-id` must be 1 to {IDENTIFIER_MAX} bytes without control characters"
            )));
        }
        let callback = text(fields, "status_callback")?;
        if let Some(url) = callback {
            // What is wrong with an address may repeat a part of it, and that may name a person.
            reach.check(url).map_err(|_| {
                invalid("`status_callback` must be an https: address on the Internet")
            })?;
        }
        let mut identities = Vec::new();
        for name in fields.keys().filter(|name| naming.kinds().any(|kind| kind == *name)) {
            let Some(value) = text(fields, name)? else { continue };
            if !is_identifier(value) {
                return Err(invalid(&format!("`{name}` must be 1 to {IDENTIFIER_MAX} bytes")));
            }
            if is_verified(fields, name) {
                identities.push(Identity { kind: name, value, format: Format::Raw });
            }
        }
        Ok(Self { agent_request_id, callback, identities })
    }

    /// What tells this request of the agent from its others: its own id for it, or else the very
    /// message.
    pub(super) fn key(&self, message: &Message) -> Vec<u8> {
        match self.agent_request_id {
            Some(id) => [b"id\0".as_slice(), id.as_bytes()].concat(),
            None => [b"message\0".as_slice(), &message.bytes].concat(),
        }
    }
}

/// What is asked for, whenever it was signed.
pub(super) fn content(fields: &Map<String, Value>) -> String {
    let mut content = fields.clone();
    for name in [Claim::IssuedAt.name(), Claim::ExpiresAt.name(), VERSION] {
        content.remove(name);
    }
    canonical(&Value::Object(content))
}

/// # Errors
/// When the message is of another version of the protocol.
pub(super) fn check_version(fields: &Map<String, Value>) -> Result<(), Problem> {
    match text(fields, VERSION)? {
        Some(version) if VERSIONS.contains(&version) => Ok(()),
        _ => Err(invalid(&format!("`{VERSION}` must be {}", VERSIONS.join(" or ")))),
    }
}

/// When the law has a request of now done at the latest.
pub(super) fn latest(received_at: Timestamp) -> Timestamp {
    received_at.plus(DUE_WITHIN)
}

/// Where the specification has a flag for it (section 3.04), the agent must have verified a claim:
/// what anybody may say of himself deletes nobody.
fn is_verified(fields: &Map<String, Value>, claim: &str) -> bool {
    let flag = match claim {
        "email" => "email_verified",
        "phone_number" => "phone_number_verified",
        _ => return true,
    };
    fields.get(flag) == Some(&Value::Bool(true))
}

/// A field that may be left out, or null.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Problem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(&format!("`{name}` must be a string"))),
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::InvalidRightsRequest(detail.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{domain::alias::AliasKind, intake::identity::SubjectIdentity};

    fn naming() -> Naming {
        let subject = SubjectIdentity { identity_type: "customer".into(), model: None };
        Naming {
            subjects: vec![subject],
            aliases: vec![
                ("email".into(), AliasKind::Email),
                ("phone_number".into(), AliasKind::Phone),
            ],
        }
    }

    fn fields() -> Value {
        json!({
            "drp.version": "0.9.4",
            "exercise": "deletion",
            "regime": "ccpa",
            "relationships": ["customer"],
            "agent-request-id": "case-17",
            "status_callback": "https://agent.example.org/status",
            "name": "Alice",
            "email": "alice@example.org",
            "email_verified": true,
            "phone_number": "+14155559317",
            "phone_number_verified": false,
            "customer": "17",
        })
    }

    fn read(fields: &Value) -> Result<Vec<(String, String)>, String> {
        let reach = Reach::internet(false, &[], &[]);
        match Exercise::read(fields.as_object().unwrap(), &naming(), &reach) {
            Ok(exercise) => {
                let own = |it: &Identity<'_>| (it.kind.to_owned(), it.value.to_owned());
                Ok(exercise.identities.iter().map(own).collect())
            }
            Err(problem) => Err(problem.detail().into_owned()),
        }
    }

    fn with(name: &str, value: Value) -> Result<Vec<(String, String)>, String> {
        let mut fields = fields();
        fields[name] = value;
        read(&fields)
    }

    #[test]
    fn only_claims_that_are_verified_name_somebody() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let email = pair("email", "alice@example.org");
        let mut found = read(&fields()).unwrap();
        found.sort();
        assert_eq!(found, [pair("customer", "17"), email.clone()]);
        let found = with("phone_number_verified", json!(true)).unwrap();
        assert!(found.contains(&pair("phone_number", "+14155559317")));
        for flag in [json!(false), json!(null), json!("true"), json!(1)] {
            assert!(!with("email_verified", flag).unwrap().contains(&email));
        }
        for optional in ["regime", "agent-request-id", "status_callback", "customer", "email"] {
            assert!(with(optional, json!(null)).is_ok(), "{optional}");
        }
        assert!(with("drp.version", json!("1.0")).is_ok());
    }

    #[test]
    fn refusals_name_the_field_and_repeat_nothing() {
        for right in OTHER_RIGHTS {
            assert!(with("exercise", json!(right)).unwrap_err().contains("only `deletion`"));
        }
        let long = "x".repeat(257);
        for (name, value) in [
            ("exercise", json!("alice")),
            ("exercise", json!(null)),
            ("regime", json!("alice")),
            ("drp.version", json!("alice")),
            ("drp.version", json!(null)),
            ("drp.version", json!(1)),
            ("agent-request-id", json!("")),
            ("agent-request-id", json!("a\0b")),
            ("agent-request-id", json!(17)),
            ("status_callback", json!("http://agent.example.org/alice")),
            ("status_callback", json!("https://10.0.0.1/alice")),
            ("email", json!(["alice"])),
            ("email", json!(long)),
            ("customer", json!(17)),
        ] {
            let said = with(name, value).unwrap_err();
            assert!(said.contains(name) && !said.contains("alice"), "{said}");
        }
    }

    #[test]
    fn a_request_is_known_by_the_agents_id_for_it_or_else_by_its_message() {
        let reach = Reach::internet(false, &[], &[]);
        let (value, naming) = (fields(), naming());
        let fields = value.as_object().unwrap();
        let message = |bytes: &[u8]| Message {
            bytes: bytes.to_vec(),
            fields: fields.clone(),
            issued_at: Timestamp::from_micros(0),
        };
        let exercise = Exercise::read(fields, &naming, &reach).unwrap();
        assert_eq!(exercise.key(&message(b"a")), exercise.key(&message(b"b")));
        let nameless = Exercise { agent_request_id: None, ..exercise };
        assert_ne!(nameless.key(&message(b"a")), nameless.key(&message(b"b")));
        let mut later = fields.clone();
        later.insert("issued-at".into(), json!("2026-11-26T12:00:00Z"));
        assert_eq!(content(fields), content(&later));
        later.insert("email".into(), json!("bob@example.org"));
        assert_ne!(content(fields), content(&later));
    }
}
