//! Intakes: one request of another protocol, served by a deletion request for each model.

use uuid::Uuid;

use crate::{
    domain::{
        deletion::{DeletionRequest, DeletionState},
        identity::Digest,
        model::ModelName,
        timestamp::Timestamp,
    },
    intake::{
        drp::{DrpStatus, ExerciseStatus},
        standing::{OpenDsrStatus, Standing},
    },
    store::{
        Acceptance, NewDeletion, Store, StoreError,
        acceptance::{count_open, enter, lock},
        callbacks::begin_telling,
        deletions::{DeletionDetails, is_needed_by_another, read_details, withdraw},
        row::Row,
        transaction::{Tx, reading, writing},
    },
};

#[derive(Clone, Debug)]
pub struct NewIntake {
    /// The caller's, and unique.
    pub id: Uuid,
    /// HMAC of the request's body.
    pub body: Digest,
    pub origin: Origin,
    pub received_at: Timestamp,
    pub due_by: Timestamp,
    /// One for each model at most.
    pub deletions: Vec<NewDeletion>,
    /// Who is told as its status changes.
    pub callbacks: Vec<NewCallback>,
}

/// Who brought an intake, and by which protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A controller, by OpenDSR.
    Controller {
        /// Absent where the service runs without keys.
        api_key_id: Option<Uuid>,
    },
    /// An Authorized Agent, by the Data Rights Protocol.
    Agent {
        agent_id: String,
        /// What the agent itself calls the request.
        request_id: Option<String>,
    },
}

#[derive(Clone, Debug)]
pub struct NewCallback {
    /// `UUIDv7`.
    pub id: Uuid,
    pub url: String,
}

/// A request of another protocol as it stands now.
#[derive(Clone, Debug, PartialEq)]
pub struct Intake {
    pub id: Uuid,
    pub origin: Origin,
    pub received_at: Timestamp,
    pub due_by: Timestamp,
    pub cancelled_at: Option<Timestamp>,
    pub requests: Vec<IntakeRequest>,
}

/// A deletion request that an intake depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct IntakeRequest {
    pub request: DeletionRequest,
    pub model: ModelName,
    pub standing: Standing,
    /// Made for the intake; otherwise an earlier one that was deleting its subjects already.
    pub is_own: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntakeCancellation {
    Cancelled,
    NotPending(OpenDsrStatus),
    /// Others delete its subjects; there is no request of its own to withdraw, or none that no other
    /// counts on.
    NothingOwn,
    Unknown,
}

impl Intake {
    pub fn status(&self) -> OpenDsrStatus {
        match self.cancelled_at {
            Some(_) => OpenDsrStatus::Cancelled,
            None => OpenDsrStatus::of_all(self.requests.iter().map(|it| it.standing)),
        }
    }

    /// As an agent is told of it. An earlier request that was withdrawn is nothing that the person
    /// has revoked.
    pub fn exercise_status(&self) -> ExerciseStatus {
        let standings = self.requests.iter().map(|it| match it.standing {
            Standing::Cancelled if !it.is_own => Standing::Failed,
            standing => standing,
        });
        let status = match self.cancelled_at {
            Some(_) => DrpStatus::Revoked,
            None => DrpStatus::of_all(standings),
        };
        let agent_request_id = match &self.origin {
            Origin::Controller { .. } => None,
            Origin::Agent { request_id, .. } => request_id.clone(),
        };
        let extension = self.own().find_map(|it| it.request.extension_reason);
        let times = (self.received_at, self.due_by);
        ExerciseStatus::new((self.id, agent_request_id), status, times, extension)
    }

    /// The id of a controller's API key; nil where the service runs without keys.
    pub fn controller_id(&self) -> Uuid {
        match self.origin {
            Origin::Controller { api_key_id } => api_key_id.unwrap_or(Uuid::nil()),
            Origin::Agent { .. } => Uuid::nil(),
        }
    }

    /// Samples that the requests of its own delete.
    pub fn samples(&self) -> u64 {
        self.own().map(|it| it.request.samples).sum()
    }

