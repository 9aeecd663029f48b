//! One process of an http agent as its tasks see it: where it answers, how many use it, how it ended.

use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::task::Failure;
use tokio::sync::watch;

pub struct Service {
    pub port: u16,
    users: Mutex<usize>,
    ended: watch::Sender<Option<TaskEnd>>,
}

/// How the process ended.
pub enum ServiceEnd {
    Crashed(Failure),
    /// By this worker.
    Restarted,
}

/// What that means for each task that was in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// It was alone, so it was its doing.
    Failed(Arc<Failure>),
    /// It was one of several: nobody can tell whose doing it was.
    Crashed,
    HandedOver,
}

/// A task's presence at a service.
pub struct Visit {
    service: Arc<Service>,
}

impl Service {
    pub fn new(port: u16) -> Service {
        Service { port, users: Mutex::new(0), ended: watch::Sender::new(None) }
    }

    /// `None`: it has ended.
    pub fn enter(self: &Arc<Self>) -> Option<Visit> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.borrow().is_some() {
            return None;
        }
        *users += 1;
        Some(Visit { service: Arc::clone(self) })
    }

    pub fn end(&self, end: ServiceEnd) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        self.ended.send_replace(Some(match end {
            ServiceEnd::Crashed(failure) if *users == 1 => TaskEnd::Failed(Arc::new(failure)),
            ServiceEnd::Crashed(_) => TaskEnd::Crashed,
            ServiceEnd::Restarted => TaskEnd::HandedOver,
        }));
    }
}

impl Visit {
    pub fn port(&self) -> u16 {
        self.service.port
    }

    pub async fn ended(&self) -> TaskEnd {
        let mut ended = self.service.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        // The sender is in the service, which this holds, so there is always an end.
        end.unwrap_or(TaskEnd::HandedOver)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        *self.service.users.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(visitors: usize, end: ServiceEnd, expected: TaskEnd) {
        let service = Arc::new(Service::new(1));
        let visits: Vec<Visit> = (0..visitors).map(|_| service.enter().expect("open")).collect();
        drop(service.enter());
        service.end(end);
        assert_eq!(visits[0].ended().await, expected);
        assert!(service.enter().is_none());
    }

    #[tokio::test]
    async fn a_crash_is_the_doing_of_a_task_that_was_alone() {
        let failure = Failure::new("exit_status", "exit status 1");
        check(1, ServiceEnd::Crashed(failure.clone()), TaskEnd::Failed(Arc::new(failure.clone()))).await;
        check(3, ServiceEnd::Crashed(failure), TaskEnd::Crashed).await;
        check(1, ServiceEnd::Restarted, TaskEnd::HandedOver).await;
    }
}
