//! The exec protocol, with agents that behave and agents that do not.

use std::time::{Duration, Instant};

use longshore_api::link::{AgentEventKind, History, Message, Outcome};
use longshore_core::fleet::Protocol;
use longshore_core::id::ConversationId;
use longshore_core::json::Json;
use nix::sys::signal::Signal;

use super::control_plane::{ControlPlane, TOKEN, registered};
use super::scene::{Scene, eventually, get, succeeded, task, words};
use super::worker::{lives, may_make_a_pid_namespace};

/// Runs one task and compares its outcome, which may go on after `expected` if that ends in `…`.
async fn check(script: &str, expected: &str) {
    let scene = Scene::shell(script).await;
    let outcome = words(&scene.run("null").await);
    match expected.strip_suffix('…') {
        Some(start) => assert!(outcome.starts_with(start), "{script}\n{outcome}"),
        None => assert_eq!(outcome, expected, "{script}"),
    }
}

#[tokio::test]
async fn a_shell_one_liner_is_an_agent() {
    check("echo hello", r#"succeeded "hello""#).await;
    check("printf 'two\nlines'", r#"succeeded "two\nlines""#).await;
    check("true", r#"succeeded """#).await;
}

#[tokio::test]
async fn a_result_event_is_the_result_and_an_error_event_the_failure() {
    check(r#"echo noise; echo '{"longshore":"result","data":{"n":1e400}}'"#, r#"succeeded {"n":1e400}"#)
        .await;
    check(
        r#"echo '{"longshore":"error","message":"no quota","code":"quota"}'; exit 0"#,
        "failed quota: no quota",
    )
    .await;
}

#[tokio::test]
async fn the_end_of_standard_error_is_the_reason() {
    check("echo first >&2; echo last >&2; exit 3", "failed exit_status: exit status 3: first\nlast").await;
}

#[tokio::test]
async fn an_exit_by_signal_is_named() {
    check("kill -SEGV $$", "failed killed_by_signal: killed by SIGSEGV (11)").await;
    // A real-time signal has no name.
    check("kill -40 $$", "failed killed_by_signal: killed by signal 40").await;
}

#[tokio::test]
async fn half_a_character_is_replaced() {
    check(r"printf 'caf\303'", "succeeded \"caf\u{fffd}\"").await;
}

#[tokio::test]
async fn json_log_lines_with_a_type_are_only_log_lines() {
    check(r#"echo '{"type":"result","data":1}'; echo '{"longshore":"result","data":2}'"#, "succeeded 2")
        .await;
}

#[tokio::test]
async fn an_agent_may_close_its_output_and_work_on() {
    check("exec 1>&- 2>&-; sleep 0.3; exit 4", "failed exit_status: exit status 4").await;
}

#[tokio::test]
async fn an_agent_need_not_read_its_input() {
    let scene = Scene::shell("exec 0<&-; sleep 0.1; echo done").await;
    let input = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(words(&scene.run(&input).await), r#"succeeded "done""#);
    let scene = Scene::shell("echo ignored it").await;
    assert_eq!(words(&scene.run(&input).await), r#"succeeded "ignored it""#);
}

#[tokio::test]
async fn children_that_hold_the_pipes_are_killed_and_not_waited_for() {
    let scene = Scene::shell(r#"sleep 300 & echo $! > "$1/child"; echo done"#).await;
    let began = Instant::now();
    assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let child = scene.number("child").await;
    eventually("the child's end", || (!lives(child)).then_some(())).await;
}

#[tokio::test]
async fn the_task_arrives_on_standard_input() {
    let scene = Scene::shell("sed s/longshore/document/").await;
    let mut sent = task(r#"{"big":123456789012345678901234567890}"#);
    let data = Json::parse(r#"{"role":"user"}"#).expect("valid");
    let id = ConversationId::new("c1").expect("valid");
    sent.conversation = Some(History { id, messages: vec![Message { seq: 7, data }], truncated: true });
    let expected = format!(
        r#"{{"document":1,"task":{{"id":"{}","fleet":"test","attempt":1,"input":{{"big":123456789012345678901234567890}},"labels":{{"team":"a"}},"conversation":{{"id":"c1","messages":[{{"seq":7,"data":{{"role":"user"}}}}],"truncated":true}}}}}}"#,
        sent.id
    );
    let held = scene.plane.submit(sent);
    let read: String = serde_json::from_str(succeeded(&scene.plane.ending(held).await)).expect("a string");
    assert_eq!(read, expected);
    let read: String = serde_json::from_str(succeeded(&scene.run("1").await)).expect("a string");
    assert!(read.ends_with(r#""conversation":null}}"#), "{read}");
}

#[tokio::test]
async fn an_agent_finds_its_task_in_its_environment_and_nothing_of_ours() {
    let scene = Scene::shell("env; stat -c 'mode=%a' $HOME $TMPDIR; touch $HOME/a $TMPDIR/b").await;
    let held = scene.submit("null");
    let text: String = serde_json::from_str(succeeded(&scene.plane.ending(held).await)).expect("a string");
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    assert_eq!(value("LONGSHORE_TASK_ID"), Some(held.task.to_string().as_str()));
    assert_eq!(value("LONGSHORE_ATTEMPT"), Some("1"));
    assert_eq!(value("LONGSHORE_TASK_TOKEN"), Some(format!("lst1.{}", held.fence).as_str()));
    assert!(value("LONGSHORE_URL").is_some_and(|url| url.starts_with("http://127.0.0.1:")), "{text}");
    assert_eq!(value("LONGSHORE_CONVERSATION_ID"), None);
    assert_eq!(value("PLAIN_SETTING"), Some("passed through"));
    let worker = scene.plane.record().registers[0].worker.clone();
    assert_eq!(value("LONGSHORE_WORKER_ID"), Some(worker.as_str()));
    let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("LONGSHORE_")).collect();
    assert_eq!(ours.len(), 5, "{ours:?}");
    assert!(!text.contains(TOKEN) && !text.contains("secret-link"), "{text}");
    assert_eq!(text.matches("mode=700").count(), 2, "{text}");
    let home = value("HOME").expect("set").to_owned();
    assert!(home.starts_with(scene.folder.path().to_str().expect("UTF-8")), "{home}");
    assert_ne!(value("HOME"), value("TMPDIR"));
    eventually("the folder's removal", || (!std::path::Path::new(&home).exists()).then_some(())).await;
}

#[tokio::test]
async fn events_arrive_while_the_agent_works_and_before_its_end() {
    let scene = Scene::shell(
        r#"echo '{"longshore":"progress","data":1}'
           while [ ! -e "$1/go" ]; do sleep 0.02; done
           echo '{"longshore":"message","data":{"role":"assistant"}}'; echo '{"longshore":"dance"}'"#,
    )
    .await;
    let held = scene.submit("null");
    assert_eq!(scene.plane.said(held).await.n, 1);
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded """#);
    let kinds: Vec<_> = scene.plane.record().events.iter().map(|(_, event)| (event.n, event.kind)).collect();
    assert_eq!(kinds, [(1, AgentEventKind::Progress), (2, AgentEventKind::Message)]);
    let odd =
        scene.log().into_iter().find(|line| line["message"] == "agent event ignored").expect("a warning");
    assert!(odd["why"].as_str().is_some_and(|why| why.contains("dance")), "{odd}");
}

#[tokio::test]
async fn an_agents_lines_are_logged_with_task_and_stream() {
    let scene = Scene::shell("echo out; echo '{\"level\":\"info\"}' >&2").await;
    let held = scene.submit("null");
    scene.plane.ending(held).await;
    let lines =
        || -> Vec<_> { scene.log().into_iter().filter(|line| line["message"] == "agent output").collect() };
    let lines = eventually("two lines", || Some(lines()).filter(|lines| lines.len() == 2)).await;
    let found = |stream: &str, text: &str| {
        lines.iter().any(|line| {
            line["stream"] == stream && line["line"] == text && line["task"] == held.task.to_string().as_str()
        })
    };
    assert!(found("stdout", "out") && found("stderr", "{\"level\":\"info\"}"), "{lines:?}");
}

#[tokio::test]
async fn a_time_out_kills_an_agent_that_ignores_sigterm() {
    let mut with = registered(Protocol::Exec, 1);
    with.kill_grace_ms = 300;
    let scene =
        Scene::shell_with(with, r#"trap '' TERM; echo $$ > "$1/pid"; while :; do sleep 0.1; done"#).await;
    let mut slow = task("null");
    slow.timeout_ms = 500;
    let held = scene.plane.submit(slow);
    let outcome = words(&scene.plane.ending(held).await);
    assert_eq!(outcome, "failed timeout: the attempt took longer than 0.5 s");
    assert!(!lives(scene.number("pid").await));
}

#[tokio::test]
async fn a_cancelled_agent_is_told_and_its_last_words_are_no_result() {
    let script = r#"trap 'echo stopped > "$1/told"; sleep 0.5; echo partial; exit 0' TERM
        echo '{"longshore":"progress","data":1}'; while :; do sleep 0.05; done"#;
    let scene = Scene::shell(script).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    let asked = Instant::now();
    scene.plane.cancel(held);
    assert_eq!(words(&scene.plane.ending(held).await), "interrupted Cancelled");
    assert!(asked.elapsed() < Duration::from_secs(9), "{:?}", asked.elapsed());
    assert!(scene.folder.path().join("told").exists());
    assert!(scene.plane.record().heartbeats.iter().any(|heartbeat| heartbeat.cancelling == [held]));
}

#[tokio::test]
async fn a_lost_lease_stops_the_agent_and_nothing_is_written() {
    let scene =
        Scene::shell(r#"echo $$ > "$1/pid"; echo '{"longshore":"progress","data":1}'; exec sleep 300"#).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    let pid = scene.number("pid").await;
    scene.plane.lose(held);
    eventually("the agent's end", || (!lives(pid)).then_some(())).await;
    // The slot is free again, and whatever was written before this is in the record by now.
    let next = scene.submit("null");
    scene.plane.said(next).await;
    let record = scene.plane.record();
    assert!(record.endings.is_empty() && record.released.is_empty());
    assert!(record.heartbeats.last().is_some_and(|heartbeat| !heartbeat.held.contains(&held)));
}

#[tokio::test]
async fn orphans_are_reaped() {
    let script = r#"setsid sh -c '(sleep 0.2 &) ; exit 0' >/dev/null 2>&1 & sleep 0.05; echo done"#;
    let scene = Scene::shell(script).await;
    for _ in 0..3 {
        assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
    }
    eventually("all to be reaped", || super::worker::children(scene.worker.pid()).is_empty().then_some(()))
        .await;
    assert_eq!(scene.worker.zombies(), 0);
}

#[tokio::test]
async fn as_the_first_process_of_a_container_it_reaps_strangers_and_drains() {
    if !may_make_a_pid_namespace() {
        return;
    }
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let script = "setsid sh -c '(sleep 0.2 &) ; exit 0' >/dev/null 2>&1 & sleep 0.05; echo $PPID";
    let command = |_: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut scene = Scene::with(plane, command, |config| config.first_process = true);
    assert_eq!(words(&scene.run("null").await), r#"succeeded "1""#);
    eventually("all to be reaped", || super::worker::children(scene.worker.pid()).is_empty().then_some(()))
        .await;
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
}

#[tokio::test]
async fn agents_die_with_their_worker() {
    let scene = Scene::shell(r#"echo $$ > "$1/pid"; exec sleep 300"#).await;
    scene.submit("null");
    let pid = scene.number("pid").await;
    assert!(lives(pid));
    scene.worker.signal(Signal::SIGKILL);
    eventually("the agent's end", || (!lives(pid)).then_some(())).await;
}

#[tokio::test]
async fn what_a_killed_worker_left_is_removed_by_the_next_one() {
    let killed = Scene::shell(r#"echo $$ > "$1/pid"; exec sleep 300"#).await;
    killed.submit("null");
    let pid = killed.number("pid").await;
    killed.worker.signal(Signal::SIGKILL);
    eventually("the agent's end", || (!lives(pid)).then_some(())).await;
    let run = killed.folder.path().join("run");
    let folders = || -> Vec<_> {
        let entries = std::fs::read_dir(&run).expect("there");
        entries.map(|entry| entry.expect("it can be read").file_name()).collect()
    };
    let [left] = folders().try_into().expect("one folder");
    let command = |_: &str| vec!["true".to_owned()];
    let mut next = Scene::with(killed.plane.clone(), command, |config| config.run_dir = run.clone());
    eventually("the folder to go", || (!folders().contains(&left)).then_some(())).await;
    next.worker.signal(Signal::SIGTERM);
    assert_eq!(next.worker.code().await, 0);
    assert!(folders().is_empty(), "{:?}", folders());
}

#[tokio::test]
async fn other_signals_are_passed_on() {
    let script = r#"trap 'echo hup; exit 0' HUP; echo '{"longshore":"progress","data":1}'
        while :; do sleep 0.02; done"#;
    let scene = Scene::shell(script).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    scene.worker.signal(Signal::SIGHUP);
    assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded "hup""#);
}

#[tokio::test]
async fn as_many_run_at_once_as_there_are_slots() {
    let script = r#"echo > "$1/$LONGSHORE_TASK_ID"
        while [ $(ls "$1" | grep -c -- -) -lt 3 ]; do sleep 0.02; done; echo met"#;
    let scene = Scene::shell_with(registered(Protocol::Exec, 3), script).await;
    let all: Vec<_> = (0..3).map(|_| scene.submit("null")).collect();
    for held in all {
        assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded "met""#);
    }
}

#[tokio::test]
async fn nothing_runs_beside_a_suspect() {
    let script = r#"echo '{"longshore":"progress","data":1}'; while [ ! -e "$1/go" ]; do sleep 0.02; done"#;
    let scene = Scene::shell_with(registered(Protocol::Exec, 4), script).await;
    let mut suspect = task("null");
    suspect.alone = true;
    let suspect = scene.plane.submit(suspect);
    scene.plane.said(suspect).await;
    let claims = scene.plane.record().claims.len();
    let other = scene.submit("null");
    // Enough heartbeats for a claim to have been sent as well.
    let heard = scene.plane.record().heartbeats.len();
    scene.plane.poke();
    scene.plane.poke();
    eventually("heartbeats", || (scene.plane.record().heartbeats.len() >= heard + 2).then_some(())).await;
    assert_eq!(scene.plane.record().claims.len(), claims);
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    assert_eq!(words(&scene.plane.ending(other).await), r#"succeeded """#);
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named_before_anything_is_claimed() {
    let command = |_: &str| vec!["no-such-agent".to_owned()];
    let mut scene = Scene::start(registered(Protocol::Exec, 1), command).await;
    assert_eq!(scene.worker.code().await, 1);
    let log = scene.worker.log();
    assert!(
        log.contains("could not find the agent's command `no-such-agent`: it is in no folder of PATH"),
        "{log}"
    );
    assert!(scene.plane.record().registers.is_empty());
}

#[tokio::test]
async fn an_agent_that_vanishes_later_fails_its_attempt() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let agents = tempfile::tempdir().expect("a folder");
    let agent = agents.path().join("agent");
    std::fs::copy("/bin/true", &agent).expect("copied");
    let scene = Scene::with(plane, |_| vec![agent.to_str().expect("UTF-8").to_owned()], |_| {});
    assert_eq!(words(&scene.run("null").await), r#"succeeded """#);
    std::fs::remove_file(&agent).expect("removed");
    let outcome = scene.run("null").await;
    assert!(
        matches!(&outcome, Outcome::Failed(failure) if failure.code == "spawn_failed"),
        "{}",
        words(&outcome)
    );
}

#[tokio::test]
async fn probes_tell_that_the_worker_is_ready() {
    let scene = Scene::shell("true").await;
    let addr = scene.plane.probe_addr().await;
    let body = eventually("readiness", || get(addr, "/readyz").filter(|(status, _)| *status == 200)).await.1;
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["ready"], true);
    assert_eq!(body["checks"]["control_plane"]["ok"], true);
    assert_eq!(get(addr, "/livez").map(|(status, _)| status), Some(200));
    scene.run("null").await;
    let body = eventually("metrics", || get(addr, "/metrics").filter(|(status, _)| *status == 200)).await.1;
    assert!(body.contains(r#"longshore_worker_attempts_total{outcome="succeeded"} 1"#), "{body}");
    scene.plane.check("llm", "no route to the provider");
    let body =
        eventually("unreadiness", || get(addr, "/readyz").filter(|(status, _)| *status == 503)).await.1;
    assert!(body.contains("no route to the provider"), "{body}");
    scene.plane.check("llm", "");
    eventually("readiness", || get(addr, "/readyz").filter(|(status, _)| *status == 200)).await;
}
