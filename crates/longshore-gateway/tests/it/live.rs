//! Live calls: what is shown before it is stored, and what two gateways make of one call.

use longshore_api::llm::Breaker;
use longshore_simulate::{Options, Trace};
use uuid::Uuid;

use crate::scene::{Heard, Scene, hear, hear_some};

fn text(heard: &Heard) -> String {
    String::from_utf8_lossy(&heard.body).into_owned()
}

#[tokio::test]
async fn an_agent_never_sees_the_end_of_an_answer_that_could_not_be_stored() {
    let long = Trace::parse("input_tokens,output_tokens\n10,20000\n").expect("a trace");
    let scene = Scene::new(Options { trace: Some(long), ..Options::default() }, Some(600)).await;
    let gateway = scene.gateway("one").await;
    // The intent finds room, the answer of twenty thousand tokens does not.
    scene.sim.hold_streams_after(2);
    let mut frames = scene.ask(&gateway, Uuid::new_v4(), "a long story", true).await;
    let begun = hear_some(&mut frames).await;
    assert!(begun.head.is_some_and(|head| head.status == 200));
    scene.fill().await;
    scene.sim.hold(false);
    let rest = hear(frames).await;
    let broken = rest.broken.as_ref().expect("it cannot end well");
    assert_eq!(broken.by, Breaker::Longshore, "a failure after it costs the task no try");
    assert!(
        !text(&rest).contains("\"finish_reason\":\"") && !text(&rest).contains("[DONE]"),
        "{}",
        text(&rest)
    );
    assert!(!rest.whole);
}

#[tokio::test]
async fn a_call_is_joined_at_another_gateway_and_answered_once() {
    let scene = Scene::new(Options::default(), None).await;
    let (one, two) = (scene.gateway("one").await, scene.gateway("two").await);
    scene.sim.hold(true);
    let call = Uuid::new_v4();
    let first = tokio::spawn(hear(scene.ask(&one, call, "joined", true).await));
    scene.sim.until_waiting(1).await;
    let second = tokio::spawn(hear(scene.ask(&two, call, "joined", true).await));
    scene.sim.hold(false);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.body, second.body);
    assert!(second.head.is_some_and(|head| head.stored), "it came from the journal");
    assert_eq!(scene.sim.bill().totals.received, 1);
}

#[tokio::test]
async fn a_superseded_gateways_late_answer_is_never_continued_with_another() {
    let scene = Scene::new(Options::default(), None).await;
    let (one, two) = (scene.gateway("one").await, scene.gateway("two").await);
    scene.sim.hold_streams_after(2);
    let call = Uuid::new_v4();
    let mut late = scene.ask(&one, call, "taken over", true).await;
    hear_some(&mut late).await;
    scene.supersede("one").await;
    let taken_over = tokio::spawn(hear(scene.ask(&two, call, "taken over", true).await));
    scene.sim.until_waiting(2).await;
    scene.sim.hold(false);
    let taken_over = taken_over.await.unwrap();
    let late = hear(late).await;
    // Whichever was stored first is the answer; the other one broke in the middle.
    assert!(taken_over.whole);
    assert!(!late.whole && late.broken.is_some_and(|broken| broken.by == Breaker::Longshore));
    assert_eq!(scene.sim.bill().totals.received, 2);
    let counts = scene.store.call_counts(scene.held.task).await.unwrap();
    assert_eq!((counts.live, counts.maybe_billed), (1, 1));
}

#[tokio::test]
async fn a_relay_that_goes_away_leaves_its_call_under_way() {
    let scene = Scene::new(Options::default(), None).await;
    let gateway = scene.gateway("one").await;
    scene.sim.hold(true);
    let call = Uuid::new_v4();
    let frames = scene.ask(&gateway, call, "finish it", false).await;
    let listening = tokio::spawn(hear(frames));
    scene.sim.until_waiting(1).await;
    listening.abort();
    scene.sim.hold(false);
    assert_eq!(gateway.finish(std::time::Duration::from_secs(60)).await, 0);
    let again = hear(scene.ask(&gateway, call, "finish it", false).await).await;
    assert!(again.whole && again.head.is_some_and(|head| head.stored));
    assert_eq!(scene.sim.bill().totals.received, 1);
}

#[tokio::test]
async fn a_request_that_is_dropped_at_once_still_has_somebody_at_it() {
    let scene = Scene::new(Options::default(), None).await;
    let gateway = scene.gateway("one").await;
    for n in 0..50 {
        let call = Uuid::new_v4();
        drop(scene.ask(&gateway, call, &format!("dropped {n}"), n % 2 == 0).await);
        let heard = hear(scene.ask(&gateway, call, &format!("dropped {n}"), n % 2 == 0).await).await;
        assert!(heard.whole, "{n}: {heard:?}");
    }
    assert_eq!(scene.sim.bill().totals.received, 50);
}
