//! Starts what a program asks for, and flushes it at the end.

use std::env;
use std::io::IsTerminal;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::SdkTracerProvider;
use qlora_codes::Code;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::stderr;

/// Boundaries, in seconds, that suit both a dispatch and a training step.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    120.0,
];

/// Who is speaking.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Such as `qlora-worker`.
    pub name: &'static str,
    pub version: &'static str,
}

/// How much goes to stderr when `RUST_LOG` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// For programs that run in the background.
    Info,
    /// For programs whose stderr is a screen.
    Warnings,
}

/// Keeps exporters alive; flushes when dropped.
#[derive(Debug)]
pub struct Guard {
    tracer: Option<SdkTracerProvider>,
    meter: Option<SdkMeterProvider>,
    /// Writes the log's last lines when it is dropped, after everything else.
    _stderr: WorkerGuard,
    /// What `/metrics` shows; only where [`start`] was asked for it.
    pub registry: Option<prometheus::Registry>,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the OTLP exporter cannot start: {0}; check the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the metrics registry cannot start: {0}")]
    Registry(String),
}

impl SetupError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        Code::Telemetry
    }
}

/// Starts logs, and traces and metrics where the environment asks for them. Call within a tokio
/// runtime.
///
/// With `scrape` the metrics are also kept for a Prometheus to scrape.
pub fn start(program: Program, logs: Logs, scrape: bool) -> Result<Guard, SetupError> {
    let resource = Resource::builder()
        .with_service_name(
            env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| program.name.to_owned()),
        )
        .with_attribute(KeyValue::new("service.version", program.version))
        .build();
    let tracer = if wanted("TRACES") {
        Some(tracer(resource.clone())?)
    } else {
        None
    };
    let (meter, registry) = meter(resource, scrape)?;
    let level = if logs == Logs::Info { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colors = std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let (lines, written) = stderr::start(colors);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(lines)
        .with_ansi(colors)
        .with_target(false);
    let printed = layer.with_filter(filter);
    let exported = tracer.as_ref().map(|provider| {
        // Without this filter the spans of the transport itself would leave too.
        let quiet =
            EnvFilter::new("info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,sqlx=off");
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(program.name))
            .with_filter(quiet)
    });
    tracing_subscriber::registry()
        .with(printed)
        .with(exported)
        .init();
    Ok(Guard {
        tracer,
        meter,
        _stderr: written,
        registry,
    })
}

/// Whether the standard variables name a receiver for `signal`.
fn wanted(signal: &str) -> bool {
    let set = |name: String| env::var(name).is_ok_and(|v| !v.is_empty());
    let off = env::var(format!("OTEL_{signal}_EXPORTER")).is_ok_and(|v| v == "none");
    let disabled = env::var("OTEL_SDK_DISABLED").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    let endpoint = set("OTEL_EXPORTER_OTLP_ENDPOINT".into())
        || set(format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"));
    endpoint && !off && !disabled
}

fn tracer(resource: Resource) -> Result<SdkTracerProvider, SetupError> {
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}

fn meter(
    resource: Resource,
    scrape: bool,
) -> Result<(Option<SdkMeterProvider>, Option<prometheus::Registry>), SetupError> {
    let otlp = wanted("METRICS");
    if !otlp && !scrape {
        return Ok((None, None));
    }
    let mut builder = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_view(seconds_view);
    if otlp {
        builder = builder.with_periodic_exporter(MetricExporter::builder().with_tonic().build()?);
    }
    let mut registry = None;
    if scrape {
        let own = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(own.clone())
            .build();
        builder = builder.with_reader(exporter.map_err(|e| SetupError::Registry(e.to_string()))?);
        registry = Some(own);
    }
    let provider = builder.build();
    global::set_meter_provider(provider.clone());
    Ok((Some(provider), registry))
}

/// Histograms of seconds get boundaries below one second, where the default ones have none.
fn seconds_view(instrument: &Instrument) -> Option<Stream> {
    if instrument.unit() != "s" {
        return None;
    }
    let aggregation = Aggregation::ExplicitBucketHistogram {
        boundaries: SECONDS.to_vec(),
        record_min_max: true,
    };
    Stream::builder().with_aggregation(aggregation).build().ok()
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(tracer) = &self.tracer {
            let _ = tracer.shutdown();
        }
        if let Some(meter) = &self.meter {
            let _ = meter.shutdown();
        }
    }
}
