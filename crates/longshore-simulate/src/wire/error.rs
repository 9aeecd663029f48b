//! Errors in the words of either provider.

use serde_json::{Value, json};

use crate::ask::Invalid;
use crate::limit::{Kind, Limits, Standing};

/// Whose format it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    OpenAi,
    Anthropic,
}

#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// The body is not JSON.
    NotJson(String),
    Invalid(Invalid),
    NoVersion,
    NoKey,
    WrongKey,
    NoSuchModel(String),
    NoSuchRoute(String),
    WrongMethod,
    BodyTooLarge,
    RateLimited {
        kind: Kind,
        wait_ms: u64,
        limited: Box<Limited>,
    },
    /// It never fits.
    RequestTooLarge(Box<Limited>),
    Overloaded,
    Fault {
        status: u16,
        retry_after_ms: Option<u64>,
    },
}

/// The limits that a call met.
#[derive(Clone, Debug)]
pub(crate) struct Limited {
    pub(crate) limits: Limits,
    pub(crate) used: Standing,
    /// What the call would take.
    pub(crate) tokens: u64,
    pub(crate) model: String,
}

impl Refusal {
    pub(crate) fn status(&self, provider: Provider) -> u16 {
        match self {
            Refusal::NotJson(_) | Refusal::Invalid(_) | Refusal::NoVersion => 400,
            Refusal::NoKey | Refusal::WrongKey => 401,
            Refusal::NoSuchModel(_) | Refusal::NoSuchRoute(_) => 404,
            Refusal::WrongMethod => 405,
            Refusal::BodyTooLarge => 413,
            Refusal::RateLimited { .. } | Refusal::RequestTooLarge(_) => 429,
            Refusal::Overloaded => match provider {
                Provider::OpenAi => 503,
                Provider::Anthropic => 529,
            },
            Refusal::Fault { status, .. } => *status,
        }
    }

