//! Servers on standard input and output, played by the test at the other end of the pipes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis_upstream::{
    Account, BoxFuture, Conversation, Endpoint, Incoming, LaunchError, LaunchKey, LaunchSpec, Launcher, MessageStream,
    Options, Outgoing, Params, Peer, Pipes, Target, TargetKey, UpstreamError, Upstreams, launch::Child,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use crate::{
    fixture::eventually,
    talk::{ask, listen, next, note, soon},
};

const CLIENT: &str = r#"{"elicitation":{},"roots":{}}"#;

/// Starts children that are nothing but pipes.
#[derive(Default)]
struct Stage {
    modern: bool,
    started: AtomicUsize,
    children: Mutex<Vec<Arc<Actor>>>,
}

/// A child: what it was told, and how it talks.
struct Actor {
    seen: Mutex<Vec<Value>>,
    out: tokio::sync::mpsc::Sender<String>,
}

struct Nothing;

impl Child for Nothing {
    fn ready(&self) {}
    fn degraded(&self, _: &str) {}
}

impl Launcher for Stage {
    fn launch(&self, _: &LaunchKey, _: &LaunchSpec) -> BoxFuture<'static, Result<Pipes, LaunchError>> {
        self.started.fetch_add(1, Ordering::Relaxed);
        let (stdin, theirs) = tokio::io::duplex(64 << 10);
        let (mut ours, stdout) = tokio::io::duplex(64 << 10);
        let (out, mut lines) = tokio::sync::mpsc::channel::<String>(10_000);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                if line.is_empty() || ours.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let actor = Arc::new(Actor { seen: Mutex::default(), out });
        tokio::spawn(actor.clone().play(self.modern, theirs));
        self.children.lock().unwrap().push(actor);
        Box::pin(async move {
            Ok(Pipes {
                stdin: Box::new(stdin),
                stdout: Box::new(stdout),
                child: Box::new(Nothing),
                leave: tokio::sync::oneshot::channel().1,
            })
        })
    }
}

impl Actor {
    async fn play(self: Arc<Self>, modern: bool, input: DuplexStream) {
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let message: Value = serde_json::from_str(&line).unwrap();
            self.seen.lock().unwrap().push(message.clone());
            let id = &message["id"];
            let result = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
            match message["method"].as_str().unwrap_or_default() {
                "server/discover" if modern => self.say(&result(
                    json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {"listChanged": true}}}),
                )),
                "server/discover" => {
                    self.say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}}));
                }
                "initialize" => self.say(&result(json!({"protocolVersion": "2025-11-25", "capabilities": {}}))),
                "subscriptions/listen" => self.say(&note(
                    "notifications/subscriptions/acknowledged",
                    &json!({"_meta": {"io.modelcontextprotocol/subscriptionId": id}, "notifications": {}}),
                )),
                "resources/subscribe" if message["params"]["uri"] == "refused" => {
                    self.say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32002, "message": "no"}}));
                }
                "resources/subscribe" | "resources/unsubscribe" => self.say(&result(json!({}))),
                _ => {}
            }
        }
    }

    fn say(&self, message: &Value) {
        self.out.try_send(message.to_string()).unwrap();
    }

    /// Ends.
    fn end(&self) {
        self.out.try_send(String::new()).unwrap();
    }

    fn count(&self, matches: impl Fn(&Value) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|m| matches(m)).count()
    }

    /// The id of the n-th call of a tool.
    async fn call(&self, tool: &str) -> Value {
        let find = || self.seen.lock().unwrap().iter().rfind(|m| m["params"]["name"] == tool).map(|m| m["id"].clone());
        eventually("the call arrives", || find().is_some()).await;
        find().unwrap()
    }

    fn finish(&self, id: &Value) {
        self.say(&json!({"jsonrpc": "2.0", "id": id, "result": {"done": true}}));
    }
}

struct Theatre {
    stage: Arc<Stage>,
    pool: Arc<Upstreams>,
}

impl Theatre {
    fn open(modern: bool) -> Self {
        let stage = Arc::new(Stage { modern, ..Stage::default() });
        Self { pool: Upstreams::new(Options::new(stage.clone())).unwrap(), stage }
    }

