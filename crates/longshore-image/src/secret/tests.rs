use proptest::prelude::*;

use super::*;

/// Drawn once; none of them opens anything. Put together here, so that no scanner of this repository stops at them.
const CHANCE: &str = "q7Rk2ZpV9xTb4LmW8cYd1NfGs6HjUe3AoKiXuM5EvBt0QzPrDyCnSwFhJgOlIa7R2kVx9Zq4TbWm8LcY";

fn key(prefix: &str, length: usize) -> String {
    format!("{prefix}{}", &CHANCE.repeat(3)[..length])
}

fn check(text: &str, expected: &str) {
    let kinds: Vec<_> = find(text).iter().map(Found::told).collect();
    assert_eq!(kinds.join(", "), expected, "{text}");
}

#[test]
fn keys_of_providers_are_known_by_their_form() {
    check(&key("OPENAI_API_KEY=sk-proj-", 80), "an OpenAI project key (sk-proj-…)");
    check(&format!("sk-{}T3BlbkFJ{}", &CHANCE[..20], &CHANCE[20..40]), "an OpenAI key");
    check(
        &format!("sk-proj-{}T3BlbkFJ{}", &CHANCE[..50], &CHANCE[20..70]),
        "an OpenAI project key (sk-proj-…)",
    );
    check(&key("'sk-ant-api03-", 80), "an Anthropic key (sk-ant-…)");
    check(&key("token: hf_", 34), "a Hugging Face token (hf_…)");
    check(&key("gsk_", 52), "a Groq key (gsk_…)");
    check(&key("AIza", 35), "a Google API key (AIza…)");
    check("AKIA3X7QZP2MWVB6TRND", "an AWS access key id (AKIA…)");
    check(&key("ghp_", 36), "a GitHub token (ghp_…)");
    check(&format!("SG.{}.{}", &CHANCE[..22], &CHANCE[10..53]), "a SendGrid key (SG.…)");
    check(&key("lsk_", 43), "a longshore API key (lsk_…)");
    check(&format!("lsw1.research.{}", &CHANCE[..43]), "a longshore worker token (lsw1.…)");
}

#[test]
fn private_keys_are_known_by_what_follows_their_header() {
    let body = format!("{}\n", &CHANCE[..64]);
    check(&format!("-----BEGIN PRIVATE KEY-----\n{body}"), "a private key");
    check(&format!("-----BEGIN OPENSSH PRIVATE KEY-----\r\n{body}"), "a private key");
    check(&format!("\"-----BEGIN RSA PRIVATE KEY-----\\n{body}"), "a private key");
    check("if text.startswith('-----BEGIN PRIVATE KEY-----'):", "");
    check("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "");
    check(&format!("-----BEGIN PUBLIC KEY-----\n{body}"), "");
}

#[test]
fn samples_words_and_hashes_are_no_keys() {
    for text in [
        "AKIAIOSFODNN7EXAMPLE",
        "sk-ant-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-proj-your-key-goes-here-your-key-goes-here-your-key",
        "ghp_000000000000000000000000000000000000",
        "hf_hub_download_with_a_name_that_is_long_enough",
        "from transformers import hf_argparserwithaverylongnameindeedyes",
        "task-proj-",
        "desk-ant-hill",
        // Texts lie beside one another in a program, this one's own too.
        "sk-proj-sk-svcacct-sk-admin-sk-ant-sk-or-v1-T3BlbkFJsk-ant-hf_gsk_AIzaxai-pplx-r8_tvly-nvapi-lsv2_pt_AKIAASIAghp_",
        "npm_config_registry_and_other_variables_here_too",
    ] {
        check(text, "");
    }
}

#[test]
fn a_longer_run_is_another_thing() {
    check(&key("AIza", 36), "");
    check(&key("xAIza", 35), "");
}

#[test]
fn names_tell_secrets_from_what_is_about_them() {
    for name in ["OPENAI_API_KEY", "db-password", "TAVILY_API_KEY", "AUTH_TOKEN", "client.secret"] {
        assert!(is_secret_name(name), "{name}");
    }
    for name in
        ["MAX_TOKENS", "TOKENIZER_PATH", "LONGSHORE_WORKER_TOKEN_FILE", "GPG_KEY", "TOKEN_TTL", "KEYBOARD"]
    {
        assert!(!is_secret_name(name), "{name}");
    }
}

#[test]
fn entropy_alone_needs_a_long_mixed_word() {
    assert!(is_high_entropy(&CHANCE[..48]));
    for text in [
        "0705ae7679248c7901f3b2a4c5d6e7f80705ae7679248c7901f3b2a4c5d6e7f8",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ThisIsALongCamelCaseIdentifierWithoutDigits",
        "3.13.1",
        "short1A",
    ] {
        assert!(!is_high_entropy(text), "{text}");
    }
}

#[test]
fn urls_with_passwords_are_shown_without() {
    let check =
        |text: &str, expected: Option<&str>| assert_eq!(password_in_url(text).as_deref(), expected, "{text}");
    check("DATABASE_URL=postgres://app:h8Kq2mZ@db:5432/x", Some("postgres://app:…@db:5432"));
    check("https://pypi.org/simple", None);
    check("https://user:${TOKEN}@host/", None);
    check("see http://user:password@host/", None);
    check("a ://@ b ://x:@y", None);
}

#[test]
fn what_is_shown_of_a_step_holds_no_secret() {
    let step = format!(
        "RUN |1 API_TOKEN=hunter2x {} curl https://u:s3cr3tpw@h/x && pip install x",
        key("K=ghp_", 36)
    );
    assert_eq!(redacted(&step), "RUN |1 API_TOKEN=[redacted] [redacted] curl https://u:…@h && pip install x");
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_and_nothing_found_is_shown_in_full(text in "\\PC{0,80}", key_at in 0usize..3) {
        let secret = key(["sk-proj-", "gsk_", "hf_"][key_at], [60, 52, 34][key_at]);
        let whole = format!("{text} {secret} {text}");
        let shown = redacted(&whole);
        prop_assert!(!shown.contains(&secret));
        for found in find(&whole) {
            prop_assert!(!found.told().contains(&secret));
        }
    }
}
