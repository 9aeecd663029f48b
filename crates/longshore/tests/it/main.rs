//! Tests of the binary and of the workspace as a whole.

mod bad_input;
mod dependencies;
mod examples;
mod main_job;
mod openapi;
mod plane;
mod recovery;
