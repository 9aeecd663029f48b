//! The labels by which containers, networks and volumes are known again.

/// Which installation of longshore it belongs to: nothing without ours is ever touched.
pub const INSTALLATION: &str = "longshore.installation";
pub const FLEET: &str = "longshore.fleet";
pub const WORKER: &str = "longshore.worker";
/// The worker that a replica of a compose service was added for.
pub const REPLICA: &str = "longshore.replica";
/// Of the fleet: 1, 2, 3, …
pub const RELEASE: &str = "longshore.release";
pub const IMAGE: &str = "longshore.image";
/// Of the source that the image was made of.
pub const COMMIT: &str = "longshore.commit";
/// What it is promised: thousandths of a core.
pub const CPU: &str = "longshore.cpu";
/// What it is promised: bytes.
pub const MEMORY: &str = "longshore.memory";
/// On images, as the OCI names it.
pub const REVISION: &str = "org.opencontainers.image.revision";
/// On volumes that longshore itself is in: which one of its name it is, since one that was removed comes back empty.
pub const VOLUME: &str = "longshore.volume";
