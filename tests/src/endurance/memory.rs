//! How much memory a process has of its own.
use anyhow::{Context as _, Result};

/// Bytes of a process's memory that are backed by no file and no map: the kernel counts all of a mapped map as
/// resident, whoever made it (`RssAnon` of proc(5)).
///
/// # Errors
/// There is no such process.
pub fn own_memory_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    anon_bytes(&status).with_context(|| format!("{path} has no RssAnon"))
}

fn anon_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_in_kibibytes() {
        assert_eq!(anon_bytes("VmRSS:\t    9000 kB\nRssAnon:\t     120 kB\n"), Some(122_880));
        assert_eq!(anon_bytes("VmRSS:\t    9000 kB\n"), None);
    }
}
