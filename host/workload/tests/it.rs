//! The objects of servers, as they are applied.
#![allow(clippy::unwrap_used, missing_docs)]

use portcullis_model::{Name, Secret, spec::McpServer};
use portcullis_workload::{BridgeImage, Identity, Inherited, Installation, Place, PlanError, Startup, Values, plan};
use serde_json::{Value, json};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn place() -> Place {
    Place {
        installation: Installation::new(Secret::new("a key")),
        namespace: name("servers"),
        callers: vec![json!({"podSelector": {"matchLabels": {"app.kubernetes.io/name": "portcullis"}}})],
        inherited: Inherited {
            node_selector: [("pool".to_owned(), "mcp".to_owned())].into(),
            tolerations: serde_json::from_value(json!([{"key": "mcp", "operator": "Exists"}])).unwrap(),
        },
        bridge: Some(BridgeImage {
            image: "registry.example/bridge:1".to_owned(),
            image_pull_secrets: vec!["bridges".to_owned()],
        }),
    }
}

fn server(kubernetes: Value) -> McpServer {
    serde_json::from_value(json!({"kubernetes": kubernetes})).unwrap()
}

fn identity(connection: Option<&str>) -> Identity {
    Identity { tenant: name("acme"), server: name("jira"), connection: connection.map(name) }
}

/// Every object, with the keys of a Secret and the length of what they hold.
fn planned(connection: Option<&str>, kubernetes: Value, values: &Values) -> Result<Value, PlanError> {
    let planned = plan(&place(), identity(connection), &server(kubernetes), values)?;
    let shown = planned.objects.into_iter().map(|object| {
        let mut body = object.body;
        if !object.data.is_empty() {
            let keys = object.data.iter().map(|(key, value)| (key.clone(), json!(format!("{} bytes", value.len()))));
            body["data"] = Value::Object(keys.collect());
        }
        body
    });
    Ok(shown.collect())
}

fn check(golden: &str, value: &Value) {
    let path = format!("{}/tests/golden/{golden}.json", env!("CARGO_MANIFEST_DIR"));
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "run with UPDATE_GOLDEN=1 if this is meant");
}

#[test]
fn one_for_all() {
    check("shared", &planned(None, json!({"image": "registry.example/jira:1"}), &Values::default()).unwrap());
}

#[test]
fn one_of_a_connection_with_all_that_can_be_said() {
    let kubernetes = json!({
        "image": "registry.example/jira:1", "command": ["/jira"], "args": ["--site=${field.site}"], "env": {"MODE": "$(x)"},
        "port": 9000, "path": "/", "replicas": 2, "runAsUser": 1000, "startTimeout": "2m", "stopGrace": "5s",
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
        "probes": {"ready": "/ready", "alive": "/alive"},
        "imagePullSecrets": [{"existing": "theirs"}, {"login": {"registry": "registry.example", "username": "u", "password": {"env": "P"}}}],
        "nodeSelector": {}, "tolerations": [],
        "egress": [{"cidr": "0.0.0.0/0"}, {"cidr": "10.1.0.0/16", "ports": [5432]}],
        "relax": {"writableRoot": true},
        "override": {"spec": {"template": {"spec": {"priorityClassName": "low", "containers": [{"name": "server", "resources": {"limits": {"memory": null}}}]}}}},
    });
    let values = Values {
        values: [("site".to_owned(), "a $(TOKEN)".to_owned())].into(),
        env: vec![("TOKEN".to_owned(), Secret::new("hunter2"))],
        arguments: vec![Secret::new("--key=hunter2")],
        files: vec![("KEY_FILE".to_owned(), Secret::new("key"))],
        passwords: vec![Secret::new("p")],
        startup: None,
    };
    let made = planned(Some("jira-alice"), kubernetes, &values).unwrap();
    assert!(!made.to_string().contains("hunter2"), "no value stands in an object");
    check("personal", &made);
}

