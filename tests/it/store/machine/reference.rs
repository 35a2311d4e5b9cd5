//! What the ledger should be, in memory: lists, and a rule for each verb. It shares no code with
//! the store, and knows no transactions, locks or statements.

mod work;

use std::collections::BTreeMap;

use forgetd::domain::{
    deletion::{DeletionState, Rejection, TargetKind},
    job::{JobKind, JobState},
    version::Cause,
};
use uuid::Uuid;

/// Microseconds after the beginning. No two verbs happen at the same one.
pub type Time = i64;

pub const fn seconds(count: i64) -> Time {
    count * 1_000_000
}

/// Terms of the lease of workers and of replicas.
pub const LEASE: Time = seconds(30);
/// A replica counts as live for so long after its lease.
const MARGIN: Time = seconds(5);
/// A training or a settlement that has waited this long is held up by deletions no longer.
const PATIENCE: Time = seconds(3_600);
pub const ATTEMPTS_MAX: u32 = 2;
pub const BATCH_MAX: usize = 2;
pub const PREEMPTIONS_MAX: u32 = 1;
pub const QUEUE_MAX: usize = 6;
/// Of the training samples; a request that wants it is suspended above.
pub const SHARE: f64 = 0.25;

/// Samples from this number on are held out.
pub const HELD_OUT_FROM: u64 = 9;

/// A target, by the number of a sample; its subject has the next sample too.
pub type Target = (TargetKind, u64);

#[derive(Clone, Debug)]
pub struct Sample {
    pub id: Uuid,
    pub number: u64,
    /// The request that deletes it.
    pub claimed_by: Option<usize>,
    pub deleted: bool,
    /// Its tombstone was lifted.
    pub readmitted: bool,
    pub predicted: bool,
    /// From an epoch until another.
    pub contributions: Vec<(u64, Option<u64>)>,
}

impl Sample {
    fn is_under(&self, (kind, number): Target) -> bool {
        match kind {
            TargetKind::Sample => self.number == number,
            TargetKind::Subject => self.number / 2 == number / 2,
        }
    }

    fn is_usable(&self) -> bool {
        self.claimed_by.is_none()
    }

    /// Whether it keeps others of its number out.
    fn is_buried(&self) -> bool {
        self.claimed_by.is_some() && !self.readmitted
    }

    pub fn is_train(&self) -> bool {
        self.number < HELD_OUT_FROM
    }

    pub fn is_in_weights(&self) -> bool {
        self.contributions.iter().any(|(_, until)| until.is_none())
    }

    fn leaves_weights(&mut self, epoch: u64) {
        for (_, until) in self.contributions.iter_mut().filter(|(_, until)| until.is_none()) {
            *until = Some(epoch);
        }
    }
}

#[derive(Clone, Debug)]
pub struct Version {
    pub cause: Cause,
    pub destroyed: bool,
}

#[derive(Debug)]
pub struct Model {
    pub id: Uuid,
    pub samples: Vec<Sample>,
    /// Epoch 1 first.
    pub versions: Vec<Version>,
    /// Of subjects, by the number of their first sample, with the request that put each up.
    pub tombstones: BTreeMap<u64, usize>,
}

impl Model {
    pub fn epoch(&self) -> Option<u64> {
        (!self.versions.is_empty()).then_some(self.versions.len() as u64)
    }

    pub fn usable(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.is_usable())
    }
}

#[derive(Debug)]
pub struct Request {
    pub id: Uuid,
    pub model: usize,
    pub targets: Vec<Target>,
    pub state: DeletionState,
    pub samples: usize,
    pub attempts: u32,
    not_before: Time,
    due: Time,
    pub batch: Option<usize>,
    pub excluded_from: Option<u64>,
    /// Those that it names as a whole, by their first samples, and found samples of.
    pub subjects: Vec<u64>,
    pub exact: Option<bool>,
}

#[derive(Debug)]
pub struct Job {
    pub id: Uuid,
    pub model: usize,
    pub kind: JobKind,
    pub state: JobState,
    pub attempts: u32,
    pub preemptions: u32,
    pub cancel_requested: bool,
    pub epoch: Option<u64>,
    created_at: Time,
    not_before: Time,
    token: Uuid,
    lease_ends: Time,
}

impl Job {
    fn is_overdue(&self, now: Time) -> bool {
        self.created_at <= now - PATIENCE
    }
}

#[derive(Debug, Default)]
struct Replica {
    lease_ends: Time,
    epochs: BTreeMap<usize, u64>,
}

