//! Forwarding of 60-byte UDP frames through a node, by Podway and by its peers:
//! `cargo bench -p lb-tests --bench forwarding`.
//!
//! All ways are there at once, each on a node of its own, and take turns; all run on one processor. The time
//! is that of the thread that makes the packets and of the kernel's thread for soft interrupts: making a
//! packet is part of every figure, and `floor: XDP, discard` says how much.
use anyhow::{Context as _, Result, ensure};
use lb_ebpf::parse::Family;
use lb_tests::bench::data::{Better, Parameter};
use lb_tests::bench::transit::Sent;
use lb_tests::bench::ways::{By, Forwarder, Hook, Place, Way};
use lb_tests::bench::{Bench, RowId};
use lb_tests::pktgen::Mode;

mod maker;

use maker::Maker;

/// Part of the frames beyond which a figure means nothing if they do not arrive, percent.
const LOST_MAX: f64 = 10.0;

/// A way with what it is asked, and where the answers go.
struct Run {
    forwarder: Forwarder,
    traffic: Vec<Traffic>,
}

/// Packets of one maker.
struct Traffic {
    maker: Maker,
    established: Rows,
    new: Option<Rows>,
}

/// The rows of one kind of traffic on one way.
#[derive(Clone, Copy)]
struct Rows {
    cpu: RowId,
    sent: RowId,
    arrived: RowId,
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
    let mut runs: Vec<Run> =
        forwarders.into_iter().map(|forwarder| Run { forwarder, traffic: Vec::new() }).collect();
    add_traffic(&mut bench, &mut runs, |run| {
        Maker::live_frames(&run.forwarder.transit, run.forwarder.way).map(Some)
    })?;
    match Maker::has_pktgen() {
        true => {
            for mode in [Mode::Xmit, Mode::NetifReceive] {
                add_traffic(&mut bench, &mut runs, |run| Ok(Maker::pktgen(mode, run.forwarder.way)))?;
            }
        }
        false => println!("without the kernel's generator: its module pktgen is not loaded"),
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
        (Hook::Tc, Place::HereHandedOver),
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

/// One more maker for each run that takes one. Rows of a group come together.
fn add_traffic(
    bench: &mut Bench,
    runs: &mut [Run],
    maker: impl Fn(&Run) -> Result<Option<Maker>>,
) -> Result<()> {
    for run in runs.iter_mut() {
        let Some(maker) = maker(run)? else { continue };
        let established = rows(bench, "1,024 established flows", &maker, run.forwarder.way);
        run.traffic.push(Traffic { maker, established, new: None });
    }
    for run in runs.iter_mut().filter(|run| run.forwarder.way.by.has_flows()) {
        let way = run.forwarder.way;
        // A run that took none has no traffic, or an earlier maker's, which has its rows.
        let Some(traffic) = run.traffic.last_mut() else { continue };
        if traffic.new.is_none() {
            traffic.new = Some(rows(bench, "a new flow per packet", &traffic.maker, way));
        }
    }
    Ok(())
}

fn rows(bench: &mut Bench, traffic: &str, maker: &Maker, way: Way) -> Rows {
    let traffic = std::iter::once(traffic).chain(maker.name()).collect::<Vec<_>>().join(", ");
    let mut row = |what: &str, unit, better| {
        let family = ("family", Parameter::from(way.family_name()));
        let services = way.by.services().map(|services| ("Services", Parameter::from(services)));
        let parameters = std::iter::once(family).chain(services);
        bench.row(&format!("{what}, {traffic}"), way.by.name(), parameters, unit, better)
    };
    Rows {
        cpu: row("CPU time of a forwarded packet", "ns", Better::Less),
        sent: row("Packets sent", "packets/s", Better::More),
        arrived: row("Forwarding rate of one processor", "packets/s", Better::More),
        lost: row("Packets that did not arrive", "%", Better::Less),
    }
}

impl Run {
    fn measure(&mut self, bench: &mut Bench, packets: u32) -> Result<()> {
        let to = self.forwarder.way.destination();
        for traffic in &mut self.traffic {
            let Traffic { maker, established, new } = traffic;
            // The flows themselves, and the first use of everything.
            maker.send_established(&self.forwarder.transit, to, maker::FLOWS.into())?;
            let sent = maker.send_established(&self.forwarder.transit, to, packets)?;
            note(bench, &self.forwarder, *established, sent)?;
            if let Some(new) = new {
                let sent = maker.send_new(&self.forwarder.transit, to)?;
                note(bench, &self.forwarder, *new, sent)?;
                self.forwarder.forget_flows()?;
            }
        }
        Ok(())
    }
}

fn note(bench: &mut Bench, forwarder: &Forwarder, rows: Rows, sent: Sent) -> Result<()> {
    let Forwarder { way, transit, .. } = forwarder;
    let lost = 100.0 - 100.0 * sent.arrived as f64 / f64::from(sent.sent);
    ensure!(
        way.by == By::Discard || lost <= LOST_MAX,
        "{}, {}: {} of {} frames arrived, {} came back{}",
        way.by.name(),
        way.family_name(),
        sent.arrived,
        sent.sent,
        transit.came_back()?,
        forwarder.counts()?
    );
    let rate = |count: f64| count / sent.wall.as_secs_f64();
    bench.add(rows.cpu, sent.cpu_ns as f64 / f64::from(sent.sent));
    bench.add(rows.sent, rate(sent.sent.into()));
    bench.add(rows.arrived, rate(sent.arrived as f64));
    bench.add(rows.lost, lost);
    Ok(())
}

/// The ratios that are promised, whole and without what the floor that discards takes: making a packet and
/// receiving it, which is the same for all.
fn ratios(bench: &mut Bench, runs: &[Run]) {
    let cpu = |way: Way, is_new: bool| {
        let run = runs.iter().find(|run| run.forwarder.way == way)?;
        // Of the maker that every machine has.
        let traffic = run.traffic.first()?;
        let rows = if is_new { traffic.new } else { Some(traffic.established) };
        rows.map(|rows| rows.cpu)
    };
    let tc = |place| By::Podway { hook: Hook::Tc, place, services: 1 };
    let (nftables, iptables) = (By::Nftables { services: 1 }, By::Iptables { services: 5_000 });
    for (name, of, to, is_new) in [
        ("established: nftables, 1 Service, to Podway, native XDP", nftables, native(1), false),
        ("established: kernel routing to Podway, native XDP", By::Routing, native(1), false),
        ("new flows: nftables, 1 Service, to Podway, native XDP", nftables, native(1), true),
        ("new flows: iptables to Podway, native XDP, 5,000 Services", iptables, native(5_000), true),
        ("established: Podway, native XDP, 10,000 Services to 1", native(10_000), native(1), false),
        ("established: Podway, tc to a local pod, to kernel routing", tc(Place::Here), By::Routing, false),
        (
            "established: Podway, tc, handed to a local pod, to kernel routing",
            tc(Place::HereHandedOver),
            By::Routing,
            false,
        ),
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
