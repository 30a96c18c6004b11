//! Resources that are not there, or not for everybody: what is said of them tells nobody more than that.

use portcullis_e2e::{
    events::Events,
    eventually,
    http::{self, LEGACY, MODERN},
    product::{Product, resource},
    shelf::{Offered, Shelf},
    wire::{Answer, Wire},
};
use serde_json::{Value, json};

use super::asked::{Session, request};

#[tokio::test]
async fn a_resource_that_is_not_there_has_the_code_of_the_clients_era_whoever_would_have_it() {
    let (new, old) =
        (Shelf::start(Offered::modern("new")).await.unwrap(), Shelf::start(Offered::legacy("old")).await.unwrap());
    let spec = json!({"anonymous": true, "auth": [], "servers": [{"server": "new"}, {"server": "old"}]});
    let product = Product::start(&[new.open("new"), old.open("old"), resource("Gateway", "main", spec)]).await.unwrap();
    for (version, code) in [(LEGACY, -32002), (MODERN, -32602)] {
        let mut client = Wire::connect(&product.url("main"), None, version).await.unwrap();
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("both are listed", || async {
            let list = client.lock().await.ask("resources/templates/list", json!({})).await.ok()?.value();
            (list["resourceTemplates"].as_array()?.len() == 2).then_some(())
        })
        .await;
        // By servers of both eras, and where no server has anything of the kind.
        for uri in ["shelf://new/nothing", "shelf://old/nothing", "elsewhere://x"] {
            let answer = client.lock().await.ask("resources/read", json!({"uri": uri})).await.unwrap();
            let Answer::Error(_) = &answer else { panic!("{version} {uri}: {}", answer.raw()) };
            assert_eq!(answer.value()["code"], code, "{version} {uri}: {}", answer.raw());
        }
    }
    assert_eq!((new.seen("resources/read").len(), old.seen("resources/read").len()), (2, 2));
    product.stop().await;
}

#[tokio::test]
async fn nobody_subscribes_to_what_they_may_not_see() {
    let changing = |name: &str| Offered {
        capabilities: json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}}),
        ..Offered::modern(name)
    };
    let (one, two) = (Shelf::start(changing("one")).await.unwrap(), Shelf::start(changing("two")).await.unwrap());
    let rules = json!({"rules": [{"effect": "allow", "principals": ["user:alice"], "servers": ["one"]}]});
    let spec = json!({"policies": [{"plugin": "tool-access", "config": rules}],
        "servers": [{"server": "one"}, {"server": "two"}]});
    let all = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        one.open("one"),
        two.open("two"),
        resource("Gateway", "main", spec),
    ];
    let product = Product::start(&all).await.unwrap();
    let (alice, bob) = (product.token("user:alice").unwrap().1, product.token("user:bob").unwrap().1);
    let url = product.url("main");
    eventually("alice sees one", || async {
        let list = http::ask(&url, Some(&alice), "resources/list", json!({})).await.ok()?.message();
        (list["result"]["resources"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let listen = async |token: &str, filter: Value| {
        let authorization = format!("Bearer {token}");
        let headers = [
            ("authorization", &*authorization),
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "subscriptions/listen"),
        ];
        let message = http::modern("subscriptions/listen", json!({"notifications": filter}));
        Events::open("POST", &url, &headers, message.to_string()).await.unwrap()
    };
    // To what is not there at all, in both eras: what is hidden is refused in the same words.
    let nowhere = "shelf://nowhere/one";
    let session = Session::open(&product, &bob, json!({})).await;
    let said = |error: &Value, uri: &str| {
        let code = (error["code"].clone(), error["data"]["code"].clone(), error["data"]["side"].clone());
        (code, error["message"].as_str().unwrap_or_else(|| panic!("{error}")).replace(uri, "URI"))
    };
    for (token, whose, hidden) in [(&bob, &session, "shelf://one/one"), (&bob, &session, "shelf://two/one")] {
        let mut of = Vec::new();
        for uri in [nowhere, hidden] {
            let old = whose.post(&request(1, "resources/subscribe", json!({"uri": uri}))).await.message();
            let new = listen(token, json!({"resourceSubscriptions": [uri]})).await.json().await.unwrap();
            of.push((said(&old["error"], uri), said(&new["error"], uri)));
        }
        assert_eq!(of[0], of[1], "{hidden}");
    }
    // Beside something that is granted it is left out.
    let mut stream =
        listen(&bob, json!({"toolsListChanged": true, "resourceSubscriptions": ["shelf://one/one"]})).await;
    let (_, granted) = stream.message().await.unwrap().expect("an acknowledgement");
    assert_eq!(granted["params"]["notifications"], json!({"toolsListChanged": true}), "{granted}");
    let asked = |shelf: &Shelf| {
        let all = [shelf.seen("subscriptions/listen"), shelf.seen("resources/subscribe")].concat();
        all.iter().filter(|seen| seen.body.to_string().contains("shelf://")).count()
    };
    assert_eq!((asked(&one), asked(&two)), (0, 0), "no server hears of it");
    // Whoever may see it gets as far as its server.
    let wanted = json!({"resourceSubscriptions": ["shelf://one/one"]});
    let mut stream = listen(&alice, wanted.clone()).await;
    let (_, granted) = stream.message().await.unwrap().expect("an acknowledgement");
    assert_eq!(granted["params"]["notifications"], wanted, "{granted}");
    assert!(asked(&one) > 0 && asked(&two) == 0);
    product.stop().await;
}
