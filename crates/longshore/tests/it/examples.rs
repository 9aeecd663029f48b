//! Every example does what its README says, through the real binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::plane::Plane;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
        .canonicalize()
        .expect("it is there")
}

/// Runs three tasks with this input; the last one's result.
async fn check(name: &str, input: Value) -> Value {
    let plane = Plane::of(&example(name)).await;
    let ids = plane.submit_many(name, (0..3).map(|_| input.clone())).await;
    plane.all_succeed(&ids).await;
    plane.result(ids[2]).await
}

#[tokio::test]
async fn shell() {
    assert_eq!(check("shell", json!("hello")).await, json!("HELLO"));
}

#[tokio::test]
async fn python_exec() {
    let result = check("python-exec", json!({"work_ms": 30, "tokens": 300})).await;
    assert_eq!((&result["steps"], &result["tokens"]), (&json!(3), &json!(300)));
}

#[tokio::test]
async fn python_http() {
    assert_eq!(check("python-http", json!("hello")).await["answer"], json!("You said: hello"));
}

#[tokio::test]
async fn node() {
    assert_eq!(check("node", json!({"city": "Oslo"})).await["weather"], json!("rain"));
}

#[tokio::test]
async fn rust() {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked", "--target-dir", "target"])
        .current_dir(example("rust"))
        .status()
        .expect("cargo runs");
    assert!(built.success());
    assert_eq!(check("rust", json!("count these four words")).await["words"], json!(4));
}
