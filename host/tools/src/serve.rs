//! One server: reads messages, answers them, runs calls side by side.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use portcullis_model::spec::ComponentServer;
use portcullis_plugin::Toolbox;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use crate::answer::{self, Asked};

/// The longest message that is read.
const MAX_LINE: u64 = 8 << 20;
/// Answers that wait for the pipe.
const MAX_WAITING: usize = 64;

/// Calls under way, by the request's id, so that they can be given up.
type UnderWay = Arc<Mutex<HashMap<String, AbortHandle>>>;

/// Serves until the input ends.
pub(crate) async fn serve(
    name: String,
    toolbox: Arc<Toolbox>,
    component: Arc<ComponentServer>,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
) {
    let (answers, waiting) = mpsc::channel(MAX_WAITING);
    let writer = tokio::spawn(write(waiting, output));
    if let Err(error) = read(&name, &toolbox, &component, input, &answers).await {
        tracing::warn!(server = name, %error, "a component's messages can't be read");
    }
    drop(answers);
    drop(writer.await);
}

async fn write(mut answers: mpsc::Receiver<Value>, mut output: impl AsyncWrite + Unpin) {
    while let Some(answer) = answers.recv().await {
        let line = format!("{answer}\n");
        if output.write_all(line.as_bytes()).await.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}

async fn read(
    name: &str,
    toolbox: &Arc<Toolbox>,
    component: &Arc<ComponentServer>,
    input: impl AsyncRead + Unpin,
    answers: &mpsc::Sender<Value>,
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let (mut calls, under_way) = (JoinSet::new(), UnderWay::default());
    let places = Arc::new(Semaphore::new(component.max_in_flight.max(1) as usize));
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut input).take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
            return Err(io::Error::other("a message that is too long"));
        }
        while calls.try_join_next().is_some() {}
        let Ok(message) = serde_json::from_slice::<Value>(&line) else { continue };
        match answer::asked(name, toolbox, component, &message) {
            Asked::Nothing => {}
            Asked::Answered(answer) => {
                if answers.send(answer).await.is_err() {
                    return Ok(());
                }
            }
            Asked::GivenUp(id) => {
                if let Some(call) = under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
                    call.abort();
                }
            }
            Asked::Call(call) => {
                let id = call.id().to_string();
                let (toolbox, answers, places) = (Arc::clone(toolbox), answers.clone(), Arc::clone(&places));
                let (done, limit) = ((Arc::clone(&under_way), id.clone()), component.limits.output.as_usize());
                // Held until the call is in the table: one that is over at once waits for that before it takes itself out.
                let mut table = under_way.lock().unwrap_or_else(PoisonError::into_inner);
                let task = calls.spawn(async move {
                    // Whoever serves is gone where there is no place any more.
                    let Ok(_place) = places.acquire().await else { return };
                    let answer = call.answer(&toolbox, limit).await;
                    done.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&done.1);
                    drop(answers.send(answer).await);
                });
                table.insert(id, task);
            }
        }
    }
}
