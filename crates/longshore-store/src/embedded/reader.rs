//! Threads that read: each with a connection of its own, beside the writer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{connection, fault};
use crate::error::StoreError;

/// Enough that one slow list does not hold up everything else.
const THREADS: usize = 2;

type Query = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct Readers {
    queries: Mutex<Option<Sender<Query>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    pub(super) fn start(path: &Path) -> Result<Readers, std::io::Error> {
        let (queries, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 1..=THREADS {
            let connection = connection::reading(path).map_err(std::io::Error::other)?;
            let receiver = Arc::clone(&receiver);
            let thread = std::thread::Builder::new().name(format!("store-read-{number}"));
            threads.push(thread.spawn(move || serve(&connection, &receiver))?);
        }
        Ok(Readers { queries: Mutex::new(Some(queries)), threads: Mutex::new(threads) })
    }

    pub(super) async fn run<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |connection| {
            let result = catch_unwind(AssertUnwindSafe(|| query(connection)))
                .unwrap_or_else(|panic| Err(fault::panicked(panic)));
            // Nobody may be waiting any more.
            let _ = answer.send(result);
        });
        self.send(query)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    fn send(&self, query: Query) -> Result<(), StoreError> {
        let queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        queries.as_ref().ok_or(StoreError::Closed)?.send(query).map_err(|_| StoreError::Closed)
    }

    pub(super) async fn close(&self) {
        let threads = self.stop();
        // Joining blocks for as long as the longest query.
        let _ = tokio::task::spawn_blocking(move || join(threads)).await;
    }

    fn stop(&self) -> Vec<JoinHandle<()>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        join(self.stop());
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A reader catches the panics of its queries; there is nothing left to report.
        let _ = thread.join();
    }
}

fn serve(connection: &Connection, queries: &Mutex<Receiver<Query>>) {
    loop {
        let next = queries.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(query) => query(connection),
            Err(_) => return,
        }
    }
}
