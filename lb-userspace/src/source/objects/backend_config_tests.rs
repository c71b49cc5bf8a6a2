use super::*;
use crate::model::ObjectName;

fn converted(spec: &str) -> (BackendConfig, Vec<String>) {
    let yaml = format!("metadata: {{namespace: shop, name: web, resourceVersion: '9'}}\nspec: {spec}\n");
    let object: BackendConfigObject = serde_yaml_ng::from_str(&yaml).expect("test YAML");
    let Converted { change, problems } = backend_config(&object, &mut Interner::default());
    let Change::BackendConfig(config) = change else { panic!("not a BackendConfig: {change:?}") };
    (config, problems.into_iter().map(|problem| problem.message).collect())
}

fn check(transport: HttpTransport, path: &str) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Http {
            transport,
            path: path.into(),
            host: None,
            expected_codes: [(200, 200)].into(),
        },
        port: None,
        interval_ms: 15_000,
        timeout_ms: 15_000,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    }
}

#[test]
fn every_field_of_the_health_check_is_taken() {
    let (config, faults) = converted(
        "
          healthCheck:
            checkIntervalSec: 20
            timeoutSec: 3
            healthyThreshold: 4
            unhealthyThreshold: 5
            type: HTTPS
            port: 9443
            requestPath: /healthz?full=1
          connectionDraining: {drainingTimeoutSec: 60}
        ",
    );
    let expected = HealthCheck {
        port: Some(9_443),
        interval_ms: 20_000,
        timeout_ms: 3_000,
        healthy_threshold: 4,
        unhealthy_threshold: 5,
        ..check(HttpTransport::Https, "/healthz?full=1")
    };
    let expected = BackendConfig {
        name: ObjectName::new("shop", "web"),
        resource_version: "9".into(),
        uid: "".into(),
        health_check: Some(Arc::new(expected)),
        drain: Some(DrainContract { deadline_s: 60 }),
        http: Arc::default(),
    };
    assert_eq!((config, faults), (expected, vec![]));
}

#[test]
fn a_health_check_without_fields_is_that_of_container_native_load_balancing() {
    let (config, faults) = converted("{healthCheck: {}}");
    assert_eq!(config.health_check.as_deref(), Some(&check(HttpTransport::Http1, "/")));
    assert_eq!(faults, [""; 0]);
}

#[test]
fn http2_is_spoken_by_tls() {
    let (config, _) = converted("{healthCheck: {type: HTTP2}}");
    assert_eq!(config.health_check.as_deref(), Some(&check(HttpTransport::Http2, "/")));
}

#[test]
fn a_config_without_health_check_and_draining_leaves_both_open() {
    for spec in ["{}", "null", "{healthCheck: null, connectionDraining: null}"] {
        let (config, faults) = converted(spec);
        assert_eq!((config.health_check, config.drain, faults.len()), (None, None, 0), "{spec}");
    }
}

#[test]
fn a_draining_time_of_zero_ends_connections_at_once() {
    for spec in ["{connectionDraining: {drainingTimeoutSec: 0}}", "{connectionDraining: {}}"] {
        assert_eq!(converted(spec).0.drain, Some(DrainContract { deadline_s: 0 }), "{spec}");
    }
}

#[test]
fn each_value_that_cannot_be_used_is_named_and_the_default_holds() {
    let (config, faults) = converted(
        "
          healthCheck:
            checkIntervalSec: 301
            timeoutSec: -1
            healthyThreshold: 2.5
            unhealthyThreshold: many
            type: TCP
            port: 65536
            requestPath: healthz
          connectionDraining: {drainingTimeoutSec: 3601}
        ",
    );
    assert_eq!(config.health_check.as_deref(), Some(&check(HttpTransport::Http1, "/")));
    assert_eq!(config.drain, None);
    assert_eq!(
        faults,
        [
            "spec.connectionDraining.drainingTimeoutSec 3601 is not a whole number between 0 and 3600; it is left out",
            "spec.healthCheck.type \"TCP\" is not HTTP, HTTPS or HTTP2; HTTP is used",
            "spec.healthCheck.requestPath \"healthz\" is not a path of up to 1024 bytes that begins with a slash; / is \
             used",
            "spec.healthCheck.port 65536 is not a whole number between 1 and 65535; it is left out",
            "spec.healthCheck.checkIntervalSec 301 is not a whole number between 1 and 300; 15 is used",
            "spec.healthCheck.timeoutSec -1 is not a whole number between 1 and 300; 15 is used",
            "spec.healthCheck.healthyThreshold 2.5 is not a whole number between 1 and 10; 1 is used",
            "spec.healthCheck.unhealthyThreshold \"many\" is not a whole number between 1 and 10; 2 is used",
        ]
    );
}