    /// How long the client is told to wait.
    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Refusal::RateLimited { wait_ms, .. } => Some(*wait_ms),
            Refusal::Fault { retry_after_ms, .. } => *retry_after_ms,
            _ => None,
        }
    }

    pub(crate) fn body(&self, provider: Provider, request_id: &str) -> Value {
        match provider {
            Provider::OpenAi => {
                let (kind, code, param) = self.openai();
                json!({"error": {"message": self.message(provider), "type": kind, "param": param, "code": code}})
            }
            Provider::Anthropic => {
                let error =
                    json!({"type": anthropic_type(self.status(provider)), "message": self.message(provider)});
                json!({"type": "error", "error": error, "request_id": request_id})
            }
        }
    }

    fn openai(&self) -> (&'static str, Option<&'static str>, Option<&str>) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Refusal::Invalid(invalid) => (INVALID, invalid.code, Some(&invalid.field)),
            Refusal::WrongKey => (INVALID, Some("invalid_api_key"), None),
            Refusal::NoSuchModel(_) => (INVALID, Some("model_not_found"), None),
            Refusal::RateLimited { kind: Kind::Requests, .. } => {
                ("requests", Some("rate_limit_exceeded"), None)
            }
            Refusal::RateLimited { .. } | Refusal::RequestTooLarge(_) => {
                ("tokens", Some("rate_limit_exceeded"), None)
            }
            Refusal::Fault { status: 429, .. } => ("requests", Some("rate_limit_exceeded"), None),
            Refusal::Overloaded => ("service_unavailable_error", Some("server_overloaded"), None),
            Refusal::Fault { status: 500.., .. } => ("server_error", None, None),
            _ => (INVALID, None, None),
        }
    }

    fn message(&self, provider: Provider) -> String {
        match (self, provider) {
            (Refusal::NotJson(why), Provider::OpenAi) => {
                format!("We could not parse the JSON body of your request. ({why})")
            }
            (Refusal::NotJson(why), Provider::Anthropic) => format!("The request body is not valid JSON: {why}"),
            (Refusal::Invalid(invalid), _) => field(invalid, provider),
            (Refusal::NoVersion, _) => "anthropic-version: header is required".to_owned(),
            (Refusal::NoKey, Provider::OpenAi) => {
                "You didn't provide an API key. You need to provide your API key in an Authorization header using \
                 Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
                    .to_owned()
            }
            (Refusal::NoKey, Provider::Anthropic) => "x-api-key header is required".to_owned(),
            // The real one repeats a part of the key; a fake must not be the place where it leaks.
            (Refusal::WrongKey, Provider::OpenAi) => "Incorrect API key provided.".to_owned(),
            (Refusal::WrongKey, Provider::Anthropic) => "invalid x-api-key".to_owned(),
            (Refusal::NoSuchModel(model), Provider::OpenAi) => {
                format!("The model `{model}` does not exist or you do not have access to it.")
            }
            (Refusal::NoSuchModel(model), Provider::Anthropic) => format!("model: {model}"),
            (Refusal::NoSuchRoute(route), Provider::OpenAi) => format!("Invalid URL ({route})"),
            (Refusal::NoSuchRoute(_), Provider::Anthropic) => "Not Found".to_owned(),
            (Refusal::WrongMethod, _) => "Method Not Allowed".to_owned(),
            (Refusal::BodyTooLarge, _) => "Request exceeds the maximum size".to_owned(),
            (Refusal::RateLimited { kind, wait_ms, limited }, Provider::OpenAi) => {
                limited.message(*kind, *wait_ms)
            }
            (Refusal::RateLimited { kind, limited, .. }, Provider::Anthropic) => {
                let (what, limit) = limit_of(*kind, &limited.limits);
                format!("This request would exceed your organization's rate limit of {limit} {what} per minute.")
            }
            (Refusal::RequestTooLarge(limited), _) => {
                let Limited { limits, tokens, model, .. } = &**limited;
                let limit = limits.tokens.unwrap_or_default();
                format!(
                    "Request too large for {model} on tokens per min (TPM): Limit {limit}, Requested {tokens}. The input \
                     or output tokens must be reduced in order to run successfully."
                )
            }
            (Refusal::Overloaded, Provider::OpenAi) => {
                "The server is currently overloaded with other requests. Sorry about that!".to_owned()
            }
            (Refusal::Overloaded, Provider::Anthropic) => "Overloaded".to_owned(),
            (Refusal::Fault { status, .. }, _) => format!("A fault was asked for: status {status}."),
        }
    }
}

impl Limited {
    fn message(&self, kind: Kind, wait_ms: u64) -> String {
        let Limited { limits, model, .. } = self;
        let (what, limit) = limit_of(kind, limits);
        let (short, used, asked) = match kind {
            Kind::Requests => ("RPM", self.used.requests_used, 1),
            Kind::Tokens => ("TPM", self.used.tokens_used, self.tokens),
        };
        let wait = super::headers::go_duration(wait_ms);
        format!(
            "Rate limit reached for {model} on {what} per min ({short}): Limit {limit}, Used {used}, Requested {asked}. \
             Please try again in {wait}."
        )
    }
}

fn limit_of(kind: Kind, limits: &Limits) -> (&'static str, u64) {
    match kind {
        Kind::Requests => ("requests", limits.requests.unwrap_or_default()),
        Kind::Tokens => ("tokens", limits.tokens.unwrap_or_default()),
    }
}

fn field(invalid: &Invalid, provider: Provider) -> String {
    let Invalid { field, problem, code } = invalid;
    match (provider, problem) {
        (Provider::OpenAi, None) => format!("Missing required parameter: '{field}'."),
        (Provider::OpenAi, Some(problem)) if *code != Some("invalid_type") => problem.clone(),
        (Provider::OpenAi, Some(problem)) => format!("Invalid value for '{field}': {problem}."),
        (Provider::Anthropic, None) => format!("{field}: Field required"),
        (Provider::Anthropic, Some(problem)) => format!("{field}: {problem}"),
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}
