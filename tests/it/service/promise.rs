//! What forgetd promises, whatever happened to its processes: every accepted request is completed,
//! and once, and its completion is told; the audit log only grew; weights are what their digests say,
//! and no others lie about.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use forgetd::domain::{blob_name::BlobName, identity::Digest};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    Service,
    certificate::{log_key, verify, write},
    eventually, field,
    people::{self, MODEL},
};
use crate::receiver::{Receiver, Reply};

/// Leases of a second: a killed worker's batch is taken up again soon, however often it was lost.
/// Whatever a kill left of weights is looked for soon, and receivers on loopback may be told.
pub const ENVIRONMENT: [(&str, &str); 8] = [
    ("FORGETD_WORKER__LEASE_S", "1"),
    ("FORGETD_SERVING__LEASE_S", "1"),
    ("FORGETD_WORKER__ATTEMPTS_MAX", "100"),
    ("FORGETD_WORKER__SWEEP_S", "2"),
    ("FORGETD_WORKER__ORPHAN_AGE_S", "2"),
    ("FORGETD_WEBHOOKS__HTTP_ALLOWED", "true"),
    ("FORGETD_WEBHOOKS__ALLOWED_NETWORKS", "[\"127.0.0.1/32\"]"),
    ("FORGETD_WEBHOOKS__TIMEOUT_S", "1"),
];

/// What was promised so far.
pub struct Promise {
    /// Every request that was accepted.
    pub accepted: Vec<String>,
    log_key: String,
    /// A signed head of the audit log, kept elsewhere.
    checkpoint: PathBuf,
    /// Told of every completion, with its secret.
    receiver: Receiver,
    secret: String,
}

impl Promise {
    pub async fn of(service: &Service) -> Self {
        let (accepted, log_key) = (Vec::new(), log_key(service).await);
        let checkpoint = write(service, "checkpoint", &head(service).await);
        let receiver = Receiver::start(|_, _| Reply::Status(204)).await;
        let webhook = json!({
            "name": "promise", "url": receiver.url(),
            "event_types": ["deletion_request.completed"],
        });
        let made = service.post("/v1/webhooks", &webhook).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:#?}");
        let secret = field(&made.body, "/secret").as_str().unwrap().to_owned();
        Self { accepted, log_key, checkpoint, receiver, secret }
    }

    /// Keeps the newest head of the audit log.
    pub async fn keep_head(&self, service: &Service) {
        std::fs::write(&self.checkpoint, head(service).await).unwrap();
    }

    /// At any moment. Requests may be under way.
    pub async fn holds(&self, service: &Service) {
        self.nothing_was_lost(service).await;
        self.the_log_only_grew(service);
        let versions = versions(service).await;
        let epochs: Vec<_> = versions.iter().map(|it| it["epoch"].as_u64().unwrap()).collect();
        assert!(epochs.iter().rev().copied().eq(1..=epochs.len() as u64), "{epochs:?}");
        let (files, current) = (whole_weights(service), weights_name(&versions[0]));
        assert!(files.contains(&current), "{current} is not among {files:?}");
    }

    /// Once everything had its time: waits for it.
    pub async fn is_fulfilled(&self, service: &Service) {
        for id in &self.accepted {
            service.request_becomes(id, "completed").await;
        }
        self.each_was_completed_once(service).await;
        self.each_completion_was_told().await;
        people::ready(service).await;
        let state = async || (weights(service), versions(service).await);
        let only_the_newest =
            |(files, versions): &(Vec<String>, Vec<Value>)| *files == [weights_name(&versions[0])];
        let (_, versions) = eventually("no other weights are left", state, only_the_newest).await;
        let epoch = versions[0]["epoch"].to_string();
        // A replica that was kept from the processor for the second of its lease does not answer.
        let answer = async || people::predict(service, 0).await.body;
        eventually("the newest version answers", answer, |it| it["model_version"] == epoch).await;
        self.holds(service).await;
    }

