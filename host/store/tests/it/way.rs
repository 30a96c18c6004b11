//! A way to the database that breaks, or freezes, at a moment of a write: what a network or a machine does when nobody is ready for it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use portcullis_test_postgres::Database;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// What happens to the next connection that gets there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// It breaks, and the database never hears of the commit.
    BeforeCommit,
    /// It breaks after the database has committed, and nobody hears of that.
    AfterCommit,
    /// The gateway falls silent once it has the turn, and its connection stays.
    Turn,
}

/// The way. It happens once for each time that it is [`Way::set`].
#[derive(Clone)]
pub struct Way {
    pub port: u16,
    next: Arc<Mutex<Option<At>>>,
    happened: Arc<Notify>,
}

impl Way {
    pub async fn to(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), database.server.port());
        let way = Self { port, next: Arc::default(), happened: Arc::default() };
        let ours = way.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(ours.clone().carry(client, server));
            }
        });
        way
    }

    /// The database's URL by this way.
    pub fn url(&self, database: &Database) -> String {
        database.url().replace(&format!(":{}/", database.server.port()), &format!(":{}/", self.port))
    }

    pub fn set(&self, at: At) {
        *self.next.lock().unwrap() = Some(at);
    }

    /// Waits until what was set has happened.
    pub async fn happened(&self) {
        self.happened.notified().await;
    }

    fn take(&self, at: At) -> bool {
        self.next.lock().unwrap().take_if(|next| *next == at).is_some()
    }

    async fn carry(self, client: TcpStream, server: TcpStream) {
        let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
        let heard = Arc::new(Heard::default());
        let mut answers = tokio::spawn(answers(from_server, to_client, Arc::clone(&heard)));
        let mut piece = vec![0; 64 << 10];
        let mut falls_silent = false;
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            let piece = &piece[..length];
            let committing = holds(piece, b"COMMIT\0");
            if committing && self.take(At::BeforeCommit) {
                self.happened.notify_one();
                break;
            }
            if committing && self.take(At::AfterCommit) {
                // Nothing more is passed on; that the database answers says that it has committed.
                heard.deaf.store(true, Ordering::SeqCst);
                to_server.write_all(piece).await.unwrap();
                heard.something.notified().await;
                self.happened.notify_one();
                break;
            }
            if falls_silent && heard.turn.load(Ordering::SeqCst) {
                self.happened.notify_one();
                // For as long as the database bears with it.
                let _ = (&mut answers).await;
                break;
            }
            if holds(piece, b"BEGIN\0") {
                heard.turn.store(false, Ordering::SeqCst);
                falls_silent |= self.take(At::Turn);
            }
            if to_server.write_all(piece).await.is_err() {
                break;
            }
        }
        answers.abort();
    }
}

/// What the database has said on one connection.
#[derive(Default)]
struct Heard {
    /// It has given the turn: one row, locked.
    turn: AtomicBool,
    /// Whether nothing is passed on to the gateway any more.
    deaf: AtomicBool,
    /// It has said something that was not passed on.
    something: Notify,
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, heard: Arc<Heard>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if heard.deaf.load(Ordering::SeqCst) {
            heard.something.notify_one();
            continue;
        }
        if holds(&piece[..length], b"SELECT 1\0") {
            heard.turn.store(true, Ordering::SeqCst);
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

fn holds(piece: &[u8], word: &[u8]) -> bool {
    piece.windows(word.len()).any(|part| part == word)
}
