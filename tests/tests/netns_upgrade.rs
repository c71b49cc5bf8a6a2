//! Agents are replaced by another build, and by the former one again, under traffic: the programs in their links become
//! others, and no connection, no datagram and no request to an Ingress is lost. So also where the maps' layout is another
//! one.
//!
//! The other build is the same program with an object whose instructions differ, unless `PODWAY_OTHER_BINARY` and
//! `PODWAY_OTHER_EBPF_OBJECT` name one. `PODWAY_UPGRADE` asks for rates, as `CONNECTIONS,REQUESTS` a second:
//! `cargo xtask upgrade` sets it to what Podway promises, with the release binary.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lb_common::maps::{self, LAYOUT_VERSION};
use lb_tests::agent::{Agent, Options, Podway, end_of_former};
use lb_tests::cluster::Cluster;
use lb_tests::endurance::{Absences, Changes, Flows, INTERVAL, Rates, Requests, Stage, wait_until_in_sync};
use lb_tests::need;
use lb_tests::topology::NODE_NAMES;
use rustix::process::Signal;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
/// Connections of layer 4 that stay open where rates are asked for, all with a request under way: they wait for the
/// network, not for each other.
const HELD: u32 = 400;
/// Clients of the Ingress where rates are asked for.
const CLIENTS: u32 = 10;
/// Time from one replacement to the next where rates are asked for: a rolling update goes on to the next node when
/// this one has been ready for a while (`minReadySeconds`).
const PAUSE: Duration = Duration::from_secs(2);
/// The agent whose front-end is asked.
const ASKED: usize = 0;

/// Two builds.
struct Builds {
    first: Podway,
    other: Podway,
    _dir: TempDir,
}

impl Builds {
    /// `None` where the machine lacks a need.
    fn new() -> Option<Self> {
        let need = need::netns()?;
        let dir = TempDir::with_prefix("podway-build-").unwrap();
        let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let object = named("PODWAY_OTHER_EBPF_OBJECT").unwrap_or_else(|| {
            let path = dir.path().join("other.o");
            std::fs::write(&path, otherwise(std::fs::read(&need.ebpf_object).unwrap())).unwrap();
            path
        });
        let binary = named("PODWAY_OTHER_BINARY").unwrap_or_else(|| need.podway.clone());
        Some(Self {
            first: Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) },
            other: Podway { binary, ebpf_object: Some(object) },
            _dir: dir,
        })
    }
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> usize {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number) as usize
}

/// The object with other instructions that do the same: `r = number` becomes `w = number`, which clears the upper half
/// (RFC 9669 §4.1), and the other way round. ELF-64 as in elf(5).
fn otherwise(mut object: Vec<u8>) -> Vec<u8> {
    const EXECUTABLE: usize = 4;
    const LOAD_64: u8 = 0x18;
    const MOVE_64: u8 = 0xb7;
    const MOVE_32: u8 = 0xb4;
    let (headers, size, count) =
        (number_at::<8>(&object, 0x28), number_at::<2>(&object, 0x3a), number_at::<2>(&object, 0x3c));
    for header in (0..count).map(|index| headers + index * size) {
        if number_at::<8>(&object, header + 8) & EXECUTABLE == 0 {
            continue;
        }
        let mut at = number_at::<8>(&object, header + 0x18);
        let end = at + number_at::<8>(&object, header + 0x20);
        while at < end {
            let is_positive = object[at + 7] < 0x80;
            object[at] = match object[at] {
                MOVE_64 if is_positive => MOVE_32,
                MOVE_32 if is_positive => MOVE_64,
                other => other,
            };
            at += if object[at] == LOAD_64 { 16 } else { 8 };
        }
    }
    object
}

/// The programs of a node by link, with the kernel's hash of their instructions.
fn tags(agent: &Agent) -> BTreeMap<String, u64> {
    let loaded: BTreeMap<u32, u64> =
        aya::programs::loaded_programs().flatten().map(|program| (program.id(), program.tag())).collect();
    let rows = agent.get("programs").unwrap();
    let tag = |row: &serde_json::Value| {
        let id = row["programId"].as_u64().unwrap() as u32;
        (format!("{} {} {}", row["program"], row["interfaceIndex"], row["cgroupInode"]), loaded[&id])
    };
    rows.as_array().unwrap().iter().map(tag).collect()
}

