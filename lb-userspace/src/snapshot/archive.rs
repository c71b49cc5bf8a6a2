//! The file: a gzipped tar archive, whose checksum tells whether it is whole.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::{FORMAT, Header, LAYOUT_VERSION, NodeSnapshot, part};

/// Most bytes of all parts together. A larger file is not read.
const PARTS_BYTES_MAX: u64 = 2 << 30;
/// It has addresses of clients: only its owner may read it.
const FILE_MODE: u32 = 0o600;

impl NodeSnapshot {
    /// Writes the file, which takes the name when it is whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let cannot = || format!("cannot write the snapshot {}", path.display());
        let mut new_name = path.file_name().context("the snapshot needs the name of a file")?.to_owned();
        new_name.push(".new");
        let new = path.with_file_name(new_name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new);
        let written = file.with_context(cannot).and_then(|file| self.write_to(file).with_context(cannot));
        let done = written.and_then(|()| std::fs::rename(&new, path).with_context(cannot));
        if done.is_err() {
            // What is left of it helps nobody; the first error is the one to tell.
            let _ = std::fs::remove_file(&new);
        }
        done
    }

    pub(super) fn write_to(&self, to: impl Write) -> Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::fast()));
        let header = serde_json::to_vec_pretty(&self.header)?;
        let parts = self.parts.iter().map(|(name, bytes)| (name.as_str(), bytes));
        for (name, bytes) in std::iter::once((part::HEADER, &header)).chain(parts) {
            let mut entry = tar::Header::new_gnu();
            entry.set_size(bytes.len() as u64);
            entry.set_mode(FILE_MODE);
            entry.set_mtime(self.header.taken_unix_ms / 1_000);
            archive.append_data(&mut entry, name, bytes.as_slice())?;
        }
        archive.into_inner()?.finish()?.flush()?;
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// There is none, it is no snapshot, damaged, or of a version that this one does not read.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read the snapshot {}", path.display());
        Self::read_from(File::open(path).with_context(cannot)?).with_context(cannot)
    }

    pub(super) fn read_from(file: impl std::io::Read) -> Result<Self> {
        const DAMAGED: &str = "it is cut short, damaged or no file of `podway snapshot`; make it again";
        // As a whole first: the checksum is at the end.
        let mut archive = Vec::new();
        let taken = GzDecoder::new(file).take(PARTS_BYTES_MAX).read_to_end(&mut archive);
        ensure!(
            (taken.context(DAMAGED)? as u64) < PARTS_BYTES_MAX,
            "it has more than {PARTS_BYTES_MAX} bytes; make it again with a smaller --flows-max"
        );
        let mut parts = BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().context(DAMAGED)? {
            let mut entry = entry.context(DAMAGED)?;
            let name = entry.path().context(DAMAGED)?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).context(DAMAGED)?;
            parts.insert(name, bytes);
        }
        let header = parts.remove(part::HEADER).context(DAMAGED)?;
        let header = readable(&header)?;
        let snapshot = Self { header, parts };
        snapshot.check().context(DAMAGED)?;
        Ok(snapshot)
    }

    /// Whether every map that the header names is here in full.
    fn check(&self) -> Result<()> {
        for map in &self.header.maps {
            let bytes = self.parts.get(&part::map(&map.name));
            let wanted = u64::from(map.entries) * u64::from(map.key_bytes + map.value_bytes);
            match bytes {
                Some(bytes) if bytes.len() as u64 == wanted => {}
                Some(bytes) => bail!("map {} has {} bytes and not {wanted}", map.name, bytes.len()),
                None => bail!("map {} is missing", map.name),
            }
        }
        Ok(())
    }
}

/// The header, of a version that can be read. The versions stand in all of them alike, so they are looked at first.
fn readable(bytes: &[u8]) -> Result<Header> {
    let value: serde_json::Value = serde_json::from_slice(bytes).context("its header is no JSON")?;
    let number = |field: &str| value[field].as_u64();
    let version = value["version"].as_str().unwrap_or("unknown");
    ensure!(
        (number("format"), number("layoutVersion")) == (Some(FORMAT.into()), Some(LAYOUT_VERSION.into())),
        "it is of podway {version} with format {} and layout {}, and this version reads format {FORMAT} and layout \
         {LAYOUT_VERSION}; use podway {version}",
        text(number("format")),
        text(number("layoutVersion"))
    );
    serde_json::from_value(value).context("its header has another form; use the version that made it")
}

fn text(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}
