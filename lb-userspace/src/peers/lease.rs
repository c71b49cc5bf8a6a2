//! Reports and summaries as Leases (`coordination.k8s.io/v1`), a kind that is made for what is renewed often.
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Heard, Report, Summary};

/// The Lease with the summary.
pub(super) const SUMMARY_NAME: &str = "podway";

/// Before the node's name in that of a report: no node is called so that the two would be one.
const REPORT_PREFIX: &str = "podway.";

/// The annotation with the report or the summary.
const CONTENT: &str = "podway.io/content";

/// How long a collector that does not renew the summary stays the collector, seconds.
pub(super) const COLLECTOR_HOLDS_S: u64 = 15;

/// The name of a node's report.
pub(super) fn report_name(node: &str) -> String {
    format!("{REPORT_PREFIX}{node}")
}

/// The node whose report a Lease is; `None` for another Lease.
pub(super) fn node_of(lease: &Lease) -> Option<&str> {
    lease.metadata.name.as_deref()?.strip_prefix(REPORT_PREFIX)
}

/// A node's report, which holds for so many milliseconds.
pub(super) fn of_report(node: &str, report: &Report, holds_ms: u64) -> Lease {
    lease(report_name(node), node, report, holds_ms / 1_000, None)
}

/// What a Lease reports; `None` where it is not to be read.
pub(super) fn report(lease: &Lease) -> Option<Heard> {
    let spec = lease.spec.as_ref()?;
    let holds_ms = u64::try_from(spec.lease_duration_seconds?).ok()? * 1_000;
    Some(Heard { report: content(lease)?, renewed_us: renewed_us(lease)?, holds_ms })
}

/// The summary by a collector, in the place of the one of a version.
pub(super) fn of_summary(node: &str, summary: &Summary, version: Option<String>) -> Lease {
    lease(SUMMARY_NAME.to_owned(), node, summary, COLLECTOR_HOLDS_S, version)
}

/// The summary of a Lease and its collector; the default where it is not to be read.
pub(super) fn summary(lease: &Lease) -> (Summary, &str) {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    (content(lease).unwrap_or_default(), holder.unwrap_or_default())
}

/// When it was renewed by its writer's clock, microseconds since 1970.
pub(super) fn renewed_us(lease: &Lease) -> Option<i64> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0.as_microsecond())
}

fn lease(
    name: String,
    holder: &str,
    content: &impl Serialize,
    holds_s: u64,
    version: Option<String>,
) -> Lease {
    let content = serde_json::to_string(content).unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(name),
            resource_version: version,
            annotations: Some([(CONTENT.to_owned(), content)].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(i32::try_from(holds_s).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

fn content<T: DeserializeOwned>(lease: &Lease) -> Option<T> {
    serde_json::from_str(lease.metadata.annotations.as_ref()?.get(CONTENT)?).ok()
}
