//! `forgetd verify --replay`: whether a certified version's weights come out again.

use std::sync::Arc;

use crate::{
    app::{self, Ledger, config::Config},
    audit::{
        certificate::Certificate,
        report::Report,
        statement::{Statement, VersionFacts},
    },
    clock::{Clock, Ids},
    domain::{chain::Chain, deletion::Target, program},
    worker::{Origin, Recorded, RecordedUpdate, ReplayError},
};

use super::{CliError, progress::Bars};

const WHAT: &str = "replay";

/// Makes the certificate's last version again from the ledger, and compares the weights.
///
/// # Errors
/// When the ledger cannot be opened, or fails; not when the version cannot be made again.
pub(super) async fn replay(
    certificate: &Certificate,
    config: &Config,
    report: &mut Report,
) -> Result<(), CliError> {
    let statement = certificate.statement();
    let settled = statement.settlement.as_ref().map(|settlement| &settlement.version);
    let Some(version) = settled.or(statement.version.as_ref()) else {
        report.leave_open(WHAT, "no version held the samples, so that none was made without them");
        return Ok(());
    };
    let Some(recorded) = recorded(statement, version) else {
        report.leave_open(WHAT, "the certificate does not say what the version was made from");
        return Ok(());
    };
    let ledger = Ledger::open(&config.ledger).await?;
    let bars = Arc::new(Bars::new());
    let shown = bars.clone();
    let worker = app::worker(config, &ledger, Clock::system(), Ids::system())?
        .with_listener(Arc::new(move |_, progress| shown.show(WHAT, progress)));
    let replayed = worker.replay(recorded).await;
    bars.finish();
    ledger.store.close().await;
    let (epoch, weights) = (version.epoch, version.weights_after);
    match replayed {
        Ok(again) if again.weights == weights => {
            let samples = version.metrics.samples;
            report.hold(
                WHAT,
                format!("version {epoch}, of {samples} samples, came out again: {weights}"),
            );
        }
        Ok(again) if !again.is_same_draw => report.leave_open(
            WHAT,
            format!(
                "version {epoch} came out as {}, not as {weights}, but the record does not say that \
                 the update drew the same samples beside those that it forgot: requests had named \
                 or erased others, or an earlier forgetd drew them",
                again.weights,
            ),
        ),
        Ok(again) => report.fail(
            WHAT,
            format!(
                "version {epoch} came out as {}, not as {weights}. forgetd {} made it, this \
                 is {}; another kind of processor, another number of `worker.threads` or a ledger \
                 of another time give other weights too",
                again.weights,
                version.forgetd,
                program::VERSION,
            ),
        ),
        Err(ReplayError::Store(error)) => return Err(error.into()),
        Err(error) => report.leave_open(WHAT, Chain(&error).to_string()),
    }
    Ok(())
}

/// `None` when what an update needs is not stated.
fn recorded(statement: &Statement, version: &VersionFacts) -> Option<Recorded> {
    let origin = if version.cause.is_exact() {
        Origin::Samples(version.metrics.samples)
    } else {
        let targets = statement.request.targets.iter();
        Origin::Parent(RecordedUpdate {
            parent_epoch: version.parent_epoch?,
            parent_weights: version.weights_before?,
            batch_id: statement.batch.id,
            targets: targets.map(|it| Target { kind: it.kind, key: it.key }).collect(),
            forgotten: statement.batch.evidence["samples"].as_u64()?,
        })
    };
    Some(Recorded {
        model_id: statement.request.model_id,
        epoch: version.epoch,
        method: version.method.clone(),
        origin,
    })
}
