//! Callers that go away in the middle of a verb: a client that hangs up, a timer that runs out.

use std::{
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use super::{Ledger, new_id, on_both, samples};

on_both!(a_caller_that_goes_away_leaves_no_transaction_open);

async fn a_caller_that_goes_away_leaves_no_transaction_open(ledger: &Ledger) {
    let model = ledger.model("people").await;
    // Each is left a little later than the one before, so that every await is left at some time.
    for polls in 1..40 {
        leave(pin!(ledger.store.ping()), polls).await;
        check_connections(ledger).await;
        leave(pin!(ledger.store.begin_ingestion(new_id(), model.id)), polls).await;
        check_connections(ledger).await;
        let mut ingestion = ledger.store.begin_ingestion(new_id(), model.id).await.unwrap();
        // Many, so that it has not ended by then.
        leave(pin!(ingestion.add(&samples(0..500, 500))), 4 * polls).await;
        drop(ingestion);
        check_connections(ledger).await;
    }
    ledger.ingest(&model, &samples(0..500, 500)).await;
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 500);
}

/// Erased pages cannot be removed within a transaction, nor beside one that was left open.
async fn check_connections(ledger: &Ledger) {
    // One connection after the other; there are two or three.
    for _ in 0..4 {
        ledger.store.purge_erased().await.unwrap();
    }
}

async fn leave<T>(mut verb: Pin<&mut impl Future<Output = T>>, polls: usize) {
    for _ in 0..polls {
        let progress = std::future::poll_fn(|context| Poll::Ready(verb.as_mut().poll(context)));
        if progress.await.is_ready() {
            return;
        }
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_micros(20)))
            .await
            .unwrap();
    }
}
