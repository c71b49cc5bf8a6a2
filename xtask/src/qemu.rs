//! Debian's kernels under emulation: what runs there sees this machine's files, read only, under another kernel.
//!
//! The virtual machine has no disk. A small first file system mounts the machine's own over 9p, lays memory over
//! it for what is written, and runs a script; the modules are those of the kernel's package.
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::project::{self, Project, output_of, run};

/// Debian's packages that depend on the kernel of a series. That of Debian 12 itself, 6.1, takes `xdp_uplink` no more:
/// its verifier walks a million instructions and gives up.
pub(crate) const KERNELS: [&str; 1] = ["linux-image-6.12-amd64"];
/// Programs with their packages.
pub(crate) const PROGRAMS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
];
/// Modules without which the machine's files are not seen.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// What the machine says last, before the status of the script.
const STATUS: &str = "exit status ";
/// Longest run, seconds; then the machine is stopped.
const SECONDS_MAX: u32 = 1_200;
const CPUS: &str = "2";
const MEMORY_MIB: &str = "3072";

/// A kernel that is ready to be started.
pub(crate) struct Kernel {
    /// Its release, as `uname -r` says it.
    pub(crate) release: String,
    image: PathBuf,
    modules: PathBuf,
    first_files: PathBuf,
}

impl Kernel {
    /// Debian's current one of a series, downloaded and unpacked below the target folder where it is not yet.
    ///
    /// # Errors
    /// The package cannot be had or read.
    pub(crate) fn prepare(project: &Project, series: &str) -> Result<Self> {
        let package = package_of(series)?;
        let folder = project.target().join("kernels").join(&package);
        if !folder.join("boot").is_dir() {
            download(&package, &folder).with_context(|| format!("cannot get Debian's package {package}"))?;
        }
        let release = package.trim_start_matches("linux-image-").to_owned();
        let kernel = Self {
            image: folder.join(format!("boot/vmlinuz-{release}")),
            modules: folder.join("lib/modules"),
            first_files: folder.join("initramfs.gz"),
            release,
        };
        if !kernel.first_files.is_file() {
            kernel.make_first_files(&folder).context("cannot make the first file system")?;
        }
        Ok(kernel)
    }

    /// A file system in memory that holds what it takes to mount the machine's own.
    fn make_first_files(&self, folder: &Path) -> Result<()> {
        run(tool("depmod").arg("-b").arg(folder).arg(&self.release))?;
        let root = folder.join("initramfs");
        std::fs::create_dir_all(root.join("bin"))?;
        std::fs::create_dir_all(root.join("modules"))?;
        let busybox = project::find_program("busybox").context("there is no busybox")?;
        std::fs::copy(busybox, root.join("bin/busybox"))?;
        let mut loads = String::new();
        for module in self.modules_in_order(folder)? {
            let name =
                module.file_stem().and_then(|name| name.to_str()).context("a module without a name")?;
            let (name, is_packed) =
                (name.trim_end_matches(".ko"), module.extension().is_some_and(|e| e == "xz"));
            let to = root.join(format!("modules/{name}.ko"));
            if is_packed {
                let unpacked = tool("xz").arg("-dc").arg(&module).output().context("cannot run xz")?;
                ensure!(unpacked.status.success(), "xz cannot read {}", module.display());
                std::fs::write(&to, unpacked.stdout)?;
            } else {
                std::fs::copy(&module, &to)?;
            }
            loads += &format!("/bin/busybox insmod /modules/{name}.ko\n");
        }
        let init = root.join("init");
        std::fs::write(&init, INIT.replace("LOADS\n", &loads).replace("STATUS", STATUS))?;
        run(Command::new("chmod").arg("755").arg(&init))?;
        let pack = format!(
            "cd '{}' && find . | cpio --create --format newc --quiet | gzip -1 > '{}'",
            root.display(),
            self.first_files.display()
        );
        run(Command::new("sh").args(["-ec", &pack]))
    }

