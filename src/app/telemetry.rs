//! Logs, traces and metrics, set up once for the process.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracerProvider, SpanData},
};
use tokio::runtime::Handle;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::config::{LogFormat, TelemetryConfig};

/// Upper bounds of the histogram buckets, in seconds.
const BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`telemetry.log` is no list of directives such as `info,sqlx=warn`")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("traces cannot be exported to `telemetry.otlp_endpoint`")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("metrics cannot be recorded")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("logging was set up before")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps the exporters; dropped last, after `shutdown`.
pub struct Telemetry {
    pub metrics: PrometheusHandle,
    traces: Option<SdkTracerProvider>,
}

/// Sets up the process. Logs go to standard error, so that standard output stays the command's.
/// Called on the runtime that is to send the traces.
///
/// # Errors
/// When a directive or the endpoint cannot be used, or the process has been set up before.
pub fn install(config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let filter = || EnvFilter::builder().parse(&config.log);
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs: Box<dyn Layer<Registry> + Send + Sync> = if json {
        format.json().flatten_event(true).with_current_span(false).with_filter(filter()?).boxed()
    } else {
        format.with_ansi(std::io::stderr().is_terminal()).with_filter(filter()?).boxed()
    };
    let traces = match &config.otlp_endpoint {
        Some(endpoint) => {
            let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build()?;
            let exporter = OnRuntime { exporter: Arc::new(exporter), runtime: Handle::current() };
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).build())
        }
        None => None,
    };
    // The same filter: what sends the traces must not be traced without end.
    let spans = match &traces {
        Some(provider) => {
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("forgetd"));
            Some(layer.with_filter(filter()?))
        }
        None => None,
    };
    tracing_subscriber::registry().with(logs).with(spans).try_init()?;
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS_S)?
        .install_recorder()?;
    Ok(Telemetry { metrics, traces })
}

impl Telemetry {
    /// Sends what is still buffered.
    pub fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// Sends on our runtime what the batches' own thread, which has none, collects.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
}

impl opentelemetry_sdk::trace::SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = self.exporter.clone();
        let sent = self.runtime.spawn(async move { exporter.export(batch).await });
        sent.await.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
