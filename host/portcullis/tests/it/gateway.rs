//! A gateway from its first start to its end, by the command line.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::support::{Gateway, eventually, get, raw, run, run_with, shell};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn quickstart_serves_and_its_next_steps_work() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::quickstart(dir.path());
    let url = gateway.word_after("URL ");
    let token = gateway.word_after("token ");
    assert!(token.starts_with("pcl_"));

    let tools = gateway.run(&["call", "default", "-o", "json"]);
    let names: Vec<Value> = json(&tools.out)["items"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["demo__time_now", "demo__text_stats", "demo__notes_add", "demo__notes_list"]);
    let called = gateway.run(&["call", "default", "demo__text_stats", "{\"text\": \"a b\"}", "-o", "json"]);
    assert_eq!(json(&called.out)["structuredContent"]["words"], 2, "{}", called.err);
    let other = run_with(dir.path(), &["call", "default", "demo__notes_list", "--as", "user:me"], "");
    assert_eq!(other.code, 0, "{}", other.err);
    let made = |more: &[&str]| {
        let args = [&["token", "list", "-o", "json"], more].concat();
        let mut listed = json(&gateway.run(&args).out)["items"].as_array().unwrap().clone();
        listed.retain(|t| t["name"] == "portcullis call --as");
        listed
    };
    assert!(made(&[]).is_empty(), "what has ended is in nobody's way");
    let ended = made(&["--all"]);
    assert!(!ended.is_empty() && ended.iter().all(|t| t["state"] == "revoked"), "{ended:?}");

    let address = url.trim_start_matches("http://").trim_end_matches("/mcp/default");
    assert_eq!(get(address, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz").0, 200);
    assert!(get(address, "/metrics").1.contains("portcullis_calls_total{"));

    // Another server, by editing the file.
    let file = dir.path().join("resources/quickstart.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let program = env!("CARGO_BIN_EXE_portcullis");
    let more = text.replace("    - server: demo\n", "    - server: demo\n    - server: second\n")
        + &format!(
            "---\napiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: second}}\nspec: {{process: {{command: {program}, args: [demo-server]}}}}\n"
        );
    fs::write(&file, &more).unwrap();
    eventually("the second server is listed", || gateway.run(&["call", "default"]).out.contains("second__time_now"));
    assert_eq!(gateway.run(&["doctor"]).code, 0);

    // A mistake is told with its line, and what was serving goes on.
    fs::write(&file, more.replace("process:", "proces:")).unwrap();
    eventually("the mistake is told", || {
        gateway.run(&["doctor"]).out.contains("quickstart.yaml:17:3: unknown field `proces`")
    });
    assert_eq!(gateway.run(&["doctor"]).code, 1);
    assert_eq!(gateway.run(&["call", "default", "second__time_now"]).code, 0);
    fs::write(&file, &text).unwrap();
    eventually("the mistake is gone", || gateway.run(&["doctor"]).code == 0);

    assert!(gateway.run(&["logs", "demo"]).out.contains("started"));
    assert_eq!(gateway.run(&["restart", "demo"]).code, 0);
    assert_eq!(gateway.run(&["call", "default", "demo__time_now"]).code, 0);

    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("token"), 0o600);
    assert_eq!(mode("admin.sock"), 0o600);
    assert_eq!(mode("sealing.key"), 0o600);
    assert_eq!(gateway.stop(), 0);

    // The same again, from what is there.
    let again = Gateway::quickstart(dir.path());
    assert_eq!(again.word_after("token "), token);
    assert_eq!(again.run(&["call", "default", "demo__time_now"]).code, 0);

    // A revoked token is refused at once, and the next start makes another.
    let listed = json(&again.run(&["token", "list", "-o", "json"]).out);
    let id = listed["items"].as_array().unwrap().iter().find(|t| t["name"] == "quickstart").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(again.run(&["token", "revoke", &id]).code, 0);
    assert_eq!(again.run(&["call", "default", "demo__time_now"]).code, 4);
    assert_eq!(again.stop(), 0);
    let third = Gateway::quickstart(dir.path());
    assert_ne!(third.word_after("token "), token);
    assert_eq!(third.run(&["call", "default", "demo__time_now"]).code, 0);
}

#[test]
fn the_printed_lines_work_as_they_stand_wherever_everything_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let data = dir.path().join("it's my data");
    let socket = elsewhere.path().join("admin.sock");
    let start = ["quickstart", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    let mut with_socket = start.to_vec();
    with_socket.extend(["--socket", socket.to_str().unwrap()]);
    for args in [&start[..], &with_socket] {
        // Neither its environment nor its directory is that of the terminal where the lines are typed.
        let gateway = Gateway::start(dir.path(), args, "Ctrl-C stops it");
        for (step, answer) in [("list the tools", "demo__time_now"), ("call one", "+02:00")] {
            let line = gateway.said.lines().find_map(|l| l.split_once(step)).unwrap().1.trim();
            let ran = shell(elsewhere.path(), line);
            assert_eq!(ran.code, 0, "{line}: {}", ran.err);
            assert!(ran.out.contains(answer), "{line}: {}", ran.out);
        }
        let nobody = run(elsewhere.path(), &["call", "default", "--url", &gateway.word_after("URL ")]);
        assert_eq!(nobody.code, 4);
        assert!(nobody.err.contains("no token was sent"), "{}", nobody.err);
        assert_eq!(gateway.stop(), 0);
    }
}

/// The YAML of the README beside what quickstart serves, and the steps that the README goes on with.
#[test]
fn the_example_of_the_readme_can_be_followed() {
    let readme = include_str!("../../../../README.md");
    let example = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::quickstart(dir.path());
    let file = dir.path().join("example.yaml");
    fs::write(&file, example).unwrap();
    let applied = gateway.run(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(applied.code, 0, "{}", applied.err);
    for step in ["apply -f example.yaml", "connect github --owner user:alice", "token create --owner user:alice"] {
        assert!(readme.contains(&format!("target/release/portcullis {step}")), "{step}");
    }
    assert!(readme.contains("target/release/portcullis call main --as user:alice"));
    let connected =
        run_with(dir.path(), &["connect", "github", "--owner", "user:alice", "--owner-only", "true"], "secret\n");
    assert_eq!(connected.code, 0, "{}", connected.err);
    assert_eq!(gateway.run(&["token", "create", "--owner", "user:alice", "--name", "laptop"]).code, 0);
    assert!(gateway.run(&["describe", "gateway", "main"]).out.contains("/mcp/main"));
}

#[test]
fn the_first_token_goes_to_a_private_file_and_never_to_a_log() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("serve.yaml"), "listen: 127.0.0.1:0\ndataDir: data\n").unwrap();
    let config = dir.path().join("serve.yaml");
    let gateway = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "is in this file");
    let file = dir.path().join("data/first-token");
    let token = fs::read_to_string(&file).unwrap();
    assert!(token.starts_with("pcl_"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!gateway.said.contains(&token));
    let socket = dir.path().join("data/admin.sock");
    let users = gateway.run(&["get", "users", "-o", "json", "--socket", socket.to_str().unwrap()]);
    assert_eq!(json(&users.out)["items"][0]["metadata"]["name"], "admin", "{}", users.err);
    gateway.stop();

    fs::remove_file(&file).unwrap();
    let again = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "serving");
    assert_eq!(again.run(&["get", "users", "--socket", socket.to_str().unwrap()]).code, 0);
    assert!(!file.exists(), "only once");
}

