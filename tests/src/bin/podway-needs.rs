//! Prints what each named tier of tests lacks on this machine; nothing where its need is met.
use lb_tests::need;

fn main() {
    for tier in std::env::args().skip(1) {
        let missing = match tier.as_str() {
            "host" => need::find_helm().err(),
            "kernel" => need::find_kernel().err(),
            "netns" => need::find_netns().err(),
            "cluster" => need::find_cluster().err(),
            _ => Some(format!("there is no tier {tier:?} with a need; say host, kernel, netns or cluster")),
        };
        if let Some(missing) = missing {
            println!("{missing}");
        }
    }
}
