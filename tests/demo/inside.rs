//! A pod and a process of a node: cluster addresses, through the socket hooks.
use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::topology::Host;
use lb_tests::traffic::{Dial, Failure, UdpSocketKind, dial};
use lb_userspace::model::Protocol;

use crate::interrupt::Interrupt;
use crate::report::{Report, Seen};
use crate::stage::{PODS, Stage};
use crate::tally::Tally;

/// Requests of a step; enough that chance alone leaves no pod out.
const REQUESTS: u32 = 300;
/// Requests of a step in which all go the same way.
const FEW_REQUESTS: u32 = 20;

/// The steps.
pub(crate) fn play(stage: &mut Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let web: [SocketAddr; 2] = ["10.96.0.10:80".parse()?, "[2001:db8:96::10]:80".parse()?];
    let dns: [SocketAddr; 2] = ["10.96.0.53:53".parse()?, "[2001:db8:96::53]:53".parse()?];
    let pod = stage.topology().pod("web-b-1");
    let node = stage.topology().node("node-b").host();
    for (who, host) in [("the pod web-b-1", pod), ("a process on node-b", node)] {
        report.say(&format!("\nfrom {who}"));
        for (what, protocol, to) in [
            ("web", Protocol::Tcp, web[0]),
            ("web, IPv6", Protocol::Tcp, web[1]),
            ("dns", Protocol::Udp, dns[0]),
            ("dns, IPv6", Protocol::Udp, dns[1]),
        ] {
            spread(host, report, interrupt, what, protocol, to)?;
        }
        keeps_its_pod(host, report, interrupt)?;
        refused(host, report, interrupt)?;
    }
    Ok(())
}

fn spread(
    host: &Host,
    report: &mut Report,
    interrupt: &Interrupt,
    what: &str,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<()> {
    let expected = "every request answered; all six pods serve; the peer that the socket names is the VIP";
    report.step(&format!("{protocol} to the cluster address of {what} ({to})"), expected, interrupt, || {
        let requests = Dial { udp_socket: UdpSocketKind::Unconnected, ..Dial::times(REQUESTS, protocol, to) };
        let answers = dial(host, &requests)?;
        let names_the_vip =
            answers.iter().all(|answer| answer.outcome.as_ref().is_ok_and(|answered| answered.peer == to));
        let tally = Tally::of(&answers);
        Ok(Seen {
            holds: tally.is_spread_over(&PODS) && names_the_vip,
            summary: tally.summary(),
            details: tally.bars(),
        })
    })
}

fn keeps_its_pod(host: &Host, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let to: SocketAddr = ([10, 96, 0, 15], 80).into();
    let name = format!("TCP to cart, sessionAffinity ClientIP ({to})");
    report.step(&name, "every request answered, all by one pod", interrupt, || {
        let tally = Tally::of(&dial(host, &Dial::times(FEW_REQUESTS, Protocol::Tcp, to))?);
        Ok(Seen {
            holds: tally.failed.is_empty() && tally.by_pod.len() == 1,
            summary: tally.summary(),
            details: Vec::new(),
        })
    })
}

fn refused(host: &Host, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let to: SocketAddr = ([10, 96, 0, 16], 80).into();
    let name = format!("TCP to backorder, which has no pod ({to})");
    report.step(&name, "connect() says no at once (EPERM)", interrupt, || {
        let tally = Tally::of(&dial(host, &Dial::times(FEW_REQUESTS, Protocol::Tcp, to))?);
        Ok(Seen {
            holds: tally.failed == [(Failure::NotPermitted, FEW_REQUESTS as usize)].into()
                && tally.answered() == 0,
            summary: tally.summary(),
            details: Vec::new(),
        })
    })
}
