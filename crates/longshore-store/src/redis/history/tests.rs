//! A list stands in for the database; whatever order copies are written in, what is served is what the list says.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rand::Rng;
use tokio::task::JoinSet;

use super::*;
use crate::redis::testing::{Server, redis};

const TTL: Duration = Duration::from_secs(600);

fn message(seq: u64, bytes: usize) -> Message {
    // Unlike any other, and as long as asked for.
    let text = format!("é{seq}");
    let data = format!("\"{text}{}\"", "-".repeat(bytes.saturating_sub(text.len() + 2)));
    let data = Json::parse(data).expect("valid");
    Message { seq, task: TaskId(Uuid::from_u128(u128::from(seq))), at: Timestamp(-3 + seq as i64), data }
}

/// As a reader of the database stops.
fn newest(all: &[Message]) -> Vec<Message> {
    let mut bytes = 0;
    let mut within = |message: &&Message| {
        bytes += message.data.text().len();
        bytes <= BYTES
    };
    let mut some: Vec<Message> = all.iter().rev().take(MESSAGES).take_while(&mut within).cloned().collect();
    some.reverse();
    some
}

fn show(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| format!("{} {} {} {}", m.seq, m.task, m.at.0, m.data.text())).collect()
}

fn id(name: &str) -> ConversationId {
    ConversationId::new(name).expect("valid")
}

async fn check(histories: &Histories, conversation: &ConversationId, all: &[Message], hit: bool) {
    match histories.history(conversation, all.len() as u64).await {
        Some(seen) => {
            assert_eq!(show(&seen), show(&newest(all)));
            assert!(hit, "it was served");
        }
        None => assert!(!hit, "it was not served"),
    }
}

async fn refill(histories: &Histories, conversation: &ConversationId, all: &[Message]) {
    histories.refill(conversation, all.len() as u64, &newest(all)).await;
}

#[tokio::test]
async fn a_copy_follows_its_conversation_from_the_first_message_on() {
    let server = Server::start().await;
    let histories = Histories::new(redis(&server).await, TTL);
    let talk = id("разговор-{1}");
    check(&histories, &talk, &[], true).await;
    let all: Vec<Message> = (1..=450).map(|seq| message(seq, 20)).collect();
    for (from, to) in [(0, 1), (1, 3), (3, 199), (199, 200), (200, 201), (201, 450)] {
        histories.append(&talk, from as u64 + 1, &all[from..to]).await;
        check(&histories, &talk, &all[..to], true).await;
    }
    check(&histories, &talk, &all[..449], false).await;
}

