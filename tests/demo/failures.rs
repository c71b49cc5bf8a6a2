//! What goes wrong: a pod fails and returns, an agent is killed and comes back, all under traffic.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lb_tests::traffic::{Answer, Dial, Dialing, Hold, UdpStream, dial};
use lb_userspace::model::Protocol;

use crate::interrupt::Interrupt;
use crate::report::{Report, Seen};
use crate::stage::{Stage, load_balancer};
use crate::tally::Tally;

const FAILING_POD: &str = "web-b-2";

/// The time that the annotations of `web-lb` give its check: two probes 500 ms apart, the second of
/// which may take 300 ms.
const CHECK: Duration = Duration::from_millis(2 * 500 + 300);
/// From the check's word to the maps, on a busy machine.
const APPLY: Duration = Duration::from_millis(700);
/// How long a pod that listens again may take to get requests.
const RETURN_DEADLINE: Duration = Duration::from_secs(5);

/// Requests after the failed pod has left.
const REQUESTS_AFTER: usize = 300;
/// Connections that stay open while the agent is killed.
const CONNECTIONS: u32 = 100;
const DATAGRAM_INTERVAL: Duration = Duration::from_millis(1);
const REQUEST_INTERVAL: Duration = Duration::from_millis(2);

/// The steps.
pub(crate) fn play(stage: &mut Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    report.say("\nfailures, under traffic from outside");
    let requests = Dial {
        timeout: Duration::from_millis(500),
        ..Dial::every(REQUEST_INTERVAL, Protocol::Tcp, load_balancer(80)[0])
    };
    report.step(
        &format!("the pod {FAILING_POD} fails"),
        "it leaves within the check's time (1.3 s, and 0.7 s to apply); no request is lost after that",
        interrupt,
        || pod_fails(stage, &requests),
    )?;
    report.step(
        &format!("the pod {FAILING_POD} returns"),
        "it gets requests again within 5 s; no request is lost",
        interrupt,
        || pod_returns(stage, &requests),
    )?;
    report.step(
        "the agent of node-a is killed with SIGKILL, and a new one starts",
        "no connection, no datagram and no request is lost, with no agent too; verify is clean",
        interrupt,
        || agent_dies(stage, interrupt),
    )
}

fn is_by(answer: &Answer, pod: &str) -> bool {
    answer.outcome.as_ref().is_ok_and(|answered| answered.by == pod)
}

fn pod_fails(stage: &mut Stage, requests: &Dial) -> Result<Seen> {
    let dialing = Dialing::start(stage.client(), requests)?;
    until_served_by(&dialing, FAILING_POD)?;
    stage.kill_server(FAILING_POD);
    let failed = Instant::now();
    let (mut lost, mut last_lost) = (0, Duration::ZERO);
    while failed.elapsed() < CHECK + APPLY {
        let answer = dialing.next_answer()?;
        if answer.outcome.is_err() {
            lost += 1;
            last_lost = failed.elapsed();
        }
    }
    let mut after = Vec::new();
    while after.len() < REQUESTS_AFTER {
        after.push(dialing.next_answer()?);
    }
    let tally = Tally::of(&after);
    Ok(Seen {
        holds: tally.failed.is_empty() && !tally.by_pod.contains_key(FAILING_POD),
        summary: format!(
            "{lost} requests met the failed pod, the last after {} ms; after that {}",
            last_lost.as_millis(),
            tally.summary()
        ),
        details: tally.bars(),
    })
}

fn pod_returns(stage: &mut Stage, requests: &Dial) -> Result<Seen> {
    let dialing = Dialing::start(stage.client(), requests)?;
    stage.start_server(FAILING_POD)?;
    let returned = Instant::now();
    let mut answers = until_served_by(&dialing, FAILING_POD)?;
    let took = returned.elapsed();
    for _ in 0..REQUESTS_AFTER {
        answers.push(dialing.next_answer()?);
    }
    let tally = Tally::of(&answers);
    Ok(Seen {
        holds: took <= RETURN_DEADLINE && tally.failed.is_empty(),
        summary: format!("its first request came after {} ms; {}", took.as_millis(), tally.summary()),
        details: Vec::new(),
    })
}

/// Takes answers until `pod` gives one; gives them all.
fn until_served_by(dialing: &Dialing, pod: &str) -> Result<Vec<Answer>> {
    let started = Instant::now();
    let mut answers = Vec::new();
    while started.elapsed() < 2 * RETURN_DEADLINE {
        answers.push(dialing.next_answer()?);
        if answers.last().is_some_and(|answer| is_by(answer, pod)) {
            return Ok(answers);
        }
    }
    bail!("the pod {pod} answered none of {} requests", answers.len())
}

fn agent_dies(stage: &mut Stage, interrupt: &Interrupt) -> Result<Seen> {
    let [web, _] = load_balancer(80);
    let [dns, _] = load_balancer(53);
    let hold = Hold::start(stage.client(), web, CONNECTIONS)?;
    let stream = UdpStream::start(stage.client(), dns, DATAGRAM_INTERVAL)?;
    let dialing = Dialing::start(stage.client(), &Dial::every(REQUEST_INTERVAL, Protocol::Tcp, web))?;
    stage.kill_agent("node-a");
    let alone = Tally::of(&dial(stage.client(), &Dial::times(300, Protocol::Tcp, web))?);
    stage.restart_agent("node-a")?;
    stage.wait_for_agent("node-a", interrupt)?;
    let requests = Tally::of(&dialing.finish()?);
    let streamed = stream.finish()?;
    let opened = hold.opened().clone();
    let held = hold.finish()?;
    let verified = ["node-a", "node-b"].map(|node| stage.agent(node).verify());
    let lost_connections: u32 = held.lost.values().chain(opened.failed.values()).sum();
    let holds = lost_connections == 0
        && streamed.missing.is_empty()
        && streamed.failed.is_empty()
        && requests.failed.is_empty()
        && alone.failed.is_empty()
        && verified.iter().all(Result::is_ok);
    let mut details = vec![format!("requests with no agent: {}", alone.summary())];
    details.extend(
        verified
            .iter()
            .filter_map(|verified| verified.as_ref().err())
            .map(|error| format!("podway verify: {error:#}")),
    );
    Ok(Seen {
        holds,
        summary: format!(
            "{lost_connections} of {CONNECTIONS} open connections lost, {} of {} datagrams, {} of {} requests",
            streamed.missing.len(),
            streamed.sent,
            requests.failed.values().sum::<usize>() + alone.failed.values().sum::<usize>(),
            requests.answered() + alone.answered()
        ),
        details,
    })
}
