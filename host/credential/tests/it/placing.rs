//! Where a connection's values go.

use std::sync::Arc;

use portcullis_credential::{ConnectionBook, Resolver};
use portcullis_model::Resource;
use portcullis_store::Fleet;
use serde_json::{Value, json};

use crate::{Fake, connection, fleet, plan_for, remote, resolve, resource, secret_file};

fn process(place: Value) -> Resource {
    let spec = json!({
        "process": {"command": "server", "args": ["--root=${field.root}"]},
        "fields": [{"name": "token", "sensitive": true, "required": true}, {"name": "root", "default": "/srv"},
            {"name": "region", "required": true}, {"name": "extra", "sensitive": true}],
        "credential": {"place": place},
    });
    resource("McpServer", "files", spec)
}

fn connected(values: Value, secrets: Value) -> Resource {
    let spec = json!({"server": "files", "owner": {"organization": true}, "ownerOnly": false, "origin": "process",
        "values": values, "secrets": secrets});
    resource("Connection", "ours", spec)
}

fn resolver(server: &Resource, connection: Resource) -> (Arc<Resolver>, Arc<portcullis_credential::CredentialPlan>) {
    let book = ConnectionBook::of(&Fleet::of([server.clone(), connection]));
    (Resolver::new(book.clone(), 10), plan_for(server, None, &Fake::first(&book)))
}

#[tokio::test]
async fn a_process_gets_variables_files_and_arguments() {
    let server = process(json!([
        {"field": "token", "env": "TOKEN", "prefix": "tok-"},
        {"field": "token", "file": "TOKEN_FILE"},
        {"field": "region", "argument": "--region={}"},
        {"field": "extra", "env": "EXTRA"},
    ]));
    let secrets = json!({"token": {"file": secret_file("hunter2\r\n")}});
    let (resolver, plan) = resolver(&server, connected(json!({"region": "eu"}), secrets));
    let carried = resolve(&resolver, &plan, "user:alice").await.unwrap();
    let text = |s: &portcullis_model::Secret| String::from_utf8(s.expose().to_vec()).unwrap();
    assert_eq!(
        carried.env.iter().map(|(n, s)| (n.as_str(), text(s))).collect::<Vec<_>>(),
        [("TOKEN", "tok-hunter2".into())]
    );
    assert_eq!(
        carried.files.iter().map(|(n, s)| (n.as_str(), text(s))).collect::<Vec<_>>(),
        [("TOKEN_FILE", "hunter2".into())]
    );
    assert_eq!(carried.arguments.iter().map(text).collect::<Vec<_>>(), ["--region=eu"]);
    assert_eq!(carried.values["root"], "/srv", "a default stands in");
    assert_eq!(carried.values["region"], "eu");
    assert!(carried.headers.is_empty() && carried.by_another);
    assert!(!format!("{carried:?}").contains("hunter2"), "{carried:?}");
}

#[tokio::test]
async fn what_is_lacking_is_named() {
    let server = process(json!([{"field": "token", "env": "TOKEN"}]));
    let (resolver, plan) =
        resolver(&server, connected(json!({}), json!({"token": {"env": "PORTCULLIS_NO_SUCH_VARIABLE"}})));
    let fault = resolve(&resolver, &plan, "user:alice").await.unwrap_err();
    assert_eq!(fault.code, "missing-credential");
    assert!(fault.message.contains("ours to files lacks token, region"), "{fault}");
    // Where a secret lies is told to operators, and not to callers and their models.
    assert!(fault.message.ends_with("its secret can't be read"), "{fault}");
    assert!(!format!("{fault:?}").contains("PORTCULLIS_NO_SUCH_VARIABLE"), "{fault:?}");
    assert!(fault.next.unwrap().contains("operator") && fault.need.is_none());
    let status = resolver.book().status(&portcullis_model::Name::default_tenant(), &crate::name("ours")).unwrap();
    assert_eq!(status.unreadable, ["token: the variable PORTCULLIS_NO_SUCH_VARIABLE is not set"]);
}

#[tokio::test]
async fn a_moved_server_gets_nothing() {
    let mut moved = remote();
    if let portcullis_model::Spec::McpServer(server) = &mut moved.spec {
        server.remote.as_mut().unwrap().url = "https://evil.example/mcp".parse().unwrap();
    }
    let own = connection("alice", json!({"user": "alice"}), true, 1);
    let book = ConnectionBook::of(&Fleet::of(crate::people().into_iter().chain([moved.clone(), own.clone()])));
    for fake in [Fake::first(&book), Fake::insisting("alice")] {
        let fault =
            resolve(&Resolver::new(book.clone(), 10), &plan_for(&moved, None, &fake), "user:alice").await.unwrap_err();
        assert_eq!(fault.code, "connection-suspended");
        assert!(
            fault.message.contains("https://api.example.com") && fault.message.contains("https://evil.example"),
            "{fault}"
        );
    }
    // A plan and a book of different revisions: the address that the call goes to decides.
    let book = ConnectionBook::of(&fleet(vec![own]));
    let fault =
        resolve(&Resolver::new(book, 10), &plan_for(&moved, None, &Fake::insisting("alice")), "user:alice").await;
    assert_eq!(fault.unwrap_err().code, "credential-invalid");
}

#[tokio::test]
async fn a_secret_that_breaks_a_header_is_refused_without_quoting_it() {
    let mut own = connection("alice", json!({"user": "alice"}), true, 1);
    if let portcullis_model::Spec::Connection(c) = &mut own.spec {
        let file = secret_file("line-one\nline-two\n");
        c.secrets.insert("token".into(), portcullis_model::spec::SecretSource::File(file));
    }
    let book = ConnectionBook::of(&fleet(vec![own]));
    let fault =
        resolve(&Resolver::new(book.clone(), 10), &plan_for(&remote(), None, &Fake::first(&book)), "user:alice")
            .await
            .unwrap_err();
    assert_eq!(fault.code, "credential-invalid");
    assert!(!fault.to_string().contains("line-"), "{fault}");
}
