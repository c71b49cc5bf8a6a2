//! An XDP program that passes every frame, for the far ends of uplinks.
//!
//! A veth device that gets `XDP_TX` queues the frame at its other end, and wakes that end only if it
//! has an XDP program of its own; `gro on`, which is enough for `XDP_REDIRECT`, is not (Linux
//! `drivers/net/veth.c`: `veth_xdp_flush` looks at `xdp_prog`, `veth_xdp_xmit` at `napi`). Without one
//! the frames lie there until something else wakes it, seconds later.
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::{XdpLink, XdpMode};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use crate::netns::Namespace;

/// `r0 = XDP_PASS; exit`, as eBPF instructions.
const INSTRUCTIONS: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// The program's name.
const NAME: &str = "pass";

/// Attaches the program to interfaces of a namespace, until the links are dropped.
///
/// # Errors
/// No right to load or attach BPF programs; no such interface.
pub(crate) fn attach<'a>(
    namespace: &Namespace,
    interfaces: impl Iterator<Item = &'a str> + Send,
) -> Result<Vec<XdpLink>> {
    let mut ebpf = Ebpf::load(&object_file("xdp", NAME, &INSTRUCTIONS)?)
        .context("cannot read the XDP program for uplinks")?;
    let program: &mut Xdp = ebpf.program_mut(NAME).context("no program in the object")?.try_into()?;
    program.load().context("cannot load the XDP program for uplinks")?;
    namespace.run(|| {
        interfaces
            .map(|interface| {
                let attached = program.attach(interface, XdpMode::Driver);
                let id = attached.with_context(|| format!("cannot attach XDP to {interface}"))?;
                Ok(program.take_link(id)?)
            })
            .collect()
    })?
}

/// A program as an ELF file, which is what loaders take; the section says what kind of program it is.
pub(crate) fn object_file(section: &str, name: &str, instructions: &[u8]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), section.as_bytes().to_vec(), SectionKind::Text);
    let value = object.append_section_data(section, instructions, 8);
    object.add_symbol(Symbol {
        name: name.into(),
        value,
        size: instructions.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.write().context("cannot write an object file")
}
