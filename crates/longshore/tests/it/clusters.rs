//! Fleets on a cluster, where there is none: what is said, and what is left to others.

use crate::plane::{Plane, wait_for};
use crate::rollouts::check;

const POD: &str = "[fleet.research]\nplatform = \"kubernetes\"\nimage = \"acme/research:1\"\n";

#[tokio::test]
async fn a_fleet_whose_cluster_is_not_there_says_so() {
    let plane = Plane::start_with(POD, &[("KUBECONFIG", "/nonexistent/kubeconfig")]).await;
    let told = wait_for("its trouble", || {
        let ran = check(&plane, &["fleets", "--json"], 0);
        ran.out.contains("no Kubernetes cluster is known here").then_some(ran.out)
    })
    .await;
    assert!(told.contains("or set KUBECONFIG"), "{told}");
}

#[tokio::test]
async fn what_git_owns_is_not_deployed_by_longshore() {
    let owned = format!("{POD}rollout = {{ owner = \"external\" }}\n");
    let plane = Plane::start_with(&owned, &[("KUBECONFIG", "/nonexistent/kubeconfig")]).await;
    let ran = check(&plane, &["deploy", "research", "acme/research:2"], 1);
    assert!(ran.err.contains("`rollout.owner` is \"external\""), "{ran:?}");
    // What to write there instead.
    assert!(
        ran.err.contains("`acme/research:2`") && ran.err.contains("longshore.dev/declaration"),
        "{ran:?}"
    );
    for order in ["undo", "pause", "resume"] {
        let ran = check(&plane, &["rollout", order, "research"], 1);
        assert!(ran.err.contains("not longshore's to begin or to undo"), "{order}: {ran:?}");
    }
}
