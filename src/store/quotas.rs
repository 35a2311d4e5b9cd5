//! How many samples a requester may have deleted within a day.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    domain::timestamp::Timestamp,
    store::{
        NewDeletion, StoreError,
        resolution::Resolved,
        sql::Sql,
        transaction::{Dialect, Tx},
    },
};

const DAY: Duration = Duration::from_hours(24);

/// On `SQLite` the transaction is the only writer already.
const LIMITS: Sql = Sql {
    sqlite: "SELECT id, samples_per_day FROM api_keys
             WHERE id IN (SELECT unhex(value) FROM json_each($1))",
    postgres: "SELECT id, samples_per_day FROM api_keys WHERE id = ANY($1)
               ORDER BY id FOR NO KEY UPDATE",
};

/// The row of an agent stands for its quota; on `SQLite` nothing needs to.
const LOCK_AGENT: &str = "SELECT agent_id FROM agent_tokens WHERE agent_id = $1 FOR NO KEY UPDATE";

/// Whose quota a request counts against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// An API key; its limit is in the ledger.
    ApiKey(Uuid),
    /// An Authorized Agent; its limit is configured.
    Agent { id: String, samples_per_day: Option<u64> },
}

impl Requester {
    pub(super) fn api_key_id(&self) -> Option<Uuid> {
        match self {
            Self::ApiKey(id) => Some(*id),
            Self::Agent { .. } => None,
        }
    }

    fn limited_agent(&self) -> Option<&str> {
        match self {
            Self::Agent { id, samples_per_day: Some(_) } => Some(id),
            Self::Agent { samples_per_day: None, .. } | Self::ApiKey(_) => None,
        }
    }
}

/// How far a request goes beyond its requester's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Samples that it names.
    pub samples: u64,
    /// Samples of the requester's earlier requests within 24 hours.
    pub used: u64,
    pub limit: u64,
    /// When the oldest of those leaves the 24 hours; a day, if there are none.
    pub wait: Duration,
}

/// Of some API keys those that are limited.
#[derive(Default)]
pub(super) struct Quotas(HashMap<Uuid, u64>);

impl Quotas {
    fn limit_of(&self, requester: &Requester) -> Option<u64> {
        match requester {
            Requester::ApiKey(id) => self.0.get(id).copied(),
            Requester::Agent { samples_per_day, .. } => *samples_per_day,
        }
    }

    /// How far a request that names so many samples goes beyond the quota of its requester, after
    /// those of the ledger and those `earlier` ones that are about to be written.
    pub(super) async fn excess(
        &self,
        tx: &mut Tx,
        new: &NewDeletion,
        samples: u64,
        earlier: &[&Resolved<'_>],
    ) -> Result<Option<Excess>, StoreError> {
        let Some(requester) = &new.requester else { return Ok(None) };
        let Some(limit) = self.limit_of(requester) else { return Ok(None) };
        let (mut used, mut oldest) = used_since(tx, requester, new.received_at.minus(DAY)).await?;
        let its_own = earlier.iter().filter(|it| it.new.requester.as_ref() == Some(requester));
        for request in its_own.map(|it| &it.details.request).filter(|it| it.samples > 0) {
            used += request.samples;
            oldest = oldest.or(Some(request.received_at));
        }
        let wait = oldest.unwrap_or(new.received_at).plus(DAY).since(new.received_at);
        Ok((used + samples > limit).then_some(Excess { samples, used, limit, wait }))
    }
}

/// Other requests of those who ask for these wait from here on until the transaction has ended.
pub(super) async fn lock_quotas(
    tx: &mut Tx,
    deletions: &[&NewDeletion],
) -> Result<Quotas, StoreError> {
    let requesters = || deletions.iter().filter_map(|new| new.requester.as_ref());
    let api_keys: BTreeSet<Uuid> = requesters().filter_map(Requester::api_key_id).collect();
    let mut quotas = HashMap::new();
    if !api_keys.is_empty() {
        let api_keys = Vec::from_iter(api_keys);
        for row in tx.query(LIMITS).bind_ids(&api_keys).fetch_all().await? {
            if let Some(limit) = row.count_or_none("samples_per_day")? {
                quotas.insert(row.uuid("id")?, limit);
            }
        }
    }
    if tx.dialect() == Dialect::Postgres {
        let agents: BTreeSet<&str> = requesters().filter_map(Requester::limited_agent).collect();
        for id in agents {
            tx.query(LOCK_AGENT).bind(id).fetch_optional().await?;
        }
    }
    Ok(Quotas(quotas))
}

/// By requests whose samples are counted already, and when the first of them came.
async fn used_since(
    tx: &mut Tx,
    requester: &Requester,
    since: Timestamp,
) -> Result<(u64, Option<Timestamp>), StoreError> {
    let statement = match requester {
        Requester::ApiKey(id) => tx.query(USED_BY_API_KEY).bind(*id),
        Requester::Agent { id, .. } => tx.query(USED_BY_AGENT).bind(id.as_str()),
    };
    let row = statement.time(since).fetch_one().await?;
    Ok((row.count("used")?, row.time_or_none("oldest")?))
}

const USED_BY_API_KEY: &str =
    "SELECT CAST(COALESCE(SUM(samples), 0) AS BIGINT) AS used, MIN(received_at) AS oldest
     FROM deletion_requests
     WHERE api_key_id = $1 AND received_at > $2 AND samples > 0 AND state <> 'cancelled'";

const USED_BY_AGENT: &str =
    "SELECT CAST(COALESCE(SUM(r.samples), 0) AS BIGINT) AS used, MIN(r.received_at) AS oldest
     FROM intakes i
         JOIN intake_deletions d ON d.intake_id = i.id AND d.is_own
         JOIN deletion_requests r ON r.id = d.deletion_id
     WHERE i.agent_id = $1 AND i.received_at > $2 AND r.samples > 0 AND r.state <> 'cancelled'";
