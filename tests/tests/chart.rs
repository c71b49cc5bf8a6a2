//! The chart and the manifests rendered from it: real Helm renders, and what comes out is read as Kubernetes and the agent
//! read it.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, ServiceAccount};
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use lb_tests::deployment::{MANIFESTS, objects, of_kind, rights_of};
use lb_tests::need;
use lb_userspace::cli::Cli;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const INSTALL: &str = include_str!("../../docs/install.md");
const VALUES: &str = include_str!("../../deploy/chart/podway/values.yaml");
const SCHEMA: &str = include_str!("../../deploy/chart/podway/values.schema.json");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What Helm prints, or why it refuses.
fn helm(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(repository()).output().expect("run helm");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The objects of the chart with these values set.
fn rendered(program: &Path, settings: &[&str]) -> Result<Vec<Value>, String> {
    let mut arguments = vec!["template", "podway", "deploy/chart/podway", "--namespace", "podway"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set-json", *setting]));
    helm(program, &arguments).map(|text| objects(&text).expect("YAML"))
}

fn pod(objects: &[Value]) -> PodSpec {
    let [daemon_set] = &of_kind::<DaemonSet>(objects, "DaemonSet").expect("DaemonSets")[..] else {
        panic!("not one DaemonSet");
    };
    let spec = daemon_set.spec.clone().expect("a specification");
    spec.template.spec.expect("of its pods")
}

fn container(objects: &[Value]) -> Container {
    let [container] = &pod(objects).containers[..] else { panic!("not one container") };
    container.clone()
}

fn capabilities(objects: &[Value]) -> Vec<String> {
    let context = container(objects).security_context.expect("a security context");
    let capabilities = context.capabilities.expect("capabilities");
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
    capabilities.add.unwrap_or_default()
}

/// The agent's flags, as the agent takes them.
fn assert_that_the_agent_takes_its_arguments(objects: &[Value]) {
    let container = container(objects);
    let args = container.args.unwrap_or_default();
    let names = container.env.unwrap_or_default();
    let expanded = args.iter().map(|arg| {
        names
            .iter()
            .fold(arg.clone(), |arg, variable| arg.replace(&format!("$({})", variable.name), "192.0.2.11"))
    });
    let command: Vec<String> = std::iter::once("podway".to_owned()).chain(expanded).collect();
    assert!(!command.iter().any(|arg| arg.contains("$(")), "{command:?}");
    let parsed = Cli::try_parse_from(&command);
    assert!(
        parsed.is_ok(),
        "{command:?}: {}",
        parsed.err().map(|error| error.to_string()).unwrap_or_default()
    );
}

#[test]
fn the_manifests_are_what_the_chart_renders() {
    let Some(program) = need::helm() else { return };
    let (head, body) = MANIFESTS.split_once("\n---\n").expect("a head and documents");
    let command = head.lines().last().and_then(|line| line.strip_prefix("# helm ")).expect("the command");
    let text = helm(&program, &command.split(' ').collect::<Vec<_>>()).expect("the chart");
    assert_eq!(text, format!("---\n{body}"), "run `cargo xtask render`");
}

#[test]
fn helm_finds_nothing_to_say_against_the_chart() {
    let Some(program) = need::helm() else { return };
    let said = helm(&program, &["lint", "--strict", "deploy/chart/podway"]);
    assert!(said.as_ref().is_ok_and(|said| said.contains("0 chart(s) failed")), "{said:?}");
}

/// Numbers that are equal are written in more than one way.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), plain(value))).collect()
        }
        value => value.clone(),
    }
}

/// Read as a kind and written again, an object is the same where all its fields are the kind's.
fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let read: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    serde_json::to_value(&read).expect("JSON")
}

