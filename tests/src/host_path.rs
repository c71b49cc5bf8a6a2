//! The packet path on a frame and tables in memory, as a hook runs it: headers first, then the direction.
use lb_ebpf::host::{HostFrame, HostTables};
use lb_ebpf::parse::parse;
use lb_ebpf::path::{self, Scratch, Sender, Side};
use lb_ebpf::verdict::Verdict;

/// A frame enters the node by `side`: the verdict, and the frame afterwards.
pub fn enter(tables: &mut HostTables, frame: &[u8], side: Side) -> (Verdict, Vec<u8>) {
    run(frame, |packet, scratch| path::to_backend(packet, tables, scratch, side))
}

/// A frame that this node forwards leaves it: the verdict, and the frame afterwards.
pub fn leave(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    run(frame, |packet, scratch| path::to_client(packet, tables, scratch, Sender::Other))
}

fn run(frame: &[u8], decide: impl FnOnce(&mut HostFrame, &mut Scratch) -> Verdict) -> (Verdict, Vec<u8>) {
    let mut packet = HostFrame(frame.to_vec());
    let verdict = match parse(&packet) {
        Ok(parsed) => decide(&mut packet, &mut Scratch::new(parsed)),
        Err(reason) => Verdict::Pass(reason),
    };
    (verdict, packet.0)
}
