//! The contract of the store: every test runs on `SQLite` and on `PostgreSQL`.

mod acceptance;
mod agents;
mod aliases;
mod approvals;
mod audit;
pub mod blobs;
mod calendar;
mod cancellation;
mod checkpoints;
mod claims;
mod deadlines;
mod erasure;
mod group_commit;
mod ingestion;
mod intakes;
mod leases;
mod lists;
mod machine;
mod master_key;
mod messages;
mod plans;
mod propagation;
mod publication;
mod quotas;
mod service_key;
mod upgrades;
pub mod webhooks;

use std::time::Duration;

use forgetd::{
    clock::Ids,
    domain::{
        deletion::{Target, TargetKind},
        features::Features,
        identity::{Digest, Pseudonym},
        job::JobKind,
        model::Model,
        network::NetworkSpec,
        sample::{NewSample, SamplePredictions, Split},
        sealing::MasterKey,
        timestamp::Timestamp,
        version::{Cause, Encoding, VersionMetrics},
    },
    store::{
        Acceptance, Claim, Claimed, CreateModel, DeletionDetails, Keyring, NewDeletion, NewVersion,
        Publication, Store,
    },
};
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

/// Runs each function on both databases.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                super::$name(&crate::store::Ledger::on_sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                super::$name(&crate::store::Ledger::on_postgres().await).await;
            }
        }
    )*};
}
pub(crate) use on_both;

/// A fresh ledger of one test, with a way around its verbs to look at the tables.
pub struct Ledger {
    pub store: Store,
    pub raw: Raw,
    pub url: String,
    folder: Option<tempfile::TempDir>,
}

