//! Streams as providers send them, cut in every way that a network may cut them.

mod live;
mod scan;
mod scene;
mod streams;
