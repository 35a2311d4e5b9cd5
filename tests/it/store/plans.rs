//! Hot lookups go by an index on both databases. `PostgreSQL` logs the plan of every statement
//! that the verbs run; the same statements are then explained by `SQLite`.

use std::collections::BTreeMap;

use forgetd::{
    domain::{
        deletion::{DeletionState, ExtensionReason, NewDeadline},
        identity::Digest,
        job::JobKind,
        model::Model,
        sample::Split,
        version::Cause,
        webhook::MessageState,
    },
    store::{
        AuditFilter, DeletionFilter, Delivery, Extension, Idempotency, NewAgentToken, NewCallback,
        NewDeletion, NewIntake, Origin, Requester, Served, Store,
    },
};
use sqlx::{AssertSqlSafe, Executor, PgPool, Row};

use super::{
    LEASE, Ledger, MASTER, Raw,
    acceptance::idempotency,
    at, claim, keyring, new_deletion, new_id, publication, sample_target, samples, staging,
    subject_key, subject_target,
    webhooks::{settings, webhook},
};

/// Tables that grow with the data.
const LARGE: &[&str] = &[
    "samples",
    "data_keys",
    "sample_contents",
    "sample_predictions",
    "contributions",
    "deletion_requests",
    "deletion_samples",
    "deletion_targets",
    "tombstones",
    "audit_events",
    "audit_nodes",
    "audit_checkpoints",
    "audit_cosignatures",
    "webhook_messages",
    "intakes",
    "intake_callbacks",
    "intake_deletions",
    "aliases",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_lookups_use_indexes() {
    let ledger = Ledger::on_postgres().await;
    let plans = run_hot_verbs(&ledger).await;
    assert!(plans.len() > 40, "only {} statements were logged", plans.len());
    let mut scans = Vec::new();
    for (sql, plan) in &plans {
        for table in LARGE {
            if plan.contains(&format!("Seq Scan on {table} ")) {
                scans.push(format!("{sql}\n{plan}"));
            }
        }
        if walks_model_on_postgres(plan) && !is_bounded(sql) {
            scans.push(format!("{sql}\n{plan}"));
        }
    }
    assert!(scans.is_empty(), "PostgreSQL scans:\n{}", scans.join("\n\n"));

    let ledger = Ledger::on_sqlite().await;
    let Raw::Sqlite(pool) = &ledger.raw else { unreachable!("it was opened on SQLite") };
    let mut explained = 0;
    for sql in plans.keys() {
        let Some(sql) = in_sqlite(sql) else { continue };
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let rows = pool.fetch_all(explain).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let walks = |step: &&String| scans_table(step) || walks_model(step) && !is_bounded(&sql);
        scans.extend(steps.iter().filter(walks).map(|it| format!("{it}: {sql}")));
        explained += 1;
    }
    assert!(explained > 40, "only {explained} statements were explained");
    assert!(scans.is_empty(), "SQLite scans:\n{}", scans.join("\n\n"));
}

/// The server's own come a minute later, and plans without them walk all samples of a model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_are_there_once_much_has_come_in() {
    let ledger = Ledger::on_postgres().await;
    ledger.trained_model("m", 500).await;
    let known = "SELECT COUNT(*) FROM pg_class WHERE reltuples >= 400 AND relname IN
         ('samples', 'data_keys', 'sample_contents', 'sample_predictions', 'contributions')";
    assert_eq!(ledger.integer(known).await, 5);
}