    /// The requests that were made for it.
    pub fn own(&self) -> impl Iterator<Item = &IntakeRequest> {
        self.requests.iter().filter(|it| it.is_own)
    }
}

impl Store {
    /// Durable when it returns: all of its deletion requests, each as `accept_deletion` takes it, or
    /// none. The same id with the same body is the same intake.
    pub async fn accept_intake(
        &self,
        new: &NewIntake,
        queue_limit: u64,
    ) -> Result<Acceptance<Intake>, StoreError> {
        let keyring = self.keyring();
        let deletions: Vec<_> = new.deletions.iter().collect();
        writing!(self, "accept_intake", async |tx| {
            if let Some(earlier) = find_earlier(tx, new).await? {
                return Ok(earlier);
            }
            let open = count_open(tx, queue_limit).await?;
            if open.saturating_add(deletions.len() as u64) > queue_limit {
                return Ok(Acceptance::QueueFull);
            }
            if !insert_intake(tx, new).await? {
                // Another transaction took the id meanwhile, and has committed.
                let earlier = find_earlier(tx, new).await?;
                return earlier.ok_or_else(|| tx.damaged("an intake that vanished"));
            }
            let quotas = lock(tx, &deletions).await?;
            for entered in enter(tx, &deletions, &quotas).await? {
                if let Err(excess) = entered {
                    tx.abandon();
                    return Ok(Acceptance::QuotaExceeded(excess));
                }
            }
            for deletion in &deletions {
                let sql = "INSERT INTO intake_deletions (intake_id, deletion_id, is_own)
                           VALUES ($1, $2, true)";
                tx.query(sql).bind(new.id).bind(deletion.id).execute_one().await?;
                follow_earlier(tx, deletion.id).await?;
            }
            let intake = read_intake(tx, new.id).await?;
            let intake = intake.ok_or_else(|| tx.damaged("no intake where one was written"))?;
            begin_telling(tx, keyring, &intake, &new.callbacks).await?;
            Ok(Acceptance::Accepted(intake))
        })
    }

    pub async fn intake(&self, id: Uuid) -> Result<Option<Intake>, StoreError> {
        reading!(self, "intake", async |tx| read_intake(tx, id).await)
    }