pub enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Ledger {
    pub async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let store = Store::open(&url, keyring(MASTER)).await.unwrap();
        store.migrate().await.unwrap();
        let raw = Raw::Sqlite(SqlitePool::connect(&url).await.unwrap());
        Self { store, raw, url, folder: Some(folder) }
    }

    pub async fn on_postgres() -> Self {
        let url = crate::postgres::fresh_database().await;
        let store = Store::open(&url, keyring(MASTER)).await.unwrap();
        store.migrate().await.unwrap();
        let raw = Raw::Postgres(PgPool::connect(&url).await.unwrap());
        Self { store, raw, url, folder: None }
    }

    /// The ledger as another process has it open.
    pub async fn of_another_process(&self) -> Store {
        Store::open(&self.url, keyring(MASTER)).await.unwrap()
    }

    /// Nobody writes a deletion request until the guard is dropped.
    pub async fn hold_writers(&self) -> Box<dyn std::any::Any> {
        match &self.raw {
            Raw::Sqlite(pool) => Box::new(pool.begin_with("BEGIN IMMEDIATE").await.unwrap()),
            Raw::Postgres(pool) => {
                let mut transaction = pool.begin().await.unwrap();
                let lock = "LOCK TABLE deletion_requests IN EXCLUSIVE MODE";
                sqlx::query(lock).execute(&mut *transaction).await.unwrap();
                Box::new(transaction)
            }
        }
    }

    /// On `PostgreSQL` the lock that whoever changes this model takes, until the guard is dropped.
    pub async fn hold_model(&self, model: &Model) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let Raw::Postgres(pool) = &self.raw else { panic!("SQLite has no locks of rows") };
        let mut transaction = pool.begin().await.unwrap();
        let lock = sqlx::query("SELECT id FROM models WHERE id = $1 FOR NO KEY UPDATE");
        lock.bind(model.id).execute(&mut *transaction).await.unwrap();
        transaction
    }

    /// The first column of the first row, an integer.
    pub async fn integer(&self, sql: &'static str) -> i64 {
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// How often the bytes stand in any file of the database; `SQLite` only.
    pub fn files_containing(&self, bytes: &[u8]) -> Vec<String> {
        let folder = self.folder.as_ref().unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let holds = |path: &std::path::PathBuf| {
            std::fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes)
        };
        files.filter(holds).map(|path| path.display().to_string()).collect()
    }

    /// The first column of every row, bytes.
    pub async fn blobs(&self, sql: &'static str) -> Vec<Vec<u8>> {
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
        }
    }

    /// The first column of every row, texts.
    pub async fn texts(&self, sql: &'static str) -> Vec<String> {
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
        }
    }

    /// Writes past the verbs.
    pub async fn execute(&self, sql: &'static str) {
        match &self.raw {
            Raw::Sqlite(pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
            Raw::Postgres(pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
        }
    }

    pub async fn model(&self, name: &str) -> Model {
        let model = model(name);
        assert_eq!(self.store.create_model(&model, None).await.unwrap(), CreateModel::Created);
        model
    }

    /// A model with `train` + 4 hold-out samples, two samples to a subject, and a first version.
    pub async fn trained_model(&self, name: &str, train: u64) -> Model {
        let model = self.model(name).await;
        self.ingest(&model, &samples(0..train + 4, train)).await;
        assert_eq!(self.train(&model, at(10)).await, Some(1));
        model
    }

    pub async fn ingest(&self, model: &Model, samples: &[NewSample]) {
        let mut ingestion = self.store.begin_ingestion(new_id(), model.id).await.unwrap();
        ingestion.add(samples).await.unwrap();
        ingestion.commit(at(1), None).await.unwrap();
    }

    /// Publishes a version trained on every live sample.
    pub async fn train(&self, model: &Model, now: Timestamp) -> Option<u64> {
        self.store.enqueue_job(new_id(), model.id, JobKind::Training, now, None).await.unwrap();
        let claimed = self.claim(now).await.unwrap();
        assert_eq!((claimed.job.kind, claimed.model.id), (JobKind::Training, model.id));
        self.publish_exact(&claimed, now).await
    }

    pub async fn publish_exact(&self, claimed: &Claimed, now: Timestamp) -> Option<u64> {
        let mut predictions = Vec::new();
        for split in [Split::Train, Split::Holdout] {
            let samples = self.store.samples(claimed.model.id, split, -1, 100_000).await.unwrap();
            predictions.extend(samples.iter().map(|sample| prediction(sample.id)));
        }
        let current = self.store.current_version(claimed.model.id).await.unwrap();
        let cause = match claimed.job.kind {
            JobKind::Training => Cause::Trained,
            JobKind::Unlearning | JobKind::Settlement => Cause::Settled,
        };
        self.store.stage_predictions(&claimed.lease, &predictions).await.unwrap();
        let publication = Publication {
            predictions: Some(predictions.len() as u64),
            ..publication(claimed, now, cause, current.map(|it| it.epoch))
        };
        self.store.publish(&publication).await.unwrap()
    }

    pub async fn claim(&self, now: Timestamp) -> Option<Claimed> {
        self.store.claim(&claim(now)).await.unwrap()
    }

    /// Accepts a deletion, which must be queued.
    pub async fn delete(&self, model: &Model, targets: Vec<Target>, now: Timestamp) -> Uuid {
        let new = new_deletion(model, targets, now);
        self.accept(&new).await;
        new.id
    }

    pub async fn accept(&self, new: &NewDeletion) -> DeletionDetails {
        match self.store.accept_deletion(new, 1_000_000).await.unwrap() {
            Acceptance::Accepted(details) => details,
            other => panic!("not accepted but {other:?}"),
        }
    }

    /// Serves the next batch with an approximate version. Returns the epoch.
    pub async fn unlearn(&self, now: Timestamp) -> Option<u64> {
        let claimed = self.claim(now).await.unwrap();
        assert_eq!(claimed.job.kind, JobKind::Unlearning);
        self.publish_batch(&claimed, now).await
    }

    pub async fn publish_batch(&self, claimed: &Claimed, now: Timestamp) -> Option<u64> {
        let current = self.store.current_version(claimed.model.id).await.unwrap();
        let parent = current.map(|it| it.epoch);
        let publication = publication(claimed, now, Cause::Unlearned, parent);
        self.store.publish(&publication).await.unwrap()
    }
}

/// What each of these comes to, all of them at once.
pub async fn race<T: Send + 'static>(
    racers: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let racers: Vec<_> = racers.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for racer in racers {
        results.push(racer.await.unwrap());
    }
    results
}

/// The master key of the tests' ledgers.
pub const MASTER: [u8; 32] = [9; 32];

pub fn keyring(master: [u8; 32]) -> Keyring {
    Keyring::new(MasterKey::new(&master), None, Ids::system())
}

pub const LEASE: Duration = Duration::from_secs(30);

/// A time of the tests, in seconds after their beginning.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000)
}