/// The right to write, as a worker remembers it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub job: usize,
    pub token: Uuid,
    pub attempt: u32,
}

#[derive(Debug, PartialEq)]
pub enum Accepted {
    /// The request, and what became of its targets.
    New(usize, Vec<(usize, Option<Rejection>)>),
    Repeated(usize),
    KeyReused,
    QueueFull,
}

/// A write under a lease that has passed on.
#[derive(Debug, PartialEq)]
pub struct Fenced;

/// What a publication brings.
pub struct Published<'a> {
    pub cause: Option<Cause>,
    pub parent: Option<u64>,
    /// What an exact version was trained on, and held out.
    pub loaded: &'a [Uuid],
}

#[derive(Debug, Default)]
pub struct Reference {
    pub models: Vec<Model>,
    pub requests: Vec<Request>,
    pub jobs: Vec<Job>,
    replicas: BTreeMap<usize, Replica>,
    /// Idempotency keys.
    keys: BTreeMap<u8, (Vec<Target>, usize)>,
    /// What the audit log must say of the last verb: kinds, and what they are about.
    pub leaves: Vec<(&'static str, Uuid)>,
}

impl Reference {
    pub fn add_model(&mut self, id: Uuid) {
        let (samples, versions, tombstones) = (Vec::new(), Vec::new(), BTreeMap::new());
        self.models.push(Model { id, samples, versions, tombstones });
    }

    /// All of them or none; says whether they came in.
    pub fn ingest(&mut self, ingestion: Uuid, model: usize, samples: &[(Uuid, u64)]) -> bool {
        let model = &mut self.models[model];
        let fits = |(_, number): &(Uuid, u64)| {
            let is_there = model.samples.iter().any(|it| it.number == *number && !it.deleted);
            let is_buried = model.tombstones.contains_key(&(number / 2 * 2))
                || model.samples.iter().any(|it| it.number == *number && it.is_buried());
            !is_there && !is_buried
        };
        if !samples.iter().all(fits) {
            return false;
        }
        for (id, number) in samples {
            model.samples.push(Sample {
                id: *id,
                number: *number,
                claimed_by: None,
                deleted: false,
                readmitted: false,
                predicted: false,
                contributions: Vec::new(),
            });
        }
        self.leaves.push(("samples.ingested", ingestion));
        true
    }

    pub fn accept(
        &mut self,
        id: Uuid,
        model: usize,
        targets: &[Target],
        asks_for_approval: bool,
        key: Option<u8>,
        due: Time,
    ) -> Accepted {
        if let Some((body, request)) = key.and_then(|key| self.keys.get(&key)) {
            let is_same = body == targets;
            return if is_same { Accepted::Repeated(*request) } else { Accepted::KeyReused };
        }
        if self.requests.iter().filter(|it| !it.state.is_final()).count() >= QUEUE_MAX {
            return Accepted::QueueFull;
        }
        let request = self.requests.len();
        self.requests.push(Request {
            id,
            model,
            targets: targets.to_vec(),
            state: DeletionState::Queued,
            samples: 0,
            attempts: 0,
            not_before: 0,
            due,
            batch: None,
            excluded_from: None,
            subjects: Vec::new(),
            exact: None,
        });
        if let Some(key) = key {
            self.keys.insert(key, (targets.to_vec(), request));
        }
        let outcomes = self.claim_samples(request);
        let trains = |it: &&Sample| it.is_train();
        let claims = |it: &&Sample| it.claimed_by == Some(request);
        let of_model = &self.models[model];
        let claimed = of_model.samples.iter().filter(claims).filter(trains).count();
        let others = of_model.usable().filter(trains).count();
        if self.requests[request].samples == 0 {
            self.requests[request].state = DeletionState::Rejected;
            self.leaves.push(("deletion.rejected", id));
        } else if asks_for_approval && claimed as f64 > SHARE * (claimed + others) as f64 {
            self.requests[request].state = DeletionState::Suspended;
            self.withdraw(request);
            self.leaves.push(("deletion.suspended", id));
        } else {
            self.leaves.push(("deletion.received", id));
        }
        Accepted::New(request, outcomes)
    }

