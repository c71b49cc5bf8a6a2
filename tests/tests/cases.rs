//! What kube-proxy does with the packets of `cases/service-flows.jsonl`, `explain --manifests` says of
//! Podway: verdict and candidates are equal, and so is source NAT but where `docs/differences.md` says
//! why not.
use std::collections::BTreeSet;

use lb_tests::cases::{Expected, Packet, Story, listed_differences, stories};
use lb_userspace::cli::explanation;
use serde::Deserialize;

/// What `explain` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    verdict: String,
    candidates: Vec<String>,
    endpoint: Option<String>,
    source_nat: bool,
}

/// The first port that a client tries.
const SOURCE_PORT: u16 = 40_000;

/// Ports by which every endpoint is chosen once.
const SOURCE_PORTS_MAX: u16 = 64;

fn explain(story: &Story, packet: &Packet, source_port: u16) -> Explanation {
    let folder = tempfile::tempdir().expect("a folder");
    story.write(folder.path()).expect("the manifests");
    let folder = folder.path().display().to_string();
    let node = story.node_flags();
    let asked = packet.flags(source_port);
    let fixed = ["-o", "json", "--manifests", &folder];
    let arguments = fixed.into_iter().chain(node.iter().chain(&asked).map(String::as_str));
    let text = explanation(arguments).expect("an explanation");
    serde_json::from_str(&text).expect("JSON")
}

/// What is said of flows that differ by their source port, until every candidate was chosen: whether the
/// source is rewritten depends on where the endpoint is.
fn each_endpoint<'a>(story: &'a Story, packet: &'a Packet) -> impl Iterator<Item = Explanation> + 'a {
    let mut missing: BTreeSet<String> = packet.expected().candidates.into_iter().collect();
    let mut ports = SOURCE_PORT..SOURCE_PORT + SOURCE_PORTS_MAX;
    std::iter::from_fn(move || {
        if missing.is_empty() {
            return None;
        }
        let port = ports.next().unwrap_or_else(|| panic!("{}: {missing:?} are never chosen", packet.name));
        let explanation = explain(story, packet, port);
        missing.remove(explanation.endpoint.as_deref().unwrap_or_default());
        Some(explanation)
    })
}

#[test]
fn verdict_and_candidates_are_those_of_kube_proxy() {
    let mut differing = Vec::new();
    let mut packets = 0;
    for story in stories().expect("the stories") {
        for packet in &story.packets {
            packets += 1;
            let Explanation { verdict, candidates, .. } = explain(&story, packet, SOURCE_PORT);
            let Expected { verdict: wanted, candidates: wanted_candidates } = packet.expected();
            // Who refuses or drops may have candidates for others.
            let is_equal = verdict == wanted && (wanted != "forward" || candidates == wanted_candidates);
            if !is_equal {
                let wanted = packet.expected();
                differing.push(format!(
                    "{}: {}: {verdict} {candidates:?}, not {wanted:?}",
                    story.story, packet.name
                ));
            }
        }
    }
    assert_eq!(differing, [""; 0]);
    assert_eq!(packets, 59, "all packets of the file");
}

#[test]
fn source_nat_is_that_of_kube_proxy_but_where_the_docs_say_why_not() {
    let mut differing = BTreeSet::new();
    for story in stories().expect("the stories") {
        for packet in story.packets.iter().filter(|packet| packet.expected().verdict == "forward") {
            if each_endpoint(&story, packet).any(|explanation| explanation.source_nat != packet.source_nat) {
                differing.insert((story.story.clone(), packet.name.clone()));
            }
        }
    }
    assert_eq!(differing, listed_differences());
}
