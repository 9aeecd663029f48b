//! A wall clock that jumps: leases do not notice, what is scheduled follows it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use longshore_core::id::TaskId;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use serde_json::json;

use crate::plane::{Plane, pause, python, skip};

/// Adds seconds, read from a mapped file, to the wall clock of the process that it is loaded into.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int fd = path ? open(path, O_RDONLY) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
    shift = page == MAP_FAILED ? 0 : page;
    if (fd >= 0) close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (to) *to = precise.tv_sec;
    return precise.tv_sec;
}
"#;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// The clock of one control plane.
struct Clock {
    folder: tempfile::TempDir,
    file: File,
}

impl Clock {
    /// `None` where there is no C compiler.
    fn new() -> Option<Clock> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("shift");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let clock = Clock { file: file.expect("the folder is writable"), folder };
        clock.shift(0);
        let (source, library) = (clock.path("shim.c"), clock.path("shim.so"));
        std::fs::write(&source, SHIM).expect("the folder is writable");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o", &library, &source]).output().ok()?;
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Some(clock)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Sets the clock this many seconds off the true time.
    fn shift(&self, seconds: i64) {
        // Never truncated: it is mapped.
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("the folder is writable");
    }

    async fn plane(&self, fleets: &str) -> Plane {
        let env = [("LD_PRELOAD", self.path("shim.so")), ("CLOCK_SHIFT", self.path("shift"))];
        Plane::start_with(fleets, &env.each_ref().map(|(name, value)| (*name, value.as_str()))).await
    }
}

/// The true time, in this process.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.expect("after 1970").as_millis() as i64)
}

/// Waits until the only worker has been heard at two different times within an hour of the true time plus `shift`:
/// leases are renewed and the control plane's clock ticks after the jump.
async fn heard_after_jump(plane: &Plane, shift: i64) {
    let near = |seen: Timestamp| (seen.0 - now().0 - shift * 1000).abs() < HOUR * 1000;
    let mut times = std::collections::BTreeSet::new();
    while times.len() < 2 {
        let seen =
            plane.workers().await.iter().filter_map(|worker| worker.last_seen).find(|seen| near(*seen));
        times.extend(seen);
        pause().await;
    }
}

const GATED: &str = r#"
import json, os, sys, time
task = json.load(sys.stdin)["task"]
print(json.dumps({"longshore": "progress", "data": 1}), flush=True)
while not os.path.exists(task["input"]):
    time.sleep(0.01)
"#;

fn gated(scaling: &str) -> String {
    python("g", GATED, &format!("concurrency = 2\nscaling = {{ {scaling} }}"))
}

async fn open(plane: &Plane, gate: &Path, ids: &[TaskId]) {
    std::fs::write(gate, "").expect("the folder is writable");
    plane.all_succeed(ids).await;
    for id in ids {
        let task = plane.task(*id).await;
        assert_eq!((task.attempts.len(), task.interrupted), (1, 0), "{task:#?}");
    }
    assert_eq!(plane.metric("longshore_leases_expired_total").await, 0.0);
}

#[tokio::test]
async fn a_clock_that_jumps_by_a_day_either_way_expires_no_lease_and_loses_no_worker() {
    let Some(clock) = Clock::new() else { return skip("no C compiler") };
    let plane = clock.plane(&gated("min = 1, max = 1")).await;
    let worker = plane.crew(1).await.remove(0);
    let (gate, open_gate) = (plane.dir().join("gate"), plane.dir().join("open"));
    std::fs::write(&open_gate, "").expect("the folder is writable");
    let id = plane.submit("g", json!(gate)).await;
    plane.progress(id, 1).await;
    for shift in [DAY, -DAY, 0] {
        clock.shift(shift);
        heard_after_jump(&plane, shift).await;
        assert_eq!(plane.task(id).await.state, State::Running);
        // The slot beside it works as ever.
        let beside = plane.submit("g", json!(open_gate)).await;
        plane.all_succeed(&[beside]).await;
    }
    let after = plane.crew(1).await.remove(0);
    assert_eq!((after.id, after.pid), (worker.id, worker.pid));
    open(&plane, &gate, &[id]).await;
}

#[tokio::test]
async fn a_scheduled_task_follows_the_wall_clock() {
    let Some(clock) = Clock::new() else { return skip("no C compiler") };
    let plane = clock.plane(&gated("min = 1, max = 1")).await;
    plane.crew(1).await;
    let gate = plane.dir().join("open");
    let at = now().after(Duration::from_secs(HOUR as u64));
    let id = plane.submit_with("g", json!(gate), |task| task.run_at = Some(at)).await;
    let soon = now().after(Duration::from_secs(3));
    clock.shift(-HOUR);
    let back = plane.submit_with("g", json!(gate), |task| task.run_at = Some(soon)).await;
    heard_after_jump(&plane, -HOUR).await;
    assert_eq!(plane.task(id).await.state, State::Queued);
    assert_eq!(plane.task(back).await.state, State::Queued, "it was put back by an hour as well");
    clock.shift(2 * HOUR);
    open(&plane, &gate, &[id, back]).await;
}

#[tokio::test]
async fn the_scaler_goes_on_after_the_clock_went_back() {
    let Some(clock) = Clock::new() else { return skip("no C compiler") };
    let policy = "min = 1, max = 2, scale_up_above = 2, scale_down_below = 1, scale_down_after = \"1s\"";
    let plane = clock.plane(&gated(policy)).await;
    plane.crew(1).await;
    for (n, shift) in [0, -DAY, DAY].into_iter().enumerate() {
        clock.shift(shift);
        let gate = plane.dir().join(format!("gate-{n}"));
        let ids = plane.submit_many("g", (0..8).map(|_| json!(gate))).await;
        plane.crew(2).await;
        open(&plane, &gate, &ids).await;
        plane.crew(1).await;
    }
}
