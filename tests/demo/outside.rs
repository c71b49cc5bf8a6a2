//! The client outside: load-balancer, external and node addresses, through XDP on node-a's uplink.
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_tests::traffic::{Dial, Failure, dial};
use lb_userspace::model::Protocol;

use crate::interrupt::Interrupt;
use crate::report::{Report, Seen};
use crate::stage::{LOAD_BALANCER_V4, PODS, Stage, load_balancer};
use crate::tally::Tally;

/// Requests of a step; enough that chance alone leaves no pod out.
const REQUESTS: u32 = 300;
/// Requests of a step in which all go the same way.
const FEW_REQUESTS: u32 = 20;

/// The steps.
pub(crate) fn play(stage: &mut Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    report.say("\nfrom outside, through node-a");
    let [lb_v4, lb_v6] = load_balancer(80);
    let [dns_v4, dns_v6] = load_balancer(53);
    let node_port = |host: &str, is_v6: bool| {
        let host = stage.topology().node(host).host();
        let address: IpAddr = if is_v6 { host.v6().into() } else { host.v4().into() };
        SocketAddr::new(address, 30080)
    };
    let frontends: [(&str, Protocol, SocketAddr); 7] = [
        ("load-balancer address of web-lb", Protocol::Tcp, lb_v4),
        ("load-balancer address of web-lb, IPv6", Protocol::Tcp, lb_v6),
        ("load-balancer address of dns", Protocol::Udp, dns_v4),
        ("load-balancer address of dns, IPv6", Protocol::Udp, dns_v6),
        ("node port of web-nodeport on node-a", Protocol::Tcp, node_port("node-a", false)),
        ("node port of web-nodeport on node-b, IPv6", Protocol::Tcp, node_port("node-b", true)),
        ("external address of web-external", Protocol::Tcp, ([198, 51, 100, 20], 80).into()),
    ];
    for (what, protocol, to) in frontends {
        spread(stage, report, interrupt, what, protocol, to)?;
    }
    only_local(stage, report, interrupt)?;
    refused(stage, report, interrupt)
}

/// All six pods answer; those of the node that the packet arrives at see the client, the others see
/// that node, which must get their replies to undo the translation.
fn spread(
    stage: &Stage,
    report: &mut Report,
    interrupt: &Interrupt,
    what: &str,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<()> {
    let expected = "every request answered; all six pods serve; pods of the node that the packet arrives at \
                    see the client's address, the others see the node's";
    report.step(&format!("{protocol} to the {what} ({to})"), expected, interrupt, || {
        let tally = Tally::of(&dial(stage.client(), &Dial::times(REQUESTS, protocol, to))?);
        let arrives_at = if to.ip() == IpAddr::from(stage.topology().node("node-b").host().v6()) {
            stage.topology().node("node-b")
        } else {
            stage.topology().node("node-a")
        };
        let source = |pod: &str| {
            let is_near = arrives_at.pods().iter().any(|near| near.name() == pod);
            if is_near { stage.client() } else { arrives_at.host() }.address_for(to.ip())
        };
        Ok(Seen {
            holds: tally.is_spread_over(&PODS) && tally.saw(source),
            summary: tally.summary(),
            details: tally.bars(),
        })
    })
}

fn only_local(stage: &Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let to = SocketAddr::new(LOAD_BALANCER_V4, 8080);
    let name = format!("TCP to web-local, externalTrafficPolicy Local ({to})");
    report.step(&name, "only node-a's pods answer, and see the client's address", interrupt, || {
        let tally = Tally::of(&dial(stage.client(), &Dial::times(REQUESTS, Protocol::Tcp, to))?);
        let client = stage.client().address_for(to.ip());
        Ok(Seen {
            holds: tally.is_spread_over(&PODS[..3]) && tally.saw(|_| client),
            summary: tally.summary(),
            details: tally.bars(),
        })
    })
}

fn refused(stage: &Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let to: SocketAddr = ([10, 96, 0, 16], 80).into();
    let name = format!("TCP to backorder, which has no pod ({to})");
    report.step(&name, "every connection refused at once (TCP reset)", interrupt, || {
        let tally = Tally::of(&dial(stage.client(), &Dial::times(FEW_REQUESTS, Protocol::Tcp, to))?);
        Ok(Seen {
            holds: tally.failed == [(Failure::Refused, FEW_REQUESTS as usize)].into()
                && tally.answered() == 0,
            summary: tally.summary(),
            details: Vec::new(),
        })
    })
}
