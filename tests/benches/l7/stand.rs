//! What all proxies share: the upstream, the certificate, the scripts of the load generators.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lb_tests::bench::l7::rules::{HOSTS, host};
use lb_tests::bench::l7::wrk::{self, Connections};
use tempfile::TempDir;

use super::upstream::{LARGE, SMALL, Upstream};

/// What all proxies share.
pub(crate) struct Stand {
    pub(crate) upstream: Upstream,
    folder: TempDir,
}

impl Stand {
    pub(crate) fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("podway-l7-").context("cannot make a folder")?;
        let made = rcgen::generate_simple_self_signed((0..HOSTS).map(host).collect::<Vec<_>>())?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let files = [
            ("site.crt", chain.clone()),
            ("site.key", key.clone()),
            ("site.pem", chain + &key),
            ("small.lua", wrk::script(SMALL, Connections::Kept)),
            ("large.lua", wrk::script(LARGE, Connections::Kept)),
            ("each.lua", wrk::script(SMALL, Connections::OneRequestEach)),
        ];
        for (name, text) in files {
            write(&folder.path().join(name), &text)?;
        }
        Ok(Self { upstream: Upstream::start()?, folder })
    }

    /// A file or folder of it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
