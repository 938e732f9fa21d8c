//! W3C trace context in gRPC metadata.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{KeyRef, MetadataKey, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

struct Out<'a>(&'a mut MetadataMap);

impl Injector for Out<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct In<'a>(&'a MetadataMap);

impl Extractor for In<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        let ascii = |key| match key {
            KeyRef::Ascii(key) => Some(key.as_str()),
            KeyRef::Binary(_) => None,
        };
        self.0.keys().filter_map(ascii).collect()
    }
}

/// Adds the context of the current span to a request.
pub fn inject(metadata: &mut MetadataMap) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Out(metadata));
}

/// The context that came with a request.
pub fn extract(metadata: &MetadataMap) -> Context {
    TraceContextPropagator::new().extract(&In(metadata))
}

/// Makes `span` a child of what came with a request.
pub fn set_parent(span: &Span, metadata: &MetadataMap) {
    let _ = span.set_parent(extract(metadata));
}

/// Makes `span` a child of a `traceparent` that was kept as text; an empty or broken one changes
/// nothing.
pub fn set_parent_text(span: &Span, traceparent: &str) {
    let mut metadata = MetadataMap::new();
    if let Ok(value) = traceparent.parse() {
        metadata.insert("traceparent", value);
        set_parent(span, &metadata);
    }
}

/// The `traceparent` of the current span; empty where nothing is traced.
pub fn current_traceparent() -> String {
    let mut metadata = MetadataMap::new();
    inject(&mut metadata);
    metadata
        .get("traceparent")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}
