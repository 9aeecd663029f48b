//! Bad providers and bad callers: what the agent sees, what the provider is asked, and what the journal says of it.

mod fake;
mod scene;

mod answers;
mod callers;
mod requests;
mod secrets;
mod statuses;
mod streams;

/// The most memory that a process has had, MiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
