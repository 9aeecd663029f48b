use proptest::prelude::*;

use super::*;
use crate::json::Json;

const BEGAN: Timestamp = Timestamp(1_000_000);
const NOW: Timestamp = Timestamp(2_000_000);

fn child(name: &str, ended_at: Option<i64>) -> ChildSeen {
    ChildSeen { name: name.into(), ended_at: ended_at.map(Timestamp) }
}

/// Children as `a b:1500000`: the second has ended then. What they are waited for as `all`, `any b c`.
fn check(wait: &str, children: &str, expected: &str) {
    let mut words = wait.split(' ');
    let which = if words.next() == Some("all") { Which::All } else { Which::Any };
    let of: Vec<String> = words.map(str::to_owned).collect();
    let children: Vec<_> = children
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once(':') {
            Some((name, at)) => child(name, Some(at.parse().expect("a number"))),
            None => child(word, None),
        })
        .collect();
    let begun = on_children((which, &of, Some(5000)), &children, BEGAN, NOW);
    let told = match begun {
        Begin::Wait { until } => {
            assert_eq!(until, Some(Timestamp(2_005_000)));
            "waits".to_owned()
        }
        Begin::Resume => "resumes".to_owned(),
        Begin::Fail(failure) => {
            assert!(!failure.retryable);
            failure.code
        }
    };
    assert_eq!(told, expected, "{wait}; {children:?}");
}

#[test]
fn it_waits_while_too_few_have_ended() {
    check("all", "a b", "waits");
    check("all", "a:1500000 b", "waits");
    check("any", "a b", "waits");
    check("any b c", "a:1500000 b c", "waits");
}

#[test]
fn it_runs_again_at_once_if_what_it_waits_for_is_there() {
    check("all", "a:1500000 b:1500000", "resumes");
    check("any", "a:1500000 b", "resumes");
    check("all b", "a b:1500000", "resumes");
    // Ended earlier, but not by so much that clocks could not be to blame.
    check("all", "a:990000", "resumes");
}

#[test]
fn waiting_for_ever_for_the_same_is_a_failure() {
    check("all", "a:500000 b:600000", "waited_in_vain");
    check("any", "a:500000 b", "waited_in_vain");
    check("all", "a:500000 b:1500000", "resumes");
}

#[test]
fn what_is_not_there_cannot_be_waited_for() {
    check("all", "", "nothing_to_wait_for");
    check("any b", "a", "unknown_child");
}

fn question(expires_at: Option<i64>, on_expiry: OnExpiry, answered_at: Option<i64>) -> Question {
    Question {
        name: "q".into(),
        question: Json::string("really?"),
        schema: None,
        asked_at: BEGAN,
        expires_at: expires_at.map(Timestamp),
        on_expiry,
        answered_at: answered_at.map(Timestamp),
        answer: answered_at.map(|_| Json::string("yes")),
    }
}

#[test]
fn a_question_is_waited_for_until_it_is_answered_or_expires() {
    let begin = |it: &Question| on_question(it, BEGAN, NOW);
    assert_eq!(begin(&question(None, OnExpiry::Fail, None)), Begin::Wait { until: None });
    let later = NOW.0 + 1;
    let until = Some(Timestamp(later));
    assert_eq!(begin(&question(Some(later), OnExpiry::Fail, None)), Begin::Wait { until });
    assert_eq!(begin(&question(None, OnExpiry::Fail, Some(1_500_000))), Begin::Resume);
    assert_eq!(begin(&question(Some(NOW.0), OnExpiry::Resume, None)), Begin::Resume);
    let code = |begin: Begin| match begin {
        Begin::Fail(failure) => failure.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(begin(&question(Some(NOW.0), OnExpiry::Fail, None))), "input_expired");
    assert_eq!(code(begin(&question(None, OnExpiry::Fail, Some(500_000)))), "waited_in_vain");
    assert_eq!(code(begin(&question(Some(500_000), OnExpiry::Resume, None))), "waited_in_vain");
}

#[test]
fn questions_without_a_name_are_counted() {
    let named = |name: &str, answered_at| Question {
        name: name.into(),
        ..question(None, OnExpiry::Fail, answered_at)
    };
    assert_eq!(next_name(&[], NOW), "ask-1");
    assert_eq!(next_name(&[named("ask-1", None)], NOW), "ask-1", "asked again, not twice");
    assert_eq!(next_name(&[named("ask-1", Some(1)), named("x", Some(1))], NOW), "ask-2");
}

#[test]
fn a_time_out_resumes_unless_the_agent_wants_a_failure() {
    let all = Wait::Children { which: Which::All, of: Vec::new() };
    let q = Wait::Question { name: "q".into() };
    assert_eq!(timed_out(&all, None), TimedOut::Resume);
    assert_eq!(timed_out(&q, Some(OnExpiry::Resume)), TimedOut::Resume);
    assert_eq!(timed_out(&q, Some(OnExpiry::Fail)), TimedOut::Fail(expired("q")));
}

#[test]
fn a_childs_end_matters_to_those_that_wait_for_it() {
    let wait = |which, of: &[&str]| Wait::Children { which, of: of.iter().map(|it| (*it).into()).collect() };
    assert_eq!(child_ended(&wait(Which::Any, &[]), "a"), ChildEnded::Resume);
    assert_eq!(child_ended(&wait(Which::All, &["a", "b"]), "a"), ChildEnded::ResumeIfLast);
    assert_eq!(child_ended(&wait(Which::All, &["b"]), "a"), ChildEnded::Nothing);
    assert_eq!(child_ended(&Wait::Interruption, "a"), ChildEnded::Nothing);
}