/// Rising with every call in this process, as the service's ids do.
#[expect(clippy::disallowed_methods, reason = "tests may be of their own time")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

pub fn model(name: &str) -> Model {
    let json = |value: serde_json::Value| value;
    Model {
        id: new_id(),
        name: name.parse().unwrap(),
        architecture: serde_json::from_value(json(serde_json::json!({"preset": "logistic"})))
            .unwrap(),
        schema: serde_json::from_value(serde_json::json!({"tensor": {"shape": [4]}})).unwrap(),
        recipe: forgetd::domain::model::Recipe::default(),
        policy: forgetd::domain::model::Policy::default(),
        created_at: at(0),
    }
}

fn pseudonym(kind: &str, number: u64) -> Pseudonym {
    Pseudonym::from_bytes(*Digest::of(format!("{kind} {number}").as_bytes()).as_bytes())
}

pub fn sample_key(number: u64) -> Pseudonym {
    pseudonym("sample", number)
}

/// Two samples to a subject.
pub fn subject_key(number: u64) -> Pseudonym {
    pseudonym("subject", number / 2)
}

pub fn sample_target(number: u64) -> Target {
    Target { kind: TargetKind::Sample, key: sample_key(number) }
}

pub fn subject_target(sample_number: u64) -> Target {
    Target { kind: TargetKind::Subject, key: subject_key(sample_number) }
}

/// Features that no other sample has, so that their bytes can be looked for.
pub fn features_of(number: u64) -> Vec<u8> {
    format!("<features of sample {number:06}>").into_bytes()
}

/// The samples with these numbers; those from `holdout_from` on are held out.
pub fn samples(numbers: std::ops::Range<u64>, holdout_from: u64) -> Vec<NewSample> {
    let sample = |number| NewSample {
        id: new_id(),
        key: sample_key(number),
        subject: subject_key(number),
        split: if number < holdout_from { Split::Train } else { Split::Holdout },
        features: Features::Pixels(features_of(number)),
        label: format!("label {}", number % 2),
        aliases: Vec::new(),
    };
    numbers.map(sample).collect()
}

pub fn prediction(sample_id: Uuid) -> SamplePredictions {
    SamplePredictions { sample_id, out_of_fold: vec![-0.5, -1.0], anchor: vec![-0.25, -1.5] }
}

/// A training that has staged predictions of three samples.
pub async fn staging(store: &Store, model: &Model, now: Timestamp) -> Claimed {
    store.enqueue_job(new_id(), model.id, JobKind::Training, now, None).await.unwrap();
    let training = store.claim(&claim(now)).await.unwrap().unwrap();
    let samples = store.samples(model.id, Split::Train, -1, 3).await.unwrap();
    let predictions: Vec<_> = samples.iter().map(|it| prediction(it.id)).collect();
    store.stage_predictions(&training.lease, &predictions).await.unwrap();
    training
}

pub fn claim(now: Timestamp) -> Claim {
    Claim {
        now,
        lease_duration: LEASE,
        token: new_id(),
        batch_id: new_id(),
        worker_id: new_id(),
        attempts_max: 3,
    }
}

pub fn new_deletion(model: &Model, targets: Vec<Target>, now: Timestamp) -> NewDeletion {
    NewDeletion {
        approval_above_share: None,
        due_by: now.plus(Duration::from_hours(1)),
        ..NewDeletion::of(new_id(), model, targets, now)
    }
}

pub fn publication(
    claimed: &Claimed,
    now: Timestamp,
    cause: Cause,
    parent_epoch: Option<u64>,
) -> Publication {
    let version = NewVersion {
        cause,
        parent_epoch,
        weights: Digest::of(claimed.job.id.as_bytes()),
        network: NetworkSpec { input: vec![4], layers: Vec::new() },
        encoding: Encoding {
            encoder: serde_json::json!({"scale": 1}),
            classes: vec!["label 0".into(), "label 1".into()],
        },
        metrics: VersionMetrics {
            holdout_accuracy: Some(0.9),
            samples: 3,
            ..VersionMetrics::default()
        },
        method: serde_json::json!({"name": "test"}),
    };
    Publication {
        lease: claimed.lease,
        now,
        version: Some(version),
        predictions: None,
        evidence: Some(serde_json::json!({"verdict": "inconclusive"})),
    }
}
