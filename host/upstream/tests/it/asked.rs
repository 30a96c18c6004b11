//! Servers that ask back, over streamable HTTP.

use bytes::Bytes;
use portcullis_upstream::{Incoming, MessageKind, UpstreamError};
use serde_json::{Value, json};

use crate::{
    fixture::{eventually, pool},
    talk::{Talker, ask, call, next, note, peer, soon, stream_of},
};

const CLIENT: &str = r#"{"elicitation":{},"roots":{"listChanged":true}}"#;

fn answer(id: &str, result: &Value) -> Bytes {
    Bytes::from(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string())
}

#[tokio::test]
async fn two_conversations_are_asked_each_its_own() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let talk = async |name: &str| {
        let peer = peer(&pool, &url, Some((name, CLIENT)));
        let question = format!("q-{name}");
        let mut stream = stream_of(
            &peer,
            "ask",
            &json!({"questions": [ask(&question, "elicitation/create"), ask(&format!("{question}2"), "roots/list")]}),
        )
        .await;
        for id in [question.clone(), format!("{question}2")] {
            assert_eq!(next(&mut stream).await["id"], id);
            peer.reply(answer(&id, &json!({"of": name})), &[], soon()).await.unwrap();
        }
        next(&mut stream).await["result"][&question]["result"]["of"].as_str().unwrap().to_owned()
    };
    assert_eq!(tokio::join!(talk("a"), talk("b")), ("a".to_owned(), "b".to_owned()));
    assert_eq!(server.count("initialize"), 2, "a session each");
    let told =
        server.posted(|m| m["method"] == "initialize" && m["params"]["capabilities"]["roots"]["listChanged"] == true);
    assert_eq!(told, 2, "and each says what its client can do");
}

#[tokio::test]
async fn nobody_is_asked_on_a_shared_peer() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, None);
    let arguments = json!({"questions": [ask("q", "elicitation/create"), ask("p", "ping")]});
    let Incoming::Json { message, .. } = call(&peer, "ask", &arguments).await.unwrap() else { panic!("asked") };
    let result: Value = serde_json::from_str(message.payload_text()).unwrap();
    assert_eq!((&result["q"]["error"]["code"], &result["p"]["result"]), (&json!(-32601), &json!({})));
    assert_eq!(server.posted(|m| m["method"] == "initialize" && m["params"]["capabilities"] == json!({})), 1);
    // Answers of clients go nowhere from here.
    peer.reply(answer("q", &json!({})), &[], soon()).await.unwrap();
    assert_eq!(server.posted(|m| m["id"] == "q" && m.get("result").is_some()), 0);
}

#[tokio::test]
async fn only_what_was_advertised_and_only_once_under_one_id() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, Some(("c", CLIENT)));
    let messages = json!([
        ask("no", "sampling/createMessage"),
        ask("yes", "elicitation/create"),
        ask("yes", "elicitation/create"),
        note("notifications/message", &json!({"level": "info", "data": "log"})),
    ]);
    let mut stream = stream_of(&peer, "say", &json!({"messages": messages, "then": "nothing"})).await;
    assert_eq!(next(&mut stream).await["id"], "yes");
    assert_eq!(next(&mut stream).await["method"], "notifications/message", "the second under one id is left out");
    eventually("sampling is refused", || server.posted(|m| m["id"] == "no" && m["error"]["code"] == -32601) == 1).await;
    peer.reply(answer("never-asked", &json!({})), &[], soon()).await.unwrap();
    peer.reply(answer("yes", &json!({"n": 1})), &[], soon()).await.unwrap();
    peer.reply(answer("yes", &json!({"n": 2})), &[], soon()).await.unwrap();
    assert_eq!(server.posted(|m| m["id"] == "yes" && m["result"]["n"] == 1), 1);
    assert_eq!(server.posted(|m| m["id"] == "yes" || m["id"] == "never-asked"), 1, "one answer, and none unasked");
}

#[tokio::test]
async fn what_is_answered_after_the_call_is_gone_goes_nowhere() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, Some(("c", CLIENT)));
    let arguments = json!({"messages": [ask("late", "roots/list")], "then": "nothing"});
    let mut stream = stream_of(&peer, "say", &arguments).await;
    assert_eq!(next(&mut stream).await["id"], "late");
    drop(stream);
    eventually("the server is told", || server.count("notifications/cancelled") == 1).await;
    peer.reply(answer("late", &json!({})), &[], soon()).await.unwrap();
    peer.reply(Bytes::from(note("notifications/roots/list_changed", &json!({})).to_string()), &[], soon())
        .await
        .unwrap();
    assert_eq!(server.posted(|m| m["id"] == "late"), 0);
    assert_eq!(server.count("notifications/roots/list_changed"), 1, "notifications of the client do");
}