#[test]
fn a_timeout_is_no_longer_than_the_interval() {
    let (config, faults) = converted("{healthCheck: {checkIntervalSec: 5, timeoutSec: 6}}");
    assert_eq!(config.health_check.map(|check| check.timeout_ms), Some(5_000));
    assert_eq!(faults, ["spec.healthCheck.timeoutSec 6 is longer than the interval; 5 is used"]);
    let (config, faults) = converted("{healthCheck: {checkIntervalSec: 5}}");
    assert_eq!((config.health_check.map(|check| check.timeout_ms), faults.len()), (Some(5_000), 0));
}

#[test]
fn fields_that_are_unknown_or_not_served_are_named_and_the_rest_holds() {
    let (config, faults) = converted(
        "{cdn: {enabled: true}, colour: red, healthCheck: {requestPath: /a, host: x}, timeoutSec: 40, \
         connectionDraining: {drainingTimeoutSec: 7, slowly: true}}",
    );
    assert_eq!(config.health_check.as_deref(), Some(&check(HttpTransport::Http1, "/a")));
    assert_eq!((config.drain, config.http.timeout_s), (Some(DrainContract { deadline_s: 7 }), Some(40)));
    assert_eq!(
        faults,
        [
            "spec.cdn is not served; the rest holds",
            "spec.colour is unknown; the rest holds",
            "spec.connectionDraining.slowly is unknown; the rest holds",
            "spec.healthCheck.host is unknown; the rest holds",
        ]
    );
}

#[test]
fn a_spec_that_is_no_object_holds_nothing() {
    let (config, faults) = converted("[1]");
    assert_eq!((config.health_check, config.drain), (None, None));
    assert_eq!(faults, ["spec is not an object; nothing of it holds"]);
    let (config, faults) = converted("{healthCheck: 3}");
    assert_eq!(config.health_check, None);
    assert_eq!(faults, ["spec.healthCheck is not an object; nothing of it holds"]);
}

/// What a Service with the ports `http` (80) and 53 names by an annotation.
fn named(annotations: &[(&str, &str)]) -> (BackendConfigNames, Vec<String>) {
    let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let meta = ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() };
    let spec = serde_yaml_ng::from_str("{ports: [{name: http, port: 80}, {port: 53}]}").expect("test YAML");
    let mut faults = Faults::of("Service", &ObjectName::new("shop", "web"));
    let names = names(&meta, &spec, &mut faults);
    (names, faults.problems.into_iter().map(|problem| problem.message).collect())
}

#[test]
fn ports_name_their_configs_by_name_or_number() {
    let text = r#"{"default": "a", "ports": {"http": "b", "53": "c"}}"#;
    let expected = BackendConfigNames {
        default: Some("a".into()),
        ports: [("http".into(), "b".into()), ("53".into(), "c".into())].into(),
    };
    assert_eq!(named(&[("cloud.google.com/backend-config", text)]), (expected, vec![]));
}

#[test]
fn the_beta_annotation_counts_where_the_other_is_not() {
    let beta = ("beta.cloud.google.com/backend-config", r#"{"default": "b"}"#);
    assert_eq!(named(&[beta]).0.default.as_deref(), Some("b"));
    let other = ("cloud.google.com/backend-config", r#"{"default": "a"}"#);
    assert_eq!(named(&[beta, other]).0.default.as_deref(), Some("a"));
}

#[test]
fn each_part_of_the_annotation_that_cannot_be_used_is_named() {
    let text = r#"{"default": 7, "ports": {"https": "b", "80": "", "53": "c"}, "extra": {}}"#;
    let (names, faults) = named(&[("cloud.google.com/backend-config", text)]);
    assert_eq!(names, BackendConfigNames { default: None, ports: [("53".into(), "c".into())].into() });
    assert_eq!(
        faults,
        [
            "annotation cloud.google.com/backend-config: \"default\" is not \"default\" with a name, or \"ports\" with \
             a name for each; it is left out",
            "annotation cloud.google.com/backend-config: \"extra\" is not \"default\" with a name, or \"ports\" with a \
             name for each; it is left out",
            "annotation cloud.google.com/backend-config: port \"80\" has no name; it is left out",
            "annotation cloud.google.com/backend-config: the Service has no port \"https\"; write a port's name or \
             number",
        ]
    );
}

#[test]
fn an_annotation_that_is_no_json_names_nothing() {
    let (names, faults) = named(&[("cloud.google.com/backend-config", "web")]);
    assert_eq!(names, BackendConfigNames::default());
    assert_eq!(
        faults,
        [
            "annotation cloud.google.com/backend-config \"web\" is no JSON object; write for instance {\"default\": \
          \"NAME\"}; it is left out"
        ]
    );
}
