//! The ratios that are promised, each taken round by round.
use lb_tests::bench::{Bench, RowId};
use lb_tests::kernel::XDP;

use crate::cases::{
    BY_FLOWS, BY_SERVICES, Case, ESTABLISHED, FLOOR_FORWARD, FLOOR_LOOKUP, NEW_FLOW, NOT_OURS, Program, V4,
    V6,
};

const GROUP: &str = "Ratios in XDP, by live flows";
const GROUP_SERVICES: &str = "Ratios, 10,000 Services to one";

/// Adds the rows of ratios.
pub(crate) fn add(bench: &mut Bench, rows: &[(&Case, RowId)]) {
    let at = |name: &str, family: &str, flows: u32| {
        let mut found = rows.iter().filter(|(case, _)| case.group == BY_FLOWS && case.flows == flows);
        found.find(|(case, _)| case.name == name && case.family == family).map(|(_, row)| *row)
    };
    let flows: Vec<u32> = rows
        .iter()
        .filter(|(case, _)| case.group == BY_FLOWS && case.name == NOT_OURS)
        .map(|(case, _)| case.flows)
        .collect();
    for (name, of, to) in [
        ("established TCP over IPv4 to floor with rewrite", (ESTABLISHED, V4), (FLOOR_FORWARD, V4)),
        ("established TCP, IPv6 to IPv4", (ESTABLISHED, V6), (ESTABLISHED, V4)),
        ("not ours, TCP over IPv4 to floor with lookup", (NOT_OURS, V4), (FLOOR_LOOKUP, V4)),
    ] {
        for flows in &flows {
            if let (Some(of), Some(to)) = (at(of.0, of.1, *flows), at(to.0, to.1, *flows)) {
                bench.ratio(GROUP, name, [("flows", (*flows).into())], of, to);
            }
        }
    }
    for name in [ESTABLISHED, NEW_FLOW, NOT_OURS] {
        for program in [XDP, "tc_pod_in"] {
            let beside = |services: u32| {
                let mut found =
                    rows.iter().filter(|(case, _)| case.group == BY_SERVICES && case.name == name);
                let found = found.find(|(case, _)| {
                    case.services == Some(services)
                        && matches!(case.program, Program::Podway { name, .. } if name == program)
                });
                found.map(|(_, row)| *row)
            };
            if let (Some(of), Some(to)) = (beside(10_000), beside(1)) {
                bench.ratio(GROUP_SERVICES, name, [("program", program.into())], of, to);
            }
        }
    }
}
