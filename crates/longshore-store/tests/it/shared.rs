//! What several control planes on one database do, what only that store has, and what it lives through.

mod replicas;