/// `SCAN` walks a whole table or index. Walking all models, webhooks or sets is fine, so is what still waits
/// (partial indexes that hold nothing else), and rows of a statement's own making.
fn scans_table(step: &str) -> bool {
    let fine = [
        "m",
        "models",
        "json_each",
        "requests",
        "CONSTANT ROW",
        "replicas",
        "webhooks",
        "w",
        "sets",
        "(subquery-",
    ];
    let partial = [
        "jobs_queued",
        "jobs_lease",
        "jobs_published",
        "versions_kept",
        "webhook_messages_due",
        "intake_callbacks_final",
    ];
    step.strip_prefix("SCAN ").is_some_and(|what| {
        let name = what.split(' ').next().unwrap_or_default();
        !fine.iter().any(|it| name == *it || (it.ends_with('-') && name.starts_with(it)))
            && !what.starts_with("CONSTANT ROW")
            && !partial.iter().any(|index| what.ends_with(index))
    })
}

/// The last row needs no walk.
fn is_bounded(sql: &str) -> bool {
    sql.trim_end().ends_with("DESC LIMIT 1")
}

/// Tables that have a row for each sample, by model.
const OF_SAMPLES: [&str; 4] = ["samples", "contributions", "tombstones", "aliases"];

/// Like [`walks_model`]: an index of such a table, asked for the model alone.
fn walks_model_on_postgres(plan: &str) -> bool {
    let lines: Vec<_> = plan.lines().map(str::trim).collect();
    lines.windows(2).any(|lines| {
        let is_of_samples = OF_SAMPLES.iter().any(|it| lines[0].contains(&format!(" using {it}_")));
        let condition = lines[1].strip_prefix("Index Cond: (model_id = ");
        is_of_samples && condition.is_some_and(|rest| !rest.contains(" AND "))
    })
}

/// Whether a step takes every row of a model from a table that has one for each sample, or every
/// prediction of a set for what `p` stands for where it is looked up.
fn walks_model(step: &str) -> bool {
    if step.starts_with("SEARCH p ") && step.ends_with("(set_id=?)") {
        return true;
    }
    let is_of_samples = OF_SAMPLES.iter().any(|table| {
        step.contains(&format!("INDEX {table}_")) || step.contains(&format!("autoindex_{table}_"))
    });
    is_of_samples && step.ends_with("(model_id=?)")
}

/// The statement as the store words it for `SQLite`; `None` for what only `PostgreSQL` has: locks
/// (its own foreign keys' too), arrays, settings.
fn in_sqlite(sql: &str) -> Option<String> {
    let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let own = ["unnest", "pg_notify", "pg_catalog", "FOR NO KEY", "FOR UPDATE", "FOR SHARE"];
    let is_shared = verbs.iter().any(|verb| sql.starts_with(verb))
        && own.iter().all(|word| !sql.contains(word));
    is_shared.then(|| {
        sql.replace("= ANY($1)", "IN (SELECT unhex(value) FROM json_each($1))")
            .replace("= ANY($2)", "IN (SELECT unhex(value) FROM json_each($2))")
            .replace("= ANY($3)", "IN (SELECT value FROM json_each($3))")
            .replace("= ANY($5)", "IN (SELECT unhex(value) FROM json_each($5))")
    })
}

