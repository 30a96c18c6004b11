//! Exit codes, and what is said with them.

use serde_json::Value;

use crate::support::{Gateway, run, run_with};

#[test]
fn without_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let code = |args: &[&str]| run(dir.path(), args).code;
    assert_eq!(code(&[]), 2);
    assert_eq!(code(&["no-such-verb"]), 2);
    assert_eq!(code(&["get", "colours"]), 2);
    assert_eq!(code(&["--version"]), 0);
    assert_eq!(code(&["supervise"]), code(&["supervise"]), "a supervisor without its pipes ends");
    assert_eq!(code(&["serve", "--config", "/no/such/file"]), 2);

    let away = run(dir.path(), &["get", "servers"]);
    assert_eq!(away.code, 5);
    assert!(away.err.starts_with("error: can't reach a gateway at "), "{}", away.err);
    assert!(away.err.contains("\nnext: "), "{}", away.err);
    let json = run(dir.path(), &["get", "servers", "-o", "json"]);
    let error: Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!((json.code, error["error"]["code"].as_str()), (5, Some("unreachable")));
    assert_eq!(json.out, "");
}

#[test]
fn a_bad_document_is_told_with_its_line_before_anybody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("bad.yaml"),
        "apiVersion: portcullis.dev/v1alpha1\nkind: Team\nmetadata: {name: blue}\nspec: {members: x}\n",
    )
    .unwrap();
    let path = dir.path().join("bad.yaml");
    let ran = run(dir.path(), &["apply", "-f", path.to_str().unwrap()]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains(&format!("{}:4:", path.display())), "{}", ran.err);
    assert_eq!(run(dir.path(), &["apply", "-f", "/no/such.yaml"]).code, 4);
    assert_eq!(run(dir.path(), &["apply", "-f", "-"]).code, 2, "nothing is not applied");
}

#[test]
fn with_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::quickstart(dir.path());
    let code = |args: &[&str]| gateway.run(args).code;
    assert_eq!(code(&["get", "server", "nothing"]), 3);
    assert_eq!(code(&["describe", "team", "nothing"]), 3);
    assert_eq!(code(&["delete", "user", "nothing"]), 3);
    assert_eq!(code(&["delete", "gateway", "default"]), 4, "it is a file's");
    assert_eq!(code(&["logs", "nothing"]), 3);
    assert_eq!(code(&["token", "create", "--owner", "user:nobody"]), 3);
    assert_eq!(code(&["token", "revoke", "nothing"]), 3);
    assert_eq!(code(&["call", "default", "demo__nothing"]), 3);
    assert_eq!(code(&["call", "nothing"]), 3);
    assert_eq!(code(&["call", "default", "demo__time_now", "[]"]), 2);
    assert_eq!(code(&["call", "default", "demo__time_now", "{\"utc_offset\": \"noon\"}"]), 1, "the tool says isError");
    assert_eq!(run_with(dir.path(), &["call", "default", "--token-stdin"], "pcl_garbage").code, 4);
    let nothing = run_with(dir.path(), &["connect", "demo", "--owner", "user:me"], "");
    assert_eq!(nothing.code, 1);
    assert!(nothing.err.contains("asks for nothing") && nothing.err.contains("\nnext: "), "{}", nothing.err);
    let asks = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: asks}\nspec:\n  \
                remote: {url: 'https://mcp.example.com'}\n  fields: [{name: token, sensitive: true, required: true}]\n  \
                credential: {place: [{field: token, header: Authorization}]}\n";
    let applied = run_with(dir.path(), &["apply", "-f", "-"], asks);
    assert_eq!(applied.code, 0, "{}", applied.err);
    let unsaid = run_with(dir.path(), &["connect", "asks", "--owner", "user:me"], "secret");
    assert_eq!(unsaid.code, 2, "--owner-only has to be said: {}", unsaid.err);

    let again = run(dir.path(), &["quickstart", "--listen", "127.0.0.1:0"]);
    assert_eq!(again.code, 4);
    assert!(again.err.contains("is running in") && again.err.contains("--data-dir"), "{}", again.err);
    let other = tempfile::tempdir().unwrap();
    let taken = gateway.word_after("http://").split('/').next().unwrap().to_owned();
    let second = run(other.path(), &["quickstart", "--listen", &taken]);
    assert_eq!(second.code, 4);
    assert!(second.err.contains(&taken) && second.err.contains("--listen"), "{}", second.err);
    assert!(!other.path().join("resources").join("quickstart.yaml").exists(), "nothing was written");

    let connect = |owner: &str| gateway.run(&["connect", "demo", "--owner", owner]);
    assert_eq!(connect("alice").code, 2);
    assert_eq!(connect("anonymous").code, 2);
    let unknown = connect("team:nobody");
    assert_eq!(unknown.code, 3, "before --owner-only or a secret is asked for");
    assert!(unknown.err.contains("portcullis apply -f"), "{}", unknown.err);
    let tool = gateway.run(&["call", "default", "demo__nothing"]).err;
    assert_eq!((tool.matches("next: ").count(), tool.matches("request: ").count()), (1, 1), "{tool}");

    let held = "apiVersion: portcullis.dev/v1alpha1\nkind: User\nmetadata: {name: me}\nspec: {}\n";
    let ran = run_with(dir.path(), &["apply", "-f", "-"], held);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("-:3:1: metadata.door: User/me came by the file"), "{}", ran.err);
}
