//! `forgetd demo`: the bundled digits, learnt, served and ready to be forgotten.

use std::net::SocketAddr;

use crate::{
    app::config::{Config, TelemetryConfig},
    app::telemetry,
    app::{App, Ledger, Role, stop_signal},
    clock::{Clock, Ids},
    dataset::{digits, raw_sample::ReadError},
    domain::{
        features::Features,
        job::{JobKind, JobState},
        model::{Model, ModelName, Policy, Recipe},
        network::{Architecture, Preset, PresetSpec},
        sample::{SampleCounts, Split},
    },
};

use super::{CliError, train::train};

const MODEL: &str = "digits";

/// Whose deletion the demo suggests.
const PERSON: &str = "person-042";

pub(super) async fn run(config: &mut Config) -> Result<(), CliError> {
    // The terminal shows the demo's own text, unless something else was asked for.
    if config.telemetry == TelemetryConfig::default() {
        config.telemetry.log = "warn".into();
    }
    // The guide's lines speak plain HTTP, on loopback.
    config.http.tls = None;
    let telemetry = telemetry::install(&config.telemetry)?;
    let ledger = Ledger::open(&config.ledger).await?;
    prepare(config, &ledger).await?;
    let stop = stop_signal()?;
    let app = App::start(config, ledger, &Role::ALL, telemetry.metrics.clone()).await?;
    println!("{}", guide(app.address())?);
    app.run_until(stop).await;
    telemetry.shutdown();
    Ok(())
}

/// Ingests and trains, unless an earlier start has.
async fn prepare(config: &Config, ledger: &Ledger) -> Result<(), CliError> {
    let model = model(ledger).await?;
    if ledger.store.current_version(model.id).await?.is_some() {
        println!("found the trained model in {}", config.ledger.data_dir.display());
        return Ok(());
    }
    if ledger.store.sample_counts(model.id).await? == SampleCounts::default() {
        ingest(ledger, &model).await?;
    }
    println!("training on 1,442 handwritten digits, and on five folds of them");
    let job = train(config, ledger, &model, JobKind::Training).await?;
    if job.state == JobState::Completed {
        Ok(())
    } else {
        Err(CliError::usage(job.reason.unwrap_or_else(|| "training was interrupted".into())))
    }
}

async fn model(ledger: &Ledger) -> Result<Model, CliError> {
    let name: ModelName = MODEL.parse().map_err(|_| CliError::usage("no name for a model"))?;
    if let Some(model) = ledger.store.model(&name).await? {
        return Ok(model);
    }
    let clock = Clock::system();
    let model = Model {
        id: Ids::system().next(clock.now()),
        name,
        architecture: Architecture::Preset(PresetSpec {
            preset: Preset::Mlp,
            hidden: Some(vec![64]),
            width: None,
        }),
        schema: digits::schema(),
        recipe: Recipe { epochs: 30, ..Recipe::default() },
        policy: Policy::default(),
        created_at: clock.now(),
    };
    ledger.store.create_model(&model, None).await?;
    Ok(model)
}

async fn ingest(ledger: &Ledger, model: &Model) -> Result<(), CliError> {
    let (clock, ids) = (Clock::system(), Ids::system());
    let samples = digits::digits()
        .map(|raw| {
            Ok(raw?.into_sample(ids.next(clock.now()), model.id, &ledger.service_key, Split::Train))
        })
        .collect::<Result<Vec<_>, ReadError>>()?;
    let mut ingestion = ledger.store.begin_ingestion(ids.next(clock.now()), model.id).await?;
    ingestion.add(&samples).await?;
    ingestion.commit(clock.now(), None).await?;
    Ok(())
}

/// What to type next.
fn guide(address: SocketAddr) -> Result<String, CliError> {
    let theirs = digits::digits()
        .find(|raw| {
            raw.as_ref()
                .is_ok_and(|raw| raw.subject_id == PERSON && raw.split == Some(Split::Train))
        })
        .ok_or_else(|| CliError::usage(format!("{PERSON} wrote no digit")))??;
    let Features::Pixels(pixels) = theirs.features else {
        return Err(CliError::usage("the bundled digits are no pixels"));
    };
    let data = serde_json::json!(pixels);
    Ok(format!(
        r#"
forgetd serves the model `{MODEL}` on http://{address}. In another terminal:

1. Predict: this {label} was written by {PERSON}, and the model has learnt it.

   curl -s http://{address}/v2/models/{MODEL}/infer -H 'content-type: application/json' \
     -d '{{"inputs":[{{"name":"input","shape":[1,64],"datatype":"UINT8","data":{data}}}]}}'

2. {PERSON} asks to be forgotten:

   curl -s http://{address}/v1/deletion-requests -H 'content-type: application/json' \
     -d '{{"model":"{MODEL}","subjects":["{PERSON}"]}}'

3. Watch the newest request until its state is `completed`:

   curl -s 'http://{address}/v1/deletion-requests?model={MODEL}&limit=1'

4. Predict again as in 1: `model_version` has risen, and the weights that had learnt the digit
   are gone. Which versions had it:

   curl -s http://{address}/v1/models/{MODEL}/lineage -H 'content-type: application/json' \
     -d '{{"subjects":["{PERSON}"]}}'

Everything lies in the data folder; stop with Ctrl-C, start again, and it is still there."#,
        label = theirs.label,
    ))
}
