//! What tags stand for, asked at a real registry: pods are made from digests.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::plane::Plane;
use crate::registry::{PASSWORD, Registry};
use crate::rollouts::told;
use crate::run::{Ran, command, ran, run};

/// A control plane without a cluster, and who may ask the registry: the control plane itself, or whoever gives orders.
async fn scene(registry: &Registry, plane_may: bool) -> (Plane, tempfile::TempDir) {
    let logins = tempfile::tempdir().expect("a temporary folder");
    fs::write(logins.path().join("config.json"), registry.logged_in()).expect("written");
    // As the Secrets of a cluster are there.
    fs::write(logins.path().join("registry.json"), registry.logged_in()).expect("written");
    let folder = logins.path().display().to_string();
    let fleet = format!(
        "[fleet.research]\nplatform = \"kubernetes\"\nimage = \"{}/agents/worker:1\"\n",
        registry.address
    );
    let mut env = vec![("KUBECONFIG", "/nonexistent/kubeconfig"), ("DOCKER_CONFIG", "/nonexistent")];
    if plane_may {
        env.push(("LONGSHORE_REGISTRY_LOGINS", &folder));
    }
    (Plane::start_with(&fleet, &env).await, logins)
}

/// `logins`: the folder of a login, if there is one.
fn deploy(plane: &Plane, logins: Option<&Path>, args: &[&str]) -> Ran {
    let mut command = command(plane.dir());
    command.args(["deploy", "research", "--detach", "--supersede"]).args(args);
    command
        .env("LONGSHORE_SERVER", &plane.addresses.api)
        .env("DOCKER_CONFIG", logins.unwrap_or(Path::new("/nonexistent")));
    ran(command.output().expect("the binary runs"))
}

/// The newest release's image and commit.
fn newest(plane: &Plane) -> (Value, Value) {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(["rollout", "releases", "research", "--json"]);
    let list = told(&ran(command.output().expect("the binary runs")));
    let all = list["items"].as_array().expect("a list");
    let newest = all.iter().max_by_key(|release| release["number"].as_u64()).expect("one");
    (newest["image"].clone(), newest["commit"].clone())
}

