//! A watch of an API server that is away, busy, silent or forgetful.

mod fake;

use std::time::Duration;

use kube::Config;

use self::fake::{Answer, FakeApiServer};
use super::*;

/// Far less than in earnest; a second is the least that a watch is asked to last.
const QUICK: Limits = Limits {
    answer: Duration::from_millis(300),
    anew_s: 1,
    late: Duration::from_millis(300),
    soon: Duration::from_millis(20),
    latest: Duration::from_millis(100),
};

async fn watched(limits: Limits) -> (FakeApiServer, Watch) {
    let server = FakeApiServer::start().await;
    server.put("one", "research:1");
    let watch = Watch::within(&cluster(&server).await, limits);
    timeout(Duration::from_secs(10), watch.ready()).await.expect("all is listed");
    until("a watch", || server.standing() == 1).await;
    (server, watch)
}

async fn cluster(server: &FakeApiServer) -> Cluster {
    // As it is inferred, but for the address.
    let config = Config::new(server.url());
    Cluster::reach(config, Some("agents")).await.expect("it answers")
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), waited).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

fn images(watch: &Watch) -> Vec<String> {
    watch.pods("research").into_iter().filter_map(|pod| pod.mark.image).collect()
}

#[tokio::test]
async fn what_happens_is_seen_and_a_watch_that_ends_is_begun_again_where_it_was() {
    let (server, watch) = watched(QUICK).await;
    assert_eq!(images(&watch), ["research:1"]);
    server.put("two", "research:2");
    until("a new pod", || images(&watch) == ["research:1", "research:2"]).await;
    server.put("one", "research:3");
    until("a changed pod", || images(&watch) == ["research:3", "research:2"]).await;
    server.remove("two");
    until("a pod to go", || images(&watch) == ["research:3"]).await;
    until("the watch to be begun anew", || server.watches() >= 3).await;
    server.drop_connections();
    server.put("three", "research:4");
    until("what happened meanwhile", || images(&watch) == ["research:3", "research:4"]).await;
    assert_eq!((server.lists(), watch.broken()), (1, None), "nothing was missed");
}

#[tokio::test]
async fn an_api_server_that_is_busy_is_known_at_once_and_watched_again_as_soon_as_it_answers() {
    for status in [429, 503, 504] {
        let (server, watch) = watched(QUICK).await;
        server.answer(Answer::Status(status), Answer::Status(status));
        server.drop_connections();
        server.put("one", "research:2");
        until("it to be said", || watch.broken().is_some()).await;
        let (_, why) = watch.broken().expect("it is broken");
        assert!(why.contains("pods in namespace `agents`") && why.contains("etcd"), "{why}");
        // Longer than the library's own attempts would go on after.
        let asked = server.asked();
        until("it to be asked again and again", || server.asked() > asked + 8).await;
        assert_eq!(images(&watch), ["research:1"], "as it was");
        server.answer(Answer::Good, Answer::Good);
        let before = Instant::now();
        until("all to be well", || watch.broken().is_none() && images(&watch) == ["research:2"]).await;
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    }
}

#[tokio::test]
async fn what_was_seen_before_is_not_believed_until_all_is_listed_again() {
    let (server, watch) = watched(QUICK).await;
    watch.news().await;
    server.answer(Answer::Status(503), Answer::Good);
    server.forget();
    server.put("two", "research:2");
    until("it to be said", || watch.broken().is_some()).await;
    let lists = server.lists();
    let mut last = Duration::ZERO;
    until("lists to fail", || {
        let (since, _) = watch.broken().expect("it is not mended by beginning to list");
        assert!(since >= last, "it is one break, and it gets older");
        last = since;
        server.lists() > lists + 4
    })
    .await;
    assert!(timeout(Duration::ZERO, watch.news()).await.is_err(), "nobody was woken to look at what was");
    server.answer(Answer::Good, Answer::Good);
    until("all to be well", || watch.broken().is_none()).await;
    assert_eq!(images(&watch), ["research:1", "research:2"]);
}

#[tokio::test]
async fn a_request_that_hangs_has_an_end() {
    for (list, follow, words) in
        [(Answer::Hangs, Answer::Good, "list pods"), (Answer::Good, Answer::Hangs, "watch pods")]
    {
        let (server, watch) = watched(QUICK).await;
        server.answer(list, follow);
        server.forget();
        server.remove("one");
        until("it to be said", || watch.broken().is_some_and(|(_, why)| why.contains(words))).await;
        let (_, why) = watch.broken().expect("it is broken");
        assert!(why.contains("does not answer in time"), "{why}");
        server.answer(Answer::Good, Answer::Good);
        until("all to be well", || watch.broken().is_none() && images(&watch).is_empty()).await;
    }
}

#[tokio::test]
async fn a_watch_that_dies_without_a_word_is_noticed() {
    let server = FakeApiServer::start().await;
    server.put("one", "research:1");
    server.answer(Answer::Good, Answer::Mute);
    let watch = Watch::within(&cluster(&server).await, QUICK);
    until("a watch", || server.standing() == 1).await;
    server.put("two", "research:2");
    until("it to be said", || watch.broken().is_some_and(|(_, why)| why.contains("watch pods"))).await;
    server.answer(Answer::Good, Answer::Good);
    until("what was missed", || images(&watch).len() == 2 && watch.broken().is_none()).await;
}

#[tokio::test]
async fn where_pods_may_be_listed_and_not_watched_that_is_one_break_and_says_what_to_do() {
    let (server, watch) = watched(QUICK).await;
    server.answer(Answer::Good, Answer::Status(403));
    server.forget();
    until("it to be said", || watch.broken().is_some_and(|(_, why)| why.contains("may not"))).await;
    let (first, why) = watch.broken().expect("it is broken");
    assert!(why.starts_with("may not watch pods in namespace `agents`: apply the Role that"), "{why}");
    let lists = server.lists();
    until("all to be listed again", || {
        assert!(watch.broken().is_some_and(|(since, _)| since >= first), "a list alone mends nothing");
        server.lists() > lists + 1
    })
    .await;
}

#[tokio::test]
async fn a_long_list_is_read_to_its_end() {
    let server = FakeApiServer::start().await;
    for pod in 0..1200 {
        server.put(&format!("pod-{pod:04}"), "research:1");
    }
    let watch = Watch::within(&cluster(&server).await, QUICK);
    timeout(Duration::from_secs(10), watch.ready()).await.expect("in time");
    assert_eq!((watch.pods("research").len(), watch.pods("other").len(), server.lists()), (1200, 0, 3));
}

#[test]
fn a_watch_that_breaks_at_once_has_mended_nothing() {
    let mut state = State { seen: BTreeMap::<String, PodSeen>::new(), broken: None, stood: None };
    state.doubt("no route");
    let since = |state: &State<PodSeen>| state.broken.as_ref().map(|it| it.since);
    let first = since(&state);
    assert!(first.is_some() && state.stands() && state.broken.is_none());
    state.doubt("connection reset");
    assert_eq!(since(&state), first, "it is the same trouble, and gets older");
    assert!(state.stands());
    state.stood = state.stood.take().map(|(at, before)| (at - SHORT, before));
    state.doubt("connection reset");
    assert!(since(&state) > first, "it stood for a while");
}

#[test]
fn what_fails_is_tried_again_later_each_time_and_never_for_long() {
    let waits: Vec<_> = [1, 2, 3, 4, 5, 99].map(|failures| LIMITS.pause(failures).as_millis()).into();
    assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
}