#[test]
fn every_object_has_the_fields_of_its_kind_and_no_others() {
    let objects = objects(MANIFESTS).expect("YAML");
    let mut kinds = BTreeMap::<String, usize>::new();
    for object in &objects {
        let kind = object["kind"].as_str().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
        let written = match kind {
            "Namespace" => again::<Namespace>(object),
            "ServiceAccount" => again::<ServiceAccount>(object),
            "ClusterRole" => again::<ClusterRole>(object),
            "ClusterRoleBinding" => again::<ClusterRoleBinding>(object),
            "Role" => again::<Role>(object),
            "RoleBinding" => again::<RoleBinding>(object),
            "IngressClass" => again::<IngressClass>(object),
            "DaemonSet" => again::<DaemonSet>(object),
            "CustomResourceDefinition" => again::<CustomResourceDefinition>(object),
            kind => panic!("a {kind}: {object}"),
        };
        assert_eq!(plain(&written), plain(object));
    }
    let expected = [
        ("ClusterRole", 1),
        ("ClusterRoleBinding", 1),
        ("CustomResourceDefinition", 3),
        ("DaemonSet", 1),
        ("IngressClass", 1),
        ("Namespace", 1),
        ("Role", 1),
        ("RoleBinding", 1),
        ("ServiceAccount", 1),
    ];
    assert_eq!(kinds, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}

#[test]
fn the_agent_takes_the_arguments_of_the_manifests() {
    assert_that_the_agent_takes_its_arguments(&objects(MANIFESTS).expect("YAML"));
}

#[test]
fn the_agent_takes_the_arguments_of_every_value() {
    let Some(program) = need::helm() else { return };
    let settings = [
        "uplinks=[\"eth0\",\"eth1\"]",
        "podInterfaces=[\"cali*\"]",
        "xdpMode=\"native\"",
        "socketHooks=false",
        "ingress.affinityKeySecret=\"affinity\"",
        "ingress.otlpEndpoint=\"http://192.0.2.7:4318\"",
        "ingress.traceSampleRatio=0.25",
        "negReadinessGate=true",
        "metrics.listen=\"node\"",
        "extraArgs=[\"--external-mode=dsr\"]",
    ];
    let objects = rendered(&program, &settings).expect("the chart");
    assert_that_the_agent_takes_its_arguments(&objects);
    let args = container(&objects).args.unwrap_or_default();
    for expected in [
        "--uplink=eth0,eth1",
        "--no-socket-hooks",
        "--external-mode=dsr",
        "--neg-readiness-gate",
        "--otlp-endpoint=http://192.0.2.7:4318",
        "--trace-sample-ratio=0.25",
    ] {
        assert!(args.iter().any(|arg| arg == expected), "{expected} in {args:?}");
    }
    for listen in ["none", "all"] {
        let setting = format!("metrics.listen=\"{listen}\"");
        assert_that_the_agent_takes_its_arguments(&rendered(&program, &[&setting]).expect("the chart"));
    }
}

#[test]
fn secrets_can_be_bound_to_namespaces_or_left_out() {
    let Some(program) = need::helm() else { return };
    let reach = |setting: &str| {
        let rights = rights_of(&rendered(&program, &[setting]).expect("the chart")).expect("roles");
        let of_secrets = rights.into_iter().filter(|right| right.resource == "secrets");
        of_secrets.map(|right| (right.namespace.unwrap_or_default(), right.verb)).collect::<BTreeSet<_>>()
    };
    let both = |namespace: &str| ["list", "watch"].map(|verb| (namespace.to_owned(), verb.to_owned()));
    assert_eq!(reach("ingress.secretNamespaces=[\"*\"]"), both("").into());
    let two = [both("blog"), both("shop")].concat();
    assert_eq!(reach("ingress.secretNamespaces=[\"shop\",\"blog\"]"), two.into_iter().collect());
    assert_eq!(reach("ingress.secretNamespaces=[]"), BTreeSet::new());
    assert_eq!(reach("ingress.enabled=false"), BTreeSet::new());
}

#[test]
fn what_is_off_takes_its_rights_and_capabilities_with_it() {
    let Some(program) = need::helm() else { return };
    let all = ["BPF", "NET_ADMIN", "PERFMON", "NET_BIND_SERVICE", "NET_RAW", "SYS_PTRACE", "DAC_READ_SEARCH"];
    assert_eq!(capabilities(&objects(MANIFESTS).expect("YAML")), all);
    let off = [
        "ingress.enabled=false",
        "moveSockets=false",
        "events=false",
        "loadBalancer.enabled=false",
        "readinessGates=false",
        "negStatus=false",
    ];
    let least = rendered(&program, &off).expect("the chart");
    assert_eq!(capabilities(&least), ["BPF", "NET_ADMIN", "PERFMON"]);
    assert_eq!(pod(&least).host_pid, None);
    assert!(of_kind::<Value>(&least, "IngressClass").expect("objects").is_empty());
    let rights = rights_of(&least).expect("roles");
    let everywhere = rights.iter().filter(|right| right.namespace.is_none());
    let told: BTreeSet<_> = everywhere.map(|right| (&*right.resource, &*right.verb)).collect();
    let kinds = ["backendconfigs", "endpointslices", "nodes", "servicecidrs", "services"];
    let expected = kinds.into_iter().flat_map(|kind| [(kind, "list"), (kind, "watch")]);
    assert_eq!(told, expected.collect());
}

#[test]
fn the_container_is_as_confined_as_the_page_of_security_says() {
    let objects = objects(MANIFESTS).expect("YAML");
    let context = container(&objects).security_context.expect("a security context");
    assert_eq!(context.privileged, Some(false));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.seccomp_profile.map(|profile| profile.type_), Some("RuntimeDefault".to_owned()));
    let table = rows(INSTALL, "| capability |");
    let told: Vec<String> = table.into_iter().map(|row| row[0].replace("CAP_", "")).collect();
    assert_eq!(told, capabilities(&objects));
}

