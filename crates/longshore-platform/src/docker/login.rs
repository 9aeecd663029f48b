//! What `docker login` keeps of registries, so that the engine can pull from private ones.
//!
//! Reads `config.json` of DOCKER_CONFIG, else of `~/.docker`, each time anew: a login counts at once. Never writes it.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

/// How long a helper may take: some ask a service.
const HELPER: Duration = Duration::from_secs(15);

/// What `docker login` calls Docker's own registry.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: HashMap<String, Entry>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// The answer of a helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

/// The registry that an image's name leads to, as people write it.
pub(super) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// Who to be at this image's registry; `None`: nobody logged in there.
///
/// Errors: in words, what keeps it from being known.
pub(super) async fn of(image: &str) -> Result<Option<DockerCredentials>, String> {
    let Some(path) = path() else { return Ok(None) };
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("`{}` could not be read: {error}", path.display())),
    };
    let config: Config = serde_json::from_str(&text)
        .map_err(|error| format!("`{}` is not what `docker login` writes: {error}", path.display()))?;
    let found = find(&config, registry_of(image)).await?;
    match found.as_ref().is_none_or(travels) {
        true => Ok(found),
        false => Err(format!(
            "what `{}` holds for `{}` cannot be sent: of `?`, `>`, `~` and letters beyond ASCII in a password some do not arrive",
            path.display(),
            registry_of(image)
        )),
    }
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))?;
    Some(folder.join("config.json"))
}

async fn find(config: &Config, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let server = if registry == "docker.io" { HUB } else { registry };
    let helper = config.cred_helpers.get(server).or_else(|| config.cred_helpers.get(registry));
    let helper = helper.or(Some(&config.creds_store)).filter(|name| !name.is_empty());
    if let Some(helper) = helper
        && let Some(kept) = ask(helper, server).await?
    {
        return Ok(Some(credentials(server, &kept.username, &kept.secret)));
    }
    let named = config.auths.iter().find(|(name, _)| plain(name) == plain(server));
    named.map_or(Ok(None), |(_, entry)| read(server, entry))
}

/// A registry without what some versions of `docker login` write around its name.
fn plain(name: &str) -> &str {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    name.split('/').next().unwrap_or(name)
}

fn read(server: &str, entry: &Entry) -> Result<Option<DockerCredentials>, String> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    if !entry.identitytoken.is_empty() || !entry.registrytoken.is_empty() {
        return Ok(Some(DockerCredentials {
            identitytoken: text(&entry.identitytoken),
            registrytoken: text(&entry.registrytoken),
            serveraddress: text(server),
            ..Default::default()
        }));
    }
    let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|pair| pair.trim_end_matches('\0').split_once(':'));
    match pair {
        Some((username, password)) if !entry.auth.is_empty() => {
            Ok(Some(credentials(server, username, password)))
        }
        _ if !entry.auth.is_empty() => {
            Err(format!("what `docker login` kept for `{server}` is damaged: log in again"))
        }
        // Where a helper keeps the rest, the entry is empty.
        _ if entry.username.is_empty() => Ok(None),
        _ => Ok(Some(credentials(server, &entry.username, &entry.password))),
    }
}

/// The name `<token>` stands for a token in the place of a password.
fn credentials(server: &str, username: &str, secret: &str) -> DockerCredentials {
    let server = Some(server.to_owned());
    if username == "<token>" {
        let identitytoken = Some(secret.to_owned());
        return DockerCredentials { identitytoken, serveraddress: server, ..Default::default() };
    }
    DockerCredentials {
        username: Some(username.to_owned()),
        password: Some(secret.to_owned()),
        serveraddress: server,
        ..Default::default()
    }
}

/// Whether the engine understands them: it wants letters of base64 that are safe in addresses, the client sends the others,
/// and what it cannot read it takes for nobody.
fn travels(credentials: &DockerCredentials) -> bool {
    let sent = serde_json::to_string(credentials).map(|text| STANDARD.encode(text)).unwrap_or_default();
    !sent.contains(['+', '/'])
}

/// Asks `docker-credential-NAME`; `None`: it keeps nothing for this registry.
async fn ask(helper: &str, server: &str) -> Result<Option<Kept>, String> {
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| format!("`{program} get` for `{server}`: {why}");
    let (run, input) = (program.clone(), server.to_owned());
    let output = tokio::task::spawn_blocking(move || answer(&run, &input)).await;
    let output = output.map_err(|_| failed("it could not be run".into()))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        // By the protocol of helpers it says so on its standard output, never with a secret.
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return match said.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("{}: {said}", output.status))),
        };
    }
    let kept = serde_json::from_slice(&output.stdout);
    kept.map(Some).map_err(|_| failed("its answer is no JSON with Username and Secret".into()))
}

