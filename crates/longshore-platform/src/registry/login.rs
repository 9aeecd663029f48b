//! What `docker login` keeps of registries: to be let in at private ones.
//!
//! Reads `config.json` of DOCKER_CONFIG, else of `~/.docker`, and what is like it in the folder LONGSHORE_REGISTRY_LOGINS
//! (Secrets of Kubernetes are), each time anew: a login counts at once. Never writes any.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longshore_core::container::Image;
use longshore_core::kubernetes::LOGINS;
use serde::Deserialize;

/// How long a helper may take: some ask a service.
const HELPER: Duration = Duration::from_secs(15);

/// What `docker login` calls Docker's own registry.
const HUB: &str = "https://index.docker.io/v1/";

/// Who to be at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// As `docker login` calls the registry.
    pub server: String,
    pub secret: Secret,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// For which the registry gives others.
    Identity(String),
    /// That opens the registry itself.
    Registry(String),
}

/// What is kept, and where.
struct Kept {
    path: PathBuf,
    config: Config,
}

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
struct Helped {
    username: String,
    secret: String,
}

/// Who to be at this image's registry; `None`: nobody logged in there.
///
/// Errors: in words, what keeps it from being known.
pub async fn login(image: &Image) -> Result<Option<Login>, String> {
    for kept in kept().await? {
        let found = find(&kept.config, image).await;
        if let Some(found) = found.map_err(|why| format!("`{}`: {why}", kept.path.display()))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// All that is there, the user's own first.
async fn kept() -> Result<Vec<Kept>, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")));
    let mut paths: Vec<PathBuf> = own.map(|folder| folder.join("config.json")).into_iter().collect();
    if let Some(folder) = set(LOGINS) {
        paths.extend(files(&folder).await?);
    }
    let mut all = Vec::new();
    for path in paths {
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("`{}` could not be read: {error}", path.display())),
        };
        let config = serde_json::from_str(&text)
            .map_err(|error| format!("`{}` is not what `docker login` writes: {error}", path.display()))?;
        all.push(Kept { path, config });
    }
    Ok(all)
}

async fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("`{}` could not be read: {error}", folder.display());
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

async fn find(config: &Config, image: &Image) -> Result<Option<Login>, String> {
    let registry = image.registry();
    let server = if registry == "docker.io" { HUB } else { registry };
    let helper = config.cred_helpers.get(server).or_else(|| config.cred_helpers.get(registry));
    let helper = helper.or(Some(&config.creds_store)).filter(|name| !name.is_empty());
    if let Some(helper) = helper
        && let Some(helped) = ask(helper, server).await?
    {
        return Ok(Some(told(server, &helped.username, &helped.secret)));
    }
    let fits = |name: &String| how_well(name, server, &image.repository).map(|fit| (fit, name.clone()));
    let best = config.auths.keys().filter_map(fits).max();
    best.map_or(Ok(None), |(_, name)| read(server, &config.auths[&name]))
}

/// How much of an image's name an entry names; `None`: it is for others. Some write no more than a registry, some a part of its
/// images, and `*` in the place of a part of a host's name stands for any: as kubelets read them.
fn how_well(name: &str, server: &str, repository: &str) -> Option<usize> {
    let bare =
        |name: &str| name.split_once("://").map_or(name, |(_, rest)| rest).trim_end_matches('/').to_owned();
    let (name, server) = (bare(name), bare(server));
    let (host, part) = name.split_once('/').unwrap_or((&name, ""));
    let asked = server.split('/').next().unwrap_or_default();
    let asked = if server == bare(HUB) && host == "docker.io" { "docker.io" } else { asked };
    let same = |(one, other): (&str, &str)| one == other || one == "*";
    let hosts_fit = host.split('.').count() == asked.split('.').count()
        && host.split('.').zip(asked.split('.')).all(same);
    if !hosts_fit {
        return None;
    }
    // What some versions of `docker login` write behind the host.
    if matches!(part, "" | "v1" | "v2") {
        return Some(0);
    }
    let within = repository.strip_prefix(asked).and_then(|rest| rest.strip_prefix('/')).unwrap_or(repository);
    let rest = within.strip_prefix(part)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(part.len())
}