/// Statements and their plans.
async fn run_hot_verbs(ledger: &Ledger) -> BTreeMap<String, String> {
    let Raw::Postgres(pool) = &ledger.raw else { unreachable!("it was opened on PostgreSQL") };
    let model = ledger.trained_model("m", 6_000).await;
    for number in 0..300 {
        ledger.delete(&model, vec![sample_target(number)], at(20)).await;
    }
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    // Many requests served long ago.
    pool.execute(
        "INSERT INTO deletion_requests (id, model_id, state, guarantee, samples, batch_id, attempts,
             not_before, received_at, due_by, completed_at, settled_at)
         SELECT gen_random_uuid(), r.model_id, r.state, 'exact', 0, r.batch_id, 0, 0, 0, 0, 0, 0
         FROM generate_series(1, 20), deletion_requests r WHERE r.state = 'completed'",
    )
    .await
    .unwrap();
    for filler in [
        "INSERT INTO deletion_targets (deletion_id, position, kind, key, samples)
         SELECT id, 0, 'sample', sha256(id::text::bytea), 0 FROM deletion_requests WHERE samples = 0",
        "INSERT INTO deletion_samples (deletion_id, sample_id)
         SELECT r.id, (SELECT MAX(id::text) FROM samples)::uuid FROM deletion_requests r
         WHERE samples = 0",
        "INSERT INTO tombstones (model_id, subject_key, deletion_id)
         SELECT model_id, sha256(id::text::bytea), id FROM deletion_requests",
    ] {
        pool.execute(filler).await.unwrap();
    }
    fill_logs(pool).await;
    fill_intakes(pool).await;
    pool.execute("ANALYZE").await.unwrap();
    let database = ledger.url.split(['/', '?']).nth(3).unwrap().to_owned();
    for setting in
        ["session_preload_libraries = 'auto_explain'", "auto_explain.log_min_duration = 0"]
    {
        let alter = format!("ALTER DATABASE {database} SET {setting}");
        pool.execute(AssertSqlSafe(alter)).await.unwrap();
    }
    // The setting holds for new connections.
    let store = Store::open(&ledger.url, keyring(MASTER)).await.unwrap();
    let mut new = new_deletion(&model, vec![sample_target(460), subject_target(470)], at(30));
    new.idempotency = Some(Idempotency { api_key_id: new_id(), ..idempotency("k", b"") });
    store.accept_deletion(&new, 100).await.unwrap();
    store.accept_deletion(&new, 100).await.unwrap();
    let other = new_deletion(&model, vec![sample_target(480)], at(30));
    store.accept_deletion(&other, 100).await.unwrap();
    store.cancel_deletion(other.id, at(31), None).await.unwrap();
    for target in [subject_target(470), sample_target(0)] {
        assert!(store.lift_tombstone(model.id, target, None, at(31)).await.unwrap());
    }
    let replica = new_id();
    let served = [Served { model_id: model.id, epoch: 2 }];
    store.report_served(replica, at(32), LEASE, &served).await.unwrap();
    let claimed = store.claim(&claim(at(33))).await.unwrap().unwrap();
    store.renew_lease(&claimed.lease, at(34), LEASE, None).await.unwrap();
    assert_eq!(store.batch_samples(claimed.job.id).await.unwrap().len(), 3);
    store.publish(&publication(&claimed, at(35), Cause::Unlearned, Some(2))).await.unwrap();
    store.retire_replica(replica).await.unwrap();
    store.complete_propagated(at(36)).await.unwrap();
    store.superseded(at(37), None, 9).await.unwrap();
    let training = staging(&store, &model, at(38)).await;
    store.fail_attempt(&training.lease, at(38), "given up", None).await.unwrap();
    assert!(store.remove_stale_predictions(9).await.unwrap());
    store.unsettled(model.id, LEASE).await.unwrap();
    store.retrainings(model.id, at(0), 9).await.unwrap();
    store.batch_deadline(new_id(), LEASE).await.unwrap();
    store.queue_depth().await.unwrap();
    store.deadlines(model.id, at(38), at(37)).await.unwrap();
    store.warn_of_deadlines(model.id, at(38), at(37)).await.unwrap();
    store.deletion(new.id).await.unwrap();
    for (model_id, state) in [
        (None, None),
        (Some(model.id), None),
        (None, Some(DeletionState::Queued)),
        (Some(model.id), Some(DeletionState::Queued)),
    ] {
        let filter = DeletionFilter { model_id, state, ..DeletionFilter::default() };
        store.deletions(&filter, None, 20).await.unwrap();
    }
    take_in(&store, &model).await;
    store.lineage(model.id, &[subject_target(470), sample_target(490)]).await.unwrap();
    store.contributors(model.id, 2, None, 20).await.unwrap();
    store.samples(model.id, Split::Train, 100, 20).await.unwrap();
    store.samples_at(model.id, Split::Train, &[100, 200, 300]).await.unwrap();
    store.named_samples(model.id, &[100, 200, 300], 3).await.unwrap();
    store.last_ordinal(model.id).await.unwrap();
    store.ordinals(model.id, Split::Holdout, 9_000, 20).await.unwrap();
    store.version_samples(model.id, 1, 100, 20).await.unwrap();
    let targets = [subject_target(470), sample_target(490)];
    store.target_samples(model.id, &targets).await.unwrap();
    store.jobs(model.id, Some(JobKind::Unlearning), None, 20).await.unwrap();
    for (model_id, about) in
        [(None, None), (Some(model.id), None), (None, Some(new.id)), (Some(model.id), Some(new.id))]
    {
        store.audit_events(&AuditFilter { model_id, about }, 5, 20).await.unwrap();
    }
    read_the_tree(&store, new.id).await;
    deliver(&store, &model).await;
    store.close().await;
    read_plans(&crate::postgres::log(), &database)
}

