//! What agents tell each other, and its form in an annotation: JSON without blanks.
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most Services that are named as behind. At the bound an agent does not say that it has come further.
pub const SERVICES_MAX: usize = 64;

/// Most unhealthy endpoints in a report or a summary, 17 bytes each: with all else it stays below the 256 KiB that
/// the annotations of an object may have. At the bound the keys that come first are told; an agent goes by what its
/// own probes find of the others.
pub const KEYS_MAX: usize = 8_192;

/// The keys of targets ([`crate::health::target_key`]), as text: 16 hexadecimal digits each, one blank between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(pub BTreeSet<u64>);

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: Vec<String> = self.0.iter().map(|key| format!("{key:016x}")).collect();
        serializer.serialize_str(&digits.join(" "))
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let keys = text.split_ascii_whitespace().map(|digits| u64::from_str_radix(digits, 16));
        keys.collect::<Result<_, _>>().map(Self).map_err(serde::de::Error::custom)
    }
}

/// What one agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The node's maps hold every change of EndpointSlices up to this resourceVersion, but for
    /// [`Report::behind`].
    pub programmed: u64,
    /// Services, NAMESPACE/NAME, of which they do not hold it; at most [`SERVICES_MAX`].
    pub behind: BTreeSet<String>,
    /// The resourceVersion for which pods of the node wait; zero where none waits.
    pub wanted: u64,
    /// Endpoints of the node's share that fail their check by its probes; at most [`KEYS_MAX`].
    pub unhealthy: Keys,
}

/// What all agents come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// All live agents' maps hold every change of EndpointSlices up to this resourceVersion, but for
    /// [`Summary::behind`].
    pub programmed: u64,
    /// Services of which the maps of some do not hold it.
    pub behind: BTreeSet<String>,
    /// The resourceVersion about which agents shall tell once they have come as far; zero for none.
    pub wanted: u64,
    /// Nodes without a live agent.
    pub absent: BTreeSet<Arc<str>>,
    /// Endpoints that fail their check by most of their probers; at most [`KEYS_MAX`].
    pub unhealthy: Keys,
    /// How many more there are than the bound lets in.
    pub left_out: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_compact_and_comes_back_from_its_text() {
        let summary = Summary {
            programmed: 812,
            wanted: 820,
            absent: ["node-c".into()].into(),
            unhealthy: Keys([0x1f, 0xffff_0000_0000_0000].into()),
            ..Summary::default()
        };
        let text = serde_json::to_string(&summary).expect("text");
        assert_eq!(
            text,
            "{\"programmed\":812,\"behind\":[],\"wanted\":820,\"absent\":[\"node-c\"],\
             \"unhealthy\":\"000000000000001f ffff000000000000\",\"leftOut\":0}"
        );
        assert_eq!(serde_json::from_str::<Summary>(&text).expect("a summary"), summary);
    }

    #[test]
    fn report_of_an_agent_that_knows_less_is_read() {
        let report: Report = serde_json::from_str("{\"programmed\":7,\"ofTheFuture\":1}").expect("a report");
        assert_eq!(report, Report { programmed: 7, ..Report::default() });
    }
}
