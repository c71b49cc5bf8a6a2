//! Kernel tier: every program loads within its recorded budget.
use lb_tests::kernel::{CLASSIFIERS, Kernel, SOCKET_HOOKS, XDP};
use lb_tests::need;
use lb_userspace::kernel_release;

/// Instructions that the verifier walks, at most: what 6.18 counted when this was last changed, and a
/// fifth more for other kernels from 6.12 on and before 7.0. A program that outgrows its budget has got paths that
/// nobody meant; kernels before 5.2 took 131,072 at most, later ones a million.
const BUDGETS: [(&str, u32); 13] = [
    ("xdp_uplink", 178_000),
    ("tc_uplink_in", 199_000),
    ("tc_pod_in", 176_000),
    ("tc_egress", 132_000),
    ("tc_again", 5),
    ("connect4", 8_000),
    ("connect6", 8_000),
    ("sendmsg4", 8_000),
    ("sendmsg6", 8_000),
    ("recvmsg4", 60),
    ("recvmsg6", 60),
    ("getpeername4", 60),
    ("getpeername6", 60),
];

/// The same for kernels that see less of what they have seen before: Linux 6.1 walks 620,832 of `xdp_uplink`, 7.2 368,699
/// of `tc_uplink_in`. They take a million.
const OTHER_KERNELS_MAX: u32 = 700_000;

#[test]
fn every_program_loads_within_its_budget() {
    let Some(_) = need::kernel() else { return };
    let kernel = Kernel::load(1024).unwrap();
    let mut faults = Vec::new();
    for name in CLASSIFIERS.iter().chain(&SOCKET_HOOKS).chain(&[XDP]) {
        let (_, budget) = BUDGETS.iter().find(|(program, _)| program == name).unwrap();
        let count = kernel.verified_instructions(name).unwrap();
        println!("{name}: {count} instructions");
        let is_recorded = kernel_release::is_at_least((6, 12)) && !kernel_release::is_at_least((7, 0));
        let bound = if is_recorded { *budget } else { OTHER_KERNELS_MAX };
        if count > bound {
            faults.push(format!("{name}: {count} instructions, the budget is {bound}"));
        }
        if is_recorded && count * 2 < *budget {
            faults.push(format!("{name}: {count} instructions, the budget of {budget} is loose"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
