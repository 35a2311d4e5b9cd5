//! What an Authorized Agent signs: JSON behind its Ed25519 signature (the combined form of
//! libsodium's `crypto_sign`), in base64. Data Rights Protocol 0.9.4, sections 2.01, 2.04, 2.05 and
//! 3.07.
//!
//! No message says what it was signed for, but each purpose has fields of its own: an exercise has
//! `exercise`, a set-up `drp.version` and nothing else beside the claims, a revocation at most
//! `reason`. Held to that, a message that was signed for one serves no other.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{SIGNATURE_LENGTH, Signature, VerifyingKey};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Iso8601};

use crate::domain::timestamp::Timestamp;

/// Longest id of an agent or a business in bytes.
const ID_MAX: usize = 256;

/// The version of the protocol that an exercise and a set-up are of.
pub const VERSION: &str = "drp.version";

/// Why a request is revoked.
const REASON: &str = "reason";

/// From `issued-at` to `expires-at` at the longest. Section 2.01 recommends ten minutes, and the
/// reference agent takes fifteen; an hour leaves a slow one room, and a stolen message little.
const VALIDITY_MAX: Duration = Duration::from_hours(1);

/// Who the business is, and which agents it trusts.
#[derive(Clone, Debug)]
pub struct Trust {
    business_id: String,
    agents: Vec<Agent>,
}

/// An agent as the service directory of its network has it, and how much of it is let in.
#[derive(Clone, Debug)]
pub struct Agent {
    id: String,
    key: VerifyingKey,
    requests_per_minute: Option<NonZeroU32>,
    samples_per_day: Option<NonZeroU64>,
}

/// What is wrong with an entry of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    #[error("{0:?} must be 1 to 256 bytes without control characters to be an id")]
    Id(String),
    #[error("the agent {0} is there twice")]
    Twice(String),
    #[error("the key of the agent {0} is not Ed25519's 32 bytes in base64")]
    Key(String),
}

/// A message that is what it says: signed by the agent, for this business, now.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What was signed.
    pub bytes: Vec<u8>,
    pub fields: Map<String, Value>,
    pub issued_at: Timestamp,
}

/// A claim that a message is held to, in the order in which section 3.07 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    AgentId,
    BusinessId,
    IssuedAt,
    ExpiresAt,
}

/// Repeats nothing that the message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the body must be a signature of 64 bytes and the message behind it, in base64")]
    Encoding,
    #[error("the signature is not one by the agent's key over the message")]
    Forged,
    #[error("the message must be a JSON object")]
    NoObject,
    #[error("`{}` is missing, or not what it should be", .0.name())]
    Malformed(Claim),
    #[error("{}", .0.contradiction())]
    Untrue(Claim),
    #[error("`expires-at` is more than an hour after `issued-at`: sign messages for minutes")]
    TooLong,
    #[error("it has fields that the specification does not give a message of this kind")]
    Misplaced,
}

impl Trust {
    /// # Errors
    /// When an id cannot be one, or an agent is there twice.
    pub fn new(business_id: &str, agents: Vec<Agent>) -> Result<Self, AgentError> {
        check_id(business_id)?;
        for (position, agent) in agents.iter().enumerate() {
            if agents[..position].iter().any(|earlier| earlier.id == agent.id) {
                return Err(AgentError::Twice(agent.id.clone()));
            }
        }
        Ok(Self { business_id: business_id.to_owned(), agents })
    }

    pub fn agent(&self, id: &str) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.id == id)
    }

    /// What the agent has signed. All of section 3.07 is checked, in its order.
    ///
    /// # Errors
    /// Says what does not hold first.
    pub fn open(
        &self,
        agent: &Agent,
        text: &[u8],
        now: Timestamp,
    ) -> Result<Message, MessageError> {
        let (bytes, fields) = agent.unseal(text)?;
        for claim in Claim::ALL {
            let value = fields.get(claim.name()).ok_or(MessageError::Malformed(claim))?;
            self.check(agent, claim, value, now)?;
        }
        check_validity(&fields)?;
        let issued_at = fields.get(Claim::IssuedAt.name()).and_then(time);
        let issued_at = issued_at.ok_or(MessageError::Malformed(Claim::IssuedAt))?;
        Ok(Message { bytes, fields, issued_at })
    }

    /// What the agent has signed to be given a token.
    ///
    /// # Errors
    /// Says what does not hold first.
    pub fn open_set_up(
        &self,
        agent: &Agent,
        text: &[u8],
        now: Timestamp,
    ) -> Result<Message, MessageError> {
        let message = self.open(agent, text, now)?;
        check_fields(&message.fields, VERSION)?;
        Ok(message)
    }

    /// Checks what the agent has signed to revoke a request. Section 2.04 gives such a message no
    /// claim to be held to; those that it has must hold.
    ///
    /// # Errors
    /// Says what does not hold first.
    pub fn open_revocation(
        &self,
        agent: &Agent,
        text: &[u8],
        now: Timestamp,
    ) -> Result<(), MessageError> {
        let (_, fields) = agent.unseal(text)?;
        for claim in Claim::ALL {
            if let Some(value) = fields.get(claim.name()) {
                self.check(agent, claim, value, now)?;
            }
        }
        check_validity(&fields)?;
        check_fields(&fields, REASON)
    }

    fn check(
        &self,
        agent: &Agent,
        claim: Claim,
        value: &Value,
        now: Timestamp,
    ) -> Result<(), MessageError> {
        let malformed = MessageError::Malformed(claim);
        let text = value.as_str().ok_or(malformed)?;
        let holds = match claim {
            Claim::AgentId => text == agent.id,
            Claim::BusinessId => text == self.business_id,
            Claim::IssuedAt => time(value).ok_or(malformed)? <= now,
            Claim::ExpiresAt => now < time(value).ok_or(malformed)?,
        };
        if holds { Ok(()) } else { Err(MessageError::Untrue(claim)) }
    }
}

