//! Debian's kernels under emulation: what runs there sees this machine's files, read only, under another kernel.
//!
//! The virtual machine has no disk. A small first file system mounts the machine's own over 9p, lays memory over
//! it for what is written, and runs a script; the modules are those of the kernel's package.
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::project::{self, Project, output_of, run};

/// Debian's releases whose kernels are tried: 12 (Linux 6.1, the lowest that is supported), 13 (6.12), and the newest.
pub(crate) const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];
/// What depends on a release's current kernel.
const META_PACKAGE: &str = "linux-image-amd64";
/// Later kernels' packages come in parts, one for each of these and the kernel's release.
const PARTS: [&str; 4] = ["linux-image-", "linux-base-", "linux-binary-", "linux-modules-"];
/// The keys of all of Debian's releases, where this machine has them apart.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
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
    /// The current one of a release of Debian, downloaded and unpacked below the target folder where it is not yet.
    ///
    /// # Errors
    /// No archive of Debian is known to apt, or the packages cannot be had or read.
    pub(crate) fn prepare(project: &Project, suite: &str) -> Result<Self> {
        let kernels = project.target().join("kernels");
        let archive = Archive::of(suite, &kernels.join("apt"))
            .with_context(|| format!("cannot read Debian's packages of {suite}"))?;
        let release = archive.kernel_release()?;
        let folder = kernels.join(format!("{suite}-{release}"));
        if !folder.is_dir() {
            archive
                .unpack(&release, &folder)
                .with_context(|| format!("cannot get Debian's kernel {release} of {suite}"))?;
        }
        // Newer packages have it beside the modules.
        let images = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
        let mut images = images.iter().map(|path| folder.join(path));
        let kernel = Self {
            image: images.find(|path| path.is_file()).context("its packages have no kernel")?,
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
    /// with 0. The script lies where only this machine writes: below the target folder. After `longest` the machine
    /// is stopped.
    ///
    /// # Errors
    /// qemu cannot be started, or the machine ended without a status.
    pub(crate) fn run(&self, script: &Path, longest: Duration, mut each: impl FnMut(&str)) -> Result<bool> {
        let arguments = format!(
            "console=ttyS0 quiet loglevel=3 panic=-1 MODULES={} SCRIPT={}",
            self.modules.display(),
            script.display()
        );
        let mut command = Command::new("timeout");
        command.args([
            &longest.as_secs().to_string(),
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

/// The packages of one of Debian's releases, which need not be this machine's, from where this machine has its own. apt
/// keeps what it knows of them below the target folder.
struct Archive {
    folder: PathBuf,
}

impl Archive {
    fn of(suite: &str, folder: &Path) -> Result<Self> {
        let folder = folder.join(suite);
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let format = "$(LABEL) $(REPO_URI)";
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
        let known = output_of(&mut targets).context("apt-get does not say where it has packages from")?;
        let uri = known.lines().find_map(|line| line.strip_prefix("Debian "));
        let uri = uri.context("apt knows no archive of Debian")?;
        let keys = if Path::new(KEYS).exists() { format!("[signed-by={KEYS}] ") } else { String::new() };
        std::fs::write(folder.join("sources.list"), format!("deb {keys}{uri} {suite} main\n"))?;
        let archive = Self { folder };
        let mut update = archive.apt("apt-get");
        run(update.args(["update", "--quiet"]).stdout(std::io::stderr()))?;
        Ok(archive)
    }

    /// A program of apt that knows these packages alone.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let list = self.folder.join("sources.list");
        command.arg("-o").arg(format!("Dir::Etc::sourcelist={}", list.display()));
        command.args(["-o", "Dir::Etc::sourceparts=-"]);
        command.arg("-o").arg(format!("Dir::State::lists={}", self.folder.join("lists").display()));
        command.arg("-o").arg(format!("Dir::Cache={}", self.folder.join("cache").display()));
        command
    }

    /// What a package depends on.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output_of(self.apt("apt-cache").args(["depends", package]));
        let text = text.with_context(|| format!("there is no package {package}"))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    fn kernel_release(&self) -> Result<String> {
        let depends = self.depends(META_PACKAGE)?;
        let release = depends.iter().find_map(|package| package.strip_prefix(PARTS[0]));
        release.map(str::to_owned).with_context(|| format!("{META_PACKAGE} depends on no kernel"))
    }

    /// Downloads a kernel's packages and unpacks them into a folder.
    fn unpack(&self, release: &str, folder: &Path) -> Result<()> {
        let image = format!("{}{release}", PARTS[0]);
        let mut packages: Vec<String> = PARTS.iter().map(|part| format!("{part}{release}")).collect();
        let depends = self.depends(&image)?;
        packages.retain(|package| *package == image || depends.contains(package));
        let parts = self.folder.join("unpacked");
        if parts.exists() {
            std::fs::remove_dir_all(&parts)?;
        }
        std::fs::create_dir_all(&parts)?;
        eprintln!("setup: downloading {} (apt-get download)", packages.join(", "));
        let mut download = self.apt("apt-get");
        download.args(["download", "--quiet"]).args(&packages);
        run(download.current_dir(&parts).stdout(std::io::stderr()))?;
        for file in std::fs::read_dir(&parts)?.collect::<std::io::Result<Vec<_>>>()? {
            run(Command::new("dpkg-deb").arg("-x").arg(file.path()).arg(&parts))?;
            std::fs::remove_file(file.path())?;
        }
        if !parts.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", parts.join("lib"))?;
        }
        Ok(std::fs::rename(&parts, folder)?)
    }
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
