//! The images as they are documented: one command to try it, hardened, its state in a volume, and what servers need beside it.

use portcullis_e2e::{containers::Containers, eventually, http, nginx::free_port};
use serde_json::json;

#[allow(clippy::print_stdout, reason = "why nothing was tried has to be seen")]
fn skipped() -> Option<Containers> {
    match Containers::get().unwrap() {
        Ok(containers) => Some(containers),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// The token that quickstart prints.
async fn token(containers: &Containers, name: &str) -> String {
    let log =
        eventually("it serves", async || containers.log(name).ok().filter(|log| log.contains("Ctrl-C stops it"))).await;
    log.split_once("token  ").unwrap().1.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn one_docker_run_serves_and_keeps_its_state() {
    let Some(containers) = skipped() else { return };
    containers.build("gateway", "portcullis").unwrap();
    let port = free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let publish = format!("127.0.0.1:{port}:7777");
    let run = [
        "-p",
        &publish,
        "-v",
        "portcullis:/var/lib/portcullis",
        "portcullis",
        "quickstart",
        "--listen",
        "0.0.0.0:7777",
        "--url",
        &url,
    ];
    containers.run("one", &run).unwrap();
    let first = token(&containers, "one").await;
    let call =
        async |token: &str| http::call(&format!("{url}/mcp/default"), Some(token), "demo__time_now", json!({})).await;
    let reply = call(&first).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    // Its health check, and who it is.
    let health = containers.exec("one", &["portcullis", "get", "gateways", "-o", "json"]).unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
    let shell = containers.exec("one", &["sh", "-c", "true"]).unwrap();
    assert!(!shell.status.success(), "there is a shell");
    // Nobody elsewhere is answered for a name that is not its.
    let other = http::get(&format!("{url}/readyz"), &[("host", "evil.example")]).await.unwrap();
    assert_eq!(other.status, 403);
    assert_eq!(containers.stop("one").unwrap(), 0, "it ends in time and well");
    // Another container on the same volume goes on.
    containers.run("two", &run).unwrap();
    assert_eq!(token(&containers, "two").await, first);
    assert_eq!(call(&first).await.unwrap().status, 200);
    containers.stop("two").unwrap();
}

#[tokio::test]
async fn what_servers_need_is_beside_it_on_a_read_only_root() {
    let Some(containers) = skipped() else { return };
    containers.servers().unwrap();
    containers.build("local", "portcullis-local").unwrap();
    containers.run("local", &["portcullis-local", "quickstart"]).unwrap();
    token(&containers, "local").await;
    for (command, wanted) in [
        (&["node", "--version"][..], "v24"),
        (&["npx", "--version"], "11"),
        (&["uvx", "--version"], "0.13"),
        (&["python3", "-c", "import os; open('/tmp/x', 'w'); print(os.getuid())"], "65532"),
        (&["sh", "-c", "touch /usr/x 2>/dev/null || echo refused"], "refused"),
        (&["sh", "-c", "uv venv -q /tmp/v && echo made"], "made"),
    ] {
        let ran = containers.exec("local", command).unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(said.contains(wanted), "{command:?}: {said} {}", String::from_utf8_lossy(&ran.stderr));
    }
    assert_eq!(containers.stop("local").unwrap(), 0);
}
