use super::*;

fn image(text: &str) -> Image {
    Image::parse(text).expect("an image")
}

#[test]
fn a_failed_pull_is_told_in_words() {
    let check = |said: &str, known: bool, expected: &str| {
        let told = why(&image("r.io:5000/a:1"), said, known);
        assert!(told.contains(expected) && told.contains("r.io:5000"), "{told}");
    };
    check(
        "Get http://r.io:5000/v2/a/manifests/1: no basic auth credentials",
        false,
        "docker login r.io:5000",
    );
    check("unauthorized: authentication required", true, "refuses what `docker login` kept");
    check("manifest for r.io:5000/a:1 not found: manifest unknown", true, "has no such image");
    check("dial tcp 127.0.0.1:5000: connect: connection refused", false, "does not answer");
    check("dial tcp: lookup r.io: no such host", false, "does not answer");
}

#[test]
fn only_registries_of_this_machine_are_trusted_without_a_certificate() {
    for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3"] {
        assert!(is_this_machine(host), "{host}");
    }
    for host in
        ["registry.internal:5000", "10.0.0.1:5000", "localhost.example", "127.example:1", "index.docker.io"]
    {
        assert!(!is_this_machine(host), "{host}");
    }
}

#[test]
fn a_token_for_other_tokens_is_used_only_where_a_registry_takes_it_as_a_password() {
    let token = || Login { server: "r".into(), secret: Secret::Identity("t".into()) };
    assert_eq!(auth("acme.azurecr.io", token()), Ok(RegistryAuth::Basic(TOKEN_USER.to_owned(), "t".into())));
    assert!(
        matches!(auth("r.io", token()), Err(Unknown::Unasked(why)) if why.contains("log in with a password"))
    );
}

#[test]
fn the_commit_is_read_from_the_labels() {
    let labelled = r#"{"config":{"Labels":{"org.opencontainers.image.revision":"0a1b2c3"}}}"#;
    assert_eq!(revision(labelled), Some("0a1b2c3".into()));
    for without in [
        "",
        "{}",
        r#"{"config":{"Labels":null}}"#,
        r#"{"config":{"Labels":{"org.opencontainers.image.revision":""}}}"#,
    ] {
        assert_eq!(revision(without), None, "{without}");
    }
}

#[test]
fn any_image_of_an_index_tells_of_the_commit() {
    let entry = |digest: &str, os: &str, architecture: &str| -> ImageIndexEntry {
        serde_json::from_value(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
            "platform": { "os": os, "architecture": architecture },
        }))
        .expect("an entry")
    };
    let other = if cfg!(target_arch = "s390x") { "arm64" } else { "s390x" };
    let attested = entry("sha256:a", "unknown", "unknown");
    assert_eq!(
        any_platform(&[attested.clone(), entry("sha256:b", "linux", other)]),
        Some("sha256:b".into()),
        "what attests to others is none"
    );
    assert_eq!(any_platform(&[attested]), None);
}

#[test]
fn a_service_that_checks_logins_and_fails_is_not_taken_for_a_wrong_login() {
    let failed = OciDistributionError::AuthenticationFailure("\n<html>\n 503 Service Unavailable\n".into());
    let Unknown::Unasked(why) = unknown(&image("r.io/a:1"), true, &failed) else {
        panic!("it is there or not")
    };
    assert!(why.contains("`r.io` has logins checked") && !why.contains("docker login"), "{why}");
    assert!(why.len() < 200 && why.contains("<html> 503 Service Unavailable"), "{why}");
    // As GHCR answers a stranger.
    let denied =
        "{\n  \"errors\": [{ \"code\": \"DENIED\", \"message\": \"requested access is denied\" }]\n}";
    let failed = OciDistributionError::AuthenticationFailure(denied.into());
    let Unknown::Unasked(why) = unknown(&image("r.io/a:1"), false, &failed) else {
        panic!("it is there or not")
    };
    assert!(why.contains("docker login r.io") && why.contains("image_pull_secrets"), "{why}");
}
