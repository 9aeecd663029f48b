//! Time is set by the tests, so that minutes take no time; Redis is real.

use std::sync::atomic::AtomicU64;

use futures_util::future::join_all;
use longshore_core::limit::Window;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::redis::testing::{Proxy, Server, redis};

const START_MS: u64 = 1_800_000_000_000;

fn limit(requests: u64, tokens: u64) -> Limit {
    Limit { requests_per_minute: Some(requests), tokens_per_minute: Some(tokens) }
}

fn set_clock() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(START_MS))
}

fn pass(clock: &AtomicU64, seconds: u64) {
    clock.fetch_add(seconds * 1_000, Ordering::SeqCst);
}

fn gateway(redis: &Redis, seat: &str, of: u32, quiet: bool, clock: &Arc<AtomicU64>) -> Permits {
    // Each has its own idea of when time began.
    let ahead = seat.bytes().map(u64::from).sum::<u64>() * 1_234_567;
    let permits = Permits::with(redis.clone(), seat, of, quiet, Clock::Set(Arc::clone(clock), ahead));
    // Tests beat themselves.
    permits.beats.abort();
    permits
}

async fn show(permits: &Permits, line: &str, limit: Limit, tokens: u64) -> String {
    match permits.ask(line, limit, Need { tokens }).await {
        Answer::Admitted(_) => "admitted".into(),
        Answer::Wait { seconds } => format!("wait {seconds}"),
        Answer::TooLarge { limit } => format!("more than {limit}"),
    }
}

#[tokio::test]
async fn a_fresh_redis_admits_nothing_for_a_minute_unless_it_is_known_that_nothing_was_used() {
    let server = Server::start().await;
    let (redis, clock) = (redis(&server).await, set_clock());
    let one = gateway(&redis, "one", 1, false, &clock);
    assert_eq!(show(&one, "a", limit(1, 10), 1).await, "wait 60");
    pass(&clock, 59);
    assert_eq!(show(&one, "a", limit(1, 10), 1).await, "wait 1");
    pass(&clock, 1);
    assert_eq!(show(&one, "a", limit(1, 10), 1).await, "admitted");
    server.ask::<()>(&["FLUSHALL"]).await;
    let two = gateway(&redis, "two", 1, true, &clock);
    assert_eq!(show(&two, "b", limit(1, 10), 1).await, "admitted");
}

#[tokio::test]
async fn gateways_that_remember_open_an_emptied_redis_with_what_they_used() {
    let server = Server::start().await;
    let (redis, clock) = (redis(&server).await, set_clock());
    let (one, two) = (gateway(&redis, "one", 2, true, &clock), gateway(&redis, "two", 2, true, &clock));
    assert_eq!(show(&one, "a", limit(9, 100), 1).await, "wait 60", "two has not spoken");
    two.beat().await.unwrap();
    assert_eq!(show(&one, "a", limit(9, 100), 60).await, "admitted");
    assert_eq!(show(&two, "a", limit(9, 100), 30).await, "admitted");
    pass(&clock, 1);
    server.ask::<()>(&["FLUSHALL"]).await;
    assert_eq!(show(&one, "a", limit(9, 100), 10).await, "wait 60");
    two.beat().await.unwrap();
    assert_eq!(show(&one, "a", limit(9, 100), 11).await, "wait 60", "90 are counted, as used just now");
    assert_eq!(show(&two, "a", limit(9, 100), 10).await, "admitted");
}

#[tokio::test]
async fn a_snapshot_is_not_believed() {
    let server = Server::start().await;
    let (redis, clock) = (redis(&server).await, set_clock());
    let one = gateway(&redis, "one", 1, true, &clock);
    assert_eq!(show(&one, "a", limit(9, 100), 60).await, "admitted");
    server.ask::<()>(&["SAVE"]).await;
    assert_eq!(show(&one, "a", limit(9, 100), 40).await, "admitted");
    server.start_again().await;
    assert_eq!(server.ask::<i64>(&["EXISTS", &redis.key("permits")]).await, 1, "it has the older state");
    // Any command notices that the connection is gone.
    let _ = one.beat().await;
    redis.wait_until(true).await;
    pass(&clock, 1);
    assert_eq!(show(&one, "a", limit(9, 100), 1).await, "wait 60");
}