#[tokio::test]
async fn a_flood_of_questions_is_bounded() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, Some(("c", CLIENT)));
    let messages: Vec<Value> = (0..200).map(|n| ask(&format!("q{n}"), "roots/list")).collect();
    let mut stream = stream_of(&peer, "say", &json!({"messages": messages})).await;
    let mut asked = 0;
    while let Some(message) = stream.next().await {
        asked += usize::from(message.unwrap().kind == MessageKind::Request);
    }
    assert_eq!(asked, 64);
    eventually("the rest is refused", || server.posted(|m| m["error"]["code"] == -32603) >= 64).await;
}

/// What a call's stream says of subscriptions is for those who subscribed, not for whoever happens to call.
#[tokio::test]
async fn a_call_on_a_shared_peer_hears_nothing_of_others() {
    let (_server, url) = Talker::default().start().await;
    let pool = pool();
    let mut changes = pool.changes();
    let messages = json!([
        note("notifications/resources/updated", &json!({"uri": "somebody's"})),
        note("notifications/cancelled", &json!({"requestId": "q"})),
        note("notifications/tools/list_changed", &json!({})),
    ]);
    let shared = peer(&pool, &url, None);
    let mut stream = stream_of(&shared, "say", &json!({"messages": messages})).await;
    assert_eq!(next(&mut stream).await["method"], "notifications/tools/list_changed");
    assert!(next(&mut stream).await["result"].is_object());
    assert_eq!(changes.recv().await.unwrap().key, *shared.key());
    let own = peer(&pool, &url, Some(("c", CLIENT)));
    let mut stream = stream_of(&own, "say", &json!({"messages": messages})).await;
    assert_eq!(next(&mut stream).await["params"]["uri"], "somebody's");
}

#[tokio::test]
async fn facts_are_kept_as_they_were_written_and_refusals_keep_their_code() {
    for modern in [false, true] {
        let (server, url) = Talker { modern, ..Talker::default() }.start().await;
        let pool = pool();
        let peer = peer(&pool, &url, None);
        assert!(peer.facts().is_none());
        let facts = peer.connect(&[], soon()).await.unwrap();
        let wanted: &[u8] = if modern { br#"{"x":1.1}"# } else { br#"{"resources":{"subscribe":true}}"# };
        assert_eq!((&facts.capabilities[..], facts.instructions.as_deref()), (wanted, modern.then_some("do")));
        assert_eq!(peer.connect(&[], soon()).await.unwrap(), facts);
        assert_eq!(peer.facts().unwrap(), facts);
        assert_eq!((server.count("server/discover"), server.count("initialize")), (1, usize::from(!modern)));
        for code in [-32020, -32022] {
            let refused = match call(&peer, "code", &json!({"code": code})).await.unwrap() {
                Incoming::Json { message, .. } => message.code,
                Incoming::Stream { .. } => panic!("a stream"),
            };
            assert_eq!(refused, Some(code));
        }
        assert!(!matches!(peer.connect(&[], soon()).await, Err(UpstreamError::Protocol(_))));
    }
}

/// A server of both eras is spoken to in the era that the key asks for, side by side.
#[tokio::test]
async fn a_key_may_choose_the_era() {
    use portcullis_protocol::Era;
    let (server, url) = Talker { both: true, ..Talker::default() }.start().await;
    let pool = pool();
    let found = peer(&pool, &url, None);
    let facts = found.connect(&[], soon()).await.unwrap();
    assert!(facts.speaks(Era::Modern) && facts.speaks(Era::Legacy));
    let mut target = crate::talk::target(&url, None);
    target.key.era = Some(Era::Legacy);
    let chosen = pool.peer(&target).unwrap();
    let facts = chosen.connect(&[], soon()).await.unwrap();
    assert_eq!((facts.version.era(), chosen.era(), found.era()), (Era::Legacy, Some(Era::Legacy), Some(Era::Modern)));
    for peer in [&found, &chosen, &found] {
        let Incoming::Json { .. } = call(peer, "say", &json!({"messages": []})).await.unwrap() else {
            panic!("a stream")
        };
    }
    assert_eq!((server.count("server/discover"), server.count("initialize")), (1, 1));
}
