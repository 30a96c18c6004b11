//! One held call: its rounds, each a request of the client and what it was answered.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use portcullis_model::{Fault, Name, Principal, Side};
use portcullis_protocol::{seal::SealError, session::Binding, splice::quote};
use portcullis_upstream::{Message, MessageKind};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::state::{self, Bound, RequestState};
use crate::{answer, asked::Asked, conversation::line::whole, gateways::Gateways, legacy::now_ms, relay::event};

/// Questions of one call that may be open.
const MOST_QUESTIONS: usize = 16;
/// Events that wait for a slow client.
const BUFFERED: usize = 16;
/// How long the last event waits for a client that reads slowly.
const SLOW: Duration = Duration::from_secs(60);
/// The largest answer that is kept for a client that sends its last request again.
const MOST_KEPT: usize = 1 << 20;

/// A call of a modern client that may be held.
pub struct HeldCall {
    /// Its id.
    pub id: [u8; 16],
    /// Whose it is.
    pub binding: Binding,
    /// The caller, as let in at the beginning.
    pub whose: Arc<Principal>,
    /// Fires when nobody waits for it any more.
    pub cancelled: CancellationToken,
    /// Its server, once that is known.
    pub server: OnceLock<Name>,
    bound: Bound,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The request that is being answered; none while the client has to come back.
    turn: Option<Turn>,
    questions: BTreeMap<u32, Question>,
    next: u32,
    /// What the client has to come back with.
    round: Option<[u8; 16]>,
    /// The round before.
    past: Option<Past>,
    over: bool,
}

struct Question {
    method: String,
    params: String,
    answer: oneshot::Sender<Bytes>,
}

/// A request of the client that waits for its answer.
struct Turn {
    /// Its id, as JSON text.
    id: Box<str>,
    /// Its progress token, as JSON text.
    progress: Option<Box<str>>,
    respond: Option<oneshot::Sender<Response>>,
    events: Option<mpsc::Sender<Bytes>>,
    /// Set when the answer has gone out, so that its connection may close.
    answered: Arc<AtomicBool>,
    /// The same request, sent again in the meantime.
    copies: Vec<(Box<str>, oneshot::Sender<Response>)>,
}

/// An answered round.
struct Past {
    round: [u8; 16],
    responses: [u8; 32],
    result: Option<Message>,
}

/// A client's wait for the answer to one of its requests. Closing the stream cancels the call (2026-07-28, cancellation).
pub struct Wait {
    answered: Arc<AtomicBool>,
    cancelled: CancellationToken,
    response: oneshot::Receiver<Response>,
}

impl Wait {
    /// The response.
    pub async fn response(mut self) -> Option<Response> {
        let response = (&mut self.response).await.ok();
        // From here on the body of the response is what the client may close.
        self.answered = Arc::new(AtomicBool::new(true));
        response
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.answered.load(Ordering::Acquire) {
            self.cancelled.cancel();
        }
    }
}