/// A log of many tiles, signed often; messages of long ago, to many webhooks.
async fn fill_logs(pool: &PgPool) {
    for filler in [
        "INSERT INTO audit_nodes (level, idx, hash)
         SELECT 1 + i % 2, i / 2, sha256(i::text::bytea) FROM generate_series(0, 9999) AS i",
        "INSERT INTO audit_checkpoints (size, root, note, signed_at)
         SELECT i, sha256(i::text::bytea), '', 0 FROM generate_series(1, 5000) AS i",
        "INSERT INTO audit_cosignatures (size, witness, line)
         SELECT size, 'w', '' FROM audit_checkpoints",
        "INSERT INTO webhook_messages (id, webhook_id, event_type, payload, state, attempts,
             not_before, created_at, ended_at)
         SELECT gen_random_uuid(), gen_random_uuid(), '', '', 'delivered', 1, 0, 0,
             2000000000000000
         FROM generate_series(1, 20000)",
    ] {
        pool.execute(filler).await.unwrap();
    }
}

async fn fill_intakes(pool: &PgPool) {
    for filler in [
        "INSERT INTO aliases (model_id, alias_key, subject_key)
         SELECT model_id, sha256(sample_key), subject_key FROM samples",
        "INSERT INTO intakes (id, body, agent_id, received_at, due_by)
         SELECT id, sha256(id::text::bytea), CASE WHEN random() < 0.5 THEN 'AGENT' END, 0, 0
         FROM deletion_requests",
        "INSERT INTO intake_deletions (intake_id, deletion_id, is_own)
         SELECT id, id, true FROM deletion_requests",
        "INSERT INTO intake_callbacks (id, intake_id, url)
         SELECT id, id, '' FROM deletion_requests",
    ] {
        pool.execute(filler).await.unwrap();
    }
}

async fn deliver(store: &Store, model: &Model) {
    let webhook_id = webhook(store, settings()).await.id;
    let request = new_deletion(model, vec![sample_target(485)], at(39));
    store.accept_deletion(&request, 1_000).await.unwrap();
    let token = new_id();
    store.webhooks_due(at(40)).await.unwrap();
    let claimed = store.claim_messages(webhook_id, token, at(40), LEASE, 8).await.unwrap();
    let messages = claimed.unwrap().messages;
    let delivered = Delivery::Delivered { status: 204 };
    store.record_delivery(messages[0].id, token, &delivered, at(41)).await.unwrap();
    for state in [None, Some(MessageState::Delivered)] {
        store.messages(webhook_id, state, None, 20).await.unwrap();
    }
    store.redeliver_message(webhook_id, messages[0].id).await.unwrap();
    store.outbox_depth().await.unwrap();
    store.prune_outbox(at(0), at(42)).await.unwrap();
    store.remove_webhook(webhook_id, at(43), None).await.unwrap();
}