#[tokio::test]
async fn what_is_deployed_by_a_tag_is_a_release_by_digest() {
    let Some(registry) = Registry::start() else { return };
    let one =
        registry.put("agents/worker:2", json!({ "org.opencontainers.image.revision": "0a1b2c3" })).await;
    let (plane, _logins) = scene(&registry, true).await;
    let image = format!("{}/agents/worker:2", registry.address);
    let ran = deploy(&plane, None, &[&image]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(newest(&plane), (json!(format!("{image}@{one}")), json!("0a1b2c3")), "{}", plane.log());
    let again = deploy(&plane, None, &[&image]);
    assert!(again.status == 0 && again.out.contains("runs that already"), "{again:?}");
    // The tag moves.
    let two =
        registry.put("agents/worker:2", json!({ "org.opencontainers.image.revision": "ffffff0" })).await;
    assert_ne!(one, two);
    let ran = deploy(&plane, None, &[&image, "--commit", "mine"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(newest(&plane), (json!(format!("{image}@{two}")), json!("mine")));
    // Under another name it is the same.
    let three =
        registry.put("agents/worker:3", json!({ "org.opencontainers.image.revision": "ffffff0" })).await;
    assert_eq!(two, three);
    let repository = format!("{}/agents/worker", registry.address);
    for same in [format!("{repository}:3"), format!("{repository}@{two}")] {
        let ran = deploy(&plane, None, &[&same, "--commit", "mine"]);
        assert!(ran.status == 0 && ran.out.contains("runs that already"), "{same}: {ran:?}");
    }
    // Whoever names the digest need not say the commit either.
    let exact = format!("{repository}@{one}");
    let ran = deploy(&plane, None, &[&exact]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(newest(&plane), (json!(exact), json!("0a1b2c3")));
    assert!(!plane.log().contains(PASSWORD), "{}", plane.log());
}

#[tokio::test]
async fn an_image_that_no_registry_has_is_refused_unless_its_tag_is_to_do() {
    let Some(registry) = Registry::start() else { return };
    let (plane, _logins) = scene(&registry, true).await;
    let image = format!("{}/agents/worker:nobody", registry.address);
    let refused = deploy(&plane, None, &[&image]);
    assert!(refused.status == 1 && refused.err.contains("has no such image"), "{refused:?}");
    assert!(refused.err.contains("`--by-tag`"), "{refused:?}");
    let taken = deploy(&plane, None, &[&image, "--by-tag"]);
    assert_eq!(taken.status, 0, "{taken:?}");
    assert_eq!(newest(&plane).0, json!(image));
}

#[tokio::test]
async fn who_deploys_asks_where_the_control_plane_may_not() {
    let Some(mut registry) = Registry::start() else { return };
    let digest = registry.put("agents/worker:2", json!({})).await;
    let (plane, logins) = scene(&registry, false).await;
    let image = format!("{}/agents/worker:2", registry.address);
    let neither = deploy(&plane, None, &[&image]);
    assert!(neither.status == 1 && neither.err.contains("lets nobody in without a login"), "{neither:?}");
    assert!(neither.err.contains("nor is it from here") && neither.err.contains("@sha256:…"), "{neither:?}");
    let here = deploy(&plane, Some(logins.path()), &[&image]);
    assert!(
        here.status == 0 && here.err.contains("the control plane does not see the image at registry"),
        "{here:?}"
    );
    assert_eq!(newest(&plane).0, json!(format!("{image}@{digest}")));
    registry.stop();
    let away = deploy(&plane, Some(logins.path()), &[&format!("{}/agents/worker:3", registry.address)]);
    assert!(away.status == 1 && away.err.contains("does not answer"), "{away:?}");
    let bare = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let mut command = command(plane.dir());
    let nobody = ran(command.args(["image", "pin"]).envs(bare).output().expect("the binary runs"));
    assert!(nobody.status == 1 && nobody.err.contains("mount authorities of certificates"), "{nobody:?}");
    // Nobody has to be asked.
    let known = format!("{}/agents/worker:3@sha256:{}", registry.address, "7".repeat(64));
    let ran = deploy(&plane, None, &[&known]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(newest(&plane).0, json!(known));
}

#[tokio::test]
async fn a_file_is_rendered_by_digest_and_pinned() {
    let Some(mut registry) = Registry::start() else { return };
    let one = registry.put("agents/worker:1", json!({})).await;
    let own = registry.put("longshore:1", json!({ "own": "yes" })).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = &registry.address;
    let file = format!(
        "# Ours.\n[kubernetes]\nimage = \"{at}/longshore:1\"  # from CI\n[fleet.research]\nplatform = \"kubernetes\"\n\
         image = {{ repository = \"{at}/agents/worker\", tag = \"1\" }}\n"
    );
    let path = dir.path().join("longshore.toml");
    fs::write(&path, &file).expect("written");
    fs::write(dir.path().join("config.json"), registry.logged_in()).expect("written");
    let with_login = |args: &[&str]| {
        let mut command = command(dir.path());
        ran(command.env("DOCKER_CONFIG", dir.path()).args(args).output().expect("the binary runs"))
    };
    let rendered = with_login(&["render", "kubernetes", "--pin"]);
    assert!(rendered.status == 0 && !rendered.err.contains("by tag"), "{rendered:?}");
    // In the Deployments, and in what the control plane reads: they have to agree.
    assert_eq!(rendered.out.matches(&format!("{at}/agents/worker:1@{one}")).count(), 2, "{rendered:?}");
    assert_eq!(rendered.out.matches(&format!("{at}/longshore:1@{own}")).count(), 2, "{rendered:?}");
    let check = with_login(&["image", "pin", "--check"]);
    assert_eq!((check.status, fs::read_to_string(&path).expect("there")), (1, file.clone()), "{check:?}");
    let pinned = with_login(&["image", "pin"]);
    assert_eq!(pinned.status, 0, "{pinned:?}");
    let text = fs::read_to_string(&path).expect("there");
    assert!(text.contains(&format!("image = \"{at}/longshore:1@{own}\"  # from CI\n")), "{text}");
    assert!(text.contains(&format!("repository = \"{at}/agents/worker:1@{one}\"")), "{text}");
    assert_eq!(with_login(&["image", "pin", "--check"]).status, 0);
    assert_eq!(with_login(&["render", "kubernetes"]).out, rendered.out, "the same, with nobody asked");
    let two = registry.put("agents/worker:1", json!({ "moved": "yes" })).await;
    assert_eq!(with_login(&["image", "pin"]).out, "every image is named by its digest\n");
    let updated = with_login(&["image", "pin", "--update"]);
    assert_eq!(
        updated.out,
        format!("fleet.research.image = \"{at}/agents/worker:1@{two}\"\n"),
        "{updated:?}"
    );
    registry.stop();
    fs::write(&path, &file).expect("written");
    let away = run(dir.path(), ["image", "pin"]);
    assert_eq!(away.status, 1, "{away:?}");
    assert!(
        away.err.contains("kubernetes.image: ") && away.err.contains("fleet.research.image: "),
        "{away:?}"
    );
    assert_eq!(fs::read_to_string(&path).expect("there"), file, "nothing is half written");
}
