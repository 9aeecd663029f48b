//! Tests of the binary and of the workspace as a whole.

mod agents;
mod bad_input;
mod by_hand;
mod clock;
mod command_line;
mod commands;
mod configuration;
mod demo;
mod dependencies;
mod examples;
mod gateway_faults;
mod idle_fleet;
mod init;
mod llm_sim;
mod lost_answers;
mod main_job;
mod many;
mod openapi;
mod plane;
mod recovery;
mod replay;
mod run;
mod scaling;
mod worker_process;
