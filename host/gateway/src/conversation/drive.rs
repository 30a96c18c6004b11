//! Who runs a call that may say something before its answer, and what becomes of it when its client goes away.
//!
//! A legacy client's call goes on: its stream can be resumed (security decision 17). A modern client's ends with its
//! connection, but for the time in which it waits for the client to come back with an answer.

use std::{sync::Arc, time::Duration};

use axum::response::Response;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, ParseLimits, Version, parse, rpc, seal::SealError};

use super::{capabilities::can_be_asked, line::Line, pick::has_own_peers};
use crate::{
    answer,
    asked::{Asked, Received},
    elicit_url,
    gateways::Gateways,
    held::{
        HeldCall, call_lost,
        state::{Bound, RequestState},
    },
    in_flight::Underway,
    legacy::now_ms,
    serve,
    session::get::prefers_events,
};

/// How long a call of a legacy client may be silent before its stream is opened, so that the client can come back to it.
const SILENT: Duration = Duration::from_millis(500);

/// Runs a request of a legacy session.
pub async fn legacy(gateways: &Arc<Gateways>, received: &Received, asked: &Asked<'_>) -> Response {
    let Some(session) = asked.client.session else {
        return serve::relayed(gateways, asked, None).await;
    };
    let Some(mut underway) = gateways.in_flight.enter(session, asked.id()) else {
        let fault = Fault::new(Side::Caller, "invalid-request", "a request with this id is still under way")
            .next("Use each request id once");
        return answer::rpc_fault(asked.id(), &fault, asked.request_id, Era::Legacy);
    };
    let (line, opened) = Line::stream(gateways, asked);
    let line = Arc::new(line);
    if prefers_events(asked.headers) {
        line.open();
    }
    underway.line = Some(Arc::clone(&line));
    let resumable = asked.client.version >= Version::V2025_11_25;
    let (gateways, received) = (Arc::clone(gateways), received.clone());
    let task = tokio::spawn(async move {
        let run = run(&gateways, &received, underway);
        let silent = async {
            if resumable {
                tokio::time::sleep(SILENT).await;
                line.open();
            }
            std::future::pending::<Response>().await
        };
        let response = tokio::select! {
            response = run => response,
            never = silent => never,
        };
        line.finish(response).await
    });
    finished(asked, opened, task).await
}

/// An answer in one piece as a stream of the session, for a client that would rather have that.
pub async fn resumable(gateways: &Arc<Gateways>, asked: &Asked<'_>, response: Response) -> Response {
    let (line, opened) = Line::stream(gateways, asked);
    line.open();
    match line.finish(response).await {
        Some(response) => response,
        None => opened.await.unwrap_or_else(|_| failed(asked, "no response")),
    }
}

