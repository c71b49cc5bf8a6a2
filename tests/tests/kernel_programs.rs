//! Kernel tier: every program loads within its recorded budget.
use lb_tests::kernel::{CLASSIFIERS, Kernel, SOCKET_HOOKS, XDP};
use lb_tests::need;

/// Instructions that the verifier walks, at most: what 6.18 counted when this was last changed, and a
/// fifth more for other kernels. A program that outgrows its budget has got paths that nobody meant;
/// kernels before 5.2 took 131,072 at most, later ones a million.
const BUDGETS: [(&str, u32); 13] = [
    ("xdp_uplink", 215_000),
    ("tc_uplink_in", 240_000),
    ("tc_pod_in", 223_000),
    ("tc_egress", 161_000),
    ("tc_again", 5),
    ("connect4", 6_500),
    ("connect6", 6_500),
    ("sendmsg4", 6_500),
    ("sendmsg6", 6_500),
    ("recvmsg4", 60),
    ("recvmsg6", 60),
    ("getpeername4", 60),
    ("getpeername6", 60),
];

#[test]
fn every_program_loads_within_its_budget() {
    let Some(_) = need::kernel() else { return };
    let kernel = Kernel::load(1024).unwrap();
    for name in CLASSIFIERS.iter().chain(&SOCKET_HOOKS).chain(&[XDP]) {
        let (_, budget) = BUDGETS.iter().find(|(program, _)| program == name).unwrap();
        let count = kernel.verified_instructions(name).unwrap();
        assert!(count <= *budget, "{name}: {count} instructions, the budget is {budget}");
        assert!(count * 2 >= *budget, "{name}: {count} instructions, the budget of {budget} is loose");
    }
}