#[test]
fn a_pod_monitor_reads_a_port_that_is_there_and_open() {
    let Some(program) = need::helm() else { return };
    let refused = rendered(&program, &["podMonitor.enabled=true"]).expect_err("loopback");
    assert!(refused.contains("set metrics.listen to node or all"), "{refused}");
    let settings =
        ["podMonitor.enabled=true", "metrics.listen=\"node\"", "podMonitor.labels={\"release\":\"kube\"}"];
    let objects = rendered(&program, &settings).expect("the chart");
    let [monitor] = &of_kind::<Value>(&objects, "PodMonitor").expect("objects")[..] else {
        panic!("{objects:?}")
    };
    assert_eq!(monitor["metadata"]["labels"]["release"], "kube");
    let args = container(&objects).args.unwrap_or_default();
    assert!(args.contains(&"--metrics-address=$(HOST_IP):10247".to_owned()), "{args:?}");
    // As Prometheus makes a target of a pod's address: the last rule that matches all of it sets it.
    let rules = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"].as_array().expect("rules");
    let target = |address: &str| {
        let mut target = address.to_owned();
        for rule in rules {
            assert_eq!(rule["sourceLabels"], json!(["__meta_kubernetes_pod_ip"]));
            assert_eq!(rule["targetLabel"], "__address__");
            let pattern = format!("^(?:{})$", rule["regex"].as_str().expect("a pattern"));
            let pattern = regex::Regex::new(&pattern).expect("a pattern");
            if let Some(found) = pattern.captures(address) {
                target.clear();
                found.expand(rule["replacement"].as_str().expect("text"), &mut target);
            }
        }
        target
    };
    assert_eq!(target("192.0.2.11"), "192.0.2.11:10247");
    assert_eq!(target("2001:db8::b"), "[2001:db8::b]:10247");
    let [daemon_set] = &of_kind::<Value>(&objects, "DaemonSet").expect("objects")[..] else {
        panic!("{objects:?}")
    };
    let labels = &daemon_set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&monitor["spec"]["selector"]["matchLabels"], labels);
}