impl Agent {
    /// `verify_key` is Ed25519's public key in base64, as libsodium's bindings write it.
    ///
    /// # Errors
    /// When the id cannot be one, or the key is none.
    pub fn new(id: &str, verify_key: &str) -> Result<Self, AgentError> {
        check_id(id)?;
        let bytes = BASE64_STANDARD.decode(verify_key).ok();
        let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
        let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        let key = key.filter(|key| !key.is_weak());
        let key = key.ok_or_else(|| AgentError::Key(id.to_owned()))?;
        Ok(Self { id: id.to_owned(), key, requests_per_minute: None, samples_per_day: None })
    }

    #[must_use]
    pub fn at_most(
        self,
        requests_per_minute: Option<NonZeroU32>,
        samples_per_day: Option<NonZeroU64>,
    ) -> Self {
        Self { requests_per_minute, samples_per_day, ..self }
    }

    pub fn requests_per_minute(&self) -> Option<u32> {
        self.requests_per_minute.map(NonZeroU32::get)
    }

    /// Samples that its requests may name within 24 hours.
    pub fn samples_per_day(&self) -> Option<u64> {
        self.samples_per_day.map(NonZeroU64::get)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The message that is signed by the agent, and the JSON object in it.
    fn unseal(&self, text: &[u8]) -> Result<(Vec<u8>, Map<String, Value>), MessageError> {
        let sealed = BASE64_STANDARD.decode(text.trim_ascii());
        let sealed = sealed.map_err(|_| MessageError::Encoding)?;
        let (signature, message) =
            sealed.split_first_chunk::<SIGNATURE_LENGTH>().ok_or(MessageError::Encoding)?;
        let signature = Signature::from_bytes(signature);
        self.key.verify_strict(message, &signature).map_err(|_| MessageError::Forged)?;
        let fields = serde_json::from_slice(message).map_err(|_| MessageError::NoObject)?;
        Ok((message.to_vec(), fields))
    }
}

impl Claim {
    const ALL: [Self; 4] = [Self::AgentId, Self::BusinessId, Self::IssuedAt, Self::ExpiresAt];

    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentId => "agent-id",
            Self::BusinessId => "business-id",
            Self::IssuedAt => "issued-at",
            Self::ExpiresAt => "expires-at",
        }
    }

    const fn contradiction(self) -> &'static str {
        match self {
            Self::AgentId => "`agent-id` is not the agent whose token and key these are",
            Self::BusinessId => "`business-id` is not this business",
            Self::IssuedAt => "`issued-at` lies in the future: the agent's clock is fast",
            Self::ExpiresAt => "`expires-at` has passed: sign the message anew",
        }
    }
}

fn check_id(id: &str) -> Result<(), AgentError> {
    let fits = (1..=ID_MAX).contains(&id.len()) && !id.contains(char::is_control);
    if fits { Ok(()) } else { Err(AgentError::Id(id.to_owned())) }
}

/// A message that could be repeated for long is refused, where it says from when to when it is good.
fn check_validity(fields: &Map<String, Value>) -> Result<(), MessageError> {
    let time = |claim: Claim| fields.get(claim.name()).and_then(time);
    match (time(Claim::IssuedAt), time(Claim::ExpiresAt)) {
        (Some(from), Some(until)) if until.since(from) > VALIDITY_MAX => Err(MessageError::TooLong),
        _ => Ok(()),
    }
}

/// Beside the claims there may be the one field.
fn check_fields(fields: &Map<String, Value>, other: &str) -> Result<(), MessageError> {
    let is_claim = |name: &str| Claim::ALL.iter().any(|claim| claim.name() == name);
    let fits = fields.keys().all(|name| name == other || is_claim(name));
    if fits { Ok(()) } else { Err(MessageError::Misplaced) }
}

/// ISO 8601 with an offset from UTC; without one it would name no instant.
fn time(value: &Value) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(value.as_str()?, &Iso8601::PARSING).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000).ok().map(Timestamp::from_micros)
}

#[cfg(test)]
mod tests;