/// A request of another protocol, from its acceptance to its withdrawal.
async fn take_in(store: &Store, model: &Model) {
    let requester = Some(Requester::Agent { id: "FIRST".into(), samples_per_day: Some(9) });
    let deletion = new_deletion(model, vec![subject_target(520)], at(40));
    let deletion = NewDeletion { requester, ..deletion };
    let new = NewIntake {
        id: new_id(),
        body: Digest::of(b""),
        origin: Origin::Agent { agent_id: "FIRST".into(), request_id: None },
        received_at: at(40),
        due_by: at(90),
        deletions: vec![deletion],
        callbacks: vec![NewCallback { id: new_id(), url: "https://example.org/".into() }],
    };
    for _ in 0..2 {
        store.accept_intake(&new, 100).await.unwrap();
    }
    store.intake(new.id).await.unwrap();
    store.callbacks_due(at(41), true, 8).await.unwrap();
    store.claim_messages(new.callbacks[0].id, new_id(), at(41), LEASE, 1).await.unwrap();
    let mut known = samples(9_000..9_001, 10_000);
    known[0].aliases = vec![subject_key(9_000)];
    let mut ingestion = store.begin_ingestion(new_id(), model.id).await.unwrap();
    ingestion.add(&known).await.unwrap();
    ingestion.commit(at(41), None).await.unwrap();
    store.alias_subjects(model.id, &[subject_key(9_000)]).await.unwrap();
    let subjects = [subject_key(520), subject_key(540), subject_key(9_000)];
    store.subject_standings(model.id, &subjects).await.unwrap();
    store.cancel_intake(new.id, at(41), None).await.unwrap();

    let token = NewAgentToken {
        agent_id: "AGENT".into(),
        hash: Digest::of(b"token"),
        asked_at: at(42),
        issued_at: at(42),
    };
    store.issue_agent_token(&token).await.unwrap();
    store.agent_of_token(token.hash).await.unwrap();
    let deletion = new_deletion(model, vec![subject_target(540)], at(42));
    let (id, due_by) = (deletion.id, deletion.due_by.plus(LEASE));
    let brought = NewIntake {
        id: new_id(),
        origin: Origin::Agent { agent_id: "AGENT".into(), request_id: Some("17".into()) },
        deletions: vec![deletion],
        callbacks: vec![NewCallback { id: new_id(), url: "https://example.org/".into() }],
        ..new
    };
    store.accept_intake(&brought, 100).await.unwrap();
    let deadline = NewDeadline { due_by, reason: ExtensionReason::Complexity };
    let extended = store.extend_deadline(id, &deadline, None, at(43)).await.unwrap();
    assert_eq!(extended, Extension::Extended);
    store.callbacks_due(at(44), false, 8).await.unwrap();
    store.claim_messages(brought.callbacks[0].id, new_id(), at(44), LEASE, 1).await.unwrap();
}

async fn read_the_tree(store: &Store, deletion_id: uuid::Uuid) {
    store.audit_size().await.unwrap();
    store.audit_hashes(0, 256, 256).await.unwrap();
    store.audit_hashes(1, 0, 256).await.unwrap();
    store.audit_nodes(1).await.unwrap();
    store.deletion_record(deletion_id).await.unwrap();
    for cosigned in [false, true] {
        store.latest_checkpoint(cosigned).await.unwrap();
    }
}

/// The log's entries look like `database|LOG:  duration: ... plan:`, a line `Query Text: ...`, the
/// rest of the statement, and the plan from the first line with a cost on; all but the first line
/// are indented by a tab.
fn read_plans(log: &str, database: &str) -> BTreeMap<String, String> {
    let own = format!("{database}|LOG:  duration:");
    let mut plans = BTreeMap::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.starts_with(&own) {
            continue;
        }
        let (mut sql, mut plan) = (String::new(), String::new());
        while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
            let is_plan = !plan.is_empty() || line.contains("(cost=");
            let part = if is_plan { &mut plan } else { &mut sql };
            part.push_str(line.trim_start_matches("\tQuery Text: ").trim_start_matches('\t'));
            part.push('\n');
        }
        plans.insert(sql.trim().to_owned(), plan);
    }
    plans
}
