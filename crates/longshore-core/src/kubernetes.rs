//! The names that what is rendered for a cluster, and what works in it, have to agree on.

mod autoscaler;
mod in_pod;
mod marks;
mod pods;
mod template;

use sha2::{Digest, Sha256};

use crate::fleet::Fleet;
use crate::id::FleetName;
use crate::rollout::Release;

pub use autoscaler::{is_asleep, is_tolerated, tell};
pub use in_pod::{POD_IP, in_pod, listen_on, service_names};
pub use marks::{Due, due};
pub use pods::{Counts, Facts, Number, Standing, is_late};
pub use template::{Agreed, Intent, Known, Mark, Turn, Version, turn};

/// On everything that belongs to a fleet: its name.
pub const FLEET: &str = "longshore.dev/fleet";

/// On a pod template: which declaration it follows, as [`digest`] says.
pub const DECLARATION: &str = "longshore.dev/declaration";

/// On a pod template: the commit that its image was built from.
pub const COMMIT: &str = "longshore.dev/commit";

/// On the control plane's pod template: which longshore.toml it was started with, as [`digest_of`] says.
pub const CONFIG: &str = "longshore.dev/config";

/// On a pod: what removing it costs beside others, as Kubernetes reads it from 1.22 on.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Ours among a pod's containers.
pub const AGENT: &str = "agent";

/// The field manager that changes are made as.
pub const MANAGER: &str = "longshore";

/// Of the control plane's Deployment, Service and ServiceAccount.
pub const CONTROL_PLANE: &str = "longshore";

/// The Service of the worker link, without endpoints that are not ready.
pub const LINK: &str = "longshore-link";

/// The Service of the external metrics API.
pub const METRICS: &str = "longshore-metrics";

/// Of the control plane's listener for external metrics.
pub const METRICS_PORT: u16 = 7120;

/// The API that HorizontalPodAutoscalers ask, and the APIService that says who serves it: one for the whole cluster.
pub const METRICS_GROUP: &str = "external.metrics.k8s.io";
pub const METRICS_VERSION: &str = "v1beta1";
pub const METRICS_API_SERVICE: &str = "v1beta1.external.metrics.k8s.io";

/// What it serves: the scaler's own decision, tasks that could run now, and those divided by the workers.
pub const DESIRED_WORKERS: &str = "longshore_desired_workers";
pub const PENDING: &str = "longshore_pending";
pub const QUEUE_DEPTH_PER_WORKER: &str = "longshore_queue_depth_per_worker";

/// In `join_secret`: the token, and what to hold the worker link's certificate against, empty where it is plain HTTP. For other
/// clients there is the authority in PEM as well, where longshore made it.
pub const JOIN_TOKEN: &str = "token";
pub const JOIN_CA: &str = "ca";
pub const JOIN_CA_PEM: &str = "ca.pem";

/// What a worker does that was told to drain and has: `stay`, not ready, until it is stopped. In a pod whatever exits is
/// started again.
pub const AFTER_DRAIN: &str = "LONGSHORE_AFTER_DRAIN";

/// Makes the kubelet wait for longer than the worker does itself.
pub const GRACE_MS: u64 = 15_000;

/// Names the folder of Secrets that images are pulled with, as the control plane has them.
pub const LOGINS: &str = "LONGSHORE_REGISTRY_LOGINS";

/// The Secret that the control plane fills for a fleet's workers.
pub fn join_secret(fleet: &FleetName) -> String {
    format!("longshore-worker-{fleet}")
}

/// The ServiceAccount of a fleet's pods.
pub fn service_account(fleet: &FleetName) -> String {
    format!("longshore-{fleet}")
}

/// Tells declarations apart by what workers are told at their start, however it is written. 16 hexadecimal digits.
pub fn digest(fleet: &Fleet) -> String {
    digest_of(&serde_json::to_vec(&fleet.told_at_start()).expect("a declaration always serialises"))
}

/// 16 hexadecimal digits that differ where the bytes do.
pub fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Which of a fleet's releases, newest first, a Deployment makes pods of; none: one that is not known yet.
pub fn release_of(
    releases: &[(Release, Fleet)],
    declaration: Option<&str>,
    image: Option<&str>,
) -> Option<Release> {
    let by_image =
        || releases.iter().filter(|(_, fleet)| image.is_some() && fleet.image().as_deref() == image);
    // Somebody may have set another image and left what longshore wrote beside it.
    let exact = by_image().find(|(_, fleet)| declaration == Some(digest(fleet).as_str()));
    exact.or_else(|| by_image().next()).map(|(release, _)| *release)
}

/// Which of them somebody else has set who gave a Deployment this mark; none: it is another one. An image that is set by hand
/// leaves beside it what was agreed before; where something else stands there, so does the rest differ.
pub fn release_set(releases: &[(Release, Fleet)], agreed: Option<&Agreed>, mark: &Mark) -> Option<Release> {
    let (declaration, image) = (mark.declaration.as_deref(), mark.image.as_deref());
    let declared = declaration.filter(|it| agreed.and_then(|it| it.mark.declaration.as_deref()) != Some(*it));
    let of = release_of(releases, declaration, image)?;
    let known =
        |declared: &str| releases.iter().any(|(release, fleet)| *release == of && digest(fleet) == declared);
    declared.is_none_or(known).then_some(of)
}

