//! Which process is meant: a pid alone names another process sooner or later.
//!
//! Only compares; it never opens or signals anything.

use serde::{Deserialize, Serialize};

use super::procfs::{ProcError, Stat};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the control plane saves to find a worker again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Clock ticks since boot: field 22 of `/proc/PID/stat`, proc_pid_stat(5).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which it was started.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// Whether `stat`, read from this identity's pid in this boot, is of the same process.
    pub(super) fn is(&self, stat: &Stat) -> bool {
        self.start_time == stat.start_time
    }
}

pub(super) fn boot_id() -> Result<String, ProcError> {
    let text = std::fs::read_to_string(BOOT_ID).map_err(|source| ProcError::read(BOOT_ID, source))?;
    Ok(text.trim().to_owned())
}
