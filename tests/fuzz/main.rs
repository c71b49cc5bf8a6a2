//! What others send, changed at random, breaks nothing: frames, hosts and paths of requests, manifests.
//!
//! The seed of each input is its number, so a failure is found again by it; one that was found becomes a line of the
//! corpus, or a case beside what it broke, with a sentence. `PODWAY_FUZZ_ROUNDS` (1 without it) runs further inputs.
use std::path::Path;

use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::packet::{PacketStream, Random, World};
use lb_tests::{host_path, world};
use lb_userspace::cli;
use lb_userspace::l7::{Host, HostRule, NormalPath, PathRule, UrlMap, host_pattern, path_pattern};
use lb_userspace::model::{Dialect, PathType};
use tempfile::TempDir;

use mutation::mutate;

mod mutation;

/// Inputs of a round.
const FRAMES: u64 = 20_000;
const REQUESTS: u64 = 50_000;
const MANIFESTS: u64 = 200;

/// Hosts and paths, one a line.
const HOSTS: &str = include_str!("corpus/hosts");
const PATHS: &str = include_str!("corpus/paths");

/// The seeds of all inputs.
fn seeds(inputs: u64) -> std::ops::Range<u64> {
    let rounds = std::env::var("PODWAY_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    0..inputs * rounds.unwrap_or(1)
}

/// Runs with what it ran on told where it panics.
fn told<T>(seed: u64, input: &[u8], run: impl FnOnce() -> T) -> T {
    struct Input<'a>(u64, &'a [u8]);
    impl Drop for Input<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}: {}", self.0, String::from_utf8_lossy(self.1).escape_debug());
                eprintln!("{:02x?}", self.1);
            }
        }
    }
    let _input = Input(seed, input);
    run()
}

/// Frontends and endpoints of the world, for the stream of frames that are changed.
fn stream() -> PacketStream {
    let tables = world::tables(1_000);
    let frontends = [6, 17, 132].into_iter().flat_map(|protocol| {
        let addresses =
            world::PORTS.into_iter().flat_map(|port| [world::VIP_V4, world::VIP_V6].map(|vip| (vip, port)));
        addresses.map(move |address| (protocol, address.into()))
    });
    let endpoints = tables.endpoints.values();
    let endpoints = endpoints.map(|endpoint| {
        (endpoint.protocol, (std::net::IpAddr::from(endpoint.address), endpoint.port.get()).into())
    });
    let clients = ["203.0.113.7", "10.244.3.3", "2001:db8:9::7"].map(|client| client.parse().unwrap());
    PacketStream::new(
        1,
        World { frontends: frontends.collect(), endpoints: endpoints.collect(), clients: clients.to_vec() },
    )
}

#[test]
fn a_frame_that_is_not_ours_passes_as_it_is() {
    let mut tables = world::tables(1_000);
    let mut stream = stream();
    let mut before = stream.next_sample().frame;
    let mut passed = 0;
    for seed in seeds(FRAMES) {
        let mut random = Random::new(seed);
        let sample = stream.next_sample().frame;
        let frame = mutate(&sample, &before, &mut random);
        told(seed, &frame, || {
            let sides = [Side::Uplink, Side::Pod].map(|side| host_path::enter(&mut tables, &frame, side));
            for (verdict, after) in sides.into_iter().chain([host_path::leave(&mut tables, &frame)]) {
                if matches!(verdict, Verdict::Pass(_)) {
                    assert_eq!(after, frame, "{verdict:?}");
                    passed += 1;
                }
            }
        });
        before = sample;
    }
    assert!(passed > FRAMES / 10, "too few frames were none of ours: {passed}");
}

/// One of the lines.
fn line<'a>(corpus: &'a str, random: &mut Random) -> &'a str {
    let lines: Vec<&'a str> = corpus.lines().collect();
    let at = random.below(lines.len());
    lines[at]
}

/// A line, changed every other time; bytes that are no text are replaced, as a client's are refused before.
fn changed(corpus: &str, random: &mut Random) -> String {
    let (one, other) = (line(corpus, random), line(corpus, random));
    if random.chance(50) {
        return one.to_owned();
    }
    String::from_utf8_lossy(&mutate(one.as_bytes(), other.as_bytes(), random)).into_owned()
}

#[test]
fn a_request_has_one_normal_form_and_one_rule() {
    let paths = [(PathType::Prefix, "/a/b"), (PathType::Exact, "/exact"), (PathType::Prefix, "/")];
    let rule = |(index, (path_type, path)): (usize, &(PathType, &str))| PathRule {
        pattern: path_pattern(*path_type, path, Dialect::Spec).unwrap(),
        target: index,
    };
    let rules = ["shop.example", "*.shop.example", ""].map(|host| HostRule {
        host: host_pattern(host, Dialect::Spec).unwrap(),
        paths: paths.iter().enumerate().map(rule).collect(),
        default: None,
    });
    let map = UrlMap::new(rules.into(), None);
    let mut taken = 0;
    for seed in seeds(REQUESTS) {
        let mut random = Random::new(seed);
        let (host, path) = (changed(HOSTS, &mut random), changed(PATHS, &mut random));
        told(seed, format!("{host} {path}").as_bytes(), || {
            let (Ok(name), Ok(normal)) = (Host::of(&host), NormalPath::of(&path)) else { return };
            taken += 1;
            let again = NormalPath::of(normal.as_str()).map(|again| again.as_str().to_owned());
            assert_eq!(again.as_deref(), Ok(normal.as_str()), "the normal form is its own");
            assert!(normal.as_str().starts_with('/') && !normal.as_str().contains("/../"), "{normal:?}");
            assert!(map.find(&name, &normal).is_some(), "the rule of every path takes {host}{path}");
        });
    }
    assert!(taken > REQUESTS / 20, "too few requests were taken: {taken}");
}

#[test]
fn a_manifest_that_cannot_be_read_is_a_problem_and_nothing_worse() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let read = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.unwrap().path()).unwrap();
    let mut corpus: Vec<Vec<u8>> = std::fs::read_dir(examples).unwrap().map(read).collect();
    corpus.sort();
    let dir = TempDir::with_prefix("podway-fuzz-").unwrap();
    let folder = dir.path().to_str().unwrap();
    let mut planned = 0;
    for seed in seeds(MANIFESTS) {
        let mut random = Random::new(seed);
        let (one, other) = (random.pick(&corpus).clone(), random.pick(&corpus).clone());
        let text = mutate(&one, &other, &mut random);
        std::fs::write(dir.path().join("objects.yaml"), &text).unwrap();
        told(seed, &text, || {
            let plan = cli::printed(["plan", "--manifests", folder, "--node-name", "node-a", "-o", "json"]);
            planned += u64::from(plan.is_ok());
        });
    }
    assert!(planned > 0, "none was planned");
}
