//! Forwarding of 60-byte UDP frames through a node, by Podway and by its peers:
//! `cargo bench -p lb-tests --bench forwarding`.
//!
//! All ways are there at once, each on a node of its own, and take turns; all run on one processor. The time
//! is that of the thread that makes the packets and of the kernel's thread for soft interrupts: making a
//! packet is part of every figure, and `floor: XDP, discard` says how much.
use anyhow::{Context as _, Result, ensure};
use lb_ebpf::parse::Family;
use lb_tests::bench::data::{Better, Parameter};
use lb_tests::bench::transit::{Generator, Sent};
use lb_tests::bench::ways::{By, Forwarder, Hook, Place, Way};
use lb_tests::bench::{Bench, RowId};

/// Established flows.
const FLOWS: u32 = 1_024;
/// The first of the new flows: none of the established ones is met.
const FIRST_NEW: u32 = 1 << 20;
/// New flows of a round: nine rounds are fewer than the kernel's conntrack holds, and one is less than half
/// of Podway's source NAT ports for ten endpoints.
const NEW_FLOWS: u32 = 20_000;
/// Part of the frames beyond which a figure means nothing if they do not arrive, percent.
const LOST_MAX: f64 = 10.0;

/// A way with what it is asked, and where the answers go.
struct Run {
    forwarder: Forwarder,
    established: (Generator, Rows),
    new: Option<(Generator, Rows)>,
}

/// The rows of one kind of traffic on one way.
#[derive(Clone, Copy)]
struct Rows {
    cpu: RowId,
    rate: RowId,
    lost: RowId,
}

fn main() -> Result<()> {
    let mut bench = Bench::new("forwarding")?;
    let peers: Vec<u32> = bench.choose(vec![1, 100, 1_000, 5_000], vec![1, 100]);
    let podway: Vec<u32> = bench.choose(vec![1, 5_000, 10_000], vec![1, 100]);
    let (rounds, packets) = bench.choose((9, 200_000), (3, 50_000));
    let forwarders = ways(&podway, &peers).into_iter().map(|way| {
        println!("setting up: {}, {}, {:?} Services", way.by.name(), way.family_name(), way.by.services());
        Forwarder::start(way).with_context(|| format!("cannot set up: {}", way.by.name()))
    });
    let forwarders = forwarders.collect::<Result<Vec<_>>>()?;
    let mut runs = runs(&mut bench, forwarders)?;
    for run in &mut runs {
        // The first flows, and the first use of everything.
        run.forwarder.transit.send(&run.established.0, FLOWS)?;
    }
    for _ in 0..rounds {
        for run in &mut runs {
            run.measure(&mut bench, packets)?;
        }
    }
    ratios(&mut bench, &runs);
    bench.finish()
}

fn ways(podway: &[u32], peers: &[u32]) -> Vec<Way> {
    let mut ways = vec![By::Discard.v4(), By::Redirect.v4(), By::Routing.v4()];
    ways.extend(podway.iter().map(|services| native(*services).v4()));
    let places = [
        (Hook::Native, Place::Here),
        (Hook::Native, Place::ElsewhereDirect),
        (Hook::Generic, Place::Elsewhere),
        (Hook::Tc, Place::Elsewhere),
        (Hook::Tc, Place::Here),
        (Hook::Tc, Place::ElsewhereDirect),
    ];
    ways.extend(places.map(|(hook, place)| By::Podway { hook, place, services: 1 }.v4()));
    ways.extend(peers.iter().map(|services| By::Nftables { services: *services }.v4()));
    ways.extend(peers.iter().map(|services| By::Iptables { services: *services }.v4()));
    ways.extend([By::Discard.v6(), By::Routing.v6(), native(1).v6()]);
    let tc = By::Podway { hook: Hook::Tc, place: Place::Elsewhere, services: 1 };
    ways.extend([tc.v6(), By::Nftables { services: 1 }.v6()]);
    ways
}

/// Podway by native XDP to another node.
const fn native(services: u32) -> By {
    By::Podway { hook: Hook::Native, place: Place::Elsewhere, services }
}

fn runs(bench: &mut Bench, forwarders: Vec<Forwarder>) -> Result<Vec<Run>> {
    let mut established = Vec::new();
    for forwarder in &forwarders {
        let generator = forwarder.transit.generator(forwarder.way.destination(), FLOWS, 0)?;
        established.push((generator, rows(bench, "1,024 established flows", forwarder.way)));
    }
    let mut runs = Vec::new();
    for (forwarder, established) in forwarders.into_iter().zip(established) {
        let way = forwarder.way;
        let new = way.by.has_flows().then(|| {
            let generator = forwarder.transit.generator(way.destination(), u32::MAX, FIRST_NEW)?;
            Ok::<_, anyhow::Error>((generator, rows(bench, "a new flow per packet", way)))
        });
        runs.push(Run { new: new.transpose()?, forwarder, established });
    }
    Ok(runs)
}