#[test]
fn one_on_standard_input_and_output() {
    let stdio = |more: Value| {
        let mut spec = json!({"image": "registry.example/jira:1", "transport": "stdio", "command": ["/jira"], "args": ["--site=${field.site}"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let values = Values {
        values: [("site".to_owned(), "$(PORTCULLIS_BRIDGE_KEY)".to_owned())].into(),
        arguments: vec![Secret::new("--key=hunter2")],
        ..Values::default()
    };
    check("stdio", &planned(Some("c"), stdio(json!({})), &values).unwrap());
    // What stands before it is hardened whatever its server is allowed.
    let made = planned(None, stdio(json!({"relax": {"writableRoot": true}})), &Values::default()).unwrap();
    let pod = &made.as_array().unwrap().last().unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["initContainers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], false);
    // Without a bridge, or without a word of what to start, there is none.
    let nothing = stdio(json!({"command": [], "args": []}));
    assert_eq!(planned(None, nothing, &Values::default()).unwrap_err(), PlanError::NoCommand);
    let place = Place { bridge: None, ..place() };
    let refused = plan(&place, identity(None), &server(stdio(json!({}))), &Values::default()).unwrap_err();
    assert!(refused.to_string().contains("kubernetes.servers.bridge.image"), "{refused}");
    // A pod has always time to end, however little.
    for (grace, linger, drain) in [("30s", "6", "17"), ("10s", "1", "2"), ("1s", "0", "0")] {
        let made = planned(None, stdio(json!({"stopGrace": grace})), &Values::default()).unwrap();
        let args = &made.as_array().unwrap().last().unwrap()["spec"]["template"]["spec"]["containers"][0]["args"];
        assert_eq!((&args[3], &args[5]), (&json!(linger), &json!(drain)), "{args}");
    }
}

#[test]
fn what_an_image_starts_is_started_behind_the_bridge() {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let started = |kubernetes: Value, arguments: &[&str]| {
        let values = Values {
            startup: Some(Startup { entrypoint: words(&["/jira", "$(HOME)"]), command: words(&["--all"]) }),
            arguments: arguments.iter().map(|text| Secret::new(*text)).collect(),
            ..Values::default()
        };
        let mut spec = json!({"image": "a", "transport": "stdio"});
        spec.as_object_mut().unwrap().extend(kubernetes.as_object().unwrap().clone());
        let made = planned(None, spec, &values).unwrap();
        let container = &made.as_array().unwrap().last().unwrap()["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["/portcullis/bridge"]));
        let args = container["args"].as_array().unwrap();
        let begin = args.iter().position(|arg| arg == "--").unwrap() + 1;
        Value::Array(args[begin..].to_vec())
    };
    assert_eq!(started(json!({}), &[]), json!(["/jira", "$$(HOME)", "--all"]));
    assert_eq!(started(json!({"args": ["--one"]}), &[]), json!(["/jira", "$$(HOME)", "--one"]));
    let placed = "$(PORTCULLIS_ARGUMENT_0)";
    assert_eq!(started(json!({}), &["x"]), json!(["/jira", "$$(HOME)", "--all", placed]));
    assert_eq!(started(json!({"command": ["/other"]}), &["x"]), json!(["/other", placed]));
}

#[test]
fn what_changes_pods_is_what_changed_in_them() {
    let pods = |kubernetes: Value, token: &str| {
        let values = Values { env: vec![("TOKEN".to_owned(), Secret::new(token))], ..Values::default() };
        let made = planned(Some("c"), kubernetes, &values).unwrap();
        let deployment = made.as_array().unwrap().iter().find(|o| o["kind"] == "Deployment").unwrap().clone();
        deployment["spec"]["template"].clone()
    };
    let first = pods(json!({"image": "a"}), "1");
    assert_eq!(first, pods(json!({"image": "a", "replicas": 3}), "1"));
    assert_eq!(first, pods(json!({"image": "a", "egress": [{"cidr": "0.0.0.0/0"}]}), "1"));
    assert_ne!(first, pods(json!({"image": "a"}), "2"));
    assert_ne!(first, pods(json!({"image": "b"}), "1"));
}

#[test]
fn what_cannot_be_handed_over_is_refused() {
    let values = |variable: &str, length: usize| Values {
        env: vec![(variable.to_owned(), Secret::new(vec![b'x'; length]))],
        ..Values::default()
    };
    for (values, words) in [(values("A=B", 1), "no name of a variable"), (values("A", 300 << 10), "too long")] {
        let refused = planned(None, json!({"image": "a"}), &values).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}
