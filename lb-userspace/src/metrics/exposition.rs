//! Families and their samples in the text form.
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::exemplar::Exemplar;

use super::{Buckets, Family};

/// The labels of a sample.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// The text in the making.
pub(super) struct Exposition<'a>(pub(super) DescriptorEncoder<'a>);

/// The samples of one family.
pub(super) struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    labels: &'static [&'static str],
}

impl Exposition<'_> {
    /// Writes a family: its head, and the samples that `write` gives it.
    pub(super) fn family(
        &mut self,
        family: &Family,
        write: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let unit = family.unit.registered();
        let kind = family.kind.metric_type();
        let encoder = self.0.encode_descriptor(family.stem(), family.help, unit.as_ref(), kind)?;
        write(&mut Samples { encoder, labels: family.labels })
    }
}

impl Samples<'_> {
    /// The family's labels with these values, of which there are as many.
    fn labels<'v>(&self, values: &[&'v str]) -> Labels<'v> {
        debug_assert_eq!(values.len(), self.labels.len());
        self.labels.iter().copied().zip(values.iter().copied()).collect()
    }

    pub(super) fn counter(&mut self, values: &[&str], count: u64) -> fmt::Result {
        let labels = self.labels(values);
        self.encoder.encode_family(&labels)?.encode_counter(&count, None::<&Exemplar<Labels<'_>, f64>>)
    }

    pub(super) fn gauge(&mut self, values: &[&str], value: u64) -> fmt::Result {
        let labels = self.labels(values);
        self.encoder.encode_family(&labels)?.encode_gauge(&value)
    }

    /// A time since 1970.
    pub(super) fn time(&mut self, seconds: f64) -> fmt::Result {
        self.encoder.encode_gauge(&seconds)
    }

    pub(super) fn info(&mut self, values: &[&str]) -> fmt::Result {
        let labels = self.labels(values);
        self.encoder.encode_info(&labels)
    }

    pub(super) fn buckets(&mut self, buckets: &Buckets) -> fmt::Result {
        self.histogram(buckets.sum_s(), &buckets.each().collect::<Vec<_>>())
    }

    /// A sum in seconds, and how many times fell in each bucket, which its bound names.
    pub(super) fn histogram(&mut self, sum_s: f64, buckets: &[(f64, u64)]) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.encoder.encode_histogram::<Labels<'_>>(sum_s, count, buckets, None)
    }

    /// One of several of the family.
    pub(super) fn histogram_of(
        &mut self,
        values: &[&str],
        sum_s: f64,
        buckets: &[(f64, u64)],
    ) -> fmt::Result {
        let labels = self.labels(values);
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.encoder.encode_family(&labels)?.encode_histogram::<Labels<'_>>(sum_s, count, buckets, None)
    }
}
