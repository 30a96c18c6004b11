//! A registry that gives no answer and a component that takes long to compile hold nothing up: not a rollback, not another change.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
    registry::{Registry, USER},
};
use serde_json::{Value, json};

use super::{place, version};

/// What a rollback may take here at most: a process is started for it, on a machine that compiles. A round that waits takes ten seconds
/// and more.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A component within all limits that takes the compiler a minute: loops whose locals depend on each other. It has no hook.
fn heavy() -> Vec<u8> {
    const LOCALS: usize = 100;
    let leb = |mut n: usize| {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let section = |id: u8, content: &[u8]| [&[id][..], &leb(content.len()), content].concat();
    let (functions, loops) = (50, 5_000);
    let bodies: Vec<u8> = (0..functions)
        .flat_map(|n: usize| {
            let mut body = vec![1, LOCALS as u8, 0x7e];
            for at in 0..loops {
                let (to, one, other) = (at % (LOCALS - 1) + 1, at % LOCALS, (at * 5 + n) % LOCALS);
                let operation = if at % 3 == 0 { 0x7e } else { 0x85 };
                // (loop (local.set $to (i64.mul or i64.xor $one $other)) (br_if 0 $to))
                body.extend([3, 0x40, 0x20, one as u8, 0x20, other as u8, operation, 0x21, to as u8]);
                body.extend([0x20, to as u8, 0xa7, 0x0d, 0, 0x0b]);
            }
            body.extend([0x20, 7, 0x0b]);
            [leb(body.len()), body].concat()
        })
        .collect();
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        &section(1, &[1, 0x60, 1, 0x7e, 1, 0x7e]),
        &section(3, &[leb(functions), vec![0; functions]].concat()),
        &section(10, &[leb(functions), bodies].concat()),
    ]
    .concat();
    [&b"\0asm\x0d\0\x01\0"[..], &section(1, &module)].concat()
}

struct House {
    product: Product,
    rest: Vec<Value>,
    dir: PathBuf,
}

impl House {
    fn write(&self, more: &[Value]) {
        self.product.write("resources.yaml", &[&self.rest[..], more].concat()).unwrap();
    }

    fn plugin(&self, name: &str, file: &str) -> Value {
        let source = json!({"file": {"path": self.dir.join(file)}});
        resource("Plugin", name, json!({"source": source, "config": {"default": "allow"}}))
    }

    fn status(&self, name: &str) -> Value {
        self.product.ask(&["plugin", "status", name], "").unwrap_or_default()
    }

    async fn stands(&self, name: &str, state: &str) -> Value {
        let so = || async { Some(self.status(name)).filter(|status| status["state"] == state) };
        eventually(&format!("{name}: {state}"), so).await
    }

    async fn under_way(&self) -> String {
        let metrics = http::get(&self.product.page("/metrics"), &[]).await.unwrap().text();
        metrics.lines().filter(|l| l.starts_with("portcullis_plugin_under_way")).collect::<Vec<_>>().join(" ")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_registry_and_a_long_compilation_hold_nothing_up() {
    let echo = Echo::start().await.unwrap();
    let registry = Registry::start().await.unwrap();
    let gateway = |policy: &str| json!({"policies": [{"plugin": policy}], "servers": [{"server": "echo"}]});
    let mut rest = vec![
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        resource("Gateway", "main", gateway("guard")),
    ];
    let settings = json!({"plugins": {"signatures": "none"}});
    let product = Product::start_with(&rest, &[], settings).await.unwrap();
    let (dir, alice) = (product.home().join("components"), product.token("user:alice").unwrap().1);
    std::fs::create_dir(&dir).unwrap();
    place(&dir.join("guard.wasm"), &version(1));
    place(&dir.join("far.wasm"), &version(9));
    place(&dir.join("heavy.wasm"), &heavy());
    let (far, name) = (dir.join("far.wasm"), registry.name("plugins/far:1"));
    let password = registry.password_file();
    let push = ["plugin", "push", far.to_str().unwrap(), &name, "--username", USER, "--password-file"];
    let pushed = product.ask(&[&push[..], &[password.to_str().unwrap()]].concat(), "").unwrap();
    let login = json!({"username": USER, "password": {"file": password}});
    let source = json!({"oci": {"reference": pushed["reference"], "login": login}});
    let of_registry = json!({"source": source, "config": {"default": "allow"}});

    let mut house = House { product, rest: Vec::new(), dir };
    rest.push(house.plugin("guard", "guard.wasm"));
    house.rest = rest;
    house.write(&[]);
    let first = house.stands("guard", "active").await;
    place(&house.dir.join("guard.wasm"), &version(2));
    let second = eventually("the second version", || async {
        Some(house.status("guard")).filter(|s| s["state"] == "active" && s["active"] != first["active"])
    })
    .await;
    assert_eq!(second["previous"], json!([first["active"]]), "{second}");

    // From here on the registry takes connections and says nothing, and the compiler has work for a while.
    registry.pause();
    let more = [
        resource("Plugin", "far", of_registry),
        house.plugin("heavy", "heavy.wasm"),
        resource("Gateway", "distant", gateway("far")),
    ];
    house.write(&more);
    eventually("the registry is asked", || async { house.under_way().await.contains(r#"fetching"} 1"#).then_some(()) })
        .await;
    let began = Instant::now();
    house.product.ask(&["plugin", "rollback", "guard"], "").unwrap();
    let took = began.elapsed();
    let back = house.status("guard");
    assert_eq!((&back["state"], &back["active"]), (&json!("rolled-back"), &first["active"]), "{back}");
    assert!(took < AT_ONCE, "a rollback took {took:?}");

    // Another change, while both go on.
    house.stands("heavy", "compiling").await;
    let began = Instant::now();
    let second_gateway = resource("Gateway", "second", gateway("guard"));
    house.write(&[&more[..], &[second_gateway]].concat());
    let call = async |gateway: &str| {
        let url = house.product.url(gateway);
        http::call(&url, Some(&alice), "echo__echo", json!({"message": "x"})).await.unwrap().text()
    };
    eventually("a gateway of its own serves", || async {
        call("second").await.contains(r#""isError":false"#).then_some(())
    })
    .await;
    let took = began.elapsed();
    assert!(took < AT_ONCE, "another change took {took:?}");
    assert_eq!(house.status("heavy")["state"], "compiling", "it was under way all the time");
    let waits = house.stands("far", "fetching").await;
    assert_eq!(waits["active"], Value::Null, "{waits}");
    assert!(waits["problem"].as_str().unwrap().contains("still being fetched"), "{waits}");
    let described = house.product.ask(&["describe", "plugin", "far"], "").unwrap().to_string();
    assert!(described.contains("UnderWay"), "{described}");
    let ready = http::get(&house.product.page("/readyz"), &[]).await.unwrap().text();
    assert!(ready.contains("Plugin/far") && !ready.contains("Plugin/guard"), "{ready}");
    assert!(call("distant").await.contains("not-ready"), "what has to ask it refuses");

    // It answers again.
    registry.resume();
    house.stands("far", "active").await;
    eventually("the policy of the registry is asked", || async {
        call("distant").await.contains(r#""isError":false"#).then_some(())
    })
    .await;
    house.product.ask(&["plugin", "resume", "guard"], "").unwrap();
    assert_eq!(house.status("guard")["active"], second["active"]);
    house.product.stop().await;
}
