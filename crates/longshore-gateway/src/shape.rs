//! Which protocol a call speaks, told from its method and path.

use http::Method;

/// What requests, answers and streams of a call look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's older `/v1/completions`, whose stream is that of chat with other content.
    Completions,
    /// OpenAI's `/v1/responses`.
    Responses,
    /// OpenAI's `/v1/embeddings`; never streamed.
    Embeddings,
    /// Anthropic's `/v1/messages`.
    Messages,
    /// Everything else: passed through, neither read nor journaled.
    Plain,
}

/// Tells the shape of a call; `path` comes without the provider's prefix, with or without `/v1`, and may have a query.
///
/// Only whole paths count: `/v1/threads/x/messages` and `/v1/messages/count_tokens` are other calls.
pub fn of(method: &Method, path: &str) -> Shape {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = path.strip_prefix("/v1").unwrap_or(path);
    match path {
        _ if method != Method::POST => Shape::Plain,
        "/chat/completions" => Shape::Chat,
        "/completions" => Shape::Completions,
        "/responses" => Shape::Responses,
        "/embeddings" => Shape::Embeddings,
        "/messages" => Shape::Messages,
        _ => Shape::Plain,
    }
}

impl Shape {
    /// Whether answers are kept, so that a resumed agent gets them again.
    pub fn is_journaled(self) -> bool {
        self != Shape::Plain
    }

    /// Whether a stream tells its usage only when asked (`stream_options.include_usage`).
    pub(crate) fn usage_on_request(self) -> bool {
        matches!(self, Shape::Chat | Shape::Completions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str, expected: Shape) {
        assert_eq!(of(&method, path), expected, "{method} {path}");
    }

    #[test]
    fn calls_are_told_by_their_whole_path() {
        for (path, shape) in [
            ("/chat/completions", Shape::Chat),
            ("/completions", Shape::Completions),
            ("/responses", Shape::Responses),
            ("/embeddings", Shape::Embeddings),
            ("/messages", Shape::Messages),
        ] {
            check(Method::POST, path, shape);
            check(Method::POST, &format!("/v1{path}"), shape);
            check(Method::POST, &format!("/v1{path}/?beta=true"), shape);
            check(Method::GET, &format!("/v1{path}"), Shape::Plain);
        }
    }

    #[test]
    fn everything_else_is_plain_and_not_journaled() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/models",
            "/v1/messages/count_tokens",
            "/v1/messages/batches",
            "/v1/responses/resp_1/cancel",
            "/v1/threads/t_1/messages",
            "/v1/Chat/Completions",
            "/v1chat/completions",
            "/?/v1/messages",
        ] {
            check(Method::POST, path, Shape::Plain);
        }
        assert!(!Shape::Plain.is_journaled() && Shape::Embeddings.is_journaled());
    }
}
