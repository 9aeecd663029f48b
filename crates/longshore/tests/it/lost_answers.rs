//! Answers that get lost between control plane and worker: what was asked has been done, but nobody hears of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_api::task::Task;
use longshore_core::id::TaskId;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::by_hand::ByHand;
use crate::plane::{Plane, pause, python, shell, wait_for};

const CLAIM: &str = "/worker/v1/claim";
const HEARTBEAT: &str = "/worker/v1/heartbeat";
const EVENTS: &str = "/worker/v1/events";
const COMPLETE: &str = "/worker/v1/complete";

/// Well under the 30 s of a lease, so that none of this is owed to an expired one.
const SOON: Duration = Duration::from_secs(15);

/// Stands between workers and the worker link; passes on every request, and loses the answers that it is told to.
struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    link: String,
    /// Path, and how many of its answers are still to be lost.
    orders: Mutex<Vec<(&'static str, usize)>>,
    /// Every n-th answer is lost, whatever it is.
    every: Mutex<Option<usize>>,
    answers: Mutex<usize>,
    lost: Mutex<Vec<String>>,
    cut: watch::Sender<bool>,
}

impl Proxy {
    async fn before(plane: &Plane) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Shared {
            link: plane.addresses.link.trim_start_matches("http://").to_owned(),
            orders: Mutex::default(),
            every: Mutex::default(),
            answers: Mutex::default(),
            lost: Mutex::default(),
            cut: watch::Sender::new(false),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                tokio::spawn(async move {
                    let mut cut = shared.cut.subscribe();
                    tokio::select! {
                        _ = cut.wait_for(|cut| *cut) => {}
                        _ = shared.carry(client) => {}
                    }
                });
            }
        });
        Proxy { address, shared }
    }

    /// The next `times` answers to this path are lost; of claims, only answers that bring tasks count.
    fn lose(&self, path: &'static str, times: usize) {
        self.shared.orders.lock().expect("no holder panics").push((path, times));
    }

    fn lose_every(&self, n: Option<usize>) {
        *self.shared.every.lock().expect("no holder panics") = n;
    }

    fn lost(&self, path: &str) -> usize {
        let lost = self.shared.lost.lock().expect("no holder panics");
        lost.iter().filter(|lost| *lost == path).count()
    }

    async fn has_lost(&self, path: &str, times: usize) {
        wait_for(&format!("{times} lost answers to {path}"), || (self.lost(path) >= times).then_some(()))
            .await;
    }

    /// All connections break, and new ones are closed at once.
    fn cut(&self, cut: bool) {
        self.shared.cut.send_replace(cut);
    }
}

impl Shared {
    /// One connection, until either side closes it or an answer is lost.
    async fn carry(&self, client: TcpStream) -> Option<()> {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_link, mut to_link) = TcpStream::connect(&self.link).await.ok()?.into_split();
        loop {
            let request = read_message(&mut from_client).await?;
            to_link.write_all(&request).await.ok()?;
            let mut end = [0; 1];
            let answer = tokio::select! {
                answer = read_message(&mut from_link) => answer?,
                // Only its end can come before the answer.
                _ = from_client.read(&mut end) => return None,
            };
            let path = path(&request);
            if self.is_lost(&path, &answer) {
                self.lost.lock().expect("no holder panics").push(path);
                return None;
            }
            to_client.write_all(&answer).await.ok()?;
        }
    }

    fn is_lost(&self, path: &str, answer: &[u8]) -> bool {
        let every = *self.every.lock().expect("no holder panics");
        let mut answers = self.answers.lock().expect("no holder panics");
        *answers += 1;
        if every.is_some_and(|every| answers.is_multiple_of(every)) {
            return true;
        }
        let idle = path == CLAIM && String::from_utf8_lossy(answer).contains("\"tasks\":[]");
        let mut orders = self.orders.lock().expect("no holder panics");
        match orders.iter_mut().find(|(of, times)| *of == path && *times > 0 && !idle) {
            Some((_, times)) => {
                *times -= 1;
                true
            }
            None => false,
        }
    }
}

