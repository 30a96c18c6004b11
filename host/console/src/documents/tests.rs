//! What people read when a file is wrong, and that what is right is read whole.

use std::fmt::Write as _;

use super::*;

fn errors(text: &str) -> String {
    match read("f.yaml", text.as_bytes()) {
        Ok(documents) => format!("{} documents", documents.len()),
        Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

const TEAM: &str =
    "apiVersion: portcullis.dev/v1alpha1\nkind: Team\nmetadata: {name: blue}\nspec: {members: [alice]}\n";

#[test]
fn documents_are_told_apart() {
    let text = format!("# a comment\n---\n{TEAM}--- # another\n{}---\n\n# nothing\n", TEAM.replace("blue", "red"));
    let documents = read("f.yaml", text.as_bytes()).unwrap();
    let lines: Vec<_> = documents.iter().map(|d| (d.resource.metadata.name.as_str(), d.line)).collect();
    assert_eq!(lines, [("blue", 3), ("red", 8)]);
}

#[test]
fn a_marker_is_a_marker_and_dashes_in_text_are_not() {
    let text = TEAM.replace("spec: {members: [alice]}", "spec:\n  title: |\n    ---\n    ----\n  members: [alice]");
    assert_eq!(errors(&text), "1 documents");
    assert_eq!(errors("----\n"), "f.yaml:1: is no resource: a document has apiVersion, kind, metadata and spec");
}

#[test]
fn a_syntax_error_has_its_place() {
    insta::assert_snapshot!(errors(&format!("{TEAM}---\n{}", TEAM.replace("{name: blue}", "{name: red"))), @r#"f.yaml:9:5: while parsing a flow mapping, did not find expected ',' or '}'"#);
    insta::assert_snapshot!(errors("a: b: c\n"), @r#"f.yaml:1:5: mapping values are not allowed in this context"#);
    insta::assert_snapshot!(errors("\ta: b\n"), @r#"f.yaml:1: apiVersion: missing; write portcullis.dev/v1alpha1"#);
    insta::assert_snapshot!(errors(&TEAM.replace("kind: Team\n", "kind: Team\nkind: Team\n")), @r#"f.yaml:3:1: duplicate mapping key: kind not allowed here"#);
}

#[test]
fn a_wrong_field_or_type_has_its_place() {
    insta::assert_snapshot!(errors(&TEAM.replace("members", "membres")), @r#"f.yaml:4:8: unknown field `membres`, expected one of title, members, groups"#);
    insta::assert_snapshot!(errors(&TEAM.replace("[alice]", "[Alice Smith]")), @r#"f.yaml:4:18: "Alice Smith" is not a name: use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"#);
    insta::assert_snapshot!(errors(&TEAM.replace("[alice]", "alice")), @r#"f.yaml:4:17: expected sequence start"#);
    insta::assert_snapshot!(errors(&TEAM.replace("metadata: {name: blue}\n", "")), @r#"f.yaml:3:1: missing field `metadata`"#);
    insta::assert_snapshot!(errors(&TEAM.replace("Team", "Teem")), @r#"f.yaml:2:1: kind: "Teem" is none of User, Team, Role, Agent, IdentityProvider, OAuthClient, Plugin, McpServer, Connection, Gateway"#);
    insta::assert_snapshot!(errors(&TEAM.replace("v1alpha1", "v2")), @r#"f.yaml:1:1: apiVersion: must be "portcullis.dev/v1alpha1", not "portcullis.dev/v2""#);
    insta::assert_snapshot!(errors("[1, 2]\n"), @r#"f.yaml:1: is no resource: a document has apiVersion, kind, metadata and spec"#);
}

const GATEWAY: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: Gateway
metadata:
  name: main
spec:
  ratePerPrincipal: 0
  servers:
    - server: files
    - server: other
      prefix: files
      tools:
        a.b:
          as: not a tool name
";

#[test]
fn a_rule_that_is_broken_has_its_place() {
    insta::assert_snapshot!(errors(GATEWAY), @r#"
    f.yaml:10:7: spec.servers[1].prefix: spec.servers[0] has the same prefix; names would clash
    f.yaml:13:11: spec.servers[1].tools.a.b.as: is not a tool name
    f.yaml:6:3: spec.ratePerPrincipal: must be at least 1
    "#);
}

#[test]
fn two_resources_of_one_name_are_refused() {
    insta::assert_snapshot!(errors(&format!("{TEAM}---\n{TEAM}")), @r#"f.yaml:8:12: metadata.name: Team/blue is already defined at f.yaml:1"#);
}

#[test]
fn bombs_and_floods_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let item = format!("*a{}", i - 1);
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", vec![item; 10].join(", "));
    }
    let told = errors(&bomb);
    assert!(told.contains("limit") || told.contains("budget") || told.contains("exceed"), "{told}");
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert_ne!(errors(&deep), "1 documents");
    let many = "---\n".repeat(MAX_DOCUMENTS + 2);
    assert!(errors(&many).contains("more than 4096 documents"), "{}", errors(&many));
    let long = vec![b'#'; MAX_FILE + 1];
    assert!(read("f.yaml", &long).unwrap_err()[0].to_string().contains("is the most"));
    assert_eq!(read("f.yaml", b"a: 1\nb: \xff\n").unwrap_err()[0].to_string(), "f.yaml:2: is not valid UTF-8");
}

#[test]
fn every_kind_is_read_and_written_again() {
    let text = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: files, labels: {tier: one}}
spec:
  process: {command: ./server, args: ['--root=${field.root}'], env: {A: 'yes', B: '1'}}
  fields: [{name: root, default: /tmp}, {name: token, sensitive: true}]
  credential: {place: [{field: token, env: TOKEN}]}
  traffic: {timeout: 30s, pinnedArguments: {'read_*': {limit: 10, deep: {a: [1, 2.5, null]}}}}
---
apiVersion: portcullis.dev/v1alpha1
kind: Connection
metadata: {name: c}
spec: {server: files, owner: {organization: true}, secrets: {token: {env: TOKEN}}, ownerOnly: false}
---
apiVersion: portcullis.dev/v1alpha1
kind: Plugin
metadata: {name: p}
spec: {source: {file: {path: ./p.wasm}}, config: {rules: []}, grants: {tokens: true}, limits: {memory: 8MiB}}
---
apiVersion: portcullis.dev/v1alpha1
kind: Plugin
metadata: {name: q}
spec: {source: {builtIn: jwks}}
---
apiVersion: portcullis.dev/v1alpha1
kind: User
metadata: {name: alice}
spec: {identities: [{issuer: 'https://i.example', subject: a}]}
---
apiVersion: portcullis.dev/v1alpha1
kind: Role
metadata: {name: admin}
spec: {users: [alice]}
---
apiVersion: portcullis.dev/v1alpha1
kind: Agent
metadata: {name: ci}
spec: {team: blue}
---
apiVersion: portcullis.dev/v1alpha1
kind: Gateway
metadata: {name: g}
spec:
  policies: [{plugin: tool-access, config: {rules: [{allow: ['*'], to: ['team:blue']}]}}]
  servers: [{server: files, credential: {mode: static, connection: c}}]
";
    let documents = read("f.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
    let resources: Vec<_> = documents.into_iter().map(|d| d.resource).collect();
    let again = read("g.yaml", write(&resources).unwrap().as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(again.into_iter().map(|d| d.resource).collect::<Vec<_>>(), resources);
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "\
apiVersion: portcullis.dev/v1alpha1
kind: Plugin
metadata: {name: p}
spec: {source: {file: {path: ./p.wasm}}}
";
    let mut document = read("f.yaml", text.as_bytes()).unwrap().remove(0);
    document.resolve_paths(Path::new("/etc/portcullis"));
    let Spec::Plugin(plugin) = &document.resource.spec else { panic!() };
    assert_eq!(plugin.source, Source::File { path: "/etc/portcullis/p.wasm".to_owned(), sha256: None });
}