fn read(server: &str, entry: &Entry) -> Result<Option<Login>, String> {
    let login = |secret| Ok(Some(Login { server: server.to_owned(), secret }));
    if !entry.registrytoken.is_empty() {
        return login(Secret::Registry(entry.registrytoken.clone()));
    }
    if !entry.identitytoken.is_empty() {
        return login(Secret::Identity(entry.identitytoken.clone()));
    }
    let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|pair| pair.trim_end_matches('\0').split_once(':'));
    match pair {
        Some((user, password)) if !entry.auth.is_empty() => Ok(Some(told(server, user, password))),
        _ if !entry.auth.is_empty() => {
            Err(format!("what `docker login` kept for `{server}` is damaged: log in again"))
        }
        // Where a helper keeps the rest, the entry is empty.
        _ if entry.username.is_empty() => Ok(None),
        _ => Ok(Some(told(server, &entry.username, &entry.password))),
    }
}

/// The name `<token>` stands for a token in the place of a password.
fn told(server: &str, user: &str, secret: &str) -> Login {
    let secret = match user {
        "<token>" => Secret::Identity(secret.to_owned()),
        _ => Secret::Password { user: user.to_owned(), password: secret.to_owned() },
    };
    Login { server: server.to_owned(), secret }
}

/// Asks `docker-credential-NAME`; `None`: it keeps nothing for this registry.
async fn ask(helper: &str, server: &str) -> Result<Option<Helped>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).expect("JSON")
    }

    async fn found(text: &str, image: &str) -> Result<Option<Login>, String> {
        find(&config(text), &Image::parse(image).expect("an image")).await
    }

    async fn check(text: &str, image: &str, expected: Option<(&str, &str)>) {
        let found = found(text, image).await.expect("it is well formed").map(|it| it.secret);
        let expected = expected.map(|(user, password)| Secret::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        });
        assert!(found == expected, "{text} {image}");
    }

    #[tokio::test]
    async fn a_login_is_found_by_its_registry_however_it_was_written() {
        // `me:se:cret`
        let auth = |name: &str| format!("{{\"auths\":{{\"{name}\":{{\"auth\":\"bWU6c2U6Y3JldA==\"}}}}}}");
        let known = Some(("me", "se:cret"));
        check(&auth("registry.internal:5000"), "registry.internal:5000/a:1", known).await;
        check(&auth("https://registry.internal:5000/v1/"), "registry.internal:5000/a:1", known).await;
        check(&auth(HUB), "acme/a", known).await;
        check(&auth("docker.io"), "acme/a", known).await;
        check(&auth("*.internal"), "registry.internal/a:1", known).await;
        check(&auth("*.internal"), "a.registry.internal/a:1", None).await;
        check(&auth("registry.internal:5000"), "registry.internal/a:1", None).await;
        check("{}", "acme/a", None).await;
        check("{\"auths\":{\"r.io\":{}}}", "r.io/a", None).await;
        check("{\"auths\":{\"r.io\":{\"username\":\"u\",\"password\":\"p\"}}}", "r.io/a", Some(("u", "p")))
            .await;
    }

    #[tokio::test]
    async fn of_several_for_a_registry_the_one_that_names_most_of_the_image_counts() {
        let user = |name: &str| format!("{{\"username\":\"{name}\",\"password\":\"p\"}}");
        let text = format!(
            "{{\"auths\":{{\"r.io\":{},\"r.io/team\":{},\"https://r.io/team/deep/\":{}}}}}",
            user("all"),
            user("team"),
            user("deep")
        );
        check(&text, "r.io/other/a:1", Some(("all", "p"))).await;
        check(&text, "r.io/teams/a:1", Some(("all", "p"))).await;
        check(&text, "r.io/team/a:1", Some(("team", "p"))).await;
        check(&text, "r.io/team/deep/a:1", Some(("deep", "p"))).await;
    }

    #[tokio::test]
    async fn a_damaged_login_and_a_missing_helper_are_told() {
        let damaged = found("{\"auths\":{\"r.io\":{\"auth\":\"%%\"}}}", "r.io/a").await;
        assert!(damaged.is_err_and(|why| why.contains("log in again")));
        let missing = found("{\"credHelpers\":{\"r.io\":\"nobody-has-it\"}}", "r.io/a").await;
        assert!(missing.is_err_and(|why| why.contains("docker-credential-nobody-has-it")));
    }

    #[tokio::test]
    async fn only_what_looks_like_a_login_is_read_from_a_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["b.json", "a.json", "..data", "notes.txt"] {
            std::fs::write(folder.path().join(name), "{}").expect("the folder is writable");
        }
        let found = files(folder.path()).await.expect("readable");
        assert_eq!(found, ["a.json", "b.json"].map(|name| folder.path().join(name)));
        assert_eq!(files(&folder.path().join("not-there")).await, Ok(Vec::new()));
    }
}