async fn finished(
    asked: &Asked<'_>,
    opened: tokio::sync::oneshot::Receiver<Response>,
    mut task: tokio::task::JoinHandle<Option<Response>>,
) -> Response {
    let mut opened = Some(opened);
    loop {
        let first = async {
            match &mut opened {
                Some(opened) => opened.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            response = first => match response {
                Ok(response) => return response,
                Err(_) => opened = None,
            },
            done = &mut task => match done {
                Ok(Some(response)) => return response,
                // The stream was opened in the same moment.
                Ok(None) => {
                    if let Some(opened) = opened.take()
                        && let Ok(response) = opened.await
                    {
                        return response;
                    }
                    return failed(asked, "no response");
                }
                Err(error) => return failed(asked, &error.to_string()),
            },
        }
    }
}

fn failed(asked: &Asked<'_>, error: &str) -> Response {
    tracing::error!(request = &**asked.request_id, error, "a call failed inside");
    let fault = Fault::new(Side::Gateway, "internal", "the gateway failed");
    answer::rpc_fault(asked.id(), &fault, asked.request_id, asked.client.era)
}

async fn run(gateways: &Arc<Gateways>, received: &Received, underway: Underway) -> Response {
    let limits = ParseLimits { max_bytes: gateways.settings.max_body, ..ParseLimits::default() };
    match parse(&received.body, &limits) {
        Ok(message) => serve::relayed(gateways, &received.asked(&message), Some(underway)).await,
        Err(problem) => answer::json(http::StatusCode::BAD_REQUEST, rpc::parse_fault(&problem, &received.request_id)),
    }
}

/// Runs a request of a modern client.
pub async fn modern(gateways: &Arc<Gateways>, received: &Received, asked: &Asked<'_>) -> Response {
    match elicit_url::returned(received, asked) {
        None => round(gateways, received, asked).await,
        Some(Err(fault)) if asked.message.method() == "tools/call" => {
            gateways.metrics.refused(&fault);
            answer::tool_fault(asked.id(), &fault, asked.request_id, asked.client.era)
        }
        Some(Err(fault)) => refused(gateways, asked, &fault),
        Some(Ok(received)) => {
            let limits = ParseLimits { max_bytes: gateways.settings.max_body, ..ParseLimits::default() };
            match parse(&received.body, &limits) {
                Ok(message) => round(gateways, &received, &received.asked(&message)).await,
                Err(problem) => refused(gateways, asked, &problem.to_fault()),
            }
        }
    }
}

async fn round(gateways: &Arc<Gateways>, received: &Received, asked: &Asked<'_>) -> Response {
    let brought = asked.message.params.as_ref().and_then(|p| p.request_state);
    if let Some(brought) = brought {
        let opened =
            RequestState::open(&gateways.sealer, brought, || Bound::of(&asked.binding(), asked.message), now_ms());
        match opened {
            Some(Ok(state)) => return resume(gateways, asked, state).await,
            Some(Err(error)) => {
                gateways.metrics.sealed_rejected("request-state", error.as_str());
                return refused(gateways, asked, &unknown_state());
            }
            // A server's own.
            None => return serve::relayed(gateways, asked, None).await,
        }
    }
    let holds = can_be_asked(asked.capabilities()) && asked.view.servers.iter().any(has_own_peers);
    if !holds {
        return serve::relayed(gateways, asked, None).await;
    }
    let Ok(call) = HeldCall::new(asked) else { return failed(asked, "no randomness") };
    let wait = call.begin(asked);
    let line = Arc::new(Line::held(gateways, Arc::clone(&call)));
    let mut underway = Underway::free(call.cancelled.clone());
    underway.line = Some(Arc::clone(&line));
    let (gateways, received) = (Arc::clone(gateways), received.clone());
    tokio::spawn(async move {
        let response = run(&gateways, &received, underway).await;
        line.finish(response).await
    });
    match wait.response().await {
        Some(response) => response,
        None => failed(asked, "no response"),
    }
}

/// The client comes back to a held call: judged again as any call is, it goes on where it stopped.
async fn resume(gateways: &Arc<Gateways>, asked: &Asked<'_>, state: RequestState) -> Response {
    let found = gateways.held.get(&state.call).filter(|_| state.replica == gateways.held.replica);
    let Some(call) = found else { return refused(gateways, asked, &call_lost()) };
    let mut underway = Underway::free(call.cancelled.child_token());
    let taken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    underway.resumes = Some(Resumes { call: Arc::clone(&call), state, taken: Arc::clone(&taken) });
    let response = serve::relayed(gateways, asked, Some(underway)).await;
    if !taken.load(std::sync::atomic::Ordering::Acquire) {
        // Who may not go on with it may not leave it standing either (security decision 19).
        call.cancelled.cancel();
    }
    response
}

/// A held call that a client came back to.
pub struct Resumes {
    call: Arc<HeldCall>,
    state: RequestState,
    taken: Arc<std::sync::atomic::AtomicBool>,
}

impl Resumes {
    /// Goes on with it, up to its next answer.
    ///
    /// # Errors
    /// Where what the client brings is not what is waited for.
    pub async fn go(self, gateways: &Gateways, asked: &Asked<'_>) -> Result<Response, Fault> {
        self.taken.store(true, std::sync::atomic::Ordering::Release);
        let wait = self.call.resume(gateways, asked, &self.state)?;
        Ok(wait.response().await.unwrap_or_else(|| failed(asked, "the call was cancelled")))
    }
}

fn refused(gateways: &Gateways, asked: &Asked<'_>, fault: &Fault) -> Response {
    gateways.metrics.refused(fault);
    answer::rpc_fault(asked.id(), fault, asked.request_id, asked.client.era)
}

/// What a state is that was changed, made for somebody else, or is too old; nothing of which its sender learns.
pub fn unknown_state() -> Fault {
    Fault::new(Side::Caller, "invalid-request-state", format!("the requestState is {}", SealError::PUBLIC))
        .next("Send the request again without requestState to start anew, if it may run twice")
}