#[test]
fn resources_are_applied_connected_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::quickstart(dir.path());
    let set = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: keyed}
spec:
  process: {command: sh, args: [-c, 'exec sleep 1']}
  fields: [{name: key, sensitive: true, required: true}]
  credential: {place: [{field: key, env: KEY}]}
";
    let dry = run_with(dir.path(), &["apply", "-f", "-", "--dry-run"], set);
    assert_eq!((dry.code, dry.out.as_str()), (0, "McpServer/keyed created (dry run)\n"), "{}", dry.err);
    assert_eq!(gateway.run(&["get", "server", "keyed"]).code, 3);
    let done = run_with(dir.path(), &["apply", "-f", "-", "-o", "json"], set);
    assert_eq!(json(&done.out)["items"][0]["change"], "created");
    let yaml = gateway.run(&["get", "server", "keyed", "-o", "yaml"]).out;
    assert!(yaml.starts_with("apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata:\n"), "{yaml}");
    assert_eq!(run_with(dir.path(), &["apply", "-f", "-"], &yaml).out, "McpServer/keyed unchanged\n");

    let connected =
        run_with(dir.path(), &["connect", "keyed", "--owner", "user:me", "--owner-only", "true"], "s3cret-value\n");
    assert_eq!(connected.out, "Connection/keyed-me created, bound to process\n", "{}", connected.err);
    assert!(gateway.run(&["describe", "connection", "keyed-me"]).out.contains("Usable"));
    assert!(!gateway.run(&["get", "all", "-o", "json"]).out.contains("s3cret"));
    assert_eq!(gateway.run(&["delete", "connection", "keyed-me"]).code, 0);
    assert_eq!(gateway.run(&["get", "connection", "keyed-me"]).code, 3);
    assert_eq!(gateway.run(&["delete", "server", "keyed"]).out, "McpServer/keyed deleted\n");
}

