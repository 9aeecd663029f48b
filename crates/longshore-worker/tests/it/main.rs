//! The worker as a process of its own, with real agents, against a fake control plane over real sockets.

mod control_plane;
mod drain;
mod exec;
mod gateway;
mod http;
mod leftovers;
mod limits;
mod link;
mod relay;
mod replicas;
mod scene;
mod worker;