fn rows(bench: &mut Bench, traffic: &str, way: Way) -> Rows {
    let mut row = |what: &str, unit, better| {
        let family = ("family", Parameter::from(way.family_name()));
        let services = way.by.services().map(|services| ("Services", Parameter::from(services)));
        let parameters = std::iter::once(family).chain(services);
        bench.row(&format!("{what}, {traffic}"), way.by.name(), parameters, unit, better)
    };
    Rows {
        cpu: row("CPU time of a forwarded packet", "ns", Better::Less),
        rate: row("Forwarding rate of one processor", "packets/s", Better::More),
        lost: row("Packets that did not arrive", "%", Better::Less),
    }
}

impl Run {
    fn measure(&mut self, bench: &mut Bench, packets: u32) -> Result<()> {
        let transit = &self.forwarder.transit;
        let (generator, rows) = &self.established;
        let sent = transit.send(generator, packets)?;
        self.forwarder.note(bench, *rows, sent)?;
        if let Some((generator, rows)) = &self.new {
            let sent = self.forwarder.transit.send(generator, NEW_FLOWS)?;
            self.forwarder.note(bench, *rows, sent)?;
            self.forwarder.forget_flows()?;
            self.forwarder.transit.send(&self.established.0, FLOWS)?;
        }
        Ok(())
    }
}

impl Forwarder {
    fn note(&self, bench: &mut Bench, rows: Rows, sent: Sent) -> Result<()> {
        let lost = 100.0 - 100.0 * sent.arrived as f64 / f64::from(sent.sent);
        ensure!(
            self.way.by == By::Discard || lost <= LOST_MAX,
            "{}, {}: {} of {} frames arrived, {} came back{}",
            self.way.by.name(),
            self.way.family_name(),
            sent.arrived,
            sent.sent,
            self.transit.came_back()?,
            self.counts()?
        );
        bench.add(rows.cpu, sent.cpu_ns as f64 / f64::from(sent.sent));
        bench.add(rows.rate, f64::from(sent.sent) / sent.wall.as_secs_f64());
        bench.add(rows.lost, lost);
        Ok(())
    }
}

/// The ratios that are promised, whole and without what the floor that discards takes: making a packet and
/// receiving it, which is the same for all.
fn ratios(bench: &mut Bench, runs: &[Run]) {
    let cpu = |way: Way, is_new: bool| {
        let run = runs.iter().find(|run| run.forwarder.way == way)?;
        let rows = if is_new { run.new.as_ref().map(|(_, rows)| *rows) } else { Some(run.established.1) };
        rows.map(|rows| rows.cpu)
    };
    let tc_local = By::Podway { hook: Hook::Tc, place: Place::Here, services: 1 };
    let (nftables, iptables) = (By::Nftables { services: 1 }, By::Iptables { services: 5_000 });
    for (name, of, to, is_new) in [
        ("established: nftables, 1 Service, to Podway, native XDP", nftables, native(1), false),
        ("established: kernel routing to Podway, native XDP", By::Routing, native(1), false),
        ("new flows: nftables, 1 Service, to Podway, native XDP", nftables, native(1), true),
        ("new flows: iptables to Podway, native XDP, 5,000 Services", iptables, native(5_000), true),
        ("established: Podway, native XDP, 10,000 Services to 1", native(10_000), native(1), false),
        ("established: Podway, tc to a local pod, to kernel routing", tc_local, By::Routing, false),
    ] {
        for family in [Family::V4, Family::V6] {
            let [of, to, floor] = [of, to, By::Discard].map(|by| Way { family, by });
            let cpus = (cpu(of, is_new), cpu(to, is_new), cpu(floor, false));
            let family_name = to.family_name();
            let (Some(of), Some(to), Some(floor)) = cpus else { continue };
            let family = || [("family", Parameter::from(family_name))];
            bench.ratio("Ratios of CPU time per packet", name, family(), of, to);
            let group = "Ratios of CPU time per packet, less discarding it";
            bench.ratio_above(group, name, family(), (of, to), floor);
        }
    }
    let families = (cpu(native(1).v6(), false), cpu(native(1).v4(), false));
    if let (Some(v6), Some(v4)) = families {
        let name = "established: Podway, native XDP, IPv6 to IPv4";
        bench.ratio("Ratios of CPU time per packet", name, [], v6, v4);
    }
}
