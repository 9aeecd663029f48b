//! Sends messages of webhooks: says what they hold, signs them, and posts them where they may go.

mod message;
mod post;
mod sign;

pub use message::{of as message_of, test as test_message};
pub use post::{Post, Sent};
pub use sign::{Secret, headers as signed_headers};