    /// At least once, and always by the same message.
    async fn each_completion_was_told(&self) {
        let told = async || {
            let mut messages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for message in self.receiver.received() {
                assert!(message.is_signed_with(&self.secret), "{message:#?}");
                let id = field(&message.json(), "/data/deletion_request").as_str().unwrap().into();
                messages.entry(id).or_default().insert(message.id);
            }
            messages
        };
        let of_all = |told: &BTreeMap<_, _>| self.accepted.iter().all(|id| told.contains_key(id));
        let told = eventually("each completion is told", told, of_all).await;
        assert_eq!(told.len(), self.accepted.len(), "{told:#?}");
        assert!(told.values().all(|messages| messages.len() == 1), "{told:#?}");
    }

    async fn nothing_was_lost(&self, service: &Service) {
        let requests = service.pages("/v1/deletion-requests").await;
        assert_eq!(requests.len(), self.accepted.len(), "as many as were accepted: {requests:#?}");
        let states: BTreeMap<_, _> = requests
            .iter()
            .map(|it| (it["id"].as_str().unwrap(), it["state"].as_str().unwrap()))
            .collect();
        for id in &self.accepted {
            let state = states.get(id.as_str());
            let is_on_its_way =
                state.is_some_and(|state| ["queued", "unlearning", "completed"].contains(state));
            assert!(is_on_its_way, "request {id} is {state:?}");
        }
    }

    fn the_log_only_grew(&self, service: &Service) {
        let (log, since) = (format!("{}/audit", service.address), self.checkpoint.display());
        let since = since.to_string();
        let verdict = verify(&["--log", &log, "--key", &self.log_key, "--since", &since]);
        assert!(verdict.holds, "{}", verdict.output);
    }

    /// The audit log is the witness.
    async fn each_was_completed_once(&self, service: &Service) {
        let mut seen: BTreeMap<(String, String), u32> = BTreeMap::new();
        for (index, event) in service.pages("/v1/audit/events").await.iter().enumerate() {
            assert_eq!(event["index"], index, "indices without gaps");
            let entry: Value = serde_json::from_str(event["entry"].as_str().unwrap()).unwrap();
            let word = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            *seen.entry((word("kind"), word("about"))).or_default() += 1;
        }
        for id in &self.accepted {
            for kind in ["deletion.received", "deletion.completed"] {
                let times = seen.get(&(kind.to_owned(), id.clone()));
                assert_eq!(times, Some(&1), "{kind} of request {id}");
            }
        }
    }
}

async fn head(service: &Service) -> String {
    service.text("/audit/checkpoint", "*/*").await
}

/// Newest first.
async fn versions(service: &Service) -> Vec<Value> {
    service.pages(&format!("/v1/models/{MODEL}/versions")).await
}

/// Names of all files in the folder of the weights.
fn weights(service: &Service) -> Vec<String> {
    weights_files(service)
        .iter()
        .map(|it| it.file_name().unwrap().to_str().unwrap().into())
        .collect()
}

pub fn weights_files(service: &Service) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| {
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path())
    };
    entries(service.folder().join("data/blobs")).flat_map(entries).collect()
}

/// What the file of a version's weights is called.
fn weights_name(version: &Value) -> String {
    let digest = field(version, "/weights").as_str().unwrap().parse().unwrap();
    let job_id = field(version, "/job_id").as_str().unwrap().parse().unwrap();
    BlobName { digest, job_id }.to_string()
}

/// The file of a version's weights.
pub fn weights_file(service: &Service, version: &Value) -> PathBuf {
    let name = weights_name(version);
    service.folder().join("data/blobs").join(&name[..2]).join(name)
}

/// Names of the files of weights that are whole, whose bytes are what these say.
fn whole_weights(service: &Service) -> Vec<String> {
    let mut names = Vec::new();
    for file in weights_files(service) {
        let name = file.file_name().unwrap().to_str().unwrap();
        // Removed meanwhile, or not whole yet.
        let Ok(bytes) = std::fs::read(&file) else { continue };
        if !name.contains('#') {
            let digest = name.parse::<BlobName>().unwrap().digest;
            assert_eq!(Digest::of(&bytes), digest, "weights are not what they are named");
            names.push(name.to_owned());
        }
    }
    names
}
