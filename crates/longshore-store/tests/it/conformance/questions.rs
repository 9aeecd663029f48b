use std::time::Duration;

use longshore_core::id::{Held, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Ending, Interruption, OnInterrupt, State};
use longshore_core::wait::{Ask, Awaits, InputRefused, OnExpiry, QUESTIONS, QuestionState, Wait};
use longshore_store::*;

use crate::support::*;

const DAY: Duration = Duration::from_secs(86_400);

fn ask(name: Option<&str>) -> Ask {
    Ask {
        name: name.map(str::to_owned),
        question: Json::string("really?"),
        schema: None,
        expires_ms: Some(DAY.as_millis() as u64),
        on_expiry: OnExpiry::Fail,
    }
}

async fn asks(world: &World, crew: &Crew, seq: u64, ask: Ask) -> Held {
    let held = world.claim_one(crew, seq).await.held();
    assert!(world.end(crew, held, Ending::Waited(Awaits::Ask(ask))).await);
    held
}

async fn say(world: &World, id: TaskId, question: Option<&str>, answer: &str) -> InputOutcome {
    world.store.input(id, question.map(str::to_owned), json(answer), world.now()).await.unwrap()
}

pub async fn a_question_waits_for_its_answer_without_a_worker(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    asks(world, &crew, 1, ask(None)).await;
    let task = world.task(id).await;
    let wait = Some(Wait::Question { name: "ask-1".into() });
    assert_eq!((task.state, task.wait), (State::Waiting, wait));
    assert_eq!(task.wait_until, Some(world.now().after(DAY)));
    assert!(world.claim(&crew, 2, 1).await.unwrap().is_empty());
    assert_eq!(say(world, id, None, r#"{"yes":1e400}"#).await, InputOutcome::Taken);
    let again = world.claim_one(&crew, 2).await;
    assert_eq!(again.questions.len(), 1);
    assert_eq!(again.questions[0].answer, Some(json(r#"{"yes":1e400}"#)), "the next attempt is told");
    assert_eq!(world.store.questions(id).await.unwrap(), again.questions);
    let twice = InputRefused::AlreadyAnswered("ask-1".into());
    assert_eq!(say(world, id, Some("ask-1"), "2").await, InputOutcome::Refused(State::Running, twice));
    // Without a name the next question is another one, and a crash changes nothing of it.
    world.end(&crew, again.held(), Ending::Interrupted(Interruption::HandedOver)).await;
    asks(world, &crew, 3, ask(None)).await;
    assert_eq!(world.task(id).await.wait, Some(Wait::Question { name: "ask-2".into() }));
    assert_eq!(say(world, id, None, "2").await, InputOutcome::Taken);
    let held = world.claim_one(&crew, 4).await.held();
    assert!(world.end(&crew, held, Ending::Succeeded).await);
    let over = InputOutcome::Refused(State::Succeeded, InputRefused::NotWaiting);
    assert_eq!(say(world, id, None, "3").await, over);
    let task = world.task(id).await;
    assert_eq!((task.failed_attempts, task.interrupted, task.attempts), (0, 1, 4));
}

pub async fn an_answer_in_time_counts_and_a_late_one_does_not(world: &World) {
    let crew = world.worker("w").await;
    let fails = world.submit(new_task()).await;
    asks(world, &crew, 1, ask(Some("q"))).await;
    let goes_on = world.submit(new_task()).await;
    asks(world, &crew, 2, Ask { on_expiry: OnExpiry::Resume, ..ask(Some("q")) }).await;
    // Before the tick sees it.
    world.pass(DAY);
    let late = InputOutcome::Refused(State::Waiting, InputRefused::Expired("q".into()));
    assert_eq!(say(world, fails, None, "1").await, late);
    world.tick(Duration::from_secs(1)).await;
    let task = world.task(fails).await;
    assert_eq!((task.state, task.failure.unwrap().code), (State::Failed, "input_expired".into()));
    let again = world.claim_one(&crew, 3).await;
    assert_eq!(again.id, goes_on);
    assert_eq!(again.questions[0].state(world.now()), QuestionState::Expired);
    world.end(&crew, again.held(), Ending::Succeeded).await;
}

pub async fn a_question_is_asked_once_and_may_be_answered_before_it_is_waited_for(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let put = |held| world.store.ask(held, fleet("a"), ask(Some("q")), world.now());
    let first = put(held).await.unwrap();
    world.crash(&crew).await;
    world.pass(Duration::from_secs(60));
    let again = world.worker("v").await;
    let newer = world.claim_one(&again, 1).await.held();
    assert!(matches!(put(held).await, Err(AskError::Call(CallError::StaleFence))));
    assert_eq!(put(newer).await.unwrap(), first, "its time runs from when it was first asked");
    assert_eq!(say(world, id, None, "7").await, InputOutcome::Taken);
    assert_eq!(world.task(id).await.state, State::Running);
    world.end(&again, newer, Ending::Waited(Awaits::Answer { question: "q".into() })).await;
    assert_eq!(world.task(id).await.state, State::Queued, "the answer is there");
    let newest = world.claim_one(&again, 2).await.held();
    world.end(&again, newest, Ending::Waited(Awaits::Answer { question: "other".into() })).await;
    assert_eq!(world.task(id).await.failure.unwrap().code, "unknown_question");
}

pub async fn an_interruption_and_a_question_are_told_apart(world: &World) {
    let id = world.submit(NewTask { on_interrupt: OnInterrupt::Ask, ..new_task() }).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    for name in ["p", "q"] {
        world.store.ask(held, fleet("a"), ask(Some(name)), world.now()).await.unwrap();
    }
    let several = InputRefused::Several(vec!["p".into(), "q".into()]);
    assert_eq!(say(world, id, None, "1").await, InputOutcome::Refused(State::Running, several));
    world.crash(&crew).await;
    assert_eq!(world.task(id).await.wait, Some(Wait::Interruption));
    let neither = InputOutcome::Refused(State::Waiting, InputRefused::NeitherResumeNorFail);
    assert_eq!(say(world, id, None, "\"maybe\"").await, neither);
    assert_eq!(say(world, id, Some("q"), "\"resume\"").await, InputOutcome::Taken);
    assert_eq!(world.task(id).await.state, State::Waiting, "that was the answer to the question");
    assert_eq!(say(world, id, None, "\"resume\"").await, InputOutcome::Taken);
    let task = world.task(id).await;
    assert_eq!((task.state, task.wait), (State::Queued, None));
}

pub async fn questions_have_a_limit(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let put = |name: String| world.store.ask(held, fleet("a"), ask(Some(&name)), world.now());
    for number in 0..QUESTIONS {
        put(number.to_string()).await.unwrap();
    }
    assert!(matches!(put("more".into()).await, Err(AskError::TooMany)));
    assert_eq!(put("7".into()).await.unwrap().name, "7");
    world.end(&crew, held, Ending::Waited(Awaits::Ask(ask(Some("more"))))).await;
    assert_eq!(world.task(id).await.failure.unwrap().code, "too_many_questions");
}