    /// The files of [`MODULES`] and of what they need, in the order in which they can be loaded.
    fn modules_in_order(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for module in MODULES {
            let mut command = tool("modprobe");
            command.arg("-d").arg(folder).args(["-S", &self.release, "--show-depends", module]);
            let text =
                output_of(&mut command).with_context(|| format!("the kernel has no module {module}"))?;
            for line in text.lines() {
                let Some(path) = line.trim().strip_prefix("insmod ") else { continue };
                let path = PathBuf::from(path.trim());
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }

    /// Starts the kernel, runs the script as root and gives each line of its output to `each`; whether it exited
    /// with 0. The script lies where only this machine writes: below the target folder.
    ///
    /// # Errors
    /// qemu cannot be started, or the machine ended without a status.
    pub(crate) fn run(&self, script: &Path, mut each: impl FnMut(&str)) -> Result<bool> {
        let arguments = format!(
            "console=ttyS0 quiet loglevel=3 panic=-1 MODULES={} SCRIPT={}",
            self.modules.display(),
            script.display()
        );
        let mut command = Command::new("timeout");
        command.args([
            &SECONDS_MAX.to_string(),
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ]);
        command.args(["-smp", CPUS, "-m", MEMORY_MIB, "-nodefaults", "-nographic", "-no-reboot"]);
        command.args(["-serial", "stdio", "-append", &arguments]);
        command.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.first_files);
        command
            .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
        let output = child.stdout.take().context("qemu has no standard output")?;
        let mut status = None;
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            match line.strip_prefix(STATUS) {
                Some(text) => status = text.parse::<u8>().ok(),
                None => each(&line),
            }
        }
        child.wait()?;
        match status {
            Some(status) => Ok(status == 0),
            None => bail!("the machine with Linux {} ended without a status", self.release),
        }
    }
}

/// Writes a script for [`Kernel::run`].
pub(crate) fn write_script(project: &Project, lines: &[String]) -> Result<PathBuf> {
    let path = project.target().join("kernels/script.sh");
    let mut file =
        std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{}", lines.join("\n"))?;
    Ok(path)
}

/// A program that may lie where only administrators' `PATH` leads.
fn tool(name: &str) -> Command {
    Command::new(project::find_program(name).unwrap_or_else(|| name.into()))
}

/// The package that a series' package depends on.
fn package_of(series: &str) -> Result<String> {
    let text = output_of(Command::new("apt-cache").args(["depends", series]));
    let text = text.with_context(|| format!("there is no Debian package {series} here"))?;
    let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    depends.map(str::to_owned).with_context(|| format!("{series} depends on no kernel"))
}

fn download(package: &str, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    eprintln!("setup: downloading {package} (apt-get download)");
    run(Command::new("apt-get")
        .args(["download", "--quiet", package])
        .current_dir(folder)
        .stdout(std::io::stderr()))?;
    let files = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let archive =
        files.iter().map(std::fs::DirEntry::path).find(|path| path.extension().is_some_and(|e| e == "deb"));
    let archive = archive.context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
    Ok(std::fs::remove_file(archive)?)
}

/// The first program of the machine.
const INIT: &str = r#"#!/bin/busybox sh
cd /
/bin/busybox mkdir -p proc dev ro rw new
/bin/busybox mount -t proc proc proc
/bin/busybox mount -t devtmpfs dev dev
LOADS
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host ro
/bin/busybox mount -t tmpfs tmpfs rw
/bin/busybox mkdir rw/upper rw/work
/bin/busybox mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay new
/bin/busybox mount -t proc proc new/proc
/bin/busybox mount -t sysfs sys new/sys
/bin/busybox mount -t devtmpfs dev new/dev
/bin/busybox mount -t tmpfs tmpfs new/run
/bin/busybox mount -t bpf bpf new/sys/fs/bpf
/bin/busybox mount -t cgroup2 cgroup2 new/sys/fs/cgroup
/bin/busybox mkdir -p new/lib/modules
/bin/busybox mount --bind "new$MODULES" new/lib/modules
/bin/busybox chroot new /bin/sh "$SCRIPT"
echo "STATUS$?"
/bin/busybox poweroff -f
"#;
