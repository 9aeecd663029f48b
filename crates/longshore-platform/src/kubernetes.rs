//! Pods of a Kubernetes cluster: watched, counted and changed through its API.
//!
//! Pods are started and replaced by their Deployment; here they are seen ([`Watch`]), and what a Deployment is to be is
//! written down ([`Cluster`]). Changes are made as the field manager `longshore`, and none is made that changes nothing.

pub mod aggregation;
mod change;
mod cluster;
mod error;
pub mod render;
mod rest;
mod seen;
mod shown;
#[cfg(test)]
mod tests;
mod watch;

pub use change::Template;
pub use cluster::{Cluster, Written};
pub use error::ClusterError;
pub use seen::{Autoscaler, DeploymentSeen, Ended, PodSeen};
pub use watch::Watch;
