//! Resources as people write them: what is accepted, what is refused and where, and the schema that editors read.
#![allow(clippy::unwrap_used, missing_docs)]

use portcullis_model::{Bytes, Resource, Span, Spec, schema::resource_schema, spec::ToolLimits};
use serde_json::{Value, json};

fn resource(kind: &str, spec: Value) -> Result<Resource, String> {
    serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": "it" },
        "spec": spec,
    }))
    .map_err(|e| e.to_string())
}

#[track_caller]
fn check(kind: &str, spec: Value, wanted: &[&str]) {
    let found: Vec<String> = match resource(kind, spec) {
        Ok(resource) => resource.problems().iter().map(ToString::to_string).collect(),
        Err(error) => vec![error],
    };
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.contains(wanted), "{found}\ndoes not say\n{wanted}");
    }
}

#[test]
fn servers() {
    check("McpServer", json!({ "remote": { "url": "https://mcp.example.com/mcp" } }), &[]);
    check("McpServer", json!({ "process": { "command": "npx" } }), &[]);
    check("McpServer", json!({}), &["spec: say exactly one of remote, process, component and kubernetes"]);
    check("McpServer", json!({ "remote": { "url": "http://127.0.0.1:9/mcp" } }), &[]);
    check("McpServer", json!({ "remote": { "url": "http://mcp.example.com/" } }), &["spec.remote.url: must be https"]);
    check("McpServer", json!({ "remote": { "url": "https://u:p@mcp.example.com/" } }), &["must not hold a credential"]);
    check("McpServer", json!({ "remote": { "url": "ftp://mcp.example.com/" } }), &["must be an https URL"]);
    check(
        "McpServer",
        json!({ "remote": { "url": "https://e.com", "headers": { "Host": "x" } } }),
        &["is set by Portcullis"],
    );
    check("McpServer", json!({ "remot": {} }), &["unknown field `remot`"]);
    check("McpServer", json!({ "process": { "command": "" , "maxInFlight": 0 } }), &["command", "maxInFlight"]);
    check(
        "McpServer",
        json!({ "process": { "command": "x" }, "traffic": { "timeout": "soon" } }),
        &["\"soon\" is not a duration such as 500ms, 30s, 5m, 1h or 7d"],
    );
}

#[test]
fn servers_that_are_components() {
    let server = |component: Value| json!({ "component": component });
    let file = json!({ "file": { "path": "text.wasm" } });
    check("McpServer", server(json!({ "source": file })), &[]);
    check(
        "McpServer",
        server(json!({ "source": { "builtIn": "static" } })),
        &["spec.component.source: built-in plugins"],
    );
    check(
        "McpServer",
        server(
            json!({ "source": file, "limits": { "memory": "65MiB" }, "grants": { "http": ["a.example"] }, "maxInFlight": 0 }),
        ),
        &["spec.component.grants.http[0]", "spec.component.limits.memory", "spec.component.maxInFlight"],
    );
    check(
        "McpServer",
        json!({ "component": { "source": file }, "process": { "command": "x" } }),
        &["say exactly one of remote, process, component and kubernetes"],
    );
    let field = json!([{ "name": "token", "sensitive": true }]);
    let placed =
        |place: Value| json!({ "component": { "source": file }, "fields": field, "credential": { "place": [place] } });
    check("McpServer", placed(json!({ "field": "token", "env": "TOKEN" })), &[]);
    check(
        "McpServer",
        placed(json!({ "field": "token", "file": "TOKEN_FILE" })),
        &["only a process, or a server in a cluster, takes"],
    );
    check(
        "McpServer",
        placed(json!({ "field": "token", "header": "x-token" })),
        &["only a remote server takes headers"],
    );
    // One limit that is said leaves the others as they are for tools, not as they are for plugins.
    let one = resource("McpServer", server(json!({ "source": file, "limits": { "cpu": "1s" } }))).unwrap();
    let Spec::McpServer(one) = one.spec else { panic!("another kind") };
    let limits = one.component.unwrap().limits;
    assert_eq!(limits, ToolLimits { cpu: Span::seconds(1), ..ToolLimits::default() });
    assert_eq!(limits.of_plugin().memory, Bytes::mebi(32));
}

