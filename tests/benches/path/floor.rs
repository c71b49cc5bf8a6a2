//! The floor programs with a table of the flows that the cases have.
use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable as _;
use lb_common::bench::{FLOWS_PER_ADDRESS, PORT_FIRST};
use lb_common::conntrack::{Flow, FlowKey};
use lb_common::protocol::TCP;
use lb_common::{Address, Be16};
use lb_tests::kernel::bench_object;
use lb_tests::world;

use crate::cases::client;
use lb_tests::bench::services::{ENDPOINT_PORT, LOCAL, endpoint_address};

/// Loads them, with a table of `entries_max` and in it `flows` flows of each family.
pub(crate) fn load(entries_max: u32, flows: u32) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().map_max_entries("FLOOR_FLOWS", entries_max).load(&bench_object()?)?;
    for name in ["floor_empty", "floor_parse", "floor_lookup", "floor_forward", "floor_route"] {
        let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no {name}"))?.try_into()?;
        program.load().with_context(|| format!("cannot load {name}"))?;
    }
    let table = ebpf.map_mut("FLOOR_FLOWS").context("no FLOOR_FLOWS")?;
    let mut table: HashMap<&mut MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<Flow>()]> =
        table.try_into()?;
    for is_v4 in [true, false] {
        for number in 0..flows {
            let (key, flow) = entry(number, is_v4);
            table.insert(
                bytemuck::cast::<_, [u8; size_of::<FlowKey>()]>(key),
                bytemuck::cast::<_, [u8; size_of::<Flow>()]>(flow),
                0,
            )?;
        }
    }
    Ok(ebpf)
}

/// The entry of the flow that the harness makes of a number.
fn entry(number: u32, is_v4: bool) -> (FlowKey, Flow) {
    let address_offset = number / FLOWS_PER_ADDRESS;
    let source: Address = match client(is_v4) {
        std::net::IpAddr::V4(first) => {
            std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(first.to_bits() + address_offset)).into()
        }
        std::net::IpAddr::V6(first) => {
            let address = std::net::Ipv6Addr::from_bits(first.to_bits() + u128::from(address_offset));
            std::net::IpAddr::from(address).into()
        }
    };
    let key = FlowKey {
        source,
        destination: if is_v4 { world::VIP_V4 } else { world::VIP_V6 }.into(),
        source_port: Be16::new(PORT_FIRST + (number % FLOWS_PER_ADDRESS) as u16),
        destination_port: Be16::new(LOCAL),
        protocol: TCP.into(),
    };
    let flow = Flow {
        new_source: source,
        new_destination: endpoint_address(LOCAL, number % 10, is_v4).into(),
        new_source_port: key.source_port,
        new_destination_port: Be16::new(ENDPOINT_PORT),
        ..Flow::zeroed()
    };
    (key, flow)
}
