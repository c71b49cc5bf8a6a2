use super::*;
use crate::model::Snapshot;
use crate::source::{ProblemList, apply};

/// A folder with what its events add up to.
struct Fixture {
    dir: tempfile::TempDir,
    folder: Folder,
    snapshot: Snapshot,
    problems: ProblemList,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let folder = Folder::new(dir.path());
        let mut fixture =
            Self { dir, folder, snapshot: Snapshot::default(), problems: ProblemList::default() };
        for (name, text) in files {
            fixture.write(name, text);
        }
        fixture.scan();
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("write a manifest");
    }

    /// Looks at the folder; the number of changes of facts.
    fn scan(&mut self) -> usize {
        let mut changes = 0;
        for event in self.folder.scan().expect("list the folder") {
            match event {
                SourceEvent::Change(change) => {
                    changes += 1;
                    apply(&mut self.snapshot, change);
                }
                SourceEvent::Problems(problems) => {
                    self.problems.update(problems);
                }
                SourceEvent::Synced | SourceEvent::Followed(_) | SourceEvent::Interrupted(_) => {}
            }
        }
        changes
    }

    fn services(&self) -> Vec<String> {
        self.snapshot.services.keys().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 192.0.2.1}}\n"
    )
}

#[test]
fn every_manifest_gives_its_facts_and_other_files_none() {
    let fixture = Fixture::new(&[
        ("a.yaml", &(service("one") + &service("two"))),
        ("b.yml", &service("three")),
        ("c.json", r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "four"}, "spec": {}}"#),
        ("notes.txt", "not: [a manifest"),
        (".hidden.yaml", "not: [a manifest"),
    ]);
    assert_eq!(fixture.services(), ["default/four", "default/one", "default/three", "default/two"]);
    assert_eq!(fixture.problems(), [""; 0]);
}

#[test]
fn second_look_reports_only_what_changed() {
    let mut fixture = Fixture::new(&[("a.yaml", &service("one")), ("b.yaml", &service("two"))]);
    assert_eq!(fixture.scan(), 0);
    fixture.write("b.yaml", &(service("two") + &service("three")));
    assert_eq!(fixture.scan(), 1);
    assert_eq!(fixture.services(), ["default/one", "default/three", "default/two"]);
}

#[test]
fn removed_document_and_removed_file_take_their_facts_away() {
    let mut fixture =
        Fixture::new(&[("a.yaml", &(service("one") + &service("two"))), ("b.yaml", &service("three"))]);
    fixture.write("a.yaml", &service("one"));
    fs::remove_file(fixture.dir.path().join("b.yaml")).expect("remove a manifest");
    fixture.scan();
    assert_eq!(fixture.services(), ["default/one"]);
}

#[test]
fn typing_error_takes_nothing_away_and_its_repair_clears_the_problem() {
    let mut fixture = Fixture::new(&[("a.yaml", &(service("one") + &service("two")))]);
    fixture.write("a.yaml", &(service("one") + &service("two").replace("{name: two}", "{name: two")));
    fixture.scan();
    assert_eq!(fixture.services(), ["default/one", "default/two"]);
    assert_eq!(
        fixture.problems(),
        ["File /a.yaml: document 2 (from line 6): did not find expected ',' or '}' at line 10 column 5, \
          while parsing a flow mapping at line 9 column 11"]
    );
    fixture.write("a.yaml", &service("one"));
    fixture.scan();
    assert_eq!(fixture.services(), ["default/one"]);
    assert_eq!(fixture.problems(), [""; 0]);
}

#[test]
fn file_that_is_no_text_takes_nothing_away() {
    let mut fixture = Fixture::new(&[("a.yaml", &service("one"))]);
    fs::write(fixture.dir.path().join("a.yaml"), [0xff, 0xfe]).expect("write a manifest");
    fixture.scan();
    assert_eq!(fixture.services(), ["default/one"]);
    assert_eq!(
        fixture.problems(),
        ["File /a.yaml: cannot read the file: stream did not contain valid UTF-8; what it gave before stays"]
    );
}

#[test]
fn same_object_in_two_files_counts_once_and_is_named() {
    let mut fixture = Fixture::new(&[
        ("a.yaml", &service("one")),
        ("b.yaml", &(service("one").replace("192.0.2.1", "192.0.2.2") + &service("two"))),
    ]);
    assert_eq!(
        fixture.problems(),
        ["File /b.yaml: Service default/one is also in a.yaml, which counts; remove one"]
    );
    let cluster_ip = |fixture: &Fixture| {
        fixture.snapshot.services[&ObjectName::new("default", "one")].cluster_ips[0].to_string()
    };
    assert_eq!(cluster_ip(&fixture), "192.0.2.1");
    fs::remove_file(fixture.dir.path().join("a.yaml")).expect("remove a manifest");
    assert_eq!(fixture.scan(), 1, "a change, not a deletion");
    assert_eq!(cluster_ip(&fixture), "192.0.2.2");
    assert_eq!(fixture.problems(), [""; 0]);
}

#[test]
fn same_object_twice_in_a_file_counts_once_and_is_named() {
    let fixture =
        Fixture::new(&[("a.yaml", &(service("one") + &service("one").replace("192.0.2.1", "192.0.2.2")))]);
    assert_eq!(
        fixture.problems(),
        ["File /a.yaml: document 2: Service default/one is also in document 1, which counts; remove one"]
    );
    let one = &fixture.snapshot.services[&ObjectName::new("default", "one")];
    assert_eq!(one.cluster_ips[0].to_string(), "192.0.2.1");
}

#[test]
fn fault_inside_an_object_is_reported_under_its_own_name() {
    let fixture = Fixture::new(&[("a.yaml", &service("one").replace("192.0.2.1", "192.0.2"))]);
    assert_eq!(
        fixture.problems(),
        ["Service default/one: spec.clusterIP: \"192.0.2\" is not an IP address; it is left out"]
    );
}

#[test]
fn folder_that_is_gone_takes_nothing_away_and_is_named_once() {
    let mut fixture = Fixture::new(&[("a.yaml", &service("one"))]);
    fs::rename(fixture.dir.path(), fixture.dir.path().with_extension("moved")).expect("move the folder");
    let error = fixture.folder.scan().expect_err("there is no folder");
    let Some(SourceEvent::Problems(problems)) = fixture.folder.unreadable(&error) else {
        panic!("not named")
    };
    assert_eq!(
        problems.found[0].message,
        "cannot list the manifests: No such file or directory (os error 2); make the folder readable; \
         what it gave before stays"
    );
    assert_eq!(fixture.folder.unreadable(&error), None);
    fs::rename(fixture.dir.path().with_extension("moved"), fixture.dir.path()).expect("move it back");
    fixture.scan();
    assert_eq!(fixture.services(), ["default/one"]);
    assert_eq!(fixture.problems(), [""; 0]);
}
