//! The flags of traces.
use std::str::FromStr;

use clap::Args;

use crate::l7::serve::{OtlpReceiver, TRACES_WAITING_MAX, TraceSettings};

/// How requests to Ingresses are traced.
#[derive(Args, Clone, Debug)]
pub struct TraceOptions {
    /// Receiver of OTLP over HTTP that gets spans of requests to Ingresses, as http://127.0.0.1:4318; empty for none.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", default_value = "", value_name = "URL")]
    pub otlp_endpoint: OtlpEndpoint,
    /// The share of requests that is traced, from 0 to 1, where no trusted proxy has decided.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = 0.01, value_name = "RATIO", value_parser = ratio)]
    pub trace_sample_ratio: f64,
}

/// Where spans are sent, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(pub Option<OtlpReceiver>);

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|receiver| Self(Some(receiver))) }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "want a number from 0 to 1, as 0.01 for one request of a hundred".to_owned())
}

impl TraceOptions {
    /// What the front-end is told; none where nothing is traced.
    pub(super) fn settings(&self, node_name: &str) -> Option<TraceSettings> {
        Some(TraceSettings {
            receiver: self.otlp_endpoint.0.clone()?,
            sample_ratio: self.trace_sample_ratio,
            node_name: node_name.to_owned(),
            waiting_max: TRACES_WAITING_MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        traces: TraceOptions,
    }

    fn read(flags: &[&str]) -> Result<Option<TraceSettings>, String> {
        let read = Flags::try_parse_from(["podway"].iter().chain(flags));
        read.map(|flags| flags.traces.settings("node-a")).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_traced_without_a_receiver() {
        assert!(read(&["--otlp-endpoint="]).expect("flags").is_none());
        let settings = read(&["--otlp-endpoint=http://192.0.2.7", "--trace-sample-ratio=0.5"]);
        let settings = settings.expect("flags").expect("settings");
        assert_eq!(settings.receiver, "http://192.0.2.7:4318".parse().expect("a receiver"));
        assert_eq!((settings.sample_ratio, &*settings.node_name), (0.5, "node-a"));
    }

    #[test]
    fn what_is_no_share_or_no_receiver_is_refused() {
        for ratio in ["-0.1", "1.1", "NaN", "half"] {
            let error = read(&[&format!("--trace-sample-ratio={ratio}")]).expect_err("no share");
            assert!(error.contains("want a number from 0 to 1"), "{error}");
        }
        let error = read(&["--otlp-endpoint=192.0.2.7:4318"]).expect_err("no receiver");
        assert!(error.contains("cannot send traces to"), "{error}");
    }
}
