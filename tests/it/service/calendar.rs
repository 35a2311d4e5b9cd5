//! The calendar of the machine jumps in the middle of a batch, far forward and far back.

use reqwest::StatusCode;

use super::{
    Database, Service, eventually, people,
    promise::{self, Promise},
    shim::{Fault, Shim},
};

const HOUR_S: i64 = 3_600;

#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_that_jumps_loses_and_repeats_nothing() {
    for database in Database::ALL {
        let shim = Shim::new();
        // Leases that a jump ends, and no dead replica's row to wait for after one back.
        let environment = [shim.environment().as_slice(), &promise::ENVIRONMENT].concat();
        let service = Service::start_with(database, &environment, &[]).await;
        people::trained(&service, &people::unsettled()).await;
        let mut promise = Promise::of(&service).await;
        let offsets = [2 * HOUR_S, 0, -2 * HOUR_S, 24 * 366 * HOUR_S];
        for (person, offset) in offsets.into_iter().enumerate() {
            service.hold_at("batch.stored");
            let id = people::forget(&service, &[&format!("person-{person}")]).await;
            service.reaches("batch.stored").await;
            shim.set(Fault::CalendarOffsetS, offset);
            service.let_pass("batch.stored");
            service.request_becomes(&id, "completed").await;
            promise.accepted.push(id);
            eventually(
                "predictions are answered",
                async || people::predict(&service, 0).await.status,
                |status| *status == StatusCode::OK,
            )
            .await;
            promise.holds(&service).await;
        }
        promise.is_fulfilled(&service).await;
    }
}
