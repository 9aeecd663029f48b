//! Configuration that was built into an image: names of models, addresses, variables.
//!
//! What describes the image itself (`PATH`, versions of its base) is allowed; everything else changes between environments.

/// Beginnings of model names, and what has to follow.
const FAMILIES: &[(&str, Next)] = &[
    ("gpt-", Next::DigitOr(&["oss", "image", "realtime", "audio"])),
    ("chatgpt-", Next::DigitOr(&[])),
    ("claude-", Next::DigitOr(&["sonnet", "opus", "haiku", "instant"])),
    ("gemini-", Next::DigitOr(&["pro", "flash"])),
    ("gemma-", Next::DigitOr(&[])),
    ("gemma", Next::DigitOr(&[])),
    ("llama-", Next::DigitOr(&[])),
    ("llama", Next::DigitOr(&[])),
    ("meta-llama/", Next::Any),
    ("mistral-", Next::DigitOr(&["large", "medium", "small", "tiny", "nemo"])),
    ("mixtral-", Next::DigitOr(&[])),
    ("codestral-", Next::Any),
    ("deepseek-", Next::DigitOr(&["chat", "reasoner", "coder", "r1", "v2", "v3"])),
    ("qwen", Next::DigitOr(&["-"])),
    ("grok-", Next::DigitOr(&[])),
    ("command-r", Next::Any),
    ("kimi-k", Next::DigitOr(&[])),
    ("text-embedding-", Next::DigitOr(&["ada"])),
    ("dall-e-", Next::DigitOr(&[])),
];

/// Names that are too short for a family.
const EXACT: &[&str] =
    &["o1", "o1-mini", "o1-preview", "o1-pro", "o3", "o3-mini", "o3-pro", "o4-mini", "whisper-1", "tts-1"];

enum Next {
    Any,
    DigitOr(&'static [&'static str]),
}

/// Whether a word is the name of a model.
pub fn is_model(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    // `openai/gpt-5-mini`, `anthropic.claude-3-haiku`
    let tails = [
        word.as_str(),
        word.rsplit('/').next().unwrap_or_default(),
        word.split_once('.').map_or("", |two| two.1),
    ];
    EXACT.contains(&word.as_str())
        || tails.iter().any(|tail| {
            FAMILIES.iter().any(|(family, next)| {
                tail.strip_prefix(family).is_some_and(|rest| match next {
                    Next::Any => true,
                    Next::DigitOr(words) => {
                        rest.starts_with(|c: char| c.is_ascii_digit())
                            || words.iter().any(|word| rest.starts_with(word))
                    }
                })
            })
        })
}

/// A name of a model in a line of a program (in quotes) or of settings (a word after `=` or `:`).
pub fn model_in(line: &str, settings: bool) -> Option<&str> {
    words(line)
        .find(|word| {
            let quoted = matches!(word.before, Some('"' | '\'' | '`'));
            (quoted || settings && word.before.is_some()) && word.text.len() < 100 && is_model(word.text)
        })
        .map(|word| word.text)
}

struct Word<'a> {
    before: Option<char>,
    text: &'a str,
}

fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    line.split(move |c| !inside(c)).filter(|text| !text.is_empty()).map(move |text| {
        let at = text.as_ptr() as usize - line.as_ptr() as usize;
        // `MODEL=gpt-5` and `model: gpt-5` are one word and a sign.
        let (text, at) = match text.strip_prefix(':') {
            Some(rest) => (rest, at + 1),
            None => (text, at),
        };
        Word { before: line[..at].chars().next_back(), text: text.trim_end_matches(['.', ':', ',']) }
    })
}

/// Hosts of LLM APIs.
const PROVIDERS: &[&str] = &[
    "api.openai.com",
    "openai.azure.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "aiplatform.googleapis.com",
    "api.groq.com",
    "api.mistral.ai",
    "api.cohere.com",
    "api.cohere.ai",
    "openrouter.ai",
    "api.together.xyz",
    "api.deepseek.com",
    "api.x.ai",
    "api.perplexity.ai",
    "api.fireworks.ai",
    "bedrock-runtime",
    "api.replicate.com",
    "api-inference.huggingface.co",
    "localhost:11434",
    "127.0.0.1:11434",
];

const DATABASES: &[&str] = &[
    "postgres",
    "postgresql",
    "mysql",
    "mongodb",
    "mongodb+srv",
    "redis",
    "rediss",
    "amqp",
    "amqps",
    "kafka",
    "nats",
];