/// Blocks. Its answer fits into a pipe; one that does not end is killed.
fn answer(program: &str, input: &str) -> std::io::Result<Output> {
    let piped = || Stdio::piped();
    let mut child =
        Command::new(program).arg("get").stdin(piped()).stdout(piped()).stderr(Stdio::null()).spawn()?;
    // One that ends without reading has said what it has to say.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let end = Instant::now() + HELPER;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output()
}

/// What a failed pull comes down to, for people; `known`: there was a login to try it with.
pub(super) fn why(image: &str, said: &str, known: bool) -> String {
    let (registry, lower) = (registry_of(image), said.to_lowercase());
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // Docker's own registry does not tell one from the other.
    if says(&["unauthorized", "no basic auth", "denied", "authentication required", "incorrect username"]) {
        return match known {
            true => format!(
                "registry `{registry}` refuses what `docker login` kept for it, or has no such image for it: {said}"
            ),
            false => format!(
                "registry `{registry}` lets nobody in without a login, or has no such image: as the user of the control plane run \
                 `docker login {registry}`, or let DOCKER_CONFIG name the folder of a login: {said}"
            ),
        };
    }
    if says(&["manifest unknown", "name unknown", "not found"]) && !says(&["no such host", "lookup "]) {
        return format!("registry `{registry}` has no such image: {said}");
    }
    if says(&[
        "connection refused",
        "no such host",
        "lookup ",
        "i/o timeout",
        "timeout",
        "unreachable",
        "connection reset",
        "eof",
    ]) {
        return format!("registry `{registry}` does not answer: {said}");
    }
    said.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).expect("JSON")
    }

    async fn check(text: &str, image: &str, expected: Option<(&str, &str)>) {
        let found = find(&config(text), registry_of(image)).await.expect("it is well formed");
        let found = found.map(|it| (it.username.unwrap_or_default(), it.password.unwrap_or_default()));
        let found = found.as_ref().map(|(name, password)| (name.as_str(), password.as_str()));
        assert_eq!(found, expected, "{text} {image}");
    }

    #[test]
    fn the_registry_is_what_stands_before_the_first_slash_if_that_is_a_host() {
        let named =
            ["registry.internal/a:1", "127.0.0.1:5000/a/b", "localhost/a", "acme/a:1", "debian", "a:1"];
        let hosts = named.map(registry_of);
        assert_eq!(
            hosts,
            ["registry.internal", "127.0.0.1:5000", "localhost", "docker.io", "docker.io", "docker.io"]
        );
    }

    #[tokio::test]
    async fn a_login_is_found_by_its_registry_however_it_was_written() {
        // `me:se:cret`
        let auth = |name: &str| format!("{{\"auths\":{{\"{name}\":{{\"auth\":\"bWU6c2U6Y3JldA==\"}}}}}}");
        let known = Some(("me", "se:cret"));
        check(&auth("registry.internal:5000"), "registry.internal:5000/a:1", known).await;
        check(&auth("https://registry.internal:5000/v1/"), "registry.internal:5000/a:1", known).await;
        check(&auth(HUB), "acme/a", known).await;
        check(&auth("registry.internal:5000"), "registry.internal/a:1", None).await;
        check("{}", "acme/a", None).await;
        check("{\"auths\":{\"r.io\":{}}}", "r.io/a", None).await;
        check("{\"auths\":{\"r.io\":{\"username\":\"u\",\"password\":\"p\"}}}", "r.io/a", Some(("u", "p")))
            .await;
    }

    #[tokio::test]
    async fn a_damaged_login_and_a_missing_helper_are_told() {
        let damaged = find(&config("{\"auths\":{\"r.io\":{\"auth\":\"%%\"}}}"), "r.io").await;
        assert!(damaged.is_err_and(|why| why.contains("log in again")));
        let missing = find(&config("{\"credHelpers\":{\"r.io\":\"nobody-has-it\"}}"), "r.io").await;
        assert!(missing.is_err_and(|why| why.contains("docker-credential-nobody-has-it")));
    }

    #[test]
    fn what_would_arrive_as_nobody_is_known() {
        assert!(travels(&credentials("r.io", "me", "secret")));
        let lost = (0..3).filter(|pad| !travels(&credentials("r.io", &"m".repeat(1 + pad), "?"))).count();
        assert_eq!(lost, 1, "it depends on where the letter stands");
    }

    #[test]
    fn a_failed_pull_is_told_in_words() {
        let check = |said: &str, known: bool, expected: &str| {
            let told = why("r.io:5000/a:1", said, known);
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
}
