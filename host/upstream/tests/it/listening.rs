//! What servers say outside calls, over streamable HTTP.

use std::time::Duration;

use portcullis_upstream::{Incoming, UpstreamError};
use serde_json::{Value, json};

use crate::{
    fixture::{eventually, pool},
    talk::{Talker, ask, call, listen, next, note, peer, soon},
};

fn updated(uri: &str) -> Value {
    note("notifications/resources/updated", &json!({"uri": uri}))
}

#[tokio::test]
async fn listeners_of_a_shared_session_hear_their_own() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let mut changes = pool.changes();
    let peer = peer(&pool, &url, None);
    let mut one = listen(&peer, &["a", "both"]).await.unwrap();
    let mut two = listen(&peer, &["both"]).await.unwrap();
    assert_eq!((server.streams(), server.count("initialize")), (1, 1), "one stream serves both");
    assert_eq!(server.count("resources/subscribe"), 2, "each resource once");
    server.say(&ask("q", "roots/list"));
    server.say(&updated("a"));
    server.say(&updated("both"));
    server.say(&note("notifications/message", &json!({"data": "of some call"})));
    server.say(&note("notifications/tools/list_changed", &json!({})));
    assert_eq!(next(&mut one).await["params"]["uri"], "a");
    assert_eq!(next(&mut one).await["params"]["uri"], "both");
    assert_eq!(next(&mut one).await["method"], "notifications/tools/list_changed");
    assert_eq!(next(&mut two).await["params"]["uri"], "both");
    assert_eq!(next(&mut two).await["method"], "notifications/tools/list_changed");
    assert_eq!(changes.recv().await.unwrap().key, *peer.key());
    eventually("the question is refused", || server.posted(|m| m["id"] == "q" && m["error"].is_object()) == 1).await;
    drop(one);
    eventually("what nobody wants is let go", || server.count("resources/unsubscribe") == 1).await;
    assert_eq!(server.posted(|m| m["method"] == "resources/unsubscribe" && m["params"]["uri"] == "a"), 1);
}

#[tokio::test]
async fn a_conversation_hears_everything_and_can_be_asked() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, Some(("c", r#"{"roots":{}}"#)));
    let mut heard = listen(&peer, &[]).await.unwrap();
    server.say(&ask("q", "roots/list"));
    assert_eq!(next(&mut heard).await["id"], "q");
    let answer = json!({"jsonrpc": "2.0", "id": "q", "result": {"roots": []}}).to_string();
    peer.reply(answer.into(), &[], soon()).await.unwrap();
    assert_eq!(server.posted(|m| m["id"] == "q" && m["result"]["roots"] == json!([])), 1);
    server.say(&note("notifications/message", &json!({"data": "log"})));
    assert_eq!(next(&mut heard).await["params"]["data"], "log");
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_was() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, None);
    let mut heard = listen(&peer, &["a"]).await.unwrap();
    server.raw(&format!("id: 7\nretry: 1\ndata: {}\n\nid: 8\ndata: {{\"cut", updated("a")));
    server.cut();
    assert_eq!(next(&mut heard).await["params"]["uri"], "a");
    eventually("it is resumed", || server.streams() == 2).await;
    assert_eq!(server.gets.lock().unwrap()[..], [None, Some("7".to_owned())], "from the last event that came whole");
    server.say(&updated("a/b"));
    assert_eq!(next(&mut heard).await["params"]["uri"], "a/b");
}

#[tokio::test]
async fn a_forgotten_session_is_opened_again_with_its_subscriptions() {
    let (server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, None);
    let mut heard = listen(&peer, &["a"]).await.unwrap();
    server.forget_sessions();
    // A call is the first to notice; the stream of the old session is left for a new one.
    let Incoming::Json { .. } = call(&peer, "say", &json!({"messages": []})).await.unwrap() else { panic!("a stream") };
    eventually("a stream in the new session", || server.streams() == 2).await;
    eventually("and what was subscribed to", || server.count("resources/subscribe") == 2).await;
    server.say(&updated("a"));
    assert_eq!(next(&mut heard).await["params"]["uri"], "a");
    assert_eq!(server.count("initialize"), 2);
}

