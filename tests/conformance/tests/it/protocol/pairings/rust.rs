//! The official Rust client (`rmcp`), which nobody here wrote and nothing here is built on: forms, samples, progress, cancel and
//! changes, in every pairing of eras.
#![expect(
    deprecated,
    reason = "sampling, and subscriptions of the era before, which have to work for as long as they are used"
)]

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_conformance::fixture::{Eras, Fixture};
use portcullis_e2e::{
    eventually,
    http::{LEGACY, MODERN},
    product::Product,
};
use rmcp::{
    ClientHandler, ErrorData, RoleClient,
    model::{
        CallToolRequest, CallToolRequestParams, ClientConfig, ClientRequest, CreateMessageRequestParams,
        CreateMessageResult, ElicitRequestParams, ElicitResult, ProgressNotificationParam, ProtocolVersion,
        ResourceUpdatedNotificationParam, ServerNotification, SubscribeRequestParams, SubscriptionFilter,
    },
    service::{
        ClientLifecycleMode, ClientServiceExt, NotificationContext, PeerRequestOptions, RequestContext, RunningService,
    },
    transport::StreamableHttpClientTransport,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{WATCHED, gateways, held};

/// What the client was told.
#[derive(Clone, Default)]
struct Client {
    heard: Arc<Mutex<Vec<String>>>,
    progress: Arc<Mutex<Vec<f64>>>,
    version: &'static str,
}

impl Client {
    fn note(&self, what: &str) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }

    fn heard(&self, what: &str) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|h| h == what)
    }
}

/// The client's types, made as they go over the wire.
fn made<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

impl ClientHandler for Client {
    async fn create_message(
        &self,
        _: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let content = json!({"type": "text", "text": "a sample of the client"});
        Ok(made(json!({"role": "assistant", "content": content, "model": "none"})))
    }

    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(made(json!({"action": "accept", "content": {"username": "ada", "email": "ada@example.com"}})))
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).push(params.progress);
    }

    async fn on_resource_updated(&self, _: ResourceUpdatedNotificationParam, _: NotificationContext<RoleClient>) {
        self.note("notifications/resources/updated");
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.note("notifications/tools/list_changed");
    }

    fn get_info(&self) -> ClientConfig {
        made(json!({
            "protocolVersion": self.version,
            "capabilities": {"elicitation": {"form": {}}, "sampling": {}, "roots": {}},
            "clientInfo": {"name": "portcullis-tests", "version": "1"},
        }))
    }
}

type Running = RunningService<RoleClient, Client>;

async fn call(client: &Running, what: &str, tool: &str, arguments: Value) -> String {
    let params: CallToolRequestParams = made(json!({"name": tool, "arguments": arguments}));
    let result = client.call_tool(params).await.unwrap_or_else(|e| panic!("{what}: {tool}: {e}"));
    serde_json::to_string(&result).unwrap_or_default()
}

/// Cancels a call once the server has said that it runs.
async fn cancel(client: &Running, told: &Client, what: &str) {
    told.progress.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let request: CallToolRequest =
        made(json!({"method": "tools/call", "params": {"name": "fixture_hold", "arguments": {}}}));
    let request = ClientRequest::CallToolRequest(request);
    let call = client.peer().send_cancellable_request(request, PeerRequestOptions::no_options()).await;
    let call = call.unwrap_or_else(|e| panic!("{what}: {e}"));
    eventually(&format!("{what}: it runs"), || async {
        (!told.progress.lock().unwrap_or_else(PoisonError::into_inner).is_empty()).then_some(())
    })
    .await;
    call.cancel(Some("not needed any more".to_owned())).await.unwrap_or_else(|e| panic!("{what}: {e}"));
}

#[tokio::test]
async fn the_rust_client_is_served_in_every_pairing() {
    let legacy = Fixture::start(Eras::Legacy).await.unwrap();
    let modern = Fixture::start(Eras::Modern).await.unwrap();
    let product = Product::start(&gateways(&legacy, &modern)).await.unwrap();
    for version in [LEGACY, MODERN] {
        for (server, fixture) in [("legacy", &legacy), ("modern", &modern)] {
            let what = format!("rmcp, a client of {version} on a {server} server");
            let told = Client { version, ..Client::default() };
            let lifecycle = match version {
                LEGACY => ClientLifecycleMode::Initialize,
                _ => ClientLifecycleMode::Discover { preferred_versions: vec![made::<ProtocolVersion>(json!(MODERN))] },
            };
            let transport = StreamableHttpClientTransport::from_uri(product.url(server));
            let client = told.clone().serve_with_lifecycle(transport, lifecycle).await;
            let client = client.unwrap_or_else(|e| panic!("{what}: {e}"));

            let form = call(&client, &what, "test_elicitation", json!({"message": "Who are you?"})).await;
            assert!(form.contains("action=accept") && form.contains("ada@example.com"), "{what}: {form}");
            let sample = call(&client, &what, "test_sampling", json!({"prompt": "Say something"})).await;
            assert!(sample.contains("a sample of the client"), "{what}: {sample}");
            call(&client, &what, "test_tool_with_progress", json!({})).await;
            eventually(&format!("{what}: progress"), || async {
                let progress = told.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
                (progress == [0.0, 50.0, 100.0]).then_some(())
            })
            .await;

            let before = held(fixture).await;
            cancel(&client, &told, &what).await;
            eventually(&format!("{what}: the server hears that it is cancelled"), || async {
                let now = held(fixture).await;
                (now == (before.0 + 1, before.1 + 1)).then_some(())
            })
            .await;

            let mut pump = None;
            if version == MODERN {
                let filter: SubscriptionFilter =
                    made(json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]}));
                let mut changes = client.peer().listen(filter).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                let told = told.clone();
                pump = Some(tokio::spawn(async move {
                    while let Ok(Some(change)) = changes.next().await {
                        match change {
                            ServerNotification::ToolListChangedNotification(_) => {
                                told.note("notifications/tools/list_changed");
                            }
                            ServerNotification::ResourceUpdatedNotification(_) => {
                                told.note("notifications/resources/updated");
                            }
                            _ => {}
                        }
                    }
                }));
            } else {
                let subscribed = client.peer().subscribe(made::<SubscribeRequestParams>(json!({"uri": WATCHED}))).await;
                subscribed.unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            call(&client, &what, "test_trigger_tool_change", json!({})).await;
            call(&client, &what, "test_touch_resource", json!({"uri": WATCHED})).await;
            for change in ["notifications/tools/list_changed", "notifications/resources/updated"] {
                eventually(&format!("{what}: hears {change}"), || async { told.heard(change).then_some(()) }).await;
            }
            if let Some(pump) = pump {
                pump.abort();
            }
            client.cancel().await.unwrap();
        }
    }
    product.stop().await;
}