#[test]
fn servers_in_a_cluster() {
    let server = |more: Value| {
        let mut spec = json!({"image": "registry.example/team/jira:1"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"kubernetes": spec})
    };
    check("McpServer", server(json!({})), &[]);
    check(
        "McpServer",
        server(json!({"relax": {"rootUser": true}, "runAsUser": 0, "override": {"spec": {"minReadySeconds": 5}}})),
        &[],
    );
    check("McpServer", json!({"kubernetes": {"image": "a"}, "process": {"command": "b"}}), &["exactly one of"]);
    check(
        "McpServer",
        server(json!({
            "image": "a b", "port": 0, "path": "mcp", "replicas": 101, "runAsUser": 0, "startTimeout": "0s",
            "env": {"PORTCULLIS_X": "1", "a b": "2"}, "probes": {"ready": "healthz"}, "args": ["${field.nope}"],
            "resources": {"limits": {"memory": "1 GB"}}, "egress": [{"cidr": "10.0.0.1", "ports": [0]}],
            "imagePullSecrets": [{"existing": ""}, {"login": {"registry": "", "username": "u", "password": {"env": ""}}}],
        })),
        &[
            "spec.kubernetes.image",
            "spec.kubernetes.port",
            "spec.kubernetes.path",
            "spec.kubernetes.probes.ready",
            "spec.kubernetes.replicas",
            "spec.kubernetes.startTimeout",
            "spec.kubernetes.runAsUser: 0 is root",
            "spec.kubernetes.env.PORTCULLIS_X",
            "spec.kubernetes.env.a b",
            "spec.kubernetes.resources.limits",
            "spec.kubernetes.egress[0].cidr",
            "spec.kubernetes.egress[0].ports",
            "spec.kubernetes.imagePullSecrets[0]",
            "spec.kubernetes.imagePullSecrets[1]",
            "spec.kubernetes.imagePullSecrets[1].login.password",
            "spec.kubernetes.args[0]",
        ],
    );
    // It takes what a process takes, and headers as well.
    let placed = |place: Value| {
        let mut spec = server(json!({}));
        spec["fields"] = json!([{"name": "token", "sensitive": true}]);
        spec["credential"] = json!({"place": [place]});
        spec
    };
    for (place, problems) in [
        (json!({"field": "token", "header": "Authorization"}), &[][..]),
        (json!({"field": "token", "env": "TOKEN"}), &[]),
        (json!({"field": "token", "file": "TOKEN_FILE"}), &[]),
        (json!({"field": "token", "argument": "--token={}"}), &["arguments show in process lists"]),
        (json!({"field": "token", "env": "PORTCULLIS_TOKEN"}), &["are set by Portcullis"]),
    ] {
        check("McpServer", placed(place), problems);
    }
    // On standard input and output it takes what a process takes, and path and probes are the bridge's.
    let stdio = json!({"transport": "stdio", "command": ["/jira"], "port": 9000});
    check("McpServer", server(stdio.clone()), &[]);
    check("McpServer", server(json!({"transport": "sse"})), &["sse"]);
    let mut theirs = stdio.clone();
    theirs["path"] = json!("/sse");
    theirs["probes"] = json!({"ready": "/healthz"});
    check("McpServer", server(theirs), &["spec.kubernetes.path", "spec.kubernetes.probes"]);
    let mut headers = placed(json!({"field": "token", "header": "Authorization"}));
    headers["kubernetes"]["transport"] = json!("stdio");
    check("McpServer", headers, &["only a remote server takes headers"]);
}