#[tokio::test]
async fn a_copy_holds_no_more_bytes_than_a_reader_takes() {
    let server = Server::start().await;
    let histories = Histories::new(redis(&server).await, TTL);
    let talk = id("large");
    let sizes = [100_000, 100_000, 62_144, 1, 262_144, 262_145, 5, 262_139];
    let all: Vec<Message> = (1..).zip(sizes).map(|(seq, bytes)| message(seq, bytes.max(10))).collect();
    for to in 1..=all.len() {
        histories.append(&talk, to as u64, &all[to - 1..to]).await;
        check(&histories, &talk, &all[..to], true).await;
        refill(&histories, &id(&format!("refilled-{to}")), &all[..to]).await;
        check(&histories, &id(&format!("refilled-{to}")), &all[..to], true).await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_is_not_kept() {
    let server = Server::start().await;
    let histories = Histories::new(redis(&server).await, TTL);
    let all = [message(1, 20), message(2, 20)];
    histories.refill(&id("a"), 1, &all).await;
    histories.refill(&id("a"), 3, &all).await;
    assert_eq!(server.ask::<i64>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn a_gap_drops_the_copy_and_a_refill_mends_it() {
    let server = Server::start().await;
    let histories = Histories::new(redis(&server).await, TTL);
    let talk = id("gap");
    let all: Vec<Message> = (1..=9).map(|seq| message(seq, 20)).collect();
    histories.append(&talk, 1, &all[..2]).await;
    histories.append(&talk, 4, &all[3..4]).await;
    assert_eq!(server.ask::<i64>(&["EXISTS", &histories.key(&talk)]).await, 0, "it is dropped");
    check(&histories, &talk, &all[..4], false).await;
    check(&histories, &talk, &all[..2], false).await;
    refill(&histories, &talk, &all[..6]).await;
    // Late, and in it already; then a reader who read before.
    histories.append(&talk, 5, &all[4..6]).await;
    refill(&histories, &talk, &all[..4]).await;
    check(&histories, &talk, &all[..6], true).await;
    histories.append(&talk, 7, &all[6..]).await;
    check(&histories, &talk, &all, true).await;
}

#[tokio::test]
async fn a_forgotten_conversation_is_not_brought_back_by_a_slow_reader() {
    let server = Server::start().await;
    let redis = redis(&server).await;
    let histories = Histories::new(redis.clone(), TTL);
    let talk = id("gone");
    let all: Vec<Message> = (1..=3).map(|seq| message(seq, 20)).collect();
    histories.append(&talk, 1, &all).await;
    histories.forget(&talk).await.unwrap();
    refill(&histories, &talk, &all).await;
    histories.append(&talk, 1, &all[..1]).await;
    check(&histories, &talk, &all, false).await;
    check(&histories, &talk, &all[..1], false).await;
    let left: i64 = server.ask(&["PTTL", &histories.key(&talk)]).await;
    assert!((1..=120_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn copies_end_when_nobody_uses_them() {
    let server = Server::start().await;
    let histories = Histories::new(redis(&server).await, TTL);
    let talk = id("ttl");
    histories.append(&talk, 1, &[message(1, 20)]).await;
    server.ask::<i64>(&["PEXPIRE", &histories.key(&talk), "1000"]).await;
    check(&histories, &talk, &[message(1, 20)], true).await;
    let left: i64 = server.ask(&["PTTL", &histories.key(&talk)]).await;
    assert!(left > 1_000, "reading keeps it: {left} ms");
}

#[tokio::test]
async fn a_damaged_copy_is_not_served() {
    let server = Server::start().await;
    let histories = Histories::new(redis(&server).await, TTL);
    let all: Vec<Message> = (1..=3).map(|seq| message(seq, 20)).collect();
    for damage in
        [vec!["HDEL", "2"], vec!["HSET", "2", "short"], vec!["HSET", "4", "x"], vec!["HDEL", "first"]]
    {
        let talk = id("damaged");
        refill(&histories, &talk, &all).await;
        check(&histories, &talk, &all, true).await;
        let key = histories.key(&talk);
        server.ask::<i64>(&[&[damage[0], &key], &damage[1..]].concat()).await;
        check(&histories, &talk, &all, false).await;
        server.ask::<i64>(&["DEL", &key]).await;
    }
}

#[tokio::test]
async fn without_redis_nothing_is_served_and_nobody_waits() {
    let server = Server::start().await;
    let redis = redis(&server).await;
    let histories = Histories::new(redis.clone(), TTL);
    server.kill();
    redis.wait_until(false).await;
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        check(&histories, &id("a"), &[message(1, 10)], false).await;
        histories.append(&id("a"), 1, &[message(1, 10)]).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// What several replicas do; writes reach Redis in any order, late, or not at all.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<usize>),
    /// One of those on their way arrives.
    Arrive(prop::sample::Index),
    /// One of them never does.
    Lose(prop::sample::Index),
    /// A reader; after a miss, its refill is on its way.
    Read,
}

enum Write {
    Append { from: usize, to: usize },
    Refill { to: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => 5usize..60, 1 => 50_000usize..300_000];
    prop_oneof![
        3 => prop::collection::vec(size, 1..6).prop_map(Step::Commit),
        1 => (60usize..250).prop_map(|n| Step::Commit(vec![10; n])),
        5 => any::<prop::sample::Index>().prop_map(Step::Arrive),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        4 => Just(Step::Read),
    ]
}

async fn play(histories: &Histories, talk: &ConversationId, steps: Vec<Step>) {
    let (mut all, mut on_their_way): (Vec<Message>, Vec<Write>) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Commit(sizes) => {
                let from = all.len();
                all.extend((from as u64 + 1..).zip(sizes).map(|(seq, bytes)| message(seq, bytes)));
                on_their_way.push(Write::Append { from, to: all.len() });
            }
            Step::Lose(which) if !on_their_way.is_empty() => {
                on_their_way.swap_remove(which.index(on_their_way.len()));
            }
            Step::Arrive(which) if !on_their_way.is_empty() => {
                match on_their_way.swap_remove(which.index(on_their_way.len())) {
                    Write::Append { from, to } => {
                        histories.append(talk, from as u64 + 1, &all[from..to]).await;
                    }
                    Write::Refill { to } => refill(histories, talk, &all[..to]).await,
                }
            }
            Step::Read => match histories.history(talk, all.len() as u64).await {
                Some(seen) => assert_eq!(show(&seen), show(&newest(&all))),
                None => on_their_way.push(Write::Refill { to: all.len() }),
            },
            Step::Arrive(_) | Step::Lose(_) => {}
        }
    }
}

#[test]
fn no_order_of_writes_makes_a_wrong_history() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(Server::start());
    let histories = Histories::new(runtime.block_on(redis(&server)), TTL);
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    let nth = std::sync::atomic::AtomicU32::new(0);
    proptest!(config, |(steps in prop::collection::vec(any_step(), 1..80))| {
        let nth = nth.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        runtime.block_on(play(&histories, &id(&format!("talk-{nth}")), steps));
    });
}

/// Several at once, each with its own connection; the database's lock is the only order.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_several_replicas_never_make_a_wrong_history() {
    let server = Server::start().await;
    let database: Arc<Mutex<Vec<Message>>> = Arc::default();
    let mut replicas = JoinSet::new();
    for _ in 0..4 {
        let histories = Histories::new(redis(&server).await, TTL);
        replicas.spawn(replica(histories, Arc::clone(&database)));
    }
    let hits: usize = replicas.join_all().await.into_iter().sum();
    assert!(hits > 20, "{hits} reads of 1,200 were served: the copy is of no use");
}

async fn replica(histories: Histories, database: Arc<Mutex<Vec<Message>>>) -> usize {
    let (talk, mut hits) = (id("shared"), 0);
    for _ in 0..300 {
        if rand::rng().random_bool(0.2) {
            let (from, added) = {
                let mut all = database.lock().unwrap();
                let from = all.len() as u64 + 1;
                let added: Vec<Message> = (from..from + 3).map(|seq| message(seq, 10)).collect();
                all.extend(added.iter().cloned());
                (from, added)
            };
            if rand::rng().random_bool(0.9) {
                histories.append(&talk, from, &added).await;
            }
        }
        let all = database.lock().unwrap().clone();
        match histories.history(&talk, all.len() as u64).await {
            Some(seen) => {
                assert_eq!(show(&seen), show(&newest(&all)));
                hits += 1;
            }
            None => refill(&histories, &talk, &all).await,
        }
    }
    hits
}