fn path(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// One HTTP/1.1 message with its body; `None` when the connection ends.
async fn read_message(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let (mut message, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let size = head(&message).map(|(head, body)| head + body);
        if size.is_some_and(|size| message.len() >= size) {
            return Some(message);
        }
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        message.extend_from_slice(&buffer[..read]);
    }
}

/// Sizes of head and body, once the head is whole.
fn head(message: &[u8]) -> Option<(usize, usize)> {
    let text = String::from_utf8_lossy(message);
    let end = text.find("\r\n\r\n")?;
    let head = text[..end].to_ascii_lowercase();
    assert!(!head.contains("transfer-encoding"), "the link sends whole messages: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some((end + 4, length.map_or(0, |length| length.trim().parse().expect("a number"))))
}

const QUICK: &str = "cat >/dev/null; echo done";

/// Waits until all have ended, each by its first attempt.
async fn succeed_at_once(plane: &Plane, ids: &[TaskId], began: Instant) {
    plane.all_succeed(ids).await;
    assert!(began.elapsed() < SOON, "took {:?}", began.elapsed());
    for id in ids {
        let task = plane.task(*id).await;
        assert_eq!((task.attempts.len(), task.interrupted, task.failed_attempts), (1, 0, 0), "{task:#?}");
        ended_once(plane, &task).await;
    }
    assert_eq!(plane.metric("longshore_leases_expired_total").await, 0.0);
}

async fn ended_once(plane: &Plane, task: &Task) {
    let events = plane.client.events(task.id, 0).await.expect("it has events").items;
    let ends = events.iter().filter(|event| event.kind == task.state.as_str()).count();
    assert_eq!(ends, 1, "{events:#?}");
}

#[tokio::test]
async fn a_lost_claim_answer_leaves_no_ghost_lease() {
    let plane = Plane::start(&shell("a", QUICK, "platform = \"external\"\nconcurrency = 4")).await;
    let proxy = Proxy::before(&plane).await;
    let link = proxy.address.clone();
    let _worker = ByHand::ready(&plane, "a", |command| {
        command.env("LONGSHORE_LINK", link);
    })
    .await;
    proxy.lose(CLAIM, 2);
    let began = Instant::now();
    let ids = plane.submit_many("a", (0..12).map(|n| json!(n))).await;
    succeed_at_once(&plane, &ids, began).await;
    assert_eq!(proxy.lost(CLAIM), 2);
}

#[tokio::test]
async fn what_a_lost_claim_brought_runs_elsewhere_when_its_worker_drains() {
    let plane = Plane::start(&shell("a", QUICK, "platform = \"external\"")).await;
    let proxy = Proxy::before(&plane).await;
    let link = proxy.address.clone();
    let mut first = ByHand::ready(&plane, "a", |command| {
        command.env("LONGSHORE_LINK", link);
    })
    .await;
    // It never hears what it got.
    proxy.lose(CLAIM, 1000);
    let began = Instant::now();
    let id = plane.submit("a", json!(1)).await;
    proxy.has_lost(CLAIM, 1).await;
    first.signal(Signal::SIGTERM);
    assert!(first.exit().await.success(), "{}", first.log());
    let _second = ByHand::ready(&plane, "a", |_| {}).await;
    let task = plane.reaches(id, State::Succeeded).await;
    assert!(began.elapsed() < SOON, "took {:?}", began.elapsed());
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    ended_once(&plane, &task).await;
}

#[tokio::test]
async fn a_worker_started_anew_frees_what_the_old_one_never_heard_of() {
    let plane = Plane::start(&shell("a", QUICK, "platform = \"external\"")).await;
    let proxy = Proxy::before(&plane).await;
    let link = proxy.address.clone();
    let first = ByHand::ready(&plane, "a", |command| {
        command.env("LONGSHORE_LINK", link);
    })
    .await;
    proxy.lose(CLAIM, 1000);
    let began = Instant::now();
    let id = plane.submit("a", json!(1)).await;
    proxy.has_lost(CLAIM, 1).await;
    // Nobody sees its end: it is not the control plane's child.
    let name = first.id.clone();
    drop(first);
    let _again = ByHand::start_as(&plane, "a", &name, &[], |_| {});
    let task = plane.reaches(id, State::Succeeded).await;
    assert!(began.elapsed() < SOON, "took {:?}", began.elapsed());
    assert_eq!(task.failed_attempts, 0, "{task:#?}");
    ended_once(&plane, &task).await;
}

#[tokio::test]
async fn a_lost_answer_to_an_ending_is_asked_for_again_and_written_once() {
    let plane = Plane::start(&shell("a", QUICK, "platform = \"external\"\nconcurrency = 2")).await;
    let proxy = Proxy::before(&plane).await;
    let link = proxy.address.clone();
    let _worker = ByHand::ready(&plane, "a", |command| {
        command.env("LONGSHORE_LINK", link);
    })
    .await;
    proxy.lose(COMPLETE, 3);
    let began = Instant::now();
    let ids = plane.submit_many("a", (0..6).map(|n| json!(n))).await;
    succeed_at_once(&plane, &ids, began).await;
    proxy.has_lost(COMPLETE, 3).await;
    assert_eq!(plane.metric("longshore_endings_refused_total").await, 0.0);
    // Its slots are free again: an ending that was never acknowledged would keep one.
    let ids = plane.submit_many("a", (0..4).map(|n| json!(n))).await;
    plane.all_succeed(&ids).await;
}

#[tokio::test]
async fn lost_answers_to_events_and_heartbeats_double_no_event() {
    let agent = r#"
import json, time
for n in range(30):
    print(json.dumps({"longshore": "progress", "data": n}), flush=True)
    time.sleep(0.02)
"#;
    let plane = Plane::start(&python("a", agent, "platform = \"external\"")).await;
    let proxy = Proxy::before(&plane).await;
    let link = proxy.address.clone();
    let _worker = ByHand::ready(&plane, "a", |command| {
        command.env("LONGSHORE_LINK", link);
    })
    .await;
    proxy.lose(EVENTS, 2);
    proxy.lose(HEARTBEAT, 2);
    let began = Instant::now();
    let id = plane.submit("a", json!(null)).await;
    succeed_at_once(&plane, &[id], began).await;
    assert_eq!(plane.progress(id, 30).await, (0..30).map(|n| json!(n)).collect::<Vec<_>>());
    assert!(proxy.lost(EVENTS) >= 1 && proxy.lost(HEARTBEAT) >= 1, "nothing was lost");
}

#[tokio::test]
async fn a_link_that_is_cut_for_a_while_interrupts_nothing() {
    let agent = r#"
import json, os, sys, time
task = json.load(sys.stdin)["task"]
print(json.dumps({"longshore": "progress", "data": "here"}), flush=True)
while not os.path.exists(task["input"]):
    time.sleep(0.01)
open(task["input"] + ".done", "w").close()
print(json.dumps({"longshore": "progress", "data": "there"}), flush=True)
"#;
    let plane = Plane::start(&python("a", agent, "platform = \"external\"\nconcurrency = 2")).await;
    let proxy = Proxy::before(&plane).await;
    let link = proxy.address.clone();
    let _worker = ByHand::ready(&plane, "a", |command| {
        command.env("LONGSHORE_LINK", link);
    })
    .await;
    let gate = |name: &str| plane.dir().join(name).to_str().expect("UTF-8").to_owned();
    let (during, after) = (gate("during"), gate("after"));
    let ids = plane.submit_many("a", [json!(during), json!(after)]).await;
    for id in &ids {
        plane.progress(*id, 1).await;
    }
    let began = Instant::now();
    proxy.cut(true);
    std::fs::write(&during, "").expect("the folder is writable");
    // One of them ends while nobody can hear of it; and the cut lasts for 3 s: that is what is tested here.
    let done = format!("{during}.done");
    wait_for("the agent's end", || std::path::Path::new(&done).exists().then_some(())).await;
    while began.elapsed() < Duration::from_secs(3) {
        pause().await;
    }
    assert_eq!(plane.task(ids[0]).await.state, State::Running);
    proxy.cut(false);
    std::fs::write(&after, "").expect("the folder is writable");
    succeed_at_once(&plane, &ids, began).await;
    for id in &ids {
        assert_eq!(plane.progress(*id, 2).await, [json!("here"), json!("there")]);
    }
}

#[tokio::test]
async fn a_link_that_loses_every_third_answer_loses_no_task_and_runs_none_twice() {
    let plane = Plane::start(&shell("a", QUICK, "platform = \"external\"\nconcurrency = 8")).await;
    let proxy = Proxy::before(&plane).await;
    let mut workers = Vec::new();
    for _ in 0..2 {
        let link = proxy.address.clone();
        let worker = ByHand::ready(&plane, "a", |command| {
            command.env("LONGSHORE_LINK", link);
        });
        workers.push(worker.await);
    }
    proxy.lose_every(Some(3));
    let ids = plane.submit_many("a", (0..40).map(|n| json!(n))).await;
    plane.all_succeed(&ids).await;
    proxy.lose_every(None);
    for id in &ids {
        let task = plane.task(*id).await;
        assert_eq!((task.attempts.len(), task.interrupted), (1, 0), "{task:#?}");
    }
    assert_eq!(plane.metric("longshore_leases_expired_total").await, 0.0);
    for worker in &mut workers {
        worker.signal(Signal::SIGTERM);
        assert!(worker.exit().await.success(), "{}", worker.log());
    }
}
