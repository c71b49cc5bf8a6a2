//! `lb-traffic`: servers and clients for the simulated cluster. Reports are JSON, one a line; standard
//! input at its end means stop.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use lb_tests::traffic::UdpSocketKind;
use lb_tests::traffic::{client, load, server};
use lb_userspace::model::Protocol;

#[derive(Parser)]
#[command(about = "Servers and clients for the simulated cluster")]
struct Cli {
    #[command(subcommand)]
    command: Traffic,
}

#[derive(Subcommand)]
enum Traffic {
    /// Listen, and answer with a name and the peer's address
    Serve {
        /// Name to answer with
        #[arg(long)]
        name: String,
        /// TCP port to listen on
        #[arg(long)]
        tcp: Vec<u16>,
        /// UDP port to listen on
        #[arg(long)]
        udp: Vec<u16>,
        /// TCP port to greet on and hang up
        #[arg(long)]
        hello: Vec<u16>,
    },
    /// Make requests, each on a socket of its own
    Dial(DialArguments),
    /// Keep TCP connections open and in use
    Hold {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        connections: u32,
        /// Over how many of them a line is under way at a time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        at_once: u32,
    },
    /// Open TCP connections at a rate, read a greeting and close, until standard input ends
    Load {
        /// Where to, in turn
        #[arg(long, required = true)]
        to: Vec<SocketAddr>,
        /// Connections a second
        #[arg(long)]
        rate: u32,
    },
    /// Send numbered datagrams from one socket
    Stream {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// Time from one datagram to the next
        #[arg(long)]
        interval_us: u64,
    },
}

#[derive(Args)]
struct DialArguments {
    /// Connect to this address over TCP
    #[arg(long, required_unless_present = "udp", conflicts_with = "udp")]
    tcp: Option<SocketAddr>,
    /// Send to this address over UDP
    #[arg(long)]
    udp: Option<SocketAddr>,
    /// How many requests; without it they go on until standard input ends
    #[arg(long)]
    count: Option<u32>,
    /// Time from the start of one request to that of the next
    #[arg(long, default_value_t = 0)]
    interval_us: u64,
    /// Time after which a request has failed
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
    /// Name the peer with every datagram instead of connecting the socket
    #[arg(long)]
    unconnected: bool,
    /// Send datagrams from this address
    #[arg(long, requires = "udp")]
    source: Option<IpAddr>,
}

impl DialArguments {
    fn requests(&self) -> Result<client::Requests> {
        let tcp = self.tcp.map(|to| (Protocol::Tcp, to));
        let udp = self.udp.map(|to| (Protocol::Udp, to));
        let (protocol, to) = tcp.or(udp).context("neither --tcp nor --udp")?;
        Ok(client::Requests {
            to,
            protocol,
            count: self.count,
            interval: Duration::from_micros(self.interval_us),
            timeout: Duration::from_millis(self.timeout_ms),
            udp_socket: if self.unconnected { UdpSocketKind::Unconnected } else { UdpSocketKind::Connected },
            source: self.source,
        })
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Traffic::Serve { name, tcp, udp, hello } => server::serve(&name, &tcp, &udp, &hello),
        Traffic::Load { to, rate } => load::load(&to, rate),
        Traffic::Dial(arguments) => client::dial(&arguments.requests()?),
        Traffic::Hold { to, connections, at_once } => client::hold(to, connections, at_once),
        Traffic::Stream { to, interval_us } => client::stream(to, Duration::from_micros(interval_us)),
    }
}
