//! A control plane with TLS, and the workers and people that speak to it.

use std::fs;

use longshore_core::task::State;
use serde_json::json;

use crate::by_hand::ByHand;
use crate::plane::{Plane, shell};
use crate::run::{Ran, command, ran};

fn fleets(plane: &Plane, ca: Option<&str>) -> Ran {
    let mut command = command(plane.dir());
    command.args(["fleets", "--server", &plane.addresses.api]);
    if let Some(ca) = ca {
        command.args(["--ca", ca]);
    }
    ran(command.output().expect("the binary runs"))
}

#[tokio::test]
async fn with_an_authority_of_its_own_workers_and_people_pin_it() {
    let external = "[fleet.b]\ncommand = [\"cat\"]\nplatform = \"external\"\n";
    let declared = format!("{}{external}", shell("a", "cat", "scaling = { min = 1, max = 1 }"));
    let mut plane = Plane::start_with(&declared, &[("LONGSHORE__SERVER__TLS", "auto")]).await;
    let ca = plane.addresses.ca.clone().expect("it says what to pin");
    assert!(ca.starts_with("sha256:"), "{ca}");
    let id = plane.submit("a", json!("over TLS")).await;
    plane.reaches(id, State::Succeeded).await;
    // One that longshore did not start, told by a variable.
    let pinned = ca.clone();
    let worker = ByHand::ready(&plane, "b", |command| {
        command.env("LONGSHORE_LINK_CA", pinned);
    })
    .await;
    let id = plane.submit("b", json!(1)).await;
    plane.reaches(id, State::Succeeded).await;
    drop(worker);
    assert_eq!(fleets(&plane, Some(&ca)).status, 0);
    assert_eq!(fleets(&plane, plane.dir().join(".longshore/ca.pem").to_str()).status, 0);
    let stranger = fleets(&plane, None);
    assert!(stranger.status == 5 && stranger.err.contains("certificate"), "{stranger:?}");
    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(fleets(&plane, Some(&other)).status, 5);
    // The authority is the store's: workers that live on find the next start as good as the last.
    plane.kill();
    plane.restart().await;
    assert_eq!(plane.addresses.ca.as_ref(), Some(&ca));
    let id = plane.submit("a", json!("again")).await;
    plane.reaches(id, State::Succeeded).await;
}

#[tokio::test]
async fn given_certificates_serve_its_own_workers_too_and_are_exchanged_while_it_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let write = || {
        let made = rcgen::generate_simple_self_signed(vec!["longshore.example".to_owned()]).expect("made");
        fs::write(&cert, made.cert.pem()).expect("written");
        fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    };
    write();
    let tls = format!("{{ cert = {:?}, key = {:?} }}", cert, key);
    let declared = shell("a", "cat", "scaling = { min = 1, max = 1 }");
    let plane = Plane::start_with(&declared, &[("LONGSHORE__SERVER__TLS", &tls)]).await;
    assert_eq!(plane.addresses.ca.as_deref(), cert.to_str());
    let id = plane.submit("a", json!(1)).await;
    plane.reaches(id, State::Succeeded).await;
    write();
    // A new connection is refused until the control plane has seen the new files, then it is let in.
    let end = std::time::Instant::now() + crate::plane::PATIENCE;
    while fleets(&plane, cert.to_str()).status != 0 {
        assert!(std::time::Instant::now() < end, "the exchange is not seen");
        crate::plane::pause().await;
    }
    assert!(plane.log().contains("TLS certificate is replaced"));
    let id = plane.submit("a", json!(2)).await;
    plane.reaches(id, State::Succeeded).await;
}

/// A program that finds no authority on this machine, as in an image that has none.
const NOBODY: [(&str, &str); 2] = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];

#[tokio::test]
async fn where_no_authority_is_installed_plain_http_works_and_https_says_what_is_missing() {
    let external = "[fleet.b]\ncommand = [\"cat\"]\nplatform = \"external\"\n";
    let far = Plane::start_with(external, &[("LONGSHORE__SERVER__TLS", "auto")]).await;
    let https = &far.addresses.api;
    let ask = |server: &str, args: &[&str]| {
        let mut command = command(far.dir());
        ran(command.args(args).args(["--server", server]).envs(NOBODY).output().expect("the binary runs"))
    };
    let told = ask("http://127.0.0.1:1", &["fleets"]);
    assert!(told.status == 5 && told.err.contains("could not reach the control plane"), "{told:?}");
    let told = ask(https, &["fleets"]);
    assert!(
        told.status == 5
            && told.err.contains("no authority of certificates")
            && told.err.contains("LONGSHORE_CA"),
        "{told:?}"
    );

    // The same for a control plane: it starts, and its workers reach it.
    let secret = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let declared = format!(
        "{}[fleet.llm]\ncommand = [\"python3\", \"-c\", {ASKS:?}]\nscaling = {{ min = 1, max = 1 }}\n\
         [provider.far]\nkind = \"openai\"\nbase_url = \"{https}/v1\"\napi_key = {{ env = \"HOOK_SECRET\" }}\n\
         [webhook.far]\nurl = \"{https}/\"\nsecret = {{ env = \"HOOK_SECRET\" }}\nallow_private = true\n",
        shell("a", "cat", "scaling = { min = 1, max = 1 }")
    );
    let env: Vec<_> = NOBODY.into_iter().chain([("HOOK_SECRET", secret)]).collect();
    let plane = Plane::start_with(&declared, &env).await;
    let id = plane.submit("a", json!(1)).await;
    plane.reaches(id, State::Succeeded).await;
    let says = |said: &str| {
        said.contains("no authority of certificates is installed here") && said.contains("SSL_CERT_FILE")
    };
    let told = ask(&plane.addresses.api, &["webhooks", "test", "far"]);
    assert!(told.status == 1 && says(&told.err), "{told:?}");
    let id = plane.submit("llm", json!(1)).await;
    let told = plane.result(id).await.to_string();
    assert!(says(&told), "{told}");
}

/// Its result is what it is told instead of a list of models.
const ASKS: &str = "import os, urllib.request as http, urllib.error
asked = http.Request(os.environ['OPENAI_BASE_URL'] + '/models', headers={'authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']})
try:
    print(http.urlopen(asked).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
";
