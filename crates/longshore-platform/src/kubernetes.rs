//! Pods of a Kubernetes cluster.

pub mod render;
