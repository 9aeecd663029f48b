use futures_util::FutureExt;

use super::*;

fn fleet() -> FleetName {
    FleetName::new("a").unwrap()
}

/// Waiters that have looked and found nothing.
fn parked<const N: usize>(lines: &Lines) -> [Turn; N] {
    std::array::from_fn(|_| {
        let mut turn = lines.join(&fleet());
        turn.found_nothing(false);
        assert!(!is_called(&mut turn));
        turn
    })
}

fn is_called(turn: &mut Turn) -> bool {
    turn.wait().now_or_never() == Some(Woken::Called)
}

fn called(turns: &mut [Turn]) -> Vec<bool> {
    turns.iter_mut().map(is_called).collect()
}

#[tokio::test]
async fn as_many_are_called_as_there_are_tasks_those_first_that_came_first() {
    let lines = Lines::default();
    let mut turns = parked::<4>(&lines);
    lines.call(&fleet(), 2);
    assert_eq!(called(&mut turns), [true, true, false, false]);
    turns.iter_mut().for_each(|turn| turn.found_nothing(false));
    assert_eq!(called(&mut turns), [false; 4], "one call is one look");
    lines.call(&fleet(), 3);
    // Who was called went to the end.
    assert_eq!(called(&mut turns), [true, false, true, true]);
}

#[tokio::test]
async fn who_may_take_what_is_not_known_so_everyone_looks() {
    let lines = Lines::default();
    let mut turns = parked::<3>(&lines);
    lines.call_all(&fleet());
    assert_eq!(called(&mut turns), [true; 3]);
    assert!(!turns[0].may_pass_on(), "everyone looks anyway");
}

#[tokio::test]
async fn a_call_between_taking_a_place_and_waiting_is_heard() {
    let lines = Lines::default();
    let mut turn = lines.join(&fleet());
    lines.call(&fleet(), 1);
    assert!(is_called(&mut turn));
    lines.call(&fleet(), 1);
    turn.found_nothing(false);
    assert!(is_called(&mut turn), "a call during the look is another");
}

#[tokio::test]
async fn who_waits_is_called_before_who_is_looking() {
    let lines = Lines::default();
    let mut looking = lines.join(&fleet());
    let mut turns = parked::<1>(&lines);
    lines.call(&fleet(), 1);
    assert_eq!((is_called(&mut looking), called(&mut turns)), (false, vec![true]));
}

#[tokio::test]
async fn who_leaves_without_having_looked_passes_its_call_on() {
    let lines = Lines::default();
    let [unheard, mut heard, mut next, mut last] = parked::<4>(&lines);
    lines.call(&fleet(), 2);
    drop(unheard);
    assert!(is_called(&mut next));
    assert!(is_called(&mut heard));
    drop(heard);
    assert!(is_called(&mut last));
    last.found();
    drop(last);
    next.found_nothing(false);
    assert!(!is_called(&mut next), "a look that brought tasks answers its call");
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_no_call() {
    let lines = Lines::default();
    let [mut turn] = parked::<1>(&lines);
    let given_up = tokio::time::timeout(Duration::ZERO, turn.wait()).await;
    assert!(given_up.is_err());
    lines.call(&fleet(), 1);
    assert!(is_called(&mut turn));
}

#[tokio::test]
async fn a_look_in_vain_is_followed_by_others_while_tasks_are_left_but_not_for_ever() {
    let lines = Lines::default();
    let mut turns = parked::<3>(&lines);
    lines.call(&fleet(), 1);
    let mut looks = 0;
    while let Some(turn) = turns.iter_mut().find_map(|turn| is_called(turn).then_some(turn)) {
        looks += 1;
        turn.found_nothing(true);
        assert!(!is_called(turn), "not the same one again");
    }
    assert_eq!(looks, 1 + HOPS);
    lines.call(&fleet(), 1);
    let turn = turns.iter_mut().find_map(|turn| is_called(turn).then_some(turn)).unwrap();
    turn.found_nothing(false);
    assert_eq!(called(&mut turns), [false; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_uncalled_fleet_is_looked_after_by_one_waiter_at_a_time() {
    let lines = Lines::default();
    let began = Instant::now();
    let looks: Arc<Mutex<Vec<Duration>>> = Arc::default();
    for _ in 0..50 {
        let (lines, looks) = (lines.clone(), Arc::clone(&looks));
        tokio::spawn(async move {
            let mut turn = lines.join(&fleet());
            loop {
                assert_eq!(turn.wait().await, Woken::Uncalled);
                looks.lock().unwrap().push(began.elapsed());
                turn.found_nothing(false);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let looks = looks.lock().unwrap();
    assert!((10..=22).contains(&looks.len()), "{looks:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_found_uncalled_calls_the_next() {
    let lines = Lines::default();
    let mut turns = parked::<3>(&lines);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(turns[0].wait().await, Woken::Uncalled);
    turns[0].found();
    assert_eq!(called(&mut turns[1..]), [true, false]);
    // And so on, for as long as there are tasks.
    turns[1].found();
    assert!(is_called(&mut turns[2]));
    turns[2].found_nothing(false);
    assert!(!is_called(&mut turns[2]));
}

#[test]
fn lines_without_waiters_are_forgotten() {
    let lines = Lines::default();
    let (one, two) = (lines.join(&fleet()), lines.join(&fleet()));
    drop(one);
    assert_eq!(lines.waiting(), 1);
    drop(two);
    assert_eq!(lines.waiting(), 0);
}
