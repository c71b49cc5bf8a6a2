//! Connections and requests of a pod to a Service whose pods are on its own node: `cargo xtask bench --only
//! connections`.
//!
//! Each way of serving the Service has a simulated cluster of its own, and all stand at once, so that rounds are
//! interleaved. Client and servers share one CPU: what a figure shows is the CPU time of a whole transaction,
//! not how fast an idle core wakes. The bench runs itself as client and as server, since socket hooks act on
//! the processes of a cgroup.
mod arrangement;
mod traffic;

use anyhow::{Context, Result, bail};
use lb_tests::bench::data::{Better, Parameter};
use lb_tests::bench::{Bench, RowId};
use lb_tests::need;

use arrangement::{Arrangement, Way};
use traffic::{Kind, Measured};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => traffic::serve(),
        ["client", kind, to, count] => traffic::client(Kind::from_name(kind)?, to.parse()?, count.parse()?),
        // Cargo's own.
        [] | ["--bench"] => measure(),
        _ => bail!("unknown arguments {arguments:?}"),
    }
}

/// What one cell collects.
struct Rows {
    per_second: RowId,
    median: RowId,
    slow: RowId,
}

fn measure() -> Result<()> {
    let need = need::find_netns().map_err(anyhow::Error::msg)?;
    let mut bench = Bench::new("connections")?;
    let rounds = bench.choose(11, 3);
    let transactions = bench.choose(4_000, 1_000);
    let sizes: &[u32] = bench.choose(&[1, 1_000], &[1]);
    for services in sizes {
        let ways: Vec<Way> =
            Way::ALL.into_iter().filter(|way| *services == 1 || way.has_services()).collect();
        let arrangements = ways
            .iter()
            .map(|way| Arrangement::start(*way, *services, &need).with_context(|| way.name()))
            .collect::<Result<Vec<_>>>()?;
        let kinds = Kind::ALL;
        let rows: Vec<Vec<Rows>> = kinds
            .iter()
            .map(|kind| ways.iter().map(|way| rows_of(&mut bench, *kind, *way, *services)).collect())
            .collect();
        for round in 0..=rounds {
            for (kind, rows) in kinds.iter().zip(&rows) {
                for (arrangement, rows) in arrangements.iter().zip(rows) {
                    let measured = arrangement.measure(*kind, transactions)?;
                    // The first round warms up.
                    if round > 0 {
                        add(&mut bench, rows, &measured);
                    }
                }
            }
        }
        if *services == 1 {
            beside_direct(&mut bench, &ways, &rows);
        }
    }
    bench.finish()
}

fn rows_of(bench: &mut Bench, kind: Kind, way: Way, services: u32) -> Rows {
    let group = kind.title();
    let mut row =
        |unit, better| bench.row(group, way.name(), [("services", Parameter::from(services))], unit, better);
    Rows {
        per_second: row("per second", Better::More),
        median: row("µs, median", Better::Less),
        slow: row("µs, 99th percentile", Better::Less),
    }
}

fn add(bench: &mut Bench, rows: &Rows, measured: &Measured) {
    bench.add(rows.per_second, measured.per_second);
    bench.add(rows.median, measured.median_us);
    bench.add(rows.slow, measured.slow_us);
}

/// Rates in terms of those without any Service, round by round.
fn beside_direct(bench: &mut Bench, ways: &[Way], rows: &[Vec<Rows>]) {
    for (kind, rows) in Kind::ALL.iter().zip(rows) {
        let direct = &rows[ways.iter().position(|way| *way == Way::Direct).unwrap_or_default()];
        for (way, rows) in ways.iter().zip(rows).filter(|(way, _)| **way != Way::Direct) {
            let group = format!("{}, rate beside a direct connection", kind.title());
            bench.ratio(&group, way.name(), [], rows.per_second, direct.per_second);
        }
    }
}