    fn peer(&self, conversation: Option<&str>) -> Arc<Peer> {
        let conversation = conversation.map(|id| Arc::new(Conversation { id: id.into(), capabilities: CLIENT.into() }));
        let key = TargetKey {
            tenant: "default".parse().unwrap(),
            server: "actor".parse().unwrap(),
            generation: 1,
            account: Account::None,
            conversation,
            era: None,
        };
        let process = serde_json::from_value(json!({"command": "none", "maxInFlight": 8})).unwrap();
        let spec = LaunchSpec::plain(Arc::new(process));
        self.pool.peer(&Target { key, endpoint: Endpoint::Stdio(Arc::new(spec)), traffic: Arc::default() }).unwrap()
    }

    fn actor(&self, at: usize) -> Arc<Actor> {
        self.stage.children.lock().unwrap()[at].clone()
    }
}

async fn send(peer: &Peer, tool: &str, log_level: Option<&str>) -> Result<Incoming, UpstreamError> {
    let members = format!(r#""name":"{tool}""#);
    let body = Params { method: "tools/call", members: &members };
    peer.send(Outgoing { name: Some(tool), log_level, ..Outgoing::new("tools/call", &body, soon()) }).await
}

/// A call that is under way: the first thing said on it is a log message.
async fn under_way(peer: &Peer, actor: &Actor, tool: &str) -> (MessageStream, Value) {
    let (incoming, id) = tokio::join!(send(peer, tool, None), async {
        let id = actor.call(tool).await;
        actor.say(&note("notifications/message", &json!({"data": tool})));
        id
    });
    let Incoming::Stream { mut stream, .. } = incoming.unwrap() else { panic!("no stream") };
    assert_eq!(next(&mut stream).await["params"]["data"], tool);
    (stream, id)
}

fn reply(id: &str) -> bytes::Bytes {
    json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept"}}).to_string().into()
}

#[tokio::test]
async fn two_conversations_have_a_child_each() {
    let theatre = Theatre::open(false);
    let (one, two) = (theatre.peer(Some("1")), theatre.peer(Some("2")));
    one.connect(&[], soon()).await.unwrap();
    two.connect(&[], soon()).await.unwrap();
    assert_eq!(theatre.stage.started.load(Ordering::Relaxed), 2);
    let (a, b) = (theatre.actor(0), theatre.actor(1));
    assert_eq!(a.count(|m| m["params"]["capabilities"]["elicitation"].is_object()), 1);
    let (mut first, first_id) = under_way(&one, &a, "x").await;
    let (mut second, second_id) = under_way(&two, &b, "x").await;
    // The same id in both: nothing crosses.
    for actor in [&a, &b] {
        actor.say(&ask("q", "elicitation/create"));
    }
    assert_eq!(next(&mut first).await["id"], "q");
    assert_eq!(next(&mut second).await["id"], "q");
    one.reply(reply("q"), &[], soon()).await.unwrap();
    eventually("answered", || a.count(|m| m["id"] == "q" && m.get("result").is_some()) == 1).await;
    assert_eq!(b.count(|m| m["id"] == "q"), 0);
    a.finish(&first_id);
    assert_eq!(next(&mut first).await["result"]["done"], true);
    drop(second);
    eventually("cancelled", || b.count(|m| m["method"] == "notifications/cancelled") == 1).await;
    two.reply(reply("q"), &[], soon()).await.unwrap();
    two.reply(note("notifications/roots/list_changed", &json!({})).to_string().into(), &[], soon()).await.unwrap();
    eventually("told", || b.count(|m| m["method"] == "notifications/roots/list_changed") == 1).await;
    assert_eq!(b.count(|m| m["id"] == "q"), 0, "its call is gone");
    assert_eq!(b.count(|m| m["params"]["requestId"] == second_id), 1);
}

#[tokio::test]
async fn where_a_question_goes() {
    let theatre = Theatre::open(false);
    let peer = theatre.peer(Some("c"));
    peer.connect(&[], soon()).await.unwrap();
    let actor = theatre.actor(0);
    actor.say(&ask("nobody", "roots/list"));
    eventually("with nobody there it is refused", || {
        actor.count(|m| m["id"] == "nobody" && m["error"].is_object()) == 1
    })
    .await;
    let mut heard = listen(&peer, &[]).await.unwrap();
    actor.say(&ask("outside", "roots/list"));
    assert_eq!(next(&mut heard).await["id"], "outside");
    let (mut one, id) = under_way(&peer, &actor, "one").await;
    actor.say(&ask("inside", "roots/list"));
    assert_eq!(next(&mut one).await["id"], "inside", "the only call under way");
    actor.say(&note("notifications/cancelled", &json!({"requestId": "inside"})));
    assert_eq!(next(&mut one).await["method"], "notifications/cancelled");
    peer.reply(reply("inside"), &[], soon()).await.unwrap();
    let (two, _) = tokio::join!(send(&peer, "two", None), async {
        actor.call("two").await;
        actor.say(&ask("which", "roots/list"));
        assert_eq!(next(&mut heard).await["id"], "which", "whose it is nobody knows");
        let two = actor.call("two").await;
        actor.finish(&two);
    });
    assert!(matches!(two.unwrap(), Incoming::Json { .. }));
    drop(heard);
    actor.finish(&id);
    assert_eq!(next(&mut one).await["result"]["done"], true);
    assert_eq!(actor.count(|m| m["id"] == "inside"), 0, "a question that was withdrawn has no answer");
}

#[tokio::test]
async fn a_shared_child_tells_nobody_what_is_not_theirs() {
    for modern in [false, true] {
        let theatre = Theatre::open(modern);
        let peer = theatre.peer(None);
        let mut heard = listen(&peer, &["a"]).await.unwrap();
        let actor = theatre.actor(0);
        let log = |data: &str| note("notifications/message", &json!({"data": data}));
        let (quiet, ()) = tokio::join!(send(&peer, "quiet", None), async {
            let id = actor.call("quiet").await;
            actor.say(&ask("q", "elicitation/create"));
            actor.say(&log("whose?"));
            actor.finish(&id);
        });
        assert!(matches!(quiet.unwrap(), Incoming::Json { .. }), "it heard nothing before its answer");
        let (wanted, ()) = tokio::join!(send(&peer, "wanted", Some("info")), async {
            let id = actor.call("wanted").await;
            actor.say(&log("asked for"));
            actor.finish(&id);
        });
        let Incoming::Stream { mut stream, .. } = wanted.unwrap() else { panic!("the only call hears its log") };
        assert_eq!(next(&mut stream).await["params"]["data"], "asked for");
        actor.say(&note("notifications/resources/updated", &json!({"uri": "a"})));
        assert_eq!(next(&mut heard).await["params"]["uri"], "a", "and the listener heard nothing of all that");
        let refused = usize::from(!modern);
        eventually("the question is refused, in the era that has questions", || {
            actor.count(|m| m["id"] == "q" && m["error"].is_object()) == refused
        })
        .await;
    }
}

#[tokio::test]
async fn subscriptions_outlive_the_child_of_a_shared_peer_but_not_a_conversation() {
    for modern in [false, true] {
        let theatre = Theatre::open(modern);
        let (shared, own) = (theatre.peer(None), theatre.peer(Some("c")));
        let mut heard = listen(&shared, &["a"]).await.unwrap();
        theatre.actor(0).end();
        eventually("it is started again", || theatre.stage.started.load(Ordering::Relaxed) == 2).await;
        let actor = theatre.actor(1);
        eventually("and subscribed to again", || {
            actor.count(|m| {
                m["params"]["uri"] == "a" || m["params"]["notifications"]["resourceSubscriptions"] == json!(["a"])
            }) == 1
        })
        .await;
        actor.say(&note("notifications/resources/updated", &json!({"uri": "a"})));
        assert_eq!(next(&mut heard).await["params"]["uri"], "a");
        if !modern {
            let refused = listen(&shared, &["refused"]).await.err().unwrap();
            assert!(matches!(refused, UpstreamError::Refused { code: -32002 }), "{refused}");
        }
        let mut heard = listen(&own, &[]).await.unwrap();
        theatre.actor(2).end();
        let ended = tokio::time::timeout(Duration::from_secs(5), heard.next()).await.unwrap().unwrap();
        assert!(matches!(ended, Err(UpstreamError::Closed { .. })));
        theatre.pool.release(own.key());
        assert_eq!(theatre.pool.len(), 1);
    }
}

/// A server that asks and never reads fills nobody's memory, and does not keep calls from being answered.
#[tokio::test]
async fn a_server_that_asks_and_never_reads() {
    let theatre = Theatre::open(false);
    let peer = theatre.peer(None);
    peer.connect(&[], soon()).await.unwrap();
    let actor = theatre.actor(0);
    let (incoming, ()) = tokio::join!(send(&peer, "x", None), async {
        let id = actor.call("x").await;
        for n in 0..5_000 {
            actor.say(&ask(&format!("q{n}"), "sampling/createMessage"));
        }
        actor.finish(&id);
    });
    assert!(matches!(incoming.unwrap(), Incoming::Json { .. }));
}