#[test]
fn what_a_lost_state_admitted_is_void_once_the_next_was_told() {
    let mut memory = Memory::new(0, true);
    let (nonce, ..) = memory.join(0);
    memory.has_joined("old".into(), &nonce);
    assert!(memory.note("a", 5, "old", 0).is_some());
    let (nonce, _, told) = memory.join(0);
    assert_eq!(told, [("a".to_owned(), 1, 5)]);
    assert!(memory.note("a", 7, "old", 0).is_none(), "it was not told");
    memory.has_joined("new".into(), &nonce);
    assert!(memory.note("a", 7, "old", 0).is_none());
    assert!(memory.note("a", 7, "new", 0).is_some());
}

#[test]
fn who_used_its_own_part_meanwhile_has_not_joined() {
    let mut memory = Memory::new(0, true);
    let (nonce, ..) = memory.join(0);
    let alone = memory.ask_alone("a", limit(9, 100), Need { tokens: 7 }, 1, 100_000);
    assert!(matches!(alone, Answer::Admitted(_)));
    memory.has_joined("new".into(), &nonce);
    assert_eq!(memory.joined(), None);
    let (again, _, told) = memory.join(100_000);
    assert_ne!(again, nonce, "it tells something new");
    assert_eq!(told, [("a".to_owned(), 1, 7)]);
}

#[tokio::test]
async fn settling_withdrawing_and_pausing_hold_for_all() {
    let server = Server::start().await;
    let (redis, clock) = (redis(&server).await, set_clock());
    let (one, two) = (gateway(&redis, "one", 2, true, &clock), gateway(&redis, "two", 2, true, &clock));
    one.beat().await.unwrap();
    two.beat().await.unwrap();
    let admit = async |tokens| match one.ask("a", limit(9, 100), Need { tokens }).await {
        Answer::Admitted(permit) => permit,
        other => panic!("{other:?}"),
    };
    let permit = admit(100).await;
    assert_eq!(show(&two, "a", limit(9, 100), 80).await, "wait 60");
    one.settle(permit, 20).await;
    let permit = admit(80).await;
    one.withdraw(permit).await;
    assert_eq!(show(&two, "a", limit(9, 100), 80).await, "admitted");
    one.block("b", 7).await;
    assert_eq!(show(&two, "b", limit(9, 100), 1).await, "wait 7");
    one.block("b", 3).await;
    pass(&clock, 1);
    assert_eq!(show(&two, "b", limit(9, 100), 1).await, "wait 6");
    assert_eq!(show(&two, "b", limit(9, 100), 101).await, "more than 100");
}

#[tokio::test]
async fn a_missing_gateway_takes_its_part_along_and_a_new_one_must_wait_for_it() {
    let server = Server::start().await;
    let (redis, clock) = (redis(&server).await, set_clock());
    let (one, two) = (gateway(&redis, "one", 2, true, &clock), gateway(&redis, "two", 2, true, &clock));
    two.beat().await.unwrap();
    assert_eq!(one.beat().await.unwrap(), 2);
    pass(&clock, 6);
    assert_eq!(one.beat().await.unwrap(), 1);
    assert_eq!(show(&one, "a", limit(9, 100), 50).await, "admitted");
    assert_eq!(show(&one, "a", limit(9, 100), 1).await, "wait 60");
    assert_eq!(show(&one, "a", limit(9, 100), 51).await, "wait 5", "no minute of half the limit holds it");
    let three = gateway(&redis, "three", 2, false, &clock);
    assert_eq!(three.beat().await.unwrap(), 2, "nobody has been missing for long");
    pass(&clock, 61);
    one.beat().await.unwrap();
    let four = gateway(&redis, "four", 2, false, &clock);
    assert_eq!(four.beat().await.unwrap(), 1, "the missing one may be using its part");
    pass(&clock, 60);
    one.beat().await.unwrap();
    assert_eq!(four.beat().await.unwrap(), 2);
}

#[tokio::test]
async fn a_message_that_was_held_up_changes_nothing() {
    let server = Server::start().await;
    let (redis, clock) = (redis(&server).await, set_clock());
    let one = gateway(&redis, "one", 1, true, &clock);
    one.beat().await.unwrap();
    let old = one.inner.memory().send(one.inner.clock.now_ms()).at_redis_ms.to_string();
    pass(&clock, 3);
    let (now, epoch) = (one.inner.clock.forced(), one.inner.memory().joined().unwrap());
    let words = ["ask", "one", "1", &old, &epoch, &now, "a", "1", "-1", "1"];
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let key = redis.key("permits");
    let (word, ..): Reply = redis.run(&one.inner.script, &[&key], &words).await.unwrap();
    assert_eq!(word, "stale");
    assert_eq!(show(&one, "a", limit(1, 10), 1).await, "admitted", "nothing was reserved");
}