#[test]
fn an_upgrade_starts_the_next_pod_beside_the_former_one_unless_that_is_not_wanted() {
    let Some(program) = need::helm() else { return };
    let strategy = |objects: &[Value]| {
        let [daemon_set] = &of_kind::<DaemonSet>(objects, "DaemonSet").expect("objects")[..] else {
            panic!("{objects:?}")
        };
        let spec = daemon_set.spec.clone().expect("a specification");
        let strategy = serde_json::to_value(spec.update_strategy).expect("JSON");
        assert_eq!(strategy["type"], "RollingUpdate");
        (strategy["rollingUpdate"].clone(), spec.min_ready_seconds)
    };
    let takes_over =
        |objects: &[Value]| container(objects).args.unwrap_or_default().contains(&"--take-over".to_owned());
    let objects = rendered(&program, &["upgrade.nodesAtOnce=\"10%\""]).expect("the chart");
    assert_eq!(strategy(&objects), (json!({"maxSurge": "10%", "maxUnavailable": 0}), Some(10)));
    assert!(takes_over(&objects));
    // Nodes have a port once: the scheduler would keep the second pod away.
    assert!(container(&objects).ports.is_none_or(|ports| ports.is_empty()));
    let objects = rendered(&program, &["upgrade.takeOver=false"]).expect("the chart");
    assert_eq!(strategy(&objects), (json!({"maxUnavailable": 1}), None));
    assert!(!takes_over(&objects));
}

#[test]
fn leases_do_not_go_where_controllers_have_theirs() {
    let Some(program) = need::helm() else { return };
    let into_system = ["template", "podway", "deploy/chart/podway", "--namespace", "kube-system"];
    let refused = helm(&program, &into_system).expect_err("kube-system");
    assert!(refused.contains("who may write those of kube-system can stop its controllers"), "{refused}");
    let elsewhere = [&into_system[..], &["--set", "reportNamespace=podway"]].concat();
    let text = helm(&program, &elsewhere).expect("the chart");
    let rights = rights_of(&objects(&text).expect("YAML")).expect("roles");
    let of_leases: BTreeSet<_> = rights
        .iter()
        .filter(|right| right.resource == "leases")
        .map(|right| right.namespace.as_deref())
        .collect();
    assert_eq!(of_leases, [Some("podway")].into());
}

#[test]
fn values_that_are_none_are_refused() {
    let Some(program) = need::helm() else { return };
    for setting in [
        "xdpMode=\"fast\"",
        "nonsense=1",
        "metrics.port=70000",
        "upgrade.nodesAtOnce=0",
        "upgrade.nodesAtOnce=\"0%\"",
        "ingress.secretNamespaces=\"shop\"",
        "hostPaths.bpf=\"sys\"",
    ] {
        let refused = rendered(&program, &[setting]).expect_err(setting);
        assert!(
            refused.contains("values don't meet the specifications of the schema"),
            "{setting}: {refused}"
        );
    }
}

/// The rows of the table in a text that begins so, without its head; cells without their code marks.
fn rows(text: &str, head: &str) -> Vec<Vec<String>> {
    let (_, table) = text.split_once(head).unwrap_or_else(|| panic!("no table {head}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

/// The values down to where the schema lets keys be free, each with its default as JSON.
fn defaults(prefix: &str, value: &Value, schema: &Value, found: &mut BTreeMap<String, String>) {
    let Some(properties) = schema["properties"].as_object().filter(|_| schema["type"] == "object") else {
        found.insert(prefix.to_owned(), value.to_string());
        return;
    };
    let fields = value.as_object().unwrap_or_else(|| panic!("{prefix}: {value}"));
    let known: BTreeSet<_> = properties.keys().filter(|name| *name != "global").collect();
    assert_eq!(known, fields.keys().collect(), "keys of {prefix:?} in the schema and in the values");
    for (name, value) in fields {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        defaults(&path, value, &properties[name], found);
    }
}

#[test]
fn the_table_of_values_has_each_one_with_its_default() {
    let values: Value = serde_yaml_ng::from_str(VALUES).expect("YAML");
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut expected = BTreeMap::new();
    defaults("", &values, &schema, &mut expected);
    let told = rows(INSTALL, "| value |").into_iter().map(|row| (row[0].clone(), row[1].clone()));
    assert_eq!(told.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn chart_and_program_have_one_version() {
    let text = include_str!("../../deploy/chart/podway/Chart.yaml");
    let chart: Value = serde_yaml_ng::from_str(text).expect("YAML");
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let image = container(&objects(MANIFESTS).expect("YAML")).image.unwrap_or_default();
    assert_eq!(image.rsplit(':').next(), Some(env!("CARGO_PKG_VERSION")));
}