/// The rates of `PODWAY_UPGRADE`, if there are any.
fn asked_for() -> Option<[u32; 2]> {
    let text = std::env::var("PODWAY_UPGRADE").ok()?;
    let numbers: Vec<u32> = text.split(',').filter_map(|number| number.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Puts a build in the place of the one that runs, as a DaemonSet does that starts the new pod first: the front-end's
/// sockets are handed over, and the former agent ends what it has begun.
fn take_over(agent: &mut Agent, build: &Podway) {
    let former = agent.take_over_by(build).unwrap().expect("one that runs");
    agent.wait_until_it_serves(&former, DEADLINE).unwrap();
    former.signal(Signal::TERM).unwrap();
    end_of_former(former, DEADLINE).unwrap();
}

#[test]
fn another_build_takes_over_and_back_without_a_loss() {
    let Some(builds) = Builds::new() else { return };
    let asked = asked_for();
    let mut stage = Stage::start(&builds.first, Options::default()).unwrap();
    let client = stage.cluster.topology.client();
    let (rates, requests) = match asked {
        Some([connections_per_second, _]) => (
            Rates { connections_per_second, held: HELD, at_once: HELD, ..Rates::default() },
            Requests::start_kept(client, CLIENTS, INTERVAL),
        ),
        None => (Rates::default(), Requests::start_kept(client, 2, INTERVAL)),
    };
    let (flows, mut changes, begun) =
        (Flows::start(&stage.cluster, rates).unwrap(), Changes::new(1), Instant::now());
    for build in [&builds.other, &builds.first, &builds.other] {
        for index in 0..stage.cluster.agents.len() {
            let before = tags(&stage.cluster.agents[index]);
            changes.make(&mut stage.cluster).unwrap();
            let agent = &mut stage.cluster.agents[index];
            match index {
                ASKED => take_over(agent, build),
                _ => agent.replace_by(build).unwrap(),
            }
            wait_until_in_sync(agent).unwrap();
            let after = tags(agent);
            assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
            assert!(before.iter().all(|(program, tag)| after[program] != *tag), "{before:?} {after:?}");
            std::thread::sleep(asked.map_or(Duration::ZERO, |_| PAUSE));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let requests = requests.finish(&Absences::default()).unwrap();
    let carried = flows.finish().unwrap();
    let per_second = (carried.echoes + requests) as f64 / seconds;
    println!("{carried:?}; {requests} requests to the Ingress; {per_second:.0} of both layers a second");
    if let Some([connections, requests]) = asked {
        let reached = carried.connections_per_second;
        assert!(
            reached >= f64::from(connections) * 0.95,
            "{reached:.0} connections a second of {connections}"
        );
        assert!(per_second >= f64::from(requests), "{per_second:.0} requests a second of {requests}");
    }
}

#[test]
fn another_layout_takes_over_without_a_loss() {
    let Some(builds) = Builds::new() else { return };
    let mut cluster = Cluster::start(&builds.first, Options::default()).unwrap();
    let (flows, mut changes) = (Flows::start(&cluster, Rates::default()).unwrap(), Changes::new(1));
    for (index, node) in NODE_NAMES.into_iter().enumerate() {
        cluster.agents[index].kill();
        // As an agent of layout 2 would have left it: that had two maps less.
        let pins = cluster.topology.pins(node);
        let [ours, former] = [LAYOUT_VERSION, 2].map(|version| pins.join(format!("v{version}")));
        std::fs::rename(&ours, &former).unwrap();
        for name in [maps::FLOW_FILTER, maps::ROUTE_GENERATION] {
            std::fs::remove_file(former.join("maps").join(name)).unwrap();
        }
        changes.make(&mut cluster).unwrap();
        cluster.agents[index].restart().unwrap();
        wait_until_in_sync(&cluster.agents[index]).unwrap();
        assert!(ours.join("maps").join(maps::CONNTRACK).exists() && !former.exists(), "{node}");
        let log = cluster.agents[index].log();
        assert!(log.contains("took the maps of an older layout over"), "{log}");
    }
    println!("{:?}", flows.finish().unwrap());
}