#[tokio::test]
async fn the_clock_is_that_of_redis() {
    let server = Server::start().await;
    let permits = Permits::start(redis(&server).await, "one", 1, true);
    assert_eq!(show(&permits, "a", limit(1, 10), 1).await, "admitted");
    let Answer::Wait { seconds } = permits.ask("a", limit(1, 10), Need { tokens: 1 }).await else {
        panic!("it waits")
    };
    assert!((58..=60).contains(&seconds), "{seconds}");
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Ask(u64),
    Settle(prop::sample::Index, u64),
    Withdraw(prop::sample::Index),
    Block(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![4 => 0u64..20, 1 => 55u64..130].prop_map(Step::Pass),
        6 => (0u64..60).prop_map(Step::Ask),
        2 => (any::<prop::sample::Index>(), 0u64..80).prop_map(|(which, used)| Step::Settle(which, used)),
        1 => any::<prop::sample::Index>().prop_map(Step::Withdraw),
        1 => (0u64..70).prop_map(Step::Block),
    ]
}

/// One gateway over Redis answers as the window that needs none.
async fn compare(redis: Redis, seat: &str, steps: Vec<Step>) {
    let clock = set_clock();
    let (shared, line) = (gateway(&redis, seat, 1, true, &clock), format!("line|{seat}"));
    let (limit, mut window) = (limit(8, 100), Window::new(limit(8, 100)));
    let mut held = Vec::new();
    let now = || clock.load(Ordering::SeqCst) / 1_000;
    for step in steps {
        match step {
            Step::Pass(seconds) => {
                // Beats go on, so that the seat is kept.
                for _ in 0..seconds {
                    pass(&clock, 1);
                }
                shared.beat().await.unwrap();
            }
            Step::Ask(tokens) => {
                let need = Need { tokens };
                match (shared.ask(&line, limit, need).await, window.ask(now(), need)) {
                    (Answer::Admitted(one), limit::Answer::Admitted(other)) => held.push((one, other)),
                    (Answer::Wait { seconds: one }, limit::Answer::Wait { seconds: other }) => {
                        assert_eq!(one, other);
                    }
                    (one, other) => panic!("{one:?}, {other:?}"),
                }
            }
            Step::Settle(which, used) if !held.is_empty() => {
                let (one, other) = held.swap_remove(which.index(held.len()));
                shared.settle(one, used).await;
                window.ask(now(), Need { tokens: u64::MAX });
                window.settle(&other, used);
            }
            Step::Withdraw(which) if !held.is_empty() => {
                let (one, other) = held.swap_remove(which.index(held.len()));
                shared.withdraw(one).await;
                window.withdraw(other);
            }
            Step::Block(seconds) => {
                shared.block(&line, seconds).await;
                window.block_until(now() + seconds);
            }
            Step::Settle(..) | Step::Withdraw(_) => {}
        }
    }
}

#[test]
fn the_script_decides_as_the_window_of_one_gateway_does() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(Server::start());
    let redis = runtime.block_on(redis(&server));
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    let nth = AtomicU64::new(0);
    proptest!(config, |(steps in prop::collection::vec(any_step(), 1..100))| {
        let seat = format!("seat-{}", nth.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            server.ask::<()>(&["FLUSHALL"]).await;
            compare(redis.clone(), &seat, steps).await;
        });
    });
}

/// Gateways, each with a line of its own to Redis.
struct Scene {
    clock: Arc<AtomicU64>,
    server: Server,
    gateways: Vec<(Proxy, Redis, Permits)>,
    /// Second, tokens.
    admitted: Vec<(u64, u64)>,
    alone: usize,
}

const OF: u32 = 3;
const REQUESTS: u64 = 24;
const TOKENS: u64 = 2_000;

impl Scene {
    async fn new() -> Scene {
        let (clock, server) = (set_clock(), Server::start().await);
        let mut gateways = Vec::new();
        for n in 0..OF {
            let proxy = Proxy::to(server.port).await;
            let redis = Redis::connect(proxy.options());
            redis.wait_until(true).await;
            let permits = gateway(&redis, &format!("seat-{n}"), OF, true, &clock);
            gateways.push((proxy, redis, permits));
        }
        Scene { clock, server, gateways, admitted: Vec::new(), alone: 0 }
    }

    /// Everyone asks for more than there is, at once; what is admitted is settled for less, sometimes.
    async fn second(&mut self, chance: &mut StdRng) {
        pass(&self.clock, 1);
        let now = self.clock.load(Ordering::SeqCst) / 1_000;
        let asks = self.gateways.iter().flat_map(|(_, _, permits)| {
            let sizes: Vec<(u64, bool)> = (0..chance.random_range(0..4))
                .map(|_| (chance.random_range(1..300), chance.random()))
                .collect();
            sizes.into_iter().map(move |(tokens, settles)| one_call(permits, tokens, settles))
        });
        for (tokens, alone) in join_all(asks).await.into_iter().flatten() {
            self.admitted.push((now, tokens));
            self.alone += usize::from(alone);
        }
        for (_, redis, permits) in &self.gateways {
            if redis.health().up {
                let _ = permits.beat().await;
            }
        }
    }

