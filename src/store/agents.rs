//! Tokens of Authorized Agents, who bring requests by the Data Rights Protocol.

use subtle::ConstantTimeEq;

use crate::{
    domain::{audit::AuditKind, identity::Digest, timestamp::Timestamp},
    store::{
        Store, StoreError,
        transaction::{reading, writing},
    },
};

#[derive(Clone, Debug)]
pub struct NewAgentToken {
    pub agent_id: String,
    /// Of the token.
    pub hash: Digest,
    /// When the agent signed that it wants one, by its own clock.
    pub asked_at: Timestamp,
    pub issued_at: Timestamp,
}

impl Store {
    /// The agent's token from here on; the one before opens nothing any more. False where the agent
    /// has not asked after it asked last: a message that somebody repeats issues no token.
    pub async fn issue_agent_token(&self, new: &NewAgentToken) -> Result<bool, StoreError> {
        writing!(self, "issue_agent_token", async |tx| {
            let written = tx
                .query(
                    "INSERT INTO agent_tokens (agent_id, hash, asked_at, issued_at)
                     VALUES ($1, $2, $3, $4)
                     ON CONFLICT (agent_id) DO UPDATE SET
                         hash = excluded.hash, asked_at = excluded.asked_at,
                         issued_at = excluded.issued_at
                     WHERE agent_tokens.asked_at < excluded.asked_at",
                )
                .bind(new.agent_id.as_str())
                .digest(&new.hash)
                .time(new.asked_at)
                .time(new.issued_at)
                .execute()
                .await?;
            if written == 0 {
                return Ok(false);
            }
            let details = serde_json::json!({"agent": new.agent_id});
            tx.record(new.issued_at, AuditKind::AgentTokenIssued, None, None, details);
            Ok(true)
        })
    }

    /// The agent whose token has this hash; looked up by index, compared in constant time.
    pub async fn agent_of_token(&self, hash: Digest) -> Result<Option<String>, StoreError> {
        reading!(self, "agent_of_token", async |tx| {
            let sql = "SELECT agent_id, hash FROM agent_tokens WHERE hash = $1";
            let row = tx.query(sql).digest(&hash).fetch_optional().await?;
            let Some(row) = row else { return Ok(None) };
            let is_it = row.digest("hash")?.as_bytes().ct_eq(hash.as_bytes());
            Ok(bool::from(is_it).then_some(row.get("agent_id")?))
        })
    }
}