    /// Withdraws a pending intake: every deletion request of its own that may still be cancelled.
    pub async fn cancel_intake(
        &self,
        id: Uuid,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<IntakeCancellation, StoreError> {
        writing!(self, "cancel_intake", async |tx| {
            let models = tx
                .query(
                    "SELECT DISTINCT r.model_id
                     FROM intake_deletions i JOIN deletion_requests r ON r.id = i.deletion_id
                     WHERE i.intake_id = $1 ORDER BY r.model_id",
                )
                .bind(id)
                .fetch_all()
                .await?;
            for model in &models {
                tx.lock_model(model.uuid("model_id")?).await?;
            }
            let Some(intake) = read_intake(tx, id).await? else {
                return Ok(IntakeCancellation::Unknown);
            };
            let status = intake.status();
            if status != OpenDsrStatus::Pending {
                return Ok(IntakeCancellation::NotPending(status));
            }
            let can_be_cancelled =
                |it: &&IntakeRequest| it.request.state.can_become(DeletionState::Cancelled);
            let mut withdrawn = 0;
            for IntakeRequest { request, .. } in intake.own().filter(can_be_cancelled) {
                if !is_needed_by_another(tx, request.id).await? {
                    withdraw(tx, request.id, request.model_id, now, by).await?;
                    withdrawn += 1;
                }
            }
            if withdrawn == 0 {
                return Ok(IntakeCancellation::NothingOwn);
            }
            tx.query("UPDATE intakes SET cancelled_at = $1 WHERE id = $2")
                .time(now)
                .bind(id)
                .execute_one()
                .await?;
            Ok(IntakeCancellation::Cancelled)
        })
    }
}

/// Makes the intake of this deletion request, if it has one, depend also on the requests that hold
/// samples of its subjects already: what they delete is not deleted before they are completed.
pub(super) async fn follow_earlier(tx: &mut Tx, deletion_id: Uuid) -> Result<(), StoreError> {
    tx.query(
        "INSERT INTO intake_deletions (intake_id, deletion_id, is_own)
         SELECT DISTINCT i.intake_id, s.deletion_id, false
         FROM intake_deletions i
             JOIN deletion_requests r ON r.id = i.deletion_id
             JOIN deletion_targets t ON t.deletion_id = i.deletion_id AND t.kind = 'subject'
             CROSS JOIN samples s
         WHERE i.deletion_id = $1 AND i.is_own AND s.model_id = r.model_id
             AND s.subject_key = t.key AND s.deletion_id IS NOT NULL AND s.deleted_at IS NULL
         ON CONFLICT (intake_id, deletion_id) DO NOTHING",
    )
    .bind(deletion_id)
    .execute()
    .await
    .map(drop)
}

async fn find_earlier(
    tx: &mut Tx,
    new: &NewIntake,
) -> Result<Option<Acceptance<Intake>>, StoreError> {
    let row = tx.query("SELECT body FROM intakes WHERE id = $1").bind(new.id);
    let Some(row) = row.fetch_optional().await? else { return Ok(None) };
    if row.digest("body")? != new.body {
        return Ok(Some(Acceptance::KeyReused));
    }
    Ok(read_intake(tx, new.id).await?.map(Acceptance::Repeated))
}

/// False when the id is taken. Waits for another transaction that is taking it.
async fn insert_intake(tx: &mut Tx, new: &NewIntake) -> Result<bool, StoreError> {
    let (api_key_id, agent_id, agent_request_id) = match &new.origin {
        Origin::Controller { api_key_id } => (*api_key_id, None, None),
        Origin::Agent { agent_id, request_id } => {
            (None, Some(agent_id.as_str()), request_id.as_deref())
        }
    };
    let inserted = tx
        .query(
            "INSERT INTO intakes (id, body, api_key_id, agent_id, agent_request_id, received_at,
                 due_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING",
        )
        .bind(new.id)
        .digest(&new.body)
        .bind(api_key_id)
        .bind(agent_id)
        .bind(agent_request_id)
        .time(new.received_at)
        .time(new.due_by)
        .execute()
        .await?;
    Ok(inserted == 1)
}

pub(super) async fn read_intake(tx: &mut Tx, id: Uuid) -> Result<Option<Intake>, StoreError> {
    let row = tx.query("SELECT * FROM intakes WHERE id = $1").bind(id).fetch_optional().await?;
    let Some(row) = row else { return Ok(None) };
    let links = tx
        .query(
            "SELECT deletion_id, is_own FROM intake_deletions
             WHERE intake_id = $1 ORDER BY deletion_id",
        )
        .bind(id)
        .fetch_all()
        .await?;
    let mut requests = Vec::with_capacity(links.len());
    for link in &links {
        requests.push(read_request(tx, link).await?);
    }
    // Deadlines may have been extended.
    let due_by = requests.iter().filter(|it| it.is_own).map(|it| it.request.due_by).max();
    let origin = match row.get::<Option<String>>("agent_id")? {
        None => Origin::Controller { api_key_id: row.get("api_key_id")? },
        Some(agent_id) => Origin::Agent { agent_id, request_id: row.get("agent_request_id")? },
    };
    Ok(Some(Intake {
        id,
        origin,
        received_at: row.time("received_at")?,
        due_by: due_by.map_or_else(|| row.time("due_by"), Ok)?,
        cancelled_at: row.time_or_none("cancelled_at")?,
        requests,
    }))
}

async fn read_request(tx: &mut Tx, link: &Row) -> Result<IntakeRequest, StoreError> {
    let details = read_details(tx, link.uuid("deletion_id")?).await?;
    let details = details.ok_or_else(|| tx.damaged("an intake without its request"))?;
    let DeletionDetails { request, model, targets, .. } = details;
    let standing = Standing::of(request.state, request.guarantee, targets);
    Ok(IntakeRequest { standing, request, model, is_own: link.get("is_own")? })
}
