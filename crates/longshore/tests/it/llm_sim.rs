//! `longshore llm-sim` as a program: what it prints, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::run::{command, ran, run};

/// A running simulator; killed if its test ends before it.
struct Sim {
    child: Child,
    out: BufReader<ChildStdout>,
    first: String,
}

impl Sim {
    fn start(args: &[&str]) -> Sim {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut child = command(dir.path()).arg("llm-sim").args(args).spawn().expect("the binary runs");
        let mut out = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut first = String::new();
        out.read_line(&mut first).expect("a first line");
        Sim { child, out, first }
    }

    /// Ends it, and returns the rest of what it printed.
    fn end(mut self, signal: Signal) -> String {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("text");
        assert!(self.child.wait().expect("it is our child").success());
        rest
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ask(base: &str) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    let request =
        reqwest::Client::new().post(format!("{base}/chat/completions")).bearer_auth("k").json(&body);
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn it_prints_its_addresses_serves_and_ends_with_the_bill() {
    let sim = Sim::start(&["--json", "--fault", "nth=1,status=500", "--price", "m=1/0/1"]);
    let first: Value = serde_json::from_str(&sim.first).expect("JSON");
    let openai = first["openai"].as_str().expect("a URL");
    assert_eq!(openai, format!("{}/v1", first["anthropic"].as_str().expect("a URL")));
    assert_eq!([ask(openai).await, ask(openai).await], [500, 200]);
    let bill: Value = serde_json::from_str(&sim.end(Signal::SIGTERM)).expect("the bill");
    assert_eq!((bill["distinct"].as_u64(), bill["totals"]["received"].as_u64()), (Some(1), Some(2)));
    assert_eq!(bill["requests"][0]["label"], "hello");
}

#[tokio::test]
async fn people_get_a_line_and_a_summary() {
    let sim = Sim::start(&[]);
    let base = sim.first.split_once("OPENAI_BASE_URL=").expect("a URL").1;
    let base = base.split_whitespace().next().expect("a URL").to_owned();
    ask(&base).await;
    ask(&base).await;
    let summary = sim.end(Signal::SIGINT);
    assert!(summary.contains("2 calls of 1 different requests: 2 answered"), "{summary}");
    assert!(summary.contains("came more than once (1 of 1):"), "{summary}");
}

#[test]
fn a_bad_trace_is_told_with_its_line() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("trace.csv"), "output_tokens\n5\nmany\n").expect("written");
    let ran = run(dir.path(), ["llm-sim", "--trace", "trace.csv"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.err.contains("line 3 of the trace"), "{ran:?}");
}

#[test]
fn a_taken_address_is_told_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = command(dir.path()).args(["llm-sim", "--addr", &addr]).output().expect("the binary runs");
    let ran = ran(output);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains(&addr) && ran.err.contains("hint: name a free port"), "{ran:?}");
}
