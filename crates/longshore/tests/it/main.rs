//! Tests of the binary and of the workspace as a whole.

mod bad_input;
mod command_line;
mod commands;
mod configuration;
mod demo;
mod dependencies;
mod examples;
mod init;
mod main_job;
mod openapi;
mod plane;
mod recovery;
mod run;
