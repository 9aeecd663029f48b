//! Real processes: shells and scripts that are started, killed, orphaned and found again.

mod find;
mod scene;
mod start;
mod starter;
mod sweep;
