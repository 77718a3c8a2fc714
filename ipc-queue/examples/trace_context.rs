//! A trace that continues in another process: the context travels in the message's headers.
//!
//! `cargo run -p ipc-queue --example trace_context` sends a job. The same command with ` -- work`
//! works on one. Each prints the span that it ends; with an OTLP exporter instead, one trace would
//! contain both.

use ipc_queue::{Headers, Queue, SendOptions};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(Print)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("example"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;

    let jobs = Queue::<String>::open("shm:example-trace")?;
    if std::env::args().nth(1).as_deref() == Some("work") {
        let receiver = jobs.receiver();
        let job = receiver.recv()?;
        let parent = TraceContextPropagator::new().extract(&FromHeaders(&job.headers()));
        let span = tracing::info_span!("resize", attempt = job.attempt());
        span.set_parent(parent)?;
        span.in_scope(|| { /* work: spans and events in here belong to the sender's trace */ });
        job.ack()?;
    } else {
        let span = tracing::info_span!("upload");
        let mut headers = Headers::new();
        TraceContextPropagator::new().inject_context(&span.context(), &mut ToHeaders(&mut headers));
        let options = SendOptions::new().headers(headers);
        span.in_scope(|| jobs.sender().send_with("a.png".to_owned(), &options))?;
    }
    provider.shutdown()?;
    Ok(())
}

/// Writes a context: the headers `traceparent` and `tracestate`.
struct ToHeaders<'h>(&'h mut Headers);

impl Injector for ToHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        // If the headers become too large, the trace ends here, and the message is sent anyway.
        let _ = self.0.insert(key, value);
    }
}

/// Reads a context.
struct FromHeaders<'h>(&'h Headers);

impl Extractor for FromHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get_str(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

/// Prints spans; a program would send them to a collector.
#[derive(Debug)]
struct Print;

impl SpanExporter for Print {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        for span in spans {
            let (context, parent) = (&span.span_context, span.parent_span_id);
            let (trace, id) = (context.trace_id(), context.span_id());
            println!("span {} trace {trace} id {id} parent {parent}", span.name);
        }
        Ok(())
    }
}
