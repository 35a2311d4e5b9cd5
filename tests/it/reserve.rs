//! What a batch draws is the same whether it was read in advance or when the batch came.

use std::sync::Mutex;

use forgetd::{
    clock::Clock,
    domain::{
        model::Model,
        sample::{NewSample, Split},
    },
    store::Blobs,
    unlearning::{Method, MethodError, MethodParameters, Task},
};

use crate::{
    service::eventually,
    store::{Ledger, new_deletion, new_id, on_both, sample_target},
    worker::{Made, Running, completed, forget, learnable, model_of, train, train_on, unchanged},
};

on_both!(
    batches_draw_the_same_samples_from_the_reserve,
    a_deletion_of_nothing_but_content_clears_the_reserve,
    what_is_drawn_of_a_rare_split_is_enough_and_no_later_sample_changes_it,
);

/// What each batch was given, by the method's name.
static SEEN: Mutex<Vec<(String, Seen)>> = Mutex::new(Vec::new());

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    forgotten: Vec<i64>,
    retained: Vec<i64>,
    holdout: Vec<i64>,
}

#[expect(clippy::unnecessary_wraps, reason = "workers take methods that may be missing")]
fn remembers(name: &str, _: &MethodParameters) -> Result<Method, MethodError> {
    let name = name.to_owned();
    let update = move |task: &Task<'_>| {
        let seen = Seen {
            forgotten: task.forgotten.ordinals.clone(),
            retained: task.retained.ordinals.clone(),
            holdout: task.holdout.ordinals.clone(),
        };
        SEEN.lock().unwrap().push((name.clone(), seen));
        unchanged(task)
    };
    Ok(Method::Update(Box::new(Made(update))))
}

fn seen_by(name: &str) -> Vec<Seen> {
    let seen = SEEN.lock().unwrap();
    seen.iter().filter(|(of, _)| of == name).map(|(_, seen)| seen.clone()).collect()
}

/// Deletes samples 0 to 9 one after the other, each once the reserve is as full as it gets.
async fn delete_ten(ledger: &Ledger, model: &Model, reserve_bytes_max: usize) -> Vec<Seen> {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let running = Running::with_reserve(ledger, &blobs, &clock, remembers, reserve_bytes_max);
    train(ledger, model, &clock).await;
    for number in 0..10 {
        let id = forget(ledger, model, number, &clock).await;
        completed(ledger, id).await;
        let reserved = async || running.worker.reserved_samples().await;
        let is_full = |samples: &usize| (*samples > 16) == (reserve_bytes_max > 0);
        eventually("the reserve is read", reserved, is_full).await;
    }
    running.end().await;
    seen_by(&model.policy.method)
}

async fn batches_draw_the_same_samples_from_the_reserve(ledger: &Ledger) {
    let model = model_of(&new_id().to_string(), None);
    let in_advance = delete_ten(ledger, &model, 1 << 20).await;

    let elsewhere = Ledger::on_sqlite().await;
    let mut twin = model.clone();
    twin.policy.method = new_id().to_string();
    let on_demand = delete_ten(&elsewhere, &twin, 0).await;

    assert_eq!(in_advance, on_demand);
    assert_eq!(in_advance.len(), 10);
    for (batch, seen) in (0..).zip(&in_advance) {
        assert_eq!(seen.forgotten, [batch]);
        assert_eq!((seen.retained.len(), seen.holdout.len()), (16, 20), "{seen:?}");
        assert!(seen.retained.iter().all(|ordinal| *ordinal > batch), "{seen:?}");
        assert!(seen.retained.is_sorted() && seen.holdout.is_sorted(), "{seen:?}");
        assert!(seen.retained.iter().all(|it| *it < 40) && seen.holdout.iter().all(|it| *it >= 40));
    }
    assert_ne!(in_advance[8].retained, in_advance[9].retained, "each version draws anew");
}

/// Two batches of a model of 40 training samples and 3,000 held-out ones, the second with a reserve.
async fn delete_two(ledger: &Ledger, model: &Model, after: impl AsyncFnOnce()) -> Vec<Seen> {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let running = Running::start(ledger, &blobs, &clock, remembers);
    train_on(ledger, model, &clock, &(0..3_040).map(learnable).collect::<Vec<_>>()).await;
    after().await;
    for number in [0, 1] {
        let id = forget(ledger, model, number, &clock).await;
        completed(ledger, id).await;
        let reserved = async || running.worker.reserved_samples().await;
        eventually("the reserve is read", reserved, |samples| *samples >= 1_040).await;
    }
    running.end().await;
    seen_by(&model.policy.method)
}

async fn what_is_drawn_of_a_rare_split_is_enough_and_no_later_sample_changes_it(ledger: &Ledger) {
    let model = model_of(&new_id().to_string(), None);
    let later: Vec<_> = (4_000..6_000)
        .map(|number| NewSample { split: Split::Train, ..learnable(number) })
        .collect();
    let seen = delete_two(ledger, &model, async || ledger.ingest(&model, &later).await).await;
    assert_eq!(seen.len(), 2);
    for batch in &seen {
        assert_eq!((batch.retained.len(), batch.holdout.len()), (16, 1_024));
        assert!(batch.retained.iter().all(|ordinal| *ordinal < 40), "{:?}", batch.retained);
    }
    assert_ne!(seen[0].holdout, seen[1].holdout, "each version draws anew");

    // Nor does it matter whether the version says what was there when it was trained.
    let elsewhere = Ledger::on_sqlite().await;
    let mut twin = model.clone();
    twin.policy.method = new_id().to_string();
    let forgets = async || elsewhere.execute("UPDATE versions SET method = '{}'").await;
    assert_eq!(delete_two(&elsewhere, &twin, forgets).await, seen);
}

async fn a_deletion_of_nothing_but_content_clears_the_reserve(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let running = Running::start(ledger, &blobs, &clock, remembers);
    let model = model_of(&new_id().to_string(), None);
    train(ledger, &model, &clock).await;
    let reserved = async || running.worker.reserved_samples().await;
    assert_eq!(reserved().await, 0, "nobody asked for a deletion yet");
    forget(ledger, &model, 0, &clock).await;
    // So few ordinals are looked at together.
    eventually("the reserve is read", reserved, |samples| *samples == 59).await;
    let before = reserved().await;

    let deletion = new_deletion(&model, (40..60).map(sample_target).collect(), clock.now());
    ledger.accept(&deletion).await;
    completed(ledger, deletion.id).await;
    let is_without = |samples: &usize| *samples + 20 == before;
    eventually("what was held out is gone from memory", reserved, is_without).await;
    running.end().await;
}
