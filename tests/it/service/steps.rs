//! The process is killed at each named step of a deletion and of a settlement: nothing is lost, nothing
//! happens twice. Other ways that a job may take are `turns`.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field,
    people::{self, MODEL},
    process::answer,
    promise::{self, Promise},
    turns,
};

/// What makes the process come by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Deletion,
    Settlement,
}

/// Every named step of a batch, in the order in which a deletion passes them. Those of one group
/// are tried on one service after the other, the groups at the same time.
const GROUPS: [(Way, &[&str]); 5] = [
    (
        Way::Deletion,
        &[
            "accept_deletion.written",
            "accept_deletion.committed",
            "claim.written",
            "claim.committed",
            "batch.loaded",
            "batch.updated",
            "batch.measured",
            "batch.judged",
            "batch.stored",
        ],
    ),
    (
        Way::Deletion,
        &[
            "erase_batch.keys_destroyed",
            "publish.written",
            "publish.committed",
            "replica.announced",
            "replica.loaded",
            "replica.reported",
        ],
    ),
    (
        Way::Deletion,
        &[
            "complete_propagated.purged",
            "complete_propagated.written",
            "complete_propagated.committed",
            "claim_messages.written",
            "claim_messages.committed",
            "record_delivery.written",
            "record_delivery.committed",
        ],
    ),
    (
        Way::Deletion,
        &["superseded.destroyed", "mark_weights_removed.written", "mark_weights_removed.committed"],
    ),
    (
        Way::Settlement,
        &[
            "enqueue_job.written",
            "enqueue_job.committed",
            "retraining.computed",
            "retraining.stored",
            "stage_predictions.written",
            "stage_predictions.committed",
            "publish.written",
            "publish.committed",
            "remove_stale_predictions.written",
            "remove_stale_predictions.committed",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_loses_and_repeats_nothing_on_sqlite() {
    join_all(GROUPS.map(|(way, steps)| survive(Database::Sqlite, way, steps))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_loses_and_repeats_nothing_on_postgres() {
    join_all(GROUPS.map(|(way, steps)| survive(Database::Postgres, way, steps))).await;
}

async fn survive(database: Database, way: Way, steps: &[&str]) {
    let mut service = Service::start_with(database, &promise::ENVIRONMENT, &[]).await;
    people::trained(&service, &people::unsettled()).await;
    let mut promise = Promise::of(&service).await;
    for (number, step) in steps.iter().enumerate() {
        if way == Way::Settlement {
            // The run that was killed could pass the step before it is held up.
            let runs = async || service.pages(&format!("/v1/models/{MODEL}/training-runs")).await;
            eventually("no run is left", runs, |runs| runs.iter().all(has_ended)).await;
            // There must be something to settle.
            let id = repeated(&service, number).await;
            service.request_becomes(&id, "completed").await;
            promise.accepted.push(id);
        }
        promise.keep_head(&service).await;
        service.hold_at(step);
        // Nobody may be left to answer.
        let unanswered = match way {
            Way::Deletion => tokio::spawn(deletion(&service, number).send()),
            Way::Settlement => {
                let runs =
                    service.request(Method::POST, &format!("/v1/models/{MODEL}/training-runs"));
                tokio::spawn(runs.json(&json!({"kind": "settlement"})).send())
            }
        };
        service.reaches(step).await;
        service.kill();
        drop(unanswered.await);
        service.let_pass(step);
        service.restart().await;
        if way == Way::Deletion {
            promise.accepted.push(repeated(&service, number).await);
        }
        promise.holds(&service).await;
    }
    promise.is_fulfilled(&service).await;
    if way == Way::Settlement {
        for id in &promise.accepted {
            let request = async || service.get(&format!("/v1/deletion-requests/{id}")).await.body;
            eventually("the request is settled", request, |it| it["guarantee"] == "exact").await;
        }
    }
}

fn has_ended(run: &Value) -> bool {
    run["state"] != "queued" && run["state"] != "running"
}

/// A request that may be sent again: it stays the same.
fn deletion(service: &Service, number: usize) -> reqwest::RequestBuilder {
    let body = json!({"model": MODEL, "samples": [format!("visit-{number}")]});
    let request = service.request(Method::POST, "/v1/deletion-requests");
    request.header("idempotency-key", format!("deletion-{number}")).json(&body)
}

async fn repeated(service: &Service, number: usize) -> String {
    let accepted = answer(deletion(service, number)).await;
    assert!(accepted.status.is_success(), "{accepted:#?}");
    field(&accepted.body, "/id").as_str().unwrap().to_owned()
}

/// One transaction each, with nothing before it and nothing after: whoever got no answer asks again, or
/// it comes round again by itself.
const ALONE: [&str; 27] = [
    "accept_intake",
    "activate_webhook",
    "adopt_log_key",
    "adopt_master_key",
    "approve_deletion",
    "cancel_deletion",
    "cancel_intake",
    "cancel_job",
    "change_webhook",
    "create_api_key",
    "create_model",
    "create_webhook",
    "extend_deadline",
    "issue_agent_token",
    "lift_tombstone",
    "open",
    "prune_outbox",
    "put_cosignature",
    "redeliver_message",
    "refuse_deletion",
    "remove_webhook",
    "revoke_api_key",
    "rewrap_data_keys",
    "rotate_api_key",
    "rotate_webhook",
    "seal_encodings",
    "warn_of_deadlines",
];

/// A step that is named in the code is tried above, or in `turns`.
#[test]
fn every_named_step_is_tried() {
    let tried: BTreeSet<_> = GROUPS
        .iter()
        .flat_map(|(_, steps)| *steps)
        .chain(turns::STEPS.into_iter().flatten())
        .copied()
        .collect();
    let (mut named, mut verbs) = (BTreeSet::new(), BTreeSet::new());
    for path in
        crate::floors::sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
    {
        let source = std::fs::read_to_string(path).unwrap();
        verbs.extend(verbs_of(&source));
        for call in source.split("fail_point::pass").skip(1) {
            let arguments = call.trim_start_matches("_blocking").strip_prefix("(\"");
            if let Some((part, rest)) = arguments.and_then(|it| it.split_once("\", \"")) {
                named.insert(format!("{part}.{}", rest.split('"').next().unwrap()));
            }
        }
    }
    assert!(named.len() > 10, "only {named:?} found");
    assert!(verbs.len() > 40, "only {verbs:?} found");
    for step in named {
        assert!(tried.contains(step.as_str()), "no kill at {step}: name it in GROUPS");
    }
    for verb in verbs {
        let steps = ["written", "committed"].map(|point| format!("{verb}.{point}"));
        let is_tried = steps.iter().all(|step| tried.contains(step.as_str()));
        assert!(is_tried != ALONE.contains(&verb.as_str()), "{verb}: in GROUPS, or ALONE?");
    }
}

/// The names of a source's writing transactions, each of which has two steps.
fn verbs_of(source: &str) -> Vec<String> {
    let calls = ["writing!(self, \"", ".begin(\""];
    let named = calls.into_iter().flat_map(|call| source.split(call).skip(1));
    named.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}