#[test]
fn a_word_is_meant_for_what_the_task_waits_for() {
    let open = || vec![question(None, OnExpiry::Fail, None)];
    let say = |wait: Option<&Wait>, questions: &[Question], named, answer: &str| {
        input(wait, questions, named, &Json::parse(answer).expect("json"), NOW)
    };
    let (interrupted, asks) = (Wait::Interruption, Wait::Question { name: "q".into() });
    let resume = Ok(InputWay::Interruption { resume: true });
    assert_eq!(say(Some(&interrupted), &open(), None, "\"resume\""), resume);
    assert_eq!(say(Some(&interrupted), &[], None, "1"), Err(InputRefused::NeitherResumeNorFail));
    let way = |resumes| Ok(InputWay::Question { name: "q".into(), resumes });
    assert_eq!(say(Some(&asks), &open(), None, "\"resume\""), way(true));
    assert_eq!(say(None, &open(), None, "1"), way(false));
    assert_eq!(say(Some(&interrupted), &open(), Some("q"), "1"), way(false));
    assert_eq!(say(None, &[], None, "1"), Err(InputRefused::NotWaiting));
    assert_eq!(say(None, &[], Some("q"), "1"), Err(InputRefused::UnknownQuestion("q".into())));
    let answered = [question(None, OnExpiry::Fail, Some(1))];
    assert_eq!(say(None, &answered, Some("q"), "1"), Err(InputRefused::AlreadyAnswered("q".into())));
    let late = [question(Some(NOW.0), OnExpiry::Fail, None)];
    assert_eq!(say(Some(&asks), &late, None, "1"), Err(InputRefused::Expired("q".into())));
    let mut two = open();
    two.push(Question { name: "r".into(), ..two[0].clone() });
    assert_eq!(say(None, &two, None, "1"), Err(InputRefused::Several(vec!["q".into(), "r".into()])));
}

fn read(text: &str) -> Json {
    Json::parse(text).expect("json")
}

#[test]
fn words_are_read_and_checked() {
    let any = Awaits::Children { which: Which::Any, of: vec!["a".into()], timeout_ms: Some(600_000) };
    assert_eq!(read_wait(&read(r#"{"children":"any","of":["a"],"timeout":"10m"}"#)), Ok(any));
    let answer = Awaits::Answer { question: "q".into() };
    assert_eq!(read_wait(&read(r#"{"question":"q"}"#)), Ok(answer));
    for wrong in [
        "{}",
        "null",
        r#"{"children":"some"}"#,
        r#"{"children":"all","question":"q"}"#,
        r#"{"children":"all","timeout":"1ms"}"#,
        r#"{"children":"all","of":[""]}"#,
        r#"{"question":"q","timeout":"1m"}"#,
    ] {
        assert!(read_wait(&read(wrong)).is_err(), "{wrong}");
    }
    let many = vec!["a"; crate::child::MOST + 1];
    assert!(read_wait(&Json::of(&serde_json::json!({ "children": "all", "of": many }))).is_err());
    let ask = read_ask(&read(r#"{"question":"ok?","expires_in":"24h","on_expiry":"resume","schema":{}}"#));
    let ask = ask.expect("valid");
    assert_eq!((ask.expires_ms, ask.on_expiry, ask.name), (Some(86_400_000), OnExpiry::Resume, None));
    let large = format!(r#"{{"question":"{}"}}"#, "x".repeat(QUESTION_LIMIT));
    for wrong in ["{}", r#"{"question":1,"expires_in":"soon"}"#, &large] {
        assert!(read_ask(&read(wrong)).is_err());
    }
}

#[test]
fn what_is_stored_is_read_again() {
    for wait in [
        Wait::Interruption,
        Wait::Children { which: Which::Any, of: vec!["a\"b".into()] },
        Wait::Question { name: "q".into() },
    ] {
        assert_eq!(Wait::parse(Some(&wait.text())).expect("ours"), wait);
    }
    assert_eq!(Wait::parse(None).expect("old"), Wait::Interruption);
}

proptest! {
    /// Whoever waits is woken by the last child that it needs, and nobody waits for what is there.
    #[test]
    fn no_wake_up_is_lost(
        ends in proptest::collection::vec((proptest::option::of(1_000_000i64..2_000_000), any::<bool>()), 1..8),
        any_of: bool,
    ) {
        let which = if any_of { Which::Any } else { Which::All };
        let mut children: Vec<_> =
            ends.iter().enumerate().map(|(at, (ended, _))| child(&at.to_string(), *ended)).collect();
        let of: Vec<_> = children.iter().zip(&ends).filter(|(_, (_, of))| *of).map(|(it, _)| it.name.clone()).collect();
        let wait = Wait::Children { which, of: of.clone() };
        let mut waits = on_children((which, &of, None), &children, BEGAN, NOW) == Begin::Wait { until: None };
        for at in 0..children.len() {
            if children[at].ended_at.is_some() {
                continue;
            }
            children[at].ended_at = Some(NOW);
            let meant = |it: &&ChildSeen| of.is_empty() || of.contains(&it.name);
            let left = children.iter().filter(meant).any(|it| it.ended_at.is_none());
            let wakes = match child_ended(&wait, &children[at].name) {
                ChildEnded::Nothing => false,
                ChildEnded::Resume => true,
                ChildEnded::ResumeIfLast => !left,
            };
            let ready = on_children((which, &of, None), &children, BEGAN, NOW) == Begin::Resume;
            prop_assert_eq!(waits && wakes, waits && ready);
            waits &= !wakes;
        }
        prop_assert!(!waits);
    }
}
