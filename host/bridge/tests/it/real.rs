//! Real servers behind the bridge, asked by the official clients: two at once.

use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    servers,
};
use serde_json::json;

use crate::kit::Bridge;

#[tokio::test(flavor = "multi_thread")]
async fn the_seven_real_servers_answer_both_clients_at_once() {
    let folder = tempfile::tempdir().unwrap();
    servers::prepare(folder.path()).unwrap();
    for server in servers::all(folder.path()) {
        // Where it writes, and no network.
        if matches!(server.name, "memory" | "fetch") {
            continue;
        }
        let bridge = Bridge::over(&[], &server.command, &server.args).await;
        let one = async {
            let mut driver = Driver::connect(Sdk::Python, &bridge.url, None, "auto").await.unwrap();
            assert_eq!(driver.version, server.version, "{}", server.name);
            (driver.names().await.unwrap(), driver)
        };
        let two = async {
            let mut driver = Driver::connect(Sdk::Node, &bridge.url, None, "auto").await.unwrap();
            assert_eq!(driver.version, server.version, "{}", server.name);
            (driver.names().await.unwrap(), driver)
        };
        let ((names, mut python), (same, mut node)) = tokio::join!(one, two);
        assert_eq!((names.len(), &names), (server.tools, &same), "{}", server.name);
        let (tool, arguments, said) = match server.name {
            "everything" => ("echo", json!({"message": "hello"}), "hello"),
            "filesystem" => {
                ("read_text_file", json!({"path": folder.path().join("files/public.txt")}), "for everybody")
            }
            "thinking" => (
                "sequentialthinking",
                json!({"thought": "hm", "nextThoughtNeeded": false, "thoughtNumber": 1, "totalThoughts": 1}),
                "thoughtNumber",
            ),
            "time" => ("get_current_time", json!({"timezone": "Europe/Vienna"}), "Europe/Vienna"),
            _ => ("git_status", json!({"repo_path": folder.path().join("repository")}), "No commits yet"),
        };
        let (a, b) = tokio::join!(python.call(tool, arguments.clone()), node.call(tool, arguments.clone()));
        for result in [a.unwrap(), b.unwrap()] {
            assert!(text(&result).contains(said), "{}: {result}", server.name);
        }
        python.close().await.unwrap();
        node.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_asks_the_official_clients() {
    let folder = tempfile::tempdir().unwrap();
    servers::prepare(folder.path()).unwrap();
    let everything = servers::all(folder.path()).into_iter().find(|s| s.name == "everything").unwrap();
    let bridge = Bridge::over(&[], &everything.command, &everything.args).await;
    for sdk in [Sdk::Python, Sdk::Node] {
        let mut driver = Driver::answering(sdk, &bridge.url, "auto").await.unwrap();
        let names = driver.names().await.unwrap();
        let sample = names.iter().find(|n| n.contains("sampling")).unwrap_or_else(|| panic!("{names:?}"));
        let result = driver.call(sample, json!({"prompt": "hello", "maxTokens": 10})).await.unwrap();
        assert!(text(&result).contains("sample of the client"), "{sdk:?}: {result}");
        driver.close().await.unwrap();
    }
}
