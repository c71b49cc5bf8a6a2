//! The maps of node-a as `podway` shows them, and how to go on looking.
use anyhow::Result;

use crate::ingress;
use crate::interrupt::Interrupt;
use crate::report::Report;
use crate::stage::{LOAD_BALANCER_V4, Stage};

const NODE: &str = "node-a";
/// What is shown; of the long tables only the rows of one Service.
const TABLES: [&[&str]; 6] = [
    &["frontends"],
    &["backend-services"],
    &["negs", "shop/web-lb"],
    &["endpoints", "shop/web-lb"],
    &["url-maps"],
    &["counters"],
];

/// Prints the tables, and explanations of a packet and of a request.
pub(crate) fn play(stage: &mut Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    interrupt.check()?;
    let run_dir = stage.topology().run_dir(NODE).display().to_string();
    let agent = stage.agent(NODE);
    for table in TABLES {
        report.say(&format!("\n$ podway get {}", table.join(" ")));
        report.say(agent.podway(&[&["get"], table].concat())?.trim_end());
        report.keep_table(table[0], agent.get(table[0])?);
    }
    let (from, to) = (stage.client().v4().to_string(), format!("{LOAD_BALANCER_V4}:80"));
    report.say(&format!("\n$ podway explain --from {from} --to {to} --proto tcp"));
    let explain = ["explain", "--from", &from, "--to", &to, "--proto", "tcp", "--run-dir", &run_dir];
    report.say(&agent.podway(&explain)?);
    let (url, vip) = (ingress::cart_url(), ingress::VIPS[0].to_string());
    report.say(&format!("\n$ podway explain --url {url} --vip {vip}"));
    report.say(&agent.podway(&["explain", "--url", &url, "--vip", &vip, "--run-dir", &run_dir])?);
    Ok(())
}

/// For `--keep`.
pub(crate) fn how_to_look_around(stage: &Stage) -> String {
    let namespace = |host: &lb_tests::topology::Host| host.namespace().path().display().to_string();
    let client = namespace(stage.client());
    let node = namespace(stage.topology().node(NODE).host());
    let podway = format!("{} --pin-path {}", stage.podway().display(), stage.topology().pins(NODE).display());
    let podway = |arguments: &str| podway.replacen(" --pin-path", &format!(" {arguments} --pin-path"), 1);
    format!(
        "\neverything stays up until Ctrl-C. As root, in another terminal:\n\n  \
         # who answers the client outside?\n  \
         nsenter --net={client} bash -c 'head -n 1 < /dev/tcp/{LOAD_BALANCER_V4}/80'\n  \
         # the maps of {NODE}\n  \
         {}\n  \
         {}\n  \
         # why would a packet go where it goes?\n  \
         {}\n  \
         # a shell on {NODE}\n  \
         nsenter --net={node} bash\n",
        podway("get endpoints -o wide"),
        podway("describe backend-service shop/web-lb"),
        podway(&format!(
            "explain --from 192.0.2.100 --to 198.51.100.10:80 --proto tcp --run-dir {}",
            stage.topology().run_dir(NODE).display()
        )),
    )
}
