//! The flags of load-balancer addresses that are an agent's alone.
use clap::{Args, ValueEnum};

/// `--lb-announce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LbAnnounce {
    /// On the local network, by ARP and Neighbour Discovery, from one elected node for each VIP.
    #[default]
    L2,
    /// Not at all: something else leads VIPs to the nodes, which serve them all.
    Off,
}

/// How load-balancer addresses of pools become known outside.
#[derive(Args, Clone, Copy, Debug)]
pub struct LbOptions {
    /// How VIPs of load-balancer pools are announced; with --manifests they never are, since nobody elects.
    #[arg(long, value_enum, default_value_t)]
    pub lb_announce: LbAnnounce,
    /// Routing table that gets a route for each VIP of a load-balancer pool that this node serves, for a routing daemon to
    /// take from there; the agent alone has routes of its protocol (112) in it.
    #[arg(long, value_parser = route_table)]
    pub lb_route_table: Option<u32>,
}

/// One that neither the kernel nor anybody else uses for forwarding by itself: not `default`, `main` and `local`.
fn route_table(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0 && !(253..=255).contains(number));
    number.ok_or_else(|| {
        "want the number of a table that is not default (253), main (254) or local (255)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::route_table;

    #[test]
    fn tables_of_the_kernel_are_refused() {
        assert_eq!(["1", "252", "256", "4294967295"].map(route_table), [1, 252, 256, u32::MAX].map(Ok));
        assert!(["", "0", "253", "254", "255", "-1", "main"].iter().all(|text| route_table(text).is_err()));
    }
}