#[test]
fn secrets_stay_out_of_arguments() {
    let fields = json!([{ "name": "token", "sensitive": true }, { "name": "dir", "default": "/" }]);
    let server = |args: Value, place: Value| json!({ "process": { "command": "x", "args": args }, "fields": fields, "credential": { "place": place } });
    check("McpServer", server(json!(["${field.dir}"]), json!([{ "field": "token", "env": "TOKEN" }])), &[]);
    check("McpServer", server(json!(["--token=${field.token}"]), json!([])), &["place it by spec.credential.place"]);
    check("McpServer", server(json!(["${field.nope}"]), json!([])), &["which spec.fields does not have"]);
    check(
        "McpServer",
        server(json!([]), json!([{ "field": "token", "argument": "--t={}" }])),
        &["show in process lists"],
    );
    check(
        "McpServer",
        server(json!([]), json!([{ "field": "token", "argument": "--t={}", "allowInProcessList": true }])),
        &[],
    );
    check(
        "McpServer",
        server(json!([]), json!([{ "field": "token", "header": "X" }])),
        &["only a remote server takes headers"],
    );
    check("McpServer", server(json!([]), json!([{ "field": "token" }])), &["say exactly one of"]);
}

#[test]
fn gateways() {
    check("Gateway", json!({ "servers": [{ "server": "time" }, { "server": "git", "prefix": "g" }] }), &[]);
    check(
        "Gateway",
        json!({ "servers": [{ "server": "a", "prefix": "b" }, { "server": "b" }] }),
        &["names would clash"],
    );
    check("Gateway", json!({ "servers": [{ "server": "a", "prefix": "x__y" }] }), &["without \"__\""]);
    check(
        "Gateway",
        json!({ "servers": [{ "server": "a", "prefix": "x", "bareNames": true }] }),
        &["either prefix or"],
    );
    check(
        "Gateway",
        json!({ "servers": [{ "server": "a", "credential": { "mode": "static" } }] }),
        &["needs a connection"],
    );
    check("Gateway", json!({ "servers": [{ "server": "A" }] }), &["is not a name"]);
    check("Gateway", json!({ "ratePerPrincipal": 0 }), &["at least 1"]);
}

#[test]
fn oauth_of_servers() {
    let remote =
        |oauth: Value| json!({ "remote": { "url": "https://x.example/mcp" }, "credential": { "oauth": oauth } });
    check("McpServer", remote(json!({})), &[]);
    let all = json!({ "authorizationServer": { "issuer": "https://as.example" }, "clientId": "c",
        "clientSecret": { "env": "S" }, "registration": "given", "scopes": ["a", "b:c"], "resource": "",
        "extraParameters": { "audience": "x" }, "header": { "name": "X-Token", "prefix": "" } });
    check("McpServer", remote(all), &[]);
    let wrong = [
        (json!({ "registration": "given" }), "needs"),
        (json!({ "registration": "dynamic", "clientId": "c" }), "no meaning"),
        (
            json!({ "registration": "metadata-document", "clientId": "http://x.example/c.json" }),
            "must be the https URL",
        ),
        (json!({ "clientSecret": { "env": "S" } }), "needs a clientId"),
        (json!({ "scopes": ["a b"] }), "one word"),
        (json!({ "resource": "/mcp" }), "absolute URI"),
        (json!({ "resource": "https://x.example/#f" }), "absolute URI"),
        (json!({ "extraParameters": { "state": "x" } }), "is set by Portcullis"),
        (json!({ "authorizationServer": {} }), "say the issuer"),
        (json!({ "authorizationServer": { "issuer": "https://as.example?x=1" } }), "without query"),
        (
            json!({ "authorizationServer": { "issuer": "https://a.example", "tokenEndpoint": "https://a.example/t" } }),
            "say both",
        ),
        (json!({ "header": { "name": "a b" } }), "not a header name"),
        (json!({ "header": { "prefix": "a\n" } }), "visible ASCII"),
    ];
    for (oauth, what) in wrong {
        check("McpServer", remote(oauth), &[what]);
    }
    let process = json!({ "process": { "command": "x" }, "credential": { "oauth": {} } });
    check("McpServer", process, &["only a remote server"]);
    let twice = json!({ "remote": { "url": "https://x.example/mcp" }, "fields": [{ "name": "f" }],
        "credential": { "oauth": {}, "place": [{ "field": "f", "header": "authorization" }] } });
    check("McpServer", twice, &["carries the OAuth token"]);
}