#[tokio::test]
async fn servers_that_offer_no_stream_or_no_subscription_say_so() {
    let (_server, url) = Talker { get_status: Some(405), ..Talker::default() }.start().await;
    let pool = pool();
    let shared = peer(&pool, &url, None);
    for _ in 0..2 {
        let error = listen(&shared, &[]).await.err().unwrap();
        assert!(matches!(error, UpstreamError::Status { code: 405, .. }), "{error}");
    }
    for modern in [false, true] {
        let (_server, url) = Talker { modern, ..Talker::default() }.start().await;
        let pool = crate::fixture::pool();
        let peer = peer(&pool, &url, None);
        let refused = listen(&peer, &["refused"]).await.err().unwrap();
        assert!(matches!(refused, UpstreamError::Refused { code: -32602 }), "{refused}");
        listen(&peer, &["fine"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_flood_ends_the_stream_and_a_slow_reader_only_its_own() {
    for modern in [false, true] {
        let (server, url) = Talker { modern, ..Talker::default() }.start().await;
        let pool = pool();
        let peer = peer(&pool, &url, None);
        let mut slow = listen(&peer, &["a"]).await.unwrap();
        let mut quick = listen(&peer, &["a"]).await.unwrap();
        for _ in 0..300 {
            server.say(&updated("a"));
            next(&mut quick).await;
        }
        let mut heard = 0;
        let error = loop {
            match slow.next().await.unwrap() {
                Ok(_) => heard += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, UpstreamError::Flooded), "{error}");
        assert!(heard <= 256, "{heard}");
        let flood: String = (0..5_000).map(|_| crate::talk::event(&updated("nobody's"))).collect();
        server.raw(&flood);
        let ended = tokio::time::timeout(Duration::from_secs(10), quick.next()).await.unwrap().unwrap();
        assert!(matches!(ended, Err(UpstreamError::Flooded)));
        assert!(quick.next().await.is_none());
    }
}

#[tokio::test]
async fn a_modern_subscription_grows_ends_and_comes_back() {
    let (server, url) = Talker { modern: true, ..Talker::default() }.start().await;
    let pool = pool();
    let peer = peer(&pool, &url, None);
    let mut one = listen(&peer, &["a"]).await.unwrap();
    let mut two = listen(&peer, &["b"]).await.unwrap();
    assert_eq!((server.count("subscriptions/listen"), server.count("initialize")), (2, 0));
    let filters = || -> Vec<Value> {
        let seen = server.seen.lock().unwrap();
        let listens = seen.iter().filter(|m| m["method"] == "subscriptions/listen");
        listens.map(|m| m["params"]["notifications"].clone()).collect()
    };
    assert_eq!(filters()[1], json!({"toolsListChanged": true, "resourceSubscriptions": ["a", "b"]}));
    drop(listen(&peer, &["a"]).await.unwrap());
    assert_eq!(filters().len(), 2, "what is heard already needs no other");
    server.say(&updated("a"));
    server.say(&updated("b"));
    assert_eq!(next(&mut one).await["params"]["uri"], "a");
    assert_eq!(next(&mut two).await["params"]["uri"], "b");
    let id = server.seen.lock().unwrap().iter().rfind(|m| m["method"] == "subscriptions/listen").unwrap()["id"].clone();
    server.say(&json!({"jsonrpc": "2.0", "id": id, "result": {"resultType": "complete"}}));
    eventually("it subscribes again", || filters().len() == 3).await;
    eventually("on another stream", || server.streams() == 3).await;
    server.say(&updated("b"));
    assert_eq!(next(&mut two).await["params"]["uri"], "b");
}

#[tokio::test]
async fn listeners_are_told_when_their_server_is_gone() {
    let (_server, url) = Talker::default().start().await;
    let pool = pool();
    let peer = peer(&pool, &url, None);
    let mut heard = listen(&peer, &[]).await.unwrap();
    pool.retain(|_| false);
    assert!(matches!(heard.next().await.unwrap(), Err(UpstreamError::ShuttingDown)));
    assert!(matches!(listen(&peer, &[]).await.err().unwrap(), UpstreamError::ShuttingDown));
}

/// An answer whose stream is cut at every byte is resumed from the last event that came whole.
#[tokio::test]
async fn an_answer_cut_anywhere_comes_whole() {
    let events: Vec<(String, String)> = [
        ("p0", ""),
        ("p1", r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1}}"#),
        ("p2", r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":2}}"#),
        ("p3", r#"{"jsonrpc":"2.0","id":ID,"result":{"done":true}}"#),
    ]
    .map(|(id, data)| (id.to_owned(), data.to_owned()))
    .to_vec();
    let length: usize = events.iter().map(|(i, d)| i.len() + d.len() + 22).sum();
    let (server, url) = Talker { events, ..Talker::default() }.start().await;
    let pool = pool();
    let peer = peer(&pool, &url, None);
    let first = "id: p0\nretry: 1\ndata: \n\n".len();
    for at in 0..length {
        let outcome = call(&peer, "cut", &json!({"at": at})).await;
        if at < first {
            assert!(matches!(outcome, Err(UpstreamError::Closed { .. })), "nothing to resume from at {at}");
            continue;
        }
        let Incoming::Stream { mut stream, .. } = outcome.unwrap() else { panic!("no messages before it at {at}") };
        let mut data = Vec::new();
        let last = loop {
            let message = next(&mut stream).await;
            match message["params"]["data"].as_u64() {
                Some(n) => data.push(n),
                None => break message,
            }
        };
        assert_eq!((data, &last["result"]["done"]), (vec![1, 2], &json!(true)), "cut at {at}");
    }
    assert!(server.gets.lock().unwrap().iter().all(Option::is_some));
    assert_eq!(server.count("notifications/cancelled"), first, "only what could not be resumed is given up");
}

/// Whoever has listed something is told when it has changed, in both eras, for as long as the peer is in use.
#[tokio::test]
async fn who_lists_is_told_of_changes() {
    use portcullis_upstream::{Changed, ListKind};
    for (modern, get_status) in [(false, None), (true, None), (false, Some(405))] {
        let (server, url) = Talker { modern, get_status, announces: true, ..Talker::default() }.start().await;
        let pool = pool();
        let mut changes = pool.changes();
        let peer = peer(&pool, &url, None);
        for _ in 0..3 {
            peer.list(ListKind::Prompts, &[]).await.unwrap();
        }
        if get_status.is_some() {
            eventually("it is asked for a stream", || server.gets.lock().unwrap().len() == 1).await;
            peer.list(ListKind::Prompts, &[]).await.unwrap();
            assert!(listen(&peer, &[]).await.is_err());
            assert_eq!(server.gets.lock().unwrap().len(), 2, "and not again but for a listener");
            continue;
        }
        eventually("one stream is open", || server.streams() == 1).await;
        server.say(&note("notifications/prompts/list_changed", &json!({})));
        let change = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await.unwrap().unwrap();
        assert_eq!((change.what, &change.key), (Changed::Prompts, peer.key()));
        pool.retain(|_| false);
        eventually("it is closed with the peer", || server.streams.lock().unwrap()[0].is_closed()).await;
    }
}
