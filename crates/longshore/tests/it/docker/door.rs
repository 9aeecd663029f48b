//! A socket that leads to the engine's, until it is shut; and that answers for the engine where a test says so.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::scene::Engine;

pub struct Door {
    dir: tempfile::TempDir,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_shut: AtomicBool,
    shut: Notify,
    refused: Mutex<Option<Refused>>,
}

/// Requests that the engine never sees.
struct Refused {
    method: String,
    /// What their paths contain.
    path: String,
    count: usize,
}

const REFUSAL: &str = "{\"message\":\"device or resource busy\"}";

impl Door {
    pub fn open(engine: PathBuf) -> Door {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(dir.path().join("engine.sock")).expect("a free path");
        let inner = Arc::new(Inner::default());
        let door = Door { dir, inner: inner.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (engine, inner) = (engine.clone(), inner.clone());
                tokio::spawn(async move {
                    let closed = inner.shut.notified();
                    if inner.is_shut.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(server) = UnixStream::connect(engine).await else { return };
                    tokio::select! {
                        _ = inner.lead(client, server) => {}
                        () = closed => {}
                    }
                });
            }
        });
        door
    }

    /// Settings that name the engine, with this in its place.
    pub fn before(&self, engine: &Engine, settings: &str) -> String {
        settings.replace(engine.host(), &format!("unix://{}", self.dir.path().join("engine.sock").display()))
    }

    pub fn shut(&self) {
        self.inner.is_shut.store(true, Ordering::SeqCst);
        self.inner.shut.notify_waiters();
    }

    pub fn reopen(&self) {
        self.inner.is_shut.store(false, Ordering::SeqCst);
    }

    /// Answers such requests as an engine does that fails at them.
    pub fn refuse(&self, method: &str, path: &str) {
        let refused = Refused { method: method.to_owned(), path: path.to_owned(), count: 0 };
        *self.inner.refused.lock().expect("no holder panics") = Some(refused);
    }

    /// How many were refused.
    pub fn refusals(&self) -> usize {
        self.inner.refused.lock().expect("no holder panics").as_ref().map_or(0, |refused| refused.count)
    }

    pub fn allow(&self) {
        *self.inner.refused.lock().expect("no holder panics") = None;
    }
}

impl Inner {
    async fn lead(&self, client: UnixStream, server: UnixStream) -> std::io::Result<()> {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let requests = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = from_client.read(&mut buffer).await?;
                if count == 0 {
                    to_server.shutdown().await?;
                    return std::io::Result::Ok(false);
                }
                if self.is_refused(&buffer[..count]) {
                    return Ok(true);
                }
                to_server.write_all(&buffer[..count]).await?;
            }
        };
        let is_refused = {
            let answers = tokio::io::copy(&mut from_server, &mut to_client);
            tokio::pin!(answers);
            tokio::select! {
                refused = requests => match refused? {
                    true => true,
                    false => answers.await.map(|_| false)?,
                },
                done = &mut answers => done.map(|_| false)?,
            }
        };
        if is_refused {
            let head =
                "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{REFUSAL}", REFUSAL.len());
            to_client.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    /// A request's first line comes in one piece.
    fn is_refused(&self, bytes: &[u8]) -> bool {
        let mut refused = self.refused.lock().expect("no holder panics");
        let Some(refused) = refused.as_mut() else { return false };
        let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\r').next().unwrap_or_default());
        let mut words = line.split(' ');
        let is = words.next() == Some(refused.method.as_str())
            && words.next().is_some_and(|path| path.contains(&refused.path));
        refused.count += usize::from(is);
        is
    }
}
