//! Embeds the eBPF object that `PODWAY_EBPF_OBJECT` names, so that one binary is all a node needs.
//! Without the variable the binary has none, and a stable toolchain alone builds it.
use std::error::Error;
use std::path::PathBuf;

const VARIABLE: &str = "PODWAY_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-changed=build.rs");
    let value = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        None => "None".to_string(),
        Some(path) => {
            let path = std::path::absolute(PathBuf::from(path))?;
            println!("cargo:rerun-if-changed={}", path.display());
            if !path.is_file() {
                return Err(format!("cannot embed {} ({VARIABLE}): no such file", path.display()).into());
            }
            let path = path.to_str().ok_or("the path of the eBPF object is not UTF-8")?;
            format!("Some(aya::include_bytes_aligned!({path:?}))")
        }
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo has not set OUT_DIR")?);
    std::fs::write(out.join("ebpf_object.rs"), value)?;
    Ok(())
}