#[test]
fn a_second_gateway_in_one_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::quickstart(dir.path());
    let config = dir.path().join("serve.yaml");
    std::fs::write(&config, format!("listen: 127.0.0.1:0\ndataDir: {}\n", dir.path().display())).unwrap();
    let second = gateway.run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(second.code, 1);
    assert!(second.err.contains("is another gateway running with the same directory?"), "{}", second.err);
    let open = gateway.run(&["quickstart", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.code, 2, "{}", open.err);
}

/// A server whose tool takes a while, and says when it was called by making a file.
const SLOW: &str = r#"
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  say() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
  case "$line" in
    *'"server/discover"'*) say '"error":{"code":-32601,"message":"none"}' ;;
    *'"initialize"'*) say '"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"slow","version":"1"}}' ;;
    *'"tools/list"'*) say '"result":{"tools":[{"name":"wait","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*) : > "$MARK"; sleep 1; say '"result":{"content":[{"type":"text","text":"slow but sure"}]}' ;;
  esac
done
"#;

#[test]
fn calls_under_way_end_before_it_does() {
    let dir = tempfile::tempdir().unwrap();
    // What the gateway keeps is hidden from servers, and they write where their definition says.
    let theirs = tempfile::tempdir().unwrap();
    let (script, mark) = (theirs.path().join("slow.sh"), theirs.path().join("called"));
    fs::write(&script, SLOW).unwrap();
    let gateway = Gateway::quickstart(dir.path());
    let set = format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: slow}}\nspec: {{process: {{command: sh, args: ['{}'], env: {{MARK: '{}'}}, files: {{write: ['{}']}}}}}}\n---\napiVersion: portcullis.dev/v1alpha1\nkind: Gateway\nmetadata: {{name: slow}}\nspec: {{servers: [{{server: slow}}]}}\n",
        script.display(),
        mark.display(),
        theirs.path().display()
    );
    assert_eq!(run_with(dir.path(), &["apply", "-f", "-"], &set).code, 0);
    eventually("the tool is listed", || gateway.run(&["call", "slow"]).out.contains("slow__wait"));
    let home = dir.path().to_owned();
    let calling = std::thread::spawn(move || crate::support::run(&home, &["call", "slow", "slow__wait"]));
    eventually("the call is under way", || mark.exists());
    assert_eq!(gateway.stop(), 0);
    let called = calling.join().unwrap();
    assert_eq!((called.code, called.out.as_str()), (0, "slow but sure\n"), "{}", called.err);
}

#[test]
fn before_it_ends_it_says_so_and_goes_on_for_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("serve.yaml");
    fs::write(&config, "listen: 127.0.0.1:0\ndataDir: data\ndrainDelay: 3s\n").unwrap();
    let gateway = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "is in this file");
    let address = gateway.said.split_once("http://").unwrap().1.split('"').next().unwrap().to_owned();
    assert_eq!(get(&address, "/readyz").0, 200);
    assert!(!raw(&address, "/healthz").to_ascii_lowercase().contains("connection: close"));
    let asked = std::time::Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&gateway.child), rustix::process::Signal::TERM)
        .unwrap();
    eventually("it says that it goes", || get(&address, "/readyz").0 == 503);
    // New connections are served still, and let go with their answers.
    let answer = raw(&address, "/healthz");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert_eq!(gateway.ended(), 0);
    assert!(asked.elapsed() >= std::time::Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
fn metrics_for_others_need_a_listener_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("serve.yaml");
    fs::write(&config, "listen: 127.0.0.1:0\nmetricsFrom: [10.0.0.0/8]\n").unwrap();
    let refused = run(dir.path(), &["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("metricsFrom: needs metricsListen"), "{}", refused.err);
}
