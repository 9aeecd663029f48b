//! Streams as providers send them, cut in every way that a network may cut them.

mod scan;
mod streams;
