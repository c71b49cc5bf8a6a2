//! `podway monitor`: what becomes of packets, while they pass.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lb_common::counters::{Outcome, Reason};
use lb_common::event::{Event, Monitor as Wanted};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::attach;
use crate::clock::now_s;
use crate::maps::{Events, Pins};
use crate::model::Protocol;
use crate::monitor::{End, Filter, Missed, PcapFile, Sighting, captured};

/// Tell packet by packet what the programs do with it, until Ctrl-C: where, verdict and reason, client, VIP and
/// endpoint. While nobody watches it costs nothing; while somebody does, each CPU tells --rate packets a second, and
/// how many were missed is said at the end. What socket hooks do with a call is no packet, and is not told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway monitor --drops\n  podway monitor --vip 198.51.100.10:80 --client 203.0.113.7\n  \
    podway monitor --reason no-endpoint,source-range --json\n  podway monitor --drops --pcap drops.pcap --count 100"
)]
pub(super) struct Monitor {
    /// Only packets whose VIP is this: IP or IP:PORT.
    #[arg(long)]
    vip: Option<End>,
    /// Only packets whose endpoint is this: IP or IP:PORT.
    #[arg(long)]
    endpoint: Option<End>,
    /// Only packets of this client: IP or IP:PORT.
    #[arg(long)]
    client: Option<End>,
    /// Only this protocol: tcp, udp or sctp.
    #[arg(long = "proto", value_parser = super::explain::protocol)]
    protocol: Option<Protocol>,
    /// Only these reasons, as `podway get counters` names them.
    #[arg(long, value_delimiter = ',', value_parser = reason)]
    reason: Vec<Reason>,
    /// Only what is dropped or refused.
    #[arg(long, conflicts_with = "reason")]
    drops: bool,
    /// Print a line of JSON for each packet in place of a table.
    #[arg(long)]
    json: bool,
    /// Also write the first 128 bytes of each packet to this file, as it is after the verdict, for tcpdump or tshark.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// End after so many packets.
    #[arg(long)]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Most packets that each CPU tells in a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
}

/// Seconds for which the programs go on when this process is gone.
const LEASE_S: u32 = 3;
/// Time between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);
/// Events that are printed before the time is looked at again.
const ROUND_EVENTS_MAX: usize = 1_024;

fn reason(text: &str) -> Result<Reason, String> {
    let found = Reason::ALL.into_iter().find(|reason| reason.name() == text);
    found.ok_or_else(|| format!("there is no reason {text:?}; see `podway get counters`"))
}

impl Monitor {
    fn filter(&self) -> Filter {
        let is_lost = |reason: &Reason| matches!(reason.outcome(), Outcome::Drop | Outcome::Refuse);
        Filter {
            vip: self.vip,
            endpoint: self.endpoint,
            client: self.client,
            protocol: self.protocol,
            reasons: match self.drops {
                true => Reason::ALL.into_iter().filter(is_lost).collect(),
                false => self.reason.clone(),
            },
        }
    }
}

/// Watches and prints.
///
/// # Errors
/// No maps are pinned there, somebody else watches, or a file cannot be written.
pub(super) fn run(monitor: &Monitor) -> Result<()> {
    let mut events = Events::open(&Pins::new(&monitor.pin_path))?;
    let filter = monitor.filter();
    let mut output = Output::new(monitor)?;
    let began = Instant::now();
    let is_over = |told: u64| {
        monitor.count.is_some_and(|count| told >= count)
            || monitor.seconds.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds))
    };
    let mut missed = Missed::default();
    let mut renewed: Option<Instant> = None;
    while !is_over(output.told) {
        if renewed.is_none_or(|at| at.elapsed() >= RENEWAL) {
            let until_s = now_s() + LEASE_S;
            events.watch(&Wanted {
                reasons: filter.reason_bits(),
                until_s,
                events_per_second: monitor.rate,
            })?;
            renewed = Some(Instant::now());
        }
        wait(&events)?;
        for _ in 0..ROUND_EVENTS_MAX {
            let next = if is_over(output.told) { None } else { events.next_event() };
            let Some(event) = next else { break };
            missed.note(&event);
            if !output.tell(&event, &filter)? {
                return Ok(());
            }
        }
    }
    if missed.count() > 0 {
        eprintln!("podway: {} further packets were not told; see --rate", missed.count());
    }
    Ok(())
}

/// Waits for an event, or until the lease is to be renewed.
fn wait(events: &Events) -> Result<()> {
    let timeout = Timespec::try_from(RENEWAL).context("cannot wait")?;
    match poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&timeout)) {
        Err(Errno::INTR) | Ok(_) => Ok(()),
        Err(error) => Err(error).context("cannot wait for events"),
    }
}

/// Where packets are told.
struct Output {
    is_json: bool,
    pcap: Option<PcapFile<File>>,
    interfaces: BTreeMap<u32, String>,
    /// What makes a time since 1970 of one of the monotonic clock, nanoseconds.
    offset_ns: u64,
    told: u64,
}

const HEADINGS: &str = "TIME                POINT       INTERFACE        OUTCOME  REASON               PROTO  LENGTH  CLIENT → VIP → ENDPOINT";

impl Output {
    fn new(monitor: &Monitor) -> Result<Self> {
        let pcap = monitor.pcap.as_ref().map(|path| {
            let cannot = || format!("cannot write {}", path.display());
            PcapFile::new(File::create(path).with_context(cannot)?).with_context(cannot)
        });
        let links = attach::links().context("cannot list the network interfaces")?;
        if !monitor.json {
            super::print(&format!("{HEADINGS}\n"))?;
        }
        Ok(Self {
            is_json: monitor.json,
            pcap: pcap.transpose()?,
            interfaces: links.into_iter().map(|link| (link.index, link.name)).collect(),
            offset_ns: unix_ns().saturating_sub(monotonic_ns()),
            told: 0,
        })
    }

    /// Tells a packet, if it is wanted; `false` when nobody reads any more.
    fn tell(&mut self, event: &Event, filter: &Filter) -> Result<bool> {
        let offset_ns = self.offset_ns;
        let Some(seen) = Sighting::of(event, |ns| ns + offset_ns).filter(|seen| filter.wants(seen)) else {
            return Ok(true);
        };
        self.told += 1;
        if let Some(pcap) = &mut self.pcap {
            let written = pcap.add(seen.at_unix_ns, captured(event), event.length_bytes);
            written.context("cannot write the capture file")?;
        }
        let line = if self.is_json { serde_json::to_string(&seen)? } else { self.line(&seen) };
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => bail!("cannot print: {error}"),
        }
    }

    fn line(&self, seen: &Sighting) -> String {
        let interface = self.interfaces.get(&seen.interface_index);
        let interface = interface.cloned().unwrap_or_else(|| format!("#{}", seen.interface_index));
        let ends = [seen.client, seen.vip, seen.endpoint];
        let ends: Vec<String> = ends.iter().flatten().map(ToString::to_string).collect();
        let (seconds, micros) = (seen.at_unix_ns / 1_000_000_000, seen.at_unix_ns / 1_000 % 1_000_000);
        format!(
            "{seconds}.{micros:06}  {:<10}  {interface:<15}  {:<7}  {:<19}  {:<5}  {:>6}  {}",
            seen.point,
            seen.outcome,
            seen.reason,
            seen.protocol.as_deref().unwrap_or("-"),
            seen.length_bytes,
            if ends.is_empty() { "-".to_owned() } else { ends.join(" → ") }
        )
    }
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
