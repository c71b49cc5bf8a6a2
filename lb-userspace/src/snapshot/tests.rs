use std::collections::BTreeMap;

use lb_common::config::Config;
use lb_common::counters::Traffic;

use super::*;
use crate::diff::{self, Limits, Tables};
use crate::maps::{pairs, values};
use crate::model::{Problem, Snapshot};
use crate::plan::{self, fixture};

/// A snapshot with two maps and a part of the agent's.
fn snapshot() -> NodeSnapshot {
    let map = |name: &str, value_bytes: usize, entries: u32| MapHeader {
        name: name.to_owned(),
        key_bytes: 0,
        value_bytes: value_bytes as u32,
        entries_max: 16,
        entries,
        is_cut: false,
    };
    let config = Config { snat_port_first: 11_000, ..Config::default() };
    let traffic = [Traffic::default(), Traffic { packets: 3, bytes: 200, new_flows: 1 }];
    NodeSnapshot {
        header: Header {
            format: FORMAT,
            layout_version: LAYOUT_VERSION,
            version: "0.1.0".into(),
            node: "node-a".into(),
            kernel: "6.18.0".into(),
            taken_unix_ms: 1_700_000_000_000,
            taken_s: 77,
            is_growing: false,
            maps: vec![
                map("CONFIG", size_of::<Config>(), 1),
                map("ENDPOINT_TRAFFIC", size_of::<Traffic>(), 2),
            ],
            left_out: vec![LeftOut { part: part::FACTS.into(), reason: "no agent answers".into() }],
        },
        parts: BTreeMap::from([
            (part::map("CONFIG"), bytemuck::bytes_of(&config).to_vec()),
            (part::map("ENDPOINT_TRAFFIC"), bytemuck::cast_slice(&traffic).to_vec()),
            (part::HEALTH.to_owned(), b"[]".to_vec()),
        ]),
    }
}

fn file(snapshot: &NodeSnapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.write_to(&mut bytes).unwrap();
    bytes
}

fn error(bytes: &[u8]) -> String {
    format!("{:#}", NodeSnapshot::read_from(bytes).unwrap_err())
}

#[test]
fn what_is_written_comes_back() {
    let written = snapshot();
    let read = NodeSnapshot::read_from(file(&written).as_slice()).unwrap();
    assert_eq!(read, written);
    assert_eq!(read.config().unwrap().snat_port_first, 11_000);
    assert_eq!(read.endpoints_traffic().unwrap()[1].packets, 3);
    assert_eq!(read.health(None).unwrap(), []);
}

#[test]
fn what_is_not_there_is_named_with_its_reason() {
    let error = snapshot().facts().unwrap_err().to_string();
    assert_eq!(error, "agent/facts.json is not in the snapshot: no agent answers");
    assert_eq!(snapshot().tables().unwrap_err().to_string(), "map FRONTENDS is not in the snapshot");
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_refused() {
    let whole = file(&snapshot());
    for length in (0..whole.len()).step_by(7) {
        assert!(error(&whole[..length]).contains("cut short, damaged"), "{length} bytes");
    }
}

#[test]
fn no_changed_byte_makes_another_snapshot_of_it() {
    let written = snapshot();
    let whole = file(&written);
    let mut refused = 0;
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x20;
        match NodeSnapshot::read_from(damaged.as_slice()) {
            // Of gzip's header and of the last bits of its data some say nothing (RFC 1952 §2.3, RFC 1951 §3.1.1).
            Ok(read) => assert_eq!(read, written, "byte {place}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > whole.len() * 9 / 10, "{refused} of {}", whole.len());
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(
        error(b"kind: Service\n").contains("no file of `podway snapshot`"),
        "{}",
        error(b"kind: Service\n")
    );
}

#[test]
fn another_versions_file_names_the_version_that_reads_it() {
    for (format, layout_version) in [(FORMAT + 1, LAYOUT_VERSION), (FORMAT, LAYOUT_VERSION + 1)] {
        let mut newer = snapshot();
        newer.header = Header { format, layout_version, version: "9.9.9".into(), ..newer.header };
        let error = error(&file(&newer));
        assert!(
            error.starts_with(&format!("it is of podway 9.9.9 with format {format} and layout")),
            "{error}"
        );
        assert!(error.ends_with("use podway 9.9.9"), "{error}");
    }
}

#[test]
fn a_map_that_is_shorter_than_its_header_says_is_refused() {
    let mut short = snapshot();
    short.parts.get_mut("maps/ENDPOINT_TRAFFIC").unwrap().truncate(24);
    let error = error(&file(&short));
    assert!(error.ends_with("map ENDPOINT_TRAFFIC has 24 bytes and not 48"), "{error}");
}

#[test]
fn values_of_another_size_are_refused() {
    let mut other = snapshot();
    other.header.maps[1].value_bytes = 12;
    other.header.maps[1].entries = 4;
    let error = other.endpoints_traffic().unwrap_err().to_string();
    assert_eq!(error, "map ENDPOINT_TRAFFIC of the snapshot has values of another size");
}

#[test]
fn facts_come_back_to_the_same_plan() {
    let service = fixture::service("cart", "10.96.0.1");
    let facts = Snapshot {
        services: BTreeMap::from([(service.name.clone(), service.into())]),
        ..Snapshot::default()
    };
    let node = fixture::node();
    let desired = plan::plan(&facts, &node, &plan::ReadinessAlone);
    let problem = |kind, name: &str| Problem {
        kind,
        object: ObjectName::new("shop", name),
        message: "cannot be used".to_owned(),
    };
    let problems = [problem("Service", "cart"), problem("Ingress", "shop")];
    let text = serde_json::to_string(&RecordedFacts::new(&facts, &node, &desired, &problems)).unwrap();
    let read: RecordedFacts = serde_json::from_str(&text).unwrap();
    assert_eq!(read.plan(), desired);
    assert_eq!(read.ingress_problems(), problems[1..]);
    assert_eq!(read.node, node);
}

#[test]
fn tables_come_back_from_bytes() {
    let service = fixture::service("cart", "10.96.0.1");
    let facts = Snapshot {
        services: BTreeMap::from([(service.name.clone(), service.into())]),
        ..Snapshot::default()
    };
    let desired = plan::plan(&facts, &fixture::node(), &plan::ReadinessAlone);
    let mut tables = Tables::new(Limits::default());
    for op in diff::full(&desired, &tables, 0).ops {
        tables.apply(&op, 0);
    }
    let frontends: Vec<_> = tables.frontends().iter().map(|(key, value)| (*key, *value)).collect();
    let bytes: Vec<u8> = frontends
        .iter()
        .flat_map(|(key, value)| [bytemuck::bytes_of(key), bytemuck::bytes_of(value)].concat())
        .collect();
    assert!(!frontends.is_empty());
    assert_eq!(pairs(&bytes), Some(frontends));
    assert_eq!(values::<u64>(&[0; 9]), None);
}