    async fn seconds(&mut self, seconds: u64, chance: &mut StdRng) -> usize {
        let before = self.admitted.len();
        for _ in 0..seconds {
            self.second(chance).await;
        }
        self.check();
        self.admitted.len() - before
    }

    fn check(&self) {
        let (Some((first, _)), Some((last, _))) = (self.admitted.first(), self.admitted.last()) else {
            return;
        };
        for begin in *first..=*last {
            let minute = self.admitted.iter().filter(|(second, _)| (begin..begin + 60).contains(second));
            let (requests, tokens) = minute.fold((0, 0), |(n, sum), (_, tokens)| (n + 1, sum + tokens));
            assert!(requests <= REQUESTS && tokens <= TOKENS, "{requests} and {tokens} from {begin} on");
        }
    }

    async fn cut(&mut self, n: usize, cut: bool) {
        let (proxy, redis, permits) = &self.gateways[n];
        if cut {
            proxy.cut();
            // Any command notices.
            let _ = permits.beat().await;
        } else {
            proxy.mend();
        }
        redis.wait_until(!cut).await;
    }

    async fn everyone_is_connected(&self) {
        for (_, redis, _) in &self.gateways {
            redis.wait_until(true).await;
        }
    }
}

async fn one_call(permits: &Permits, tokens: u64, settles: bool) -> Option<(u64, bool)> {
    match permits.ask("a", limit(REQUESTS, TOKENS), Need { tokens }).await {
        Answer::Admitted(permit) => {
            let alone = matches!(permit.place, Place::Alone(_));
            if settles {
                permits.settle(permit, tokens / 2).await;
                return Some((tokens / 2, alone));
            }
            Some((tokens, alone))
        }
        Answer::Wait { seconds } => {
            assert!((1..=70).contains(&seconds), "{seconds}");
            None
        }
        Answer::TooLarge { .. } => panic!("none is"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_minute_holds_more_than_the_limit_whatever_happens_to_redis() {
    let mut scene = Scene::new().await;
    let chance = &mut StdRng::seed_from_u64(7);
    assert!(scene.seconds(70, chance).await as u64 >= TOKENS / 300);
    // Emptied under way: everyone remembers, so it goes on at once.
    scene.server.ask::<()>(&["FLUSHALL"]).await;
    scene.seconds(70, chance).await;
    // Restarted empty.
    scene.server.start_again().await;
    for n in 0..OF as usize {
        let _ = scene.gateways[n].2.beat().await;
    }
    scene.everyone_is_connected().await;
    assert!(scene.seconds(70, chance).await > 0, "it goes on");
    // One is cut off, waits, and uses its own part; then it is back.
    scene.cut(0, true).await;
    let before = scene.alone;
    scene.seconds(69, chance).await;
    assert_eq!(scene.alone, before, "what was shared still counts");
    scene.seconds(80, chance).await;
    assert!(scene.alone > before, "its own part is used");
    scene.cut(0, false).await;
    assert!(scene.seconds(80, chance).await > 0);
    // All are cut off, then all are back.
    for n in 0..OF as usize {
        scene.cut(n, true).await;
    }
    let before = scene.alone;
    scene.seconds(140, chance).await;
    assert!(scene.alone > before + 3);
    for n in 0..OF as usize {
        scene.cut(n, false).await;
    }
    assert!(scene.seconds(80, chance).await > 0);
}

#[test]
fn no_minute_holds_more_than_the_limit_by_chance() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = ProptestConfig {
        cases: 8,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    proptest!(config, |(seed: u64)| {
        runtime.block_on(async {
            let mut scene = Scene::new().await;
            let chance = &mut StdRng::seed_from_u64(seed);
            let mut cut = [false; OF as usize];
            for _ in 0..10 {
                match chance.random_range(0..4) {
                    0 => scene.server.ask::<()>(&["FLUSHALL"]).await,
                    1 | 2 => {
                        let n = chance.random_range(0..cut.len());
                        cut[n] = !cut[n];
                        scene.cut(n, cut[n]).await;
                    }
                    _ => {}
                }
                let seconds = chance.random_range(1..100);
                scene.seconds(seconds, chance).await;
            }
        });
    });
}