impl HeldCall {
    /// A call of this client that begins.
    ///
    /// # Errors
    /// Without randomness.
    pub fn new(asked: &Asked<'_>) -> Result<Arc<Self>, SealError> {
        let binding = asked.binding();
        let bound = Bound::of(&binding, asked.message);
        Ok(Arc::new(Self {
            id: state::random()?,
            binding,
            whose: Arc::clone(asked.principal),
            cancelled: CancellationToken::new(),
            server: OnceLock::new(),
            bound,
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to answer a request of the client.
    pub fn begin(&self, asked: &Asked<'_>) -> Wait {
        self.turn(&mut self.state(), asked)
    }

    fn turn(&self, state: &mut State, asked: &Asked<'_>) -> Wait {
        let (respond, response) = oneshot::channel();
        let answered = Arc::new(AtomicBool::new(false));
        state.turn = Some(Turn {
            id: asked.id().into(),
            progress: asked.message.meta().and_then(|m| m.progress_token).map(|p| p.raw.into()),
            respond: Some(respond),
            events: None,
            answered: Arc::clone(&answered),
            copies: Vec::new(),
        });
        Wait { answered, cancelled: self.cancelled.clone(), response }
    }

    /// Sends the client a message before the answer; while nobody waits it is left out.
    pub async fn say(&self, message: Bytes, until: Instant) {
        let Ok(parsed) = Message::parse(message) else { return };
        let (sender, bytes) = {
            let mut state = self.state();
            let Some(turn) = &mut state.turn else { return };
            let bytes = match (parsed.kind, &turn.progress) {
                (MessageKind::Progress, None) => return,
                (MessageKind::Progress, Some(token)) => Bytes::from(parsed.with_token(token)),
                _ => parsed.body,
            };
            (turn.events(&self.cancelled), bytes)
        };
        // A client that reads too slowly misses what is not its answer.
        let _ = tokio::time::timeout_at(until.into(), sender.send(event(&bytes))).await;
    }

    /// Asks the client, and waits until it comes back.
    ///
    /// # Errors
    /// Why there is no answer, in words for the server.
    pub async fn ask(
        self: &Arc<Self>,
        gateways: &Gateways,
        request: &Message,
        until: Instant,
        withdrawn: &CancellationToken,
    ) -> Result<Bytes, &'static str> {
        if let Err(fault) = gateways.held.hold(self) {
            gateways.metrics.refused(&fault);
            return Err("too many calls wait for their callers");
        }
        gateways.holds.notify_one();
        let (answer, answered) = oneshot::channel();
        let key = {
            let mut state = self.state();
            if state.questions.len() >= MOST_QUESTIONS {
                return Err("the client is asked too much at once");
            }
            state.next += 1;
            let key = state.next;
            let params = match request.payload_text() {
                "" => "{}",
                params => params,
            };
            let method = request.method().unwrap_or_default().into_owned();
            state.questions.insert(key, Question { method, params: params.to_owned(), answer });
            if state.turn.is_some() {
                self.issue(gateways, &mut state);
            }
            key
        };
        let why = tokio::select! {
            answer = answered => return answer.map_err(|_| "the call is over"),
            () = withdrawn.cancelled() => "withdrawn",
            () = tokio::time::sleep_until(until.into()) => {
                // Nobody came back: the call is given up as a whole, and its outcome stays unknown.
                self.cancelled.cancel();
                "the client did not answer in time"
            }
        };
        self.state().questions.remove(&key);
        Err(why)
    }

    /// Answers the client's request with what is asked of it.
    fn issue(&self, gateways: &Gateways, state: &mut State) {
        let round = state::random();
        let sealed = round.and_then(|round| {
            let expires_ms = now_ms() + u64::try_from(gateways.settings.answer_within.as_millis()).unwrap_or(u64::MAX);
            let sealed = RequestState { replica: gateways.held.replica, call: self.id, round, expires_ms };
            Ok((round, sealed.seal(&gateways.sealer, &self.bound)?))
        });
        let Ok((round, sealed)) = sealed else {
            self.cancelled.cancel();
            return;
        };
        state.round = Some(round);
        let requests: Vec<String> = state
            .questions
            .iter()
            .map(|(key, q)| format!(r#""{key}":{{"method":{},"params":{}}}"#, quote(&q.method), q.params))
            .collect();
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":0,"result":{{"resultType":"input_required","inputRequests":{{{}}},"requestState":"{sealed}"}}}}"#,
            requests.join(",")
        );
        if let Ok(message) = Message::parse(Bytes::from(result)) {
            state.end_turn(&message, None);
        }
    }

    /// The client comes back.
    ///
    /// # Errors
    /// A fault where what it brings is not what is waited for.
    pub fn resume(&self, gateways: &Gateways, asked: &Asked<'_>, brought: &RequestState) -> Result<Wait, Fault> {
        let responses = asked.message.params.as_ref().and_then(|p| p.input_responses).map_or("{}", |p| p.raw);
        let digest = state::digest(responses);
        let mut state = self.state();
        let state = &mut *state;
        if let Some(past) = state.past.as_ref().filter(|p| p.round == brought.round) {
            if past.responses != digest {
                return Err(used());
            }
            let (respond, response) = oneshot::channel();
            match (&past.result, &mut state.turn) {
                (Some(result), _) => {
                    // The receiver is right here.
                    let _ = respond.send(answer::json(StatusCode::OK, Bytes::from(result.with_id(asked.id()))));
                }
                (None, Some(turn)) => turn.copies.push((asked.id().into(), respond)),
                (None, None) => return Err(lost()),
            }
            let answered = Arc::new(AtomicBool::new(true));
            return Ok(Wait { answered, cancelled: self.cancelled.clone(), response });
        }
        if state.over || state.turn.is_some() || state.round != Some(brought.round) {
            return Err(if state.over { lost() } else { used() });
        }
        state.round = None;
        state.past = Some(Past { round: brought.round, responses: digest, result: None });
        let wait = self.turn(state, asked);
        let brought: HashMap<String, Box<RawValue>> = serde_json::from_str(responses).unwrap_or_default();
        for (key, response) in brought {
            let question = key.parse().ok().and_then(|key: u32| state.questions.remove(&key));
            if let Some(question) = question {
                let answer = format!(r#"{{"jsonrpc":"2.0","id":0,"result":{}}}"#, response.get());
                // Whoever asked may have withdrawn it in this moment.
                let _ = question.answer.send(Bytes::from(answer));
            }
        }
        if !state.questions.is_empty() {
            // What is missing is asked again, as is what came up in the meantime.
            self.issue(gateways, state);
        }
        Ok(wait)
    }

    /// The call is over.
    pub async fn finish(&self, gateways: &Gateways, response: Response) {
        let (parts, body) = response.into_parts();
        let body = whole(Response::new(body)).await;
        gateways.held.over(&self.id);
        let mut state = self.state();
        state.over = true;
        state.round = None;
        state.questions.clear();
        match Message::parse(body) {
            Ok(message) => state.end_turn(&message, Some(parts)),
            // A call that was cancelled has no answer.
            Err(_) => state.turn = None,
        }
    }
}

impl State {
    /// Answers the client's request. `parts` is the head of the response, where it is the call's own.
    fn end_turn(&mut self, message: &Message, parts: Option<http::response::Parts>) {
        let Some(mut turn) = self.turn.take() else { return };
        turn.answered.store(true, Ordering::Release);
        let body = Bytes::from(message.with_id(&turn.id));
        match (turn.events.take(), turn.respond.take()) {
            (Some(events), _) => {
                if let Err(mpsc::error::TrySendError::Full(last)) = events.try_send(event(&body)) {
                    tokio::spawn(async move { tokio::time::timeout(SLOW, events.send(last)).await });
                }
            }
            (None, Some(respond)) => {
                let response = match parts {
                    Some(parts) => Response::from_parts(parts, Body::from(body)),
                    None => answer::json(StatusCode::OK, body),
                };
                // A client that has gone away may come again.
                let _ = respond.send(response);
            }
            (None, None) => {}
        }
        for (id, respond) in turn.copies {
            let _ = respond.send(answer::json(StatusCode::OK, Bytes::from(message.with_id(&id))));
        }
        if let Some(past) = &mut self.past {
            past.result = (message.body.len() <= MOST_KEPT).then(|| message.clone());
        }
    }
}

impl Turn {
    /// Where events of this request go; the response begins with the first.
    fn events(&mut self, cancelled: &CancellationToken) -> mpsc::Sender<Bytes> {
        if let Some(events) = &self.events {
            return events.clone();
        }
        let (sender, receiver) = mpsc::channel(BUFFERED);
        let body = Events { receiver, answered: Arc::clone(&self.answered), cancelled: cancelled.clone() };
        if let Some(respond) = self.respond.take() {
            let _ = respond.send(answer::events(Body::from_stream(body)));
        }
        self.events = Some(sender.clone());
        sender
    }
}

/// The body of a response with events. Whoever drops it before the answer cancels the call.
struct Events {
    receiver: mpsc::Receiver<Bytes>,
    answered: Arc<AtomicBool>,
    cancelled: CancellationToken,
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|bytes| bytes.map(Ok))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if !self.answered.load(Ordering::Acquire) {
            self.cancelled.cancel();
        }
    }
}

/// A state that was answered already, in another way.
fn used() -> Fault {
    Fault::new(Side::Caller, "request-state-used", "this requestState has been answered already, in another way")
        .next("Send the request again without requestState to start anew, if it may run twice")
}

/// The holder of a call is gone: it may or may not have been carried out (security decision 19).
pub fn lost() -> Fault {
    Fault::new(Side::Gateway, "outcome-unknown", "the call that waited for this answer is gone; its outcome is unknown")
        .next("Check whether it was carried out before you send it again")
}
