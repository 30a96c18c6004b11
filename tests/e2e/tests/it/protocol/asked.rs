//! A client of 2025 and a server of 2025 that asks it: on the stream of the call, each client by itself, and nothing that a
//! client says wrongly reaches the server.

use portcullis_e2e::{
    asker::Asker,
    events::Events,
    http::{self, LEGACY},
    product::{Product, resource},
};
use serde_json::{Value, json};

pub struct House {
    pub asker: Asker,
    pub product: Product,
    pub tokens: Vec<String>,
}

pub async fn house() -> House {
    let asker = Asker::start().await.unwrap();
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        asker.resource("asker"),
        resource("Gateway", "main", json!({"servers": [{"server": "asker", "bareNames": true}]})),
    ])
    .await
    .unwrap();
    let tokens = ["alice", "bob"].map(|who| product.token(&format!("user:{who}")).unwrap().1).to_vec();
    House { asker, product, tokens }
}

/// A legacy session.
pub struct Session {
    pub url: String,
    pub authorization: String,
    pub id: String,
}

impl Session {
    pub async fn open(product: &Product, token: &str, capabilities: Value) -> Self {
        let authorization = format!("Bearer {token}");
        let url = product.url("main");
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": LEGACY,
            "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}});
        let reply = http::post(&url, &[("authorization", &authorization)], hello.to_string()).await.unwrap();
        let id = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        Self { url, authorization, id }
    }

    pub fn headers(&self) -> Vec<(&str, &str)> {
        vec![("authorization", &self.authorization), ("mcp-session-id", &self.id), ("mcp-protocol-version", LEGACY)]
    }

    pub async fn stream(&self, method: &str, more: &[(&str, &str)], message: &Value) -> Events {
        let headers = [self.headers(), more.to_vec()].concat();
        let body = if message.is_null() { String::new() } else { message.to_string() };
        Events::open(method, &self.url, &headers, body).await.unwrap()
    }

    pub async fn call(&self, id: u64, tool: &str, arguments: Value) -> Events {
        self.stream("POST", &[], &request(id, "tools/call", json!({"name": tool, "arguments": arguments}))).await
    }

    pub async fn post(&self, message: &Value) -> http::Reply {
        http::post(&self.url, &self.headers(), message.to_string()).await.unwrap()
    }

    pub async fn answer(&self, question: &Value, x: &str) {
        let result = json!({"action": "accept", "content": {"x": x}});
        let reply = self.post(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result})).await;
        assert_eq!(reply.status, 202);
    }
}

pub fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// The next message that is a question.
async fn question(events: &mut Events) -> Value {
    let (id, message) = events.message().await.unwrap().expect("a question");
    assert!(id.is_some(), "each event can be resumed from");
    assert_eq!(message["method"], "elicitation/create", "{message}");
    message
}

pub fn heard(message: &Value) -> Value {
    let text = message["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{message}"));
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn two_conversations_never_cross() {
    let house = house().await;
    let form = json!({"elicitation": {}});
    let mut sessions = Vec::new();
    for token in [&house.tokens[0], &house.tokens[1], &house.tokens[0]] {
        sessions.push(Session::open(&house.product, token, form.clone()).await);
    }
    let mut streams = Vec::new();
    for (n, session) in sessions.iter().enumerate() {
        streams.push(session.call(7, "ask", json!({"who": format!("w{n}"), "times": 2})).await);
    }
    let mut questions = Vec::new();
    for (n, stream) in streams.iter_mut().enumerate() {
        let question = question(stream).await;
        assert_eq!(question["params"]["message"], format!("w{n} 0"));
        questions.push(question);
    }
    // Somebody else's session, and an id that was never given: both are left out.
    sessions[1].post(&json!({"jsonrpc": "2.0", "id": 4711, "result": {"content": {"x": "evil"}}})).await;
    for n in [2, 0, 1] {
        sessions[n].answer(&questions[n], &format!("a{n}")).await;
        // Twice.
        sessions[n].answer(&questions[n], "twice").await;
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        let next = question(stream).await;
        assert_eq!(next["params"]["message"], format!("w{n} 1"));
        sessions[n].answer(&next, &format!("b{n}")).await;
        let (_, answer) = stream.message().await.unwrap().unwrap();
        assert_eq!(answer["id"], 7);
        assert_eq!(heard(&answer)["heard"], json!([format!("a{n}"), format!("b{n}")]));
        assert_eq!(heard(&answer)["told"], form);
        assert!(stream.message().await.unwrap().is_none(), "the answer ends the stream");
        // Too late.
        sessions[n].answer(&next, "late").await;
    }
    assert_eq!(house.asker.runs(), 3);
    house.product.stop().await;
}

#[tokio::test]
async fn a_server_hears_it_when_its_client_declines_or_can_not() {
    let house = house().await;
    let session = Session::open(&house.product, &house.tokens[0], json!({"elicitation": {}})).await;
    let mut stream = session.call(1, "ask", json!({"times": 1})).await;
    let asked = question(&mut stream).await;
    let error = json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -7, "message": "no"}});
    session.post(&error).await;
    let (_, answer) = stream.message().await.unwrap().unwrap();
    assert_eq!(heard(&answer)["heard"], json!([{"refused": -7}]), "the client's own words");

    // A form is all that the client can do.
    let plain = Session::open(&house.product, &house.tokens[0], json!({"roots": {}})).await;
    let mut stream = plain.call(1, "ask", json!({"times": 1})).await;
    let answer = match stream.headers["content-type"].to_str().unwrap() {
        "application/json" => stream.json().await.unwrap(),
        _ => stream.message().await.unwrap().unwrap().1,
    };
    assert_eq!(heard(&answer)["heard"], json!([{"refused": -32601}]));

    // Cancelling takes the question along.
    let mut stream = session.call(2, "ask", json!({"times": 1})).await;
    let asked = question(&mut stream).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    session.post(&cancel).await;
    assert!(stream.message().await.unwrap().is_none(), "nothing is said about what was cancelled");
    session.answer(&asked, "late").await;
    house.product.stop().await;
}