/// An address of a service in a text, without what may be secret in it. With `all`, any address counts (a variable of the
/// environment); without, those of LLM APIs and databases, and with `settings` those of an internal network.
pub fn url_in(text: &str, settings: bool, all: bool) -> Option<String> {
    let mut from = 0;
    while let Some(found) = text[from..].find("://") {
        let at = from + found;
        let scheme =
            text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+').next().unwrap_or_default();
        let rest = &text[at + 3..];
        let authority =
            rest.split(['/', '?', '#', ' ', '"', '\'', '\\', '`', ',', ')', '<']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let lower = host.to_ascii_lowercase();
        let counts = all
            || PROVIDERS.iter().any(|provider| lower.contains(provider))
            || DATABASES.contains(&scheme.to_ascii_lowercase().as_str())
            || settings && is_internal(&lower);
        let variable = host.starts_with(['$', '{', '%']) || host.is_empty();
        if counts && !variable && !scheme.is_empty() && scheme != "file" {
            return Some(format!("{scheme}://{host}"));
        }
        from = at + 3;
    }
    None
}

fn is_internal(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let ends = [".internal", ".local", ".svc", ".lan", ".corp", ".intra", ".cluster.local"];
    let address = name.split('.').count() == 4 && name.split('.').all(|part| part.parse::<u8>().is_ok());
    ends.iter().any(|end| name.ends_with(end)) || (address && name != "127.0.0.1" && name != "0.0.0.0")
}

/// Whether a variable describes the image itself: what programs and libraries of its base read to find themselves.
pub fn describes_the_image(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "PATH",
        "HOME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TERM",
        "SHELL",
        "USER",
        "HOSTNAME",
        "PWD",
        "TMPDIR",
        "GPG_KEY",
        "NODE_ENV",
        "NODE_VERSION",
        "NODE_PATH",
        "NODE_OPTIONS",
        "YARN_VERSION",
        "DEBIAN_FRONTEND",
        "VIRTUAL_ENV",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUST_VERSION",
        "RUST_BACKTRACE",
        "GOPATH",
        "GOLANG_VERSION",
        "JAVA_HOME",
        "JAVA_VERSION",
        "CLASSPATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "OMP_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
        "HF_HOME",
        "TRANSFORMERS_CACHE",
        "TIKTOKEN_CACHE_DIR",
        "MPLCONFIGDIR",
        "NO_COLOR",
        "FORCE_COLOR",
        "COREPACK_HOME",
        "DENO_VERSION",
        "DENO_DIR",
        "BUN_INSTALL",
        "LONGSHORE_PROBE_ADDR",
    ];
    const BEGINNINGS: &[&str] = &[
        "PYTHON",
        "PIP_",
        "UV_",
        "POETRY_",
        "NPM_CONFIG_",
        "npm_config_",
        "LC_",
        "XDG_",
        "PLAYWRIGHT_",
        "PUPPETEER_",
    ];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_family() {
        for name in [
            "gpt-5-mini",
            "gpt-4o",
            "claude-sonnet-4",
            "claude-3-haiku-20240307",
            "openai/gpt-5",
            "anthropic.claude-3-opus",
            "gemini-2.5-pro",
            "llama3.2",
            "meta-llama/Llama-3-8B",
            "o3-mini",
            "text-embedding-3-small",
            "qwen2.5-coder",
        ] {
            assert!(is_model(name), "{name}");
        }
        for name in [
            "gpt-",
            "claude-code",
            "llama",
            "llama_index",
            "o11y",
            "mistralai",
            "grok-parser",
            "command-line",
            "gemini-cli",
        ] {
            assert!(!is_model(name), "{name}");
        }
    }

    #[test]
    fn a_model_in_a_program_stands_in_quotes() {
        assert_eq!(model_in(r#"client.chat(model="gpt-5-mini")"#, false), Some("gpt-5-mini"));
        assert_eq!(model_in("# we tried gpt-4 before", false), None);
        assert_eq!(model_in("MODEL=gpt-4o", true), Some("gpt-4o"));
        assert_eq!(model_in("model: claude-sonnet-4", true), Some("claude-sonnet-4"));
        assert_eq!(model_in("import openai", false), None);
    }

    #[test]
    fn addresses_that_count_depend_on_where_they_stand() {
        let program = |line| url_in(line, false, false);
        let settings = |line| url_in(line, true, false);
        assert_eq!(
            program(r#"base_url="https://api.openai.com/v1""#).as_deref(),
            Some("https://api.openai.com")
        );
        assert_eq!(program("https://docs.python.org/3/"), None);
        assert_eq!(program("redis://:pw@cache:6379/0").as_deref(), Some("redis://cache:6379"));
        assert_eq!(
            settings("orders: http://orders.svc.cluster.local:80/").as_deref(),
            Some("http://orders.svc.cluster.local:80")
        );
        assert_eq!(settings("$schema: https://json.schemastore.org/x"), None);
        assert_eq!(
            url_in("https://example.com/x?key=1", false, true).as_deref(),
            Some("https://example.com")
        );
        assert_eq!(url_in("https://${HOST}/", false, true), None);
    }

    #[test]
    fn variables_of_base_images_are_no_configuration() {
        for name in ["PATH", "PYTHON_SHA256", "GPG_KEY", "NODE_VERSION", "LC_ALL", "PIP_NO_CACHE_DIR"] {
            assert!(describes_the_image(name), "{name}");
        }
        for name in ["MODEL", "LOG_LEVEL", "REDIS_HOST", "LONGSHORE_LINK", "MAX_TOKENS"] {
            assert!(!describes_the_image(name), "{name}");
        }
    }
}