#[test]
fn connections_say_whom_they_serve() {
    let owner = |owner: Value| json!({ "server": "s", "owner": owner, "ownerOnly": true });
    for good in
        [json!({ "user": "a" }), json!({ "team": "t" }), json!({ "agent": "x" }), json!({ "organization": true })]
    {
        check("Connection", owner(good), &[]);
    }
    check("Connection", owner(json!({ "organization": false })), &["must be true"]);
    check("Connection", json!({ "server": "s", "owner": { "user": "a" } }), &["missing field `ownerOnly`"]);
}

#[test]
fn plugins() {
    check("Plugin", json!({ "source": { "file": { "path": "a.wasm" } } }), &[]);
    check("Plugin", json!({ "source": { "builtIn": "jwks" }, "limits": { "cpu": "0ms" } }), &["above zero"]);
    check("Plugin", json!({ "source": { "file": { "path": "a", "sha256": "x" } } }), &["64 hex digits"]);
    check(
        "Plugin",
        json!({ "source": { "builtIn": "x" }, "grants": { "http": ["example.com"] } }),
        &["must be an origin"],
    );
}

#[test]
fn another_version_or_kind_is_refused() {
    let read = |text: &str| serde_json::from_str::<Resource>(text).unwrap_err().to_string();
    assert!(
        read(r#"{"apiVersion":"v1","kind":"User","metadata":{"name":"a"},"spec":{}}"#)
            .contains("portcullis.dev/v1alpha1")
    );
    assert!(
        read(r#"{"apiVersion":"portcullis.dev/v1alpha1","kind":"Pod","metadata":{"name":"a"},"spec":{}}"#)
            .contains("unknown kind \"Pod\"")
    );
}

#[test]
fn a_spec_in_which_nothing_has_to_stand_may_be_left_out() {
    let read = |kind: &str, spec: &str| {
        let text =
            format!(r#"{{"apiVersion":"portcullis.dev/v1alpha1","kind":"{kind}","metadata":{{"name":"a"}}{spec}}}"#);
        serde_json::from_str::<Resource>(&text).map_err(|e| e.to_string())
    };
    for kind in ["User", "Team", "Role", "Agent", "Gateway"] {
        assert_eq!(read(kind, ""), read(kind, r#","spec":{}"#), "{kind}");
        assert!(read(kind, r#","spec":null"#).is_ok(), "{kind}");
    }
    assert!(read("Connection", "").unwrap_err().contains("missing field"));
    let schema = serde_json::to_value(resource_schema()).unwrap();
    for kind in schema["oneOf"].as_array().unwrap() {
        let name = kind["properties"]["kind"]["const"].as_str().unwrap();
        let required = kind["required"].as_array().unwrap().contains(&json!("spec"));
        assert_eq!(read(name, "").is_err(), required, "the schema says of {name} what is so");
    }
}

#[test]
fn resources_survive_their_text() {
    let gateway = resource(
        "Gateway",
        json!({ "servers": [{ "server": "a", "tools": { "x": { "as": "y" } } }], "policies": [{ "plugin": "p", "config": { "n": 1 } }] }),
    )
    .unwrap();
    let text = serde_json::to_string(&gateway).unwrap();
    assert_eq!(serde_json::from_str::<Resource>(&text).unwrap(), gateway);
}

/// `UPDATE_GOLDEN=1` writes the file after a change that is meant.
#[test]
fn the_schema_is_the_published_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resource.schema.json");
    let schema = serde_json::to_string_pretty(&resource_schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &schema).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), schema, "run with UPDATE_GOLDEN=1 if this is meant");
}

/// The chart brings what `portcullis crds` prints. `UPDATE_GOLDEN=1` writes it.
#[test]
fn the_charts_definitions_are_these() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/portcullis/files/crds.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": portcullis_model::custom::definitions()});
    let text = serde_json::to_string_pretty(&list).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == text,
        "{path}: run with UPDATE_GOLDEN=1 if this is meant"
    );
}

/// Settings of `idp-exchange` that are right, to be made wrong.
fn exchange() -> Value {
    json!({
        "tokenEndpoint": "https://idp.example.com/token",
        "client": { "id": "portcullis", "secret": "idp" },
        "audience": ["github"],
        "scope": "repo",
    })
}

fn exchange_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut settings = exchange();
    change(&mut settings);
    json!({ "servers": [{ "server": "github", "credential": { "mode": "idp-exchange", "settings": settings } }] })
}

#[test]
fn exchange_settings_are_read_when_they_are_written() {
    let at = "spec.servers[0].credential.settings";
    check("Gateway", exchange_with(|_| {}), &[]);
    check("Gateway", exchange_with(|s| s["flow"] = json!("swap")), &["unknown variant `swap`"]);
    check("Gateway", exchange_with(|s| s["tokenEndpiont"] = json!("x")), &["unknown field `tokenEndpiont`"]);
    check(
        "Gateway",
        exchange_with(|s| s["tokenEndpoint"] = json!("http://idp.example.com/token")),
        &[&format!("{at}.tokenEndpoint: must be https")],
    );
    check("Gateway", exchange_with(|s| s["tokenEndpoint"] = json!("http://127.0.0.1:9/token")), &[]);
    check("Gateway", exchange_with(|s| s["client"] = json!({ "id": "p" })), &["granted secrets"]);
    check(
        "Gateway",
        exchange_with(|s| s["client"] = json!({ "id": "p", "auth": "private-key-jwt", "secret": "s" })),
        &["client.secret: is not used", "client.key: must name one"],
    );
    check(
        "Gateway",
        exchange_with(|s| {
            s["client"] = json!({ "id": "p", "auth": "private-key-jwt", "key": "k", "algorithm": "HS256" })
        }),
        &["client.algorithm: is no signature"],
    );
    check(
        "Gateway",
        exchange_with(|s| s["parameters"] = json!({ "client_secret": "x" })),
        &["parameters.client_secret"],
    );
    check(
        "Gateway",
        exchange_with(|s| s["subjectTokenType"] = json!("token")),
        &["subjectTokenType: use access_token"],
    );
    check(
        "Gateway",
        exchange_with(|s| s["place"] = json!({ "header": "a b", "field": "token" })),
        &["header", "field"],
    );
    check("Gateway", exchange_with(|s| s["flow"] = json!("id-jag")), &[&format!("{at}.then: flow id-jag needs")]);
    let then = json!({ "tokenEndpoint": "https://as.example.com/token", "client": { "id": "p", "auth": "none" } });
    check(
        "Gateway",
        exchange_with(|s| {
            s["flow"] = json!("id-jag");
            s["then"] = then.clone();
        }),
        &[],
    );
    check("Gateway", exchange_with(|s| s["then"] = then.clone()), &["only flow id-jag has a second step"]);
    check("Gateway", exchange_with(|s| s["flow"] = json!("on-behalf-of")), &["neither subjectTokenType nor audience"]);
}

#[test]
fn tokens_of_callers_go_over_http_only_and_passed_on_ones_over_https_only() {
    let mode = |name: &str, settings: Value| json!({ "mode": { "mode": name, "settings": settings } });
    let process = json!({ "process": { "command": "x" }, "credential": mode("idp-exchange", exchange()) });
    check("McpServer", process, &["spec.credential.mode: mode idp-exchange puts a token into each request"]);
    let plain = json!({ "remote": { "url": "http://127.0.0.1:9/" }, "credential": mode("passthrough", json!({})) });
    check("McpServer", plain, &["must be https"]);
    let secure = |settings| json!({ "remote": { "url": "https://mcp.example.com/" }, "credential": mode("passthrough", settings) });
    check("McpServer", secure(json!({})), &[]);
    check("McpServer", secure(json!({ "allowAudience": true })), &["invalid type"]);
    check(
        "McpServer",
        secure(json!({ "allowAudience": { "reason": "yes" } })),
        &["allowAudience.reason: must say why"],
    );
    check(
        "McpServer",
        secure(json!({ "allowAudience": { "reason": "ticket OPS-12: the server checks no audience" } })),
        &[],
    );
}