    /// Gives the request what nobody else deletes. Returns for each target how many samples the
    /// request has under it, or why none.
    fn claim_samples(&mut self, request: usize) -> Vec<(usize, Option<Rejection>)> {
        let it = &mut self.requests[request];
        let model = &mut self.models[it.model];
        it.samples = 0;
        it.subjects.clear();
        for sample in &mut model.samples {
            let is_named = it.targets.iter().any(|target| sample.is_under(*target));
            if is_named && sample.is_usable() {
                sample.claimed_by = Some(request);
                it.samples += 1;
            }
        }
        let mut outcomes = Vec::new();
        for target in &it.targets {
            let under = || model.samples.iter().filter(|sample| sample.is_under(*target));
            let claimed =
                under().filter(|it| it.claimed_by == Some(request) && !it.deleted).count();
            let rejection = match (claimed, under().count(), target.0) {
                (0, 0, TargetKind::Sample) => Some(Rejection::UnknownSample),
                (0, 0, TargetKind::Subject) => Some(Rejection::UnknownSubject),
                (0, ..) => Some(Rejection::AlreadyDeleted),
                (..) => None,
            };
            outcomes.push((claimed, rejection));
        }
        for ((kind, number), (claimed, _)) in it.targets.iter().zip(&outcomes) {
            if *kind == TargetKind::Subject && *claimed > 0 {
                it.subjects.push(number / 2 * 2);
                model.tombstones.entry(number / 2 * 2).or_insert(request);
            }
        }
        outcomes
    }

    fn release(&mut self, request: usize) {
        let model = &mut self.models[self.requests[request].model];
        let claimed = |it: &&mut Sample| it.claimed_by == Some(request) && !it.deleted;
        for sample in model.samples.iter_mut().filter(claimed) {
            (sample.claimed_by, sample.readmitted) = (None, false);
        }
    }

    fn withdraw(&mut self, request: usize) {
        self.release(request);
        let model = &mut self.models[self.requests[request].model];
        model.tombstones.retain(|_, owner| *owner != request);
    }

    pub fn cancel(&mut self, request: usize) -> bool {
        let state = self.requests[request].state;
        if !matches!(state, DeletionState::Suspended | DeletionState::Queued) {
            return false;
        }
        let model = &self.models[self.requests[request].model];
        let others = self.requests.iter().enumerate().filter(|(other, it)| {
            let is_open = matches!(it.state, DeletionState::Queued | DeletionState::Unlearning);
            *other != request && is_open && it.model == self.requests[request].model
        });
        let named: Vec<u64> = others.flat_map(|(_, it)| &it.subjects).copied().collect();
        let is_needed = |sample: &Sample| {
            let subject = sample.number / 2 * 2;
            named.contains(&subject) && model.tombstones.contains_key(&subject)
        };
        if model.samples.iter().any(|it| it.claimed_by == Some(request) && is_needed(it)) {
            return false;
        }
        self.requests[request].state = DeletionState::Cancelled;
        self.withdraw(request);
        self.leaves.push(("deletion.cancelled", self.requests[request].id));
        true
    }

    pub fn approve(&mut self, request: usize) -> bool {
        if self.requests[request].state != DeletionState::Suspended {
            return false;
        }
        self.claim_samples(request);
        let it = &mut self.requests[request];
        self.leaves.push(("deletion.approved", it.id));
        if it.samples == 0 {
            it.state = DeletionState::Rejected;
            self.leaves.push(("deletion.rejected", it.id));
        } else {
            it.state = DeletionState::Queued;
            self.leaves.push(("deletion.received", it.id));
        }
        true
    }

    pub fn refuse(&mut self, request: usize) -> bool {
        let it = &mut self.requests[request];
        if it.state != DeletionState::Suspended {
            return false;
        }
        (it.state, it.samples) = (DeletionState::Rejected, 0);
        self.leaves.push(("deletion.refused", it.id));
        true
    }

    pub fn lift(&mut self, model: usize, (kind, number): Target) -> bool {
        let model = &mut self.models[model];
        let (subject, samples) = (number / 2 * 2, &mut model.samples);
        let mut buried = samples.iter_mut().filter(|sample| sample.is_buried());
        let owner = match kind {
            TargetKind::Sample => {
                let Some(sample) = buried.find(|it| it.number == number) else { return false };
                sample.readmitted = true;
                sample.claimed_by.unwrap()
            }
            TargetKind::Subject => {
                let Some(owner) = model.tombstones.remove(&subject) else { return false };
                buried
                    .filter(|it| it.number / 2 * 2 == subject && it.claimed_by == Some(owner))
                    .for_each(|sample| sample.readmitted = true);
                owner
            }
        };
        self.leaves.push(("tombstone.lifted", self.requests[owner].id));
        true
    }
}
