//! The kernel's packet generator (`Documentation/networking/pktgen.rst`), driven by its files below `/proc/net`.
//! Each network namespace has its own; a command is a line that is written to a file.
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::netns::Namespace;

/// Of the calling thread's namespace; `/proc/net` is that of the process.
const FOLDER: &str = "/proc/thread-self/net/pktgen";

/// Where packets begin. Neither mode sends a packet twice (`burst`, `clone_skb`): what forwards rewrites it, and veth
/// takes no shared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They come in by the interface, behind the driver and so behind native XDP. They are shared with the generator
    /// meanwhile, so nothing on their way may need more room before the frame: generic XDP and encapsulations do.
    NetifReceive,
    /// They leave by the interface.
    Xmit,
}

/// UDP datagrams of one client.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// Where they begin.
    pub mode: Mode,
    /// At which interface.
    pub interface: &'a str,
    /// The processor that makes them.
    pub cpu: usize,
    /// How many packets.
    pub packets: u64,
    /// Length of a frame without its checksum, bytes; at least 60, over IPv6 78.
    pub frame_bytes: u32,
    /// The client's address, with the first of its ports.
    pub from: SocketAddr,
    /// Ports of the client, in turn: as many flows.
    pub flows: u16,
    /// Where to.
    pub to: SocketAddr,
    /// The Ethernet address of the next hop.
    pub next_hop: &'a str,
}

/// What the generator says of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Packets that the interface took.
    pub packets: u64,
    /// Packets that it did not.
    pub errors: u64,
    /// The run, microseconds.
    pub duration_us: u64,
}

/// Whether this kernel has it.
#[must_use]
pub fn is_there() -> bool {
    Path::new(FOLDER).is_dir()
}

/// The generator's thread of a processor.
#[must_use]
pub fn thread(cpu: usize) -> String {
    format!("kpktgend_{cpu}")
}

/// Sends a load in a namespace, and waits until all of it is sent.
///
/// # Errors
/// The generator refuses a command; the message has it.
pub fn send(namespace: &Namespace, load: &Load<'_>) -> Result<Sent> {
    namespace.run(|| {
        let thread = thread(load.cpu);
        write(&thread, "rem_device_all")?;
        write(&thread, &format!("add_device {}", load.interface))?;
        for command in commands(load) {
            write(load.interface, &command)?;
        }
        write("pgctrl", "start")?;
        let said = std::fs::read_to_string(path(load.interface)).context("pktgen says nothing")?;
        write(&thread, "rem_device_all")?;
        sent(&said).with_context(|| format!("pktgen sent nothing: {said}"))
    })?
}

fn commands(load: &Load<'_>) -> Vec<String> {
    let Load { packets, frame_bytes, flows, next_hop, .. } = load;
    let last = load.from.port() + flows - 1;
    let mode = match load.mode {
        Mode::NetifReceive => "netif_receive",
        Mode::Xmit => "start_xmit",
    };
    let mut commands = vec![
        format!("count {packets}"),
        format!("xmit_mode {mode}"),
        // No packet is handed in twice: it is rewritten on its way.
        "clone_skb 0".to_owned(),
        "delay 0".to_owned(),
        format!("pkt_size {frame_bytes}"),
        format!("dst_mac {next_hop}"),
        format!("udp_src_min {}", load.from.port()),
        // The end is not among them.
        format!("udp_src_max {}", last + 1),
        format!("udp_dst_min {}", load.to.port()),
        format!("udp_dst_max {}", load.to.port()),
    ];
    match load.to.ip() {
        IpAddr::V4(to) => {
            let from = load.from.ip();
            commands.extend([format!("dst {to}"), format!("src_min {from}"), format!("src_max {from}")]);
        }
        IpAddr::V6(to) => {
            commands.extend([
                format!("dst6 {to}"),
                format!("src6 {}", load.from.ip()),
                "flag UDPCSUM".to_owned(),
            ]);
        }
    }
    commands
}

fn path(file: &str) -> PathBuf {
    Path::new(FOLDER).join(file)
}

fn write(file: &str, command: &str) -> Result<()> {
    let path = path(file);
    let written = std::fs::write(&path, format!("{command}\n"));
    written.with_context(|| format!("pktgen does not take {command:?} at {}", path.display()))?;
    // Some commands fail without the write failing.
    let said = std::fs::read_to_string(&path).unwrap_or_default();
    match said.lines().rev().find_map(|line| line.strip_prefix("Result: ")) {
        Some(result) if !result.starts_with("OK") && !result.starts_with("Idle") => {
            bail!("pktgen says {result:?} to {command:?}")
        }
        _ => Ok(()),
    }
}

/// The numbers of an interface's file:
///
/// ```text
///      pkts-sofar: 1000  errors: 0
/// Result: OK: 7128(c6997+d131) usec, 1000 (60byte,0frags)
/// ```
fn sent(said: &str) -> Option<Sent> {
    let number_behind = |word: &str| {
        let (_, rest) = said.split_once(word)?;
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some(Sent {
        packets: number_behind("pkts-sofar:")?,
        errors: number_behind("errors:")?,
        duration_us: number_behind("Result: OK:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_read_from_the_file() {
        let said = "Params: count 1000  min_pkt_size: 60\n     flows: 0 flowlen: 0\nCurrent:\n     \
                    pkts-sofar: 1000  errors: 2\n     started: 1us  stopped: 2us idle: 3us\n\
                    Result: OK: 7128(c6997+d131) usec, 1000 (60byte,0frags)\n  140291pps 67Mb/sec\n";
        assert_eq!(sent(said), Some(Sent { packets: 1_000, errors: 2, duration_us: 7_128 }));
        assert_eq!(sent("Result: Idle\n"), None);
    }
}
