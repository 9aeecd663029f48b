//! Which image a name stands for now. Of images for containers only the leader's engine knows, and any replica may be asked to
//! deploy: so the question goes through the store. Of images for pods their registry knows.

use std::time::Duration;

use longshore_core::container::Image;
use longshore_core::fleet::{Fleet, Platform};
use longshore_core::id::FleetName;
use longshore_platform::registry::Unknown;
use longshore_store::{FleetRecord, StoreError};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::app::App;
use crate::controller::Crew;
use crate::error::{Answer, Refused};

/// How long whoever deploys waits for the leader.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Question {
    number: Uuid,
    image: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reply {
    to: Uuid,
    /// `None`: no image of this name is on the host.
    id: Option<String>,
    /// Why it could not be learned.
    trouble: Option<String>,
}

fn asked(fleet: &FleetName) -> String {
    format!("image-asked:{fleet}")
}

fn replied(fleet: &FleetName) -> String {
    format!("image-replied:{fleet}")
}

/// Says in a declaration that is to be deployed which image is meant, where its name alone would not tell it from what runs.
///
/// Errors: the engine could not be asked, so nobody knows whether it is another image.
pub async fn settle(app: &App, record: &FleetRecord, running: &[Fleet], wanted: &mut Fleet) -> Answer<()> {
    let Some(container) = wanted.container.as_mut().filter(|_| wanted.platform == Platform::Docker) else {
        return Ok(());
    };
    let same_name = |fleet: &Fleet| {
        let container_of = fleet.container.as_ref();
        container_of.is_some_and(|it| it.image_id.is_some() && it.image == container.image)
    };
    if running.iter().any(same_name) {
        container.image_id = ask(app, &record.name, &container.image).await?;
    }
    Ok(())
}

/// Names an image for pods by its digest, so that all of a release run the same; says the commit that it was built from, where
/// its registry knows. An image that has its digest is what it says. `running`: where it names the same digest, under another tag
/// or under none, it is the same image.
///
/// Errors: the registry has no such image, or could not be asked.
pub async fn pin(app: &App, running: &Fleet, fleet: &mut Fleet, by_tag: bool) -> Answer<Option<String>> {
    let of_pods = fleet.platform == Platform::Kubernetes && !by_tag;
    let Some(container) = fleet.container.as_mut().filter(|_| of_pods) else { return Ok(None) };
    let image = &container.image;
    let found = match &image.digest {
        Some(_) => Ok((image.clone(), app.registries.revision(image).await)),
        None => {
            app.registries.find(image).await.map(|found| (image.by_digest(&found.digest), found.revision))
        }
    };
    match found {
        Ok((pinned, revision)) => {
            let runs = running.container.as_ref().map(|it| &it.image);
            container.image = runs.filter(|runs| is_same(runs, &pinned)).unwrap_or(&pinned).clone();
            Ok(revision)
        }
        Err(Unknown::Missing(why)) => Err(Refused::new(422, "image_missing", why).hint(
            "push it first; an image that nodes have without any registry is deployed with `--by-tag`",
        )),
        Err(Unknown::Unasked(why)) => {
            let detail = format!("which digest `{image}` stands for is not known: {why}");
            Err(Refused::new(503, "digest_unknown", detail).hint(format!(
                "give the digest yourself (`{}@sha256:…`), or deploy it by its tag alone with `--by-tag`",
                image.repository
            )))
        }
    }
}

fn is_same(one: &Image, other: &Image) -> bool {
    (&one.repository, &one.digest) == (&other.repository, &other.digest)
}

async fn ask(app: &App, fleet: &FleetName, image: &Image) -> Answer<Option<String>> {
    let question = Question { number: Uuid::new_v4(), image: image.to_string() };
    let text = serde_json::to_string(&question).expect("plain data");
    let unknown = |why: &str| {
        let detail =
            format!("whether `{image}` is still the image that fleet `{fleet}` runs is not known: {why}");
        Refused::new(503, "image_unknown", detail).hint("try again, or deploy it under a tag of its own")
    };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        // Who asks at the same time may have put another question in its place.
        if app.store.meta_get(asked(fleet)).await?.as_ref() != Some(&text) {
            app.store.meta_put(asked(fleet), text.clone()).await?;
            app.look_again.notify_one();
        }
        let reply = app.store.meta_get(replied(fleet)).await?;
        let reply = reply.and_then(|text| serde_json::from_str::<Reply>(&text).ok());
        match reply.filter(|reply| reply.to == question.number) {
            Some(Reply { trouble: Some(why), .. }) => return Err(unknown(&why)),
            Some(reply) => return Ok(reply.id),
            None => sleep(Duration::from_millis(50)).await,
        }
    }
    Err(unknown("no control plane with the role `controllers` answers"))
}

/// Answers what was asked about a fleet; `last` is the question that was answered before.
pub async fn reply(
    app: &App,
    crew: &Crew,
    record: &FleetRecord,
    last: &mut Option<Uuid>,
) -> Result<(), StoreError> {
    if record.declaration.platform != Platform::Docker {
        return Ok(());
    }
    let text = app.store.meta_get(asked(&record.name)).await?;
    let question = text.and_then(|text| serde_json::from_str::<Question>(&text).ok());
    let Some(question) = question.filter(|question| *last != Some(question.number)) else { return Ok(()) };
    let (id, trouble) = match crew.image_id(&question.image).await {
        Ok(id) => (id, None),
        Err(why) => (None, Some(why)),
    };
    let reply = Reply { to: question.number, id, trouble };
    app.store.meta_put(replied(&record.name), serde_json::to_string(&reply).expect("plain data")).await?;
    *last = Some(question.number);
    Ok(())
}