/// Which of them a pod is of that is made from what was `agreed`, or was from what was agreed before: on its way a cluster may
/// give it another image, of a mirror or by digest, and leaves what longshore wrote beside it.
pub fn release_of_pod(
    releases: &[(Release, Fleet)],
    agreed: Option<&Agreed>,
    mark: &Mark,
) -> Option<Release> {
    let (declaration, image) = (mark.declaration.as_deref(), mark.image.as_deref());
    let exact = agreed.filter(|agreed| agreed.mark == *mark).map(|agreed| agreed.release);
    let newest = || agreed.filter(|it| it.mark.declaration.as_deref() == declaration).map(|it| it.release);
    let by_declaration = || {
        let declaration = declaration?;
        // An image that was set by hand is a release of its own, beside what longshore wrote for the one before.
        newest().or_else(|| {
            releases.iter().find(|(_, fleet)| declaration == digest(fleet)).map(|(release, _)| *release)
        })
    };
    exact.or_else(|| release_of(releases, declaration, image)).or_else(by_declaration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Container, Image};
    use crate::fleet::Platform;

    fn fleet(image: &str, model: &str) -> Fleet {
        let mut fleet = Fleet::new(FleetName::new("a").expect("valid"), vec!["run".into()], String::new());
        fleet.platform = Platform::Kubernetes;
        fleet.container = Some(Container {
            image: Image::parse(image).expect("valid"),
            image_id: None,
            supervisor: Default::default(),
            egress: Default::default(),
            resources: Default::default(),
        });
        fleet.env.insert("MODEL".into(), model.into());
        fleet
    }

    #[test]
    fn a_declaration_is_known_by_what_workers_are_told() {
        let one = fleet("a:1", "small");
        let mut scaled = one.clone();
        (scaled.scaling.max, scaled.overlay) = (99, Some("/pod.yaml".into()));
        assert_eq!(digest(&one), digest(&scaled));
        assert_ne!(digest(&one), digest(&fleet("a:1", "large")));
        assert_eq!(digest(&one).len(), 16);
    }

    #[test]
    fn a_pod_is_of_the_release_whose_image_and_declaration_it_has() {
        let releases = [(3, fleet("a:2", "large")), (2, fleet("a:1", "large")), (1, fleet("a:1", "small"))];
        let small = digest(&releases[2].1);
        assert_eq!(release_of(&releases, Some(&small), Some("a:1")), Some(1));
        assert_eq!(release_of(&releases, Some(&small), Some("a:2")), Some(3), "its image was set by hand");
        assert_eq!(release_of(&releases, None, Some("a:1")), Some(2), "the newest with this image");
        assert_eq!(release_of(&releases, Some(&small), Some("a:3")), None);
        assert_eq!(release_of(&releases, Some(&small), None), None);
    }

    #[test]
    fn an_image_that_is_known_with_another_declaration_is_another_release() {
        let releases = [(2, fleet("a:2", "small")), (1, fleet("a:1", "small"))];
        let digests = releases.each_ref().map(|(_, fleet)| digest(fleet));
        let agreed = Agreed {
            release: 2,
            mark: Mark { declaration: Some(digests[0].clone()), image: Some("a:2".into()) },
        };
        let of = |declaration: Option<&str>, image: &str| {
            let mark = Mark { declaration: declaration.map(str::to_owned), image: Some(image.into()) };
            release_set(&releases, Some(&agreed), &mark)
        };
        assert_eq!(of(Some(&digests[1]), "a:1"), Some(1), "`kubectl rollout undo`");
        assert_eq!(
            (of(Some(&digests[0]), "a:1"), of(Some(&digests[0]), "a:9")),
            (Some(1), None),
            "`kubectl set image`"
        );
        assert_eq!(
            (of(Some("0000"), "a:2"), of(Some("values"), "a:1")),
            (None, None),
            "a rendering of something else"
        );
        assert_eq!(of(None, "a:1"), Some(1), "nobody says more");
    }

    #[test]
    fn a_pod_whose_image_the_cluster_replaces_is_of_the_release_that_it_declares() {
        let releases = [(3, fleet("a:2", "large")), (2, fleet("a:1", "large")), (1, fleet("a:1", "small"))];
        let mark = |declaration: &str, image: &str| Mark {
            declaration: Some(declaration.into()).filter(|it: &String| !it.is_empty()),
            image: Some(image.into()),
        };
        let digests = releases.each_ref().map(|(_, fleet)| digest(fleet));
        let of = |declaration: &str, image: &str| release_of_pod(&releases, None, &mark(declaration, image));
        assert_eq!((of(&digests[0], "mirror/a:2"), of(&digests[2], "a@sha256:77")), (Some(3), Some(1)));
        assert_eq!(of(&digests[2], "a:2"), Some(3), "an image that is known says more");
        assert_eq!((of("0000", "mirror/a:2"), of("", "mirror/a:2")), (None, None));
        // Somebody set `a:9` where release 3 was.
        let agreed = Agreed { release: 4, mark: mark(&digests[0], "a:9") };
        let of = |declaration: &str, image: &str| {
            release_of_pod(&releases, Some(&agreed), &mark(declaration, image))
        };
        assert_eq!((of(&digests[0], "a:9"), of(&digests[0], "mirror/a:9")), (Some(4), Some(4)));
        assert_eq!((of(&digests[0], "a:2"), of(&digests[1], "mirror/a:1")), (Some(3), Some(2)));
    }
}
