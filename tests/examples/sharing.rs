//! Plays shared probing through at the size that `docs/health.md` speaks of, and prints what it comes to:
//! `cargo run --release -p lb-tests --example sharing -- [NODES ENDPOINTS [SEED]]`.
use lb_tests::sharing::{Figures, Scenario, play};

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let number = |index: usize, default: usize| numbers.get(index).copied().unwrap_or(default);
    let (nodes, endpoints, seed) = (number(0, 1_000), number(1, 100_000), number(2, 1) as u64);
    let calm = Scenario::new(nodes, endpoints);
    let failing = Scenario { failures: vec![(20_000, endpoints / 100)], ..calm.clone() };
    let dying = Scenario {
        deaths: vec![(30_000, nodes / 20)],
        failures: vec![(31_000, endpoints / 100)],
        length_ms: 180_000,
        ..calm.clone()
    };
    println!("{nodes} nodes, {endpoints} endpoints, seed {seed}");
    for (name, scenario) in [
        ("all is well", calm),
        ("a hundredth of the endpoints fails", failing),
        ("and a twentieth of the nodes dies", dying),
    ] {
        print(name, &scenario, &play(&scenario, seed));
    }
}

fn print(name: &str, scenario: &Scenario, figures: &Figures) {
    let seconds = scenario.length_ms as f64 / 1_000.0;
    let per_second = |count: u64| count as f64 / seconds;
    let (min, max) = (figures.probes_by_node.iter().min(), figures.probes_by_node.iter().max());
    println!("{name}, {seconds} s:");
    println!(
        "  probes per endpoint and second: {:.3}",
        per_second(figures.probes) / scenario.endpoints as f64
    );
    println!(
        "  probes per node and second: {:.1} to {:.1}",
        per_second(min.copied().unwrap_or(0)),
        per_second(max.copied().unwrap_or(0))
    );
    println!("  writes per second: {:.1}", per_second(figures.writes));
    println!(
        "  bytes per second: {:.0} written, {:.0} watched",
        per_second(figures.written_bytes),
        per_second(figures.watched_bytes)
    );
    let known = &figures.known_after_ms;
    if let (Some(first), Some(last)) = (known.first(), known.last()) {
        let (half, most) = (known[known.len() / 2], known[known.len() * 99 / 100]);
        println!("  known to all after: {first} ms to {last} ms, half {half} ms, 99 of 100 {most} ms");
    }
    println!("  unknown {}, wrong {}", figures.unknown, figures.wrong);
    println!(
        "  short of probers for {} ms, without any: {} endpoints",
        figures.short_of_probers_ms, figures.without_prober
    );
}
