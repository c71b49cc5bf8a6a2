//! Kernel tier: every program loads within its recorded budget.
use lb_tests::kernel::{CLASSIFIERS, Kernel, SOCKET_HOOKS, XDP};

#[test]
fn every_program_loads() {
    let kernel = Kernel::load(1024).unwrap();
    for name in CLASSIFIERS.iter().chain(&SOCKET_HOOKS).chain(&[XDP]) {
        println!("{name} {}", kernel.verified_instructions(name).unwrap());
    }
}
