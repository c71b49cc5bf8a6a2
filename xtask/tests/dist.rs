//! `cargo xtask dist`, as a user sees it, with the `podway` that was built beside it.
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// The `podway` of this build, without what a debugger needs: that is most of it, and takes long to pack.
fn podway() -> &'static Path {
    static STRIPPED: LazyLock<PathBuf> = LazyLock::new(|| {
        let given = std::env::var_os("PODWAY_BINARY").map(PathBuf::from);
        let binary = given.unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("podway"));
        assert!(binary.is_file(), "{} is missing: build it with `cargo build --workspace`", binary.display());
        let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join("podway-stripped");
        text_of(Command::new("strip").arg("-o").arg(&stripped).arg(&binary));
        stripped
    });
    &STRIPPED
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn dist(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["dist", "--binary"]).arg(podway()).arg("--to").arg(folder).output().unwrap()
}

/// A release in a folder of the test's own.
fn release(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    let output = dist(&folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn text_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn two_runs_give_the_same_bytes_and_their_sums_hold() {
    let (one, other) = (release("dist-one"), release("dist-other"));
    let sums = read(&one.join("SHA256SUMS"));
    assert_eq!(sums, read(&other.join("SHA256SUMS")));
    text_of(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&one));
    let files = text_of(Command::new("find").args([".", "-type", "f"]).current_dir(&one));
    assert_eq!(sums.lines().count() + 1, files.lines().count(), "{files}");
}

#[test]
fn the_image_has_what_its_dockerfile_copies_and_nothing_else() {
    let folder = release("dist-image");
    let archive = folder.join("podway-image.tar.gz");
    let listed = text_of(Command::new("tar").arg("-tzf").arg(&archive));
    let dockerfile = text_of(Command::new("tar").arg("-xzOf").arg(&archive).arg("Dockerfile"));
    assert_eq!(dockerfile, read(&repository().join("deploy/Dockerfile")));
    let mut expected = vec!["Dockerfile"];
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<&str> = line.split(' ').collect();
        expected.extend(&words[..words.len() - 1]);
    }
    expected.sort_unstable();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    let long = text_of(Command::new("tar").arg("-tvzf").arg(&archive).arg("podway"));
    assert!(long.starts_with("-rwxr-xr-x 0/0 "), "{long}");
}

#[test]
fn the_chart_of_a_release_renders_its_manifests() {
    let folder = release("dist-chart");
    let manifests = read(&folder.join("podway.yaml"));
    assert_eq!(manifests, read(&repository().join("deploy/podway.yaml")));
    let chart = folder.join(format!("podway-{}.tgz", env!("CARGO_PKG_VERSION")));
    let listed = text_of(Command::new("tar").arg("-tzf").arg(&chart));
    assert!(listed.lines().any(|name| name == "podway/Chart.yaml"), "{listed}");
    let Some(helm) = std::env::var_os("PODWAY_HELM") else {
        eprintln!("skipped in part: PODWAY_HELM is not set; `cargo xtask test` sets it");
        return;
    };
    let command = manifests.lines().find_map(|line| line.strip_prefix("# helm ")).unwrap();
    let chart = chart.to_str().unwrap();
    let arguments = command.split(' ').map(|word| if word == "deploy/chart/podway" { chart } else { word });
    let rendered = text_of(Command::new(helm).args(arguments));
    assert_eq!(manifests.split_once("\n---\n").map(|(_, body)| format!("---\n{body}")), Some(rendered));
}

#[test]
fn each_shell_has_its_completions_and_each_command_its_page() {
    let folder = release("dist-documents");
    for name in [
        "completions/podway.bash",
        "completions/_podway",
        "completions/podway.fish",
        "man/man1/podway-agent.1",
    ] {
        assert!(read(&folder.join(name)).contains("podway"), "{name}");
    }
    let bill: serde_json::Value = serde_json::from_str(&read(&folder.join("podway.cdx.json"))).unwrap();
    let names: Vec<_> =
        bill["components"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert!(names.contains(&"hyper") && names.contains(&"aya-ebpf"), "{names:?}");
    assert!(!names.contains(&"proptest"), "{names:?}");
}

#[test]
fn a_folder_with_other_files_is_not_emptied() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dist-of-others");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("letter"), "dear").unwrap();
    let output = dist(&folder);
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains(&format!("error: cannot fill {}: it has files", folder.display())), "{told}");
    assert_eq!(read(&folder.join("letter")), "dear");
}
