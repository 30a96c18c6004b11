//! Gateways before a bridge: they share its one process, one of them ends, and nothing is crossed or lost.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use portcullis_e2e::{
    PATIENCE, eventually, http,
    parts::{Parts, binary},
    process,
    product::{Product, resource},
};
use serde_json::{Value, json};

struct Bridge(Child, String);

impl Bridge {
    fn start(token: &std::path::Path) -> Self {
        let mut child = Command::new(binary())
            .args(["bridge", "--listen", "127.0.0.1:0", "--token-file"])
            .arg(token)
            .arg("--")
            .arg(&Parts::get().node_bin)
            .args([&Parts::get().script("server-everything"), "stdio"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, url) = std::sync::mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("listening at ") {
                    let _ = sender.send(url.trim().to_owned());
                }
            }
        });
        Self(child, url.recv_timeout(PATIENCE).unwrap())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn gateway(url: &str, token: &std::path::Path) -> (Product, String) {
    let server = json!({
        "remote": {"url": url, "allowPrivate": true},
        "traffic": {"interaction": "shared"},
        "fields": [{"name": "token", "required": true, "sensitive": true}],
        "credential": {"place": [{"field": "token", "header": "Authorization", "prefix": "Bearer "}]},
    });
    let account = json!({
        "server": "bridged", "owner": {"organization": true}, "secrets": {"token": {"file": token}}, "ownerOnly": false,
    });
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("McpServer", "bridged", server),
        resource("Connection", "bridged", account),
        resource("Gateway", "main", json!({"servers": [{"server": "bridged"}]})),
    ])
    .await
    .unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    (product, token)
}

#[tokio::test]
async fn two_gateways_share_the_process_behind_a_bridge_and_one_of_them_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "a-secret-between-gateway-and-bridge\n").unwrap();
    let bridge = Bridge::start(&token);
    let (mut one, first) = gateway(&bridge.1, &token).await;
    let (two, second) = gateway(&bridge.1, &token).await;
    let echo = async |product: &Product, token: &str, text: &str| {
        let reply = http::call(&product.url("main"), Some(token), "bridged__echo", json!({"message": text})).await?;
        anyhow::Ok(reply.text().contains(text))
    };
    for (product, token, text) in [(&one, &first, "from the first"), (&two, &second, "from the second")] {
        let said = || async { echo(product, token, text).await.is_ok_and(|said| said).then_some(()) };
        eventually("the server behind the bridge answers", said).await;
    }
    let servers = || process::descendants(bridge.0.id()).into_iter().map(process::command);
    let served = |c: &String| c.contains("server-everything") && !c.contains("supervise");
    assert_eq!(servers().filter(served).count(), 1, "{:?}", servers().collect::<Vec<_>>());

    // One gateway is killed and comes again while the other calls: no call of the other's fails, none gets another's answer.
    let (url, token_of_two) = (two.url("main"), second.clone());
    let calling = tokio::spawn(async move {
        for n in 0..40 {
            let text = format!("number {n} of the second");
            let reply: Value = http::call(&url, Some(&token_of_two), "bridged__echo", json!({"message": text}))
                .await
                .unwrap()
                .message();
            assert_eq!(reply["result"]["content"][0]["text"], format!("Echo: {text}"), "{reply}");
        }
    });
    one.kill().await;
    one.launch().await.unwrap();
    let said = || async { echo(&one, &first, "from the first again").await.is_ok_and(|said| said).then_some(()) };
    eventually("the gateway that was killed goes on", said).await;
    calling.await.unwrap();
    one.stop().await;
    two.stop().await;
}
