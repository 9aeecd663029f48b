//! Findings that a team has decided to live with: rules of a code and, where not all of it is meant, a pattern.

use std::str::FromStr;

use crate::finding::{Code, Finding, Where};

/// `code`, or `code:pattern`; `*` in a pattern stands for anything. It is held against the name or path that the finding
/// is about, and against each `quoted` word of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    code: Code,
    pattern: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no code of a finding")]
pub struct UnknownCode(String);

impl FromStr for Rule {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Rule, UnknownCode> {
        let (code, pattern) = match text.split_once(':') {
            Some((code, pattern)) => (code.trim(), Some(pattern.trim().to_owned())),
            None => (text.trim(), None),
        };
        let known = Code::ALL.iter().find(|known| known.as_str() == code);
        Ok(Rule { code: *known.ok_or_else(|| UnknownCode(code.to_owned()))?, pattern })
    }
}

/// The rules of a file: one on a line, `#` begins a comment.
pub fn parse(text: &str) -> Result<Vec<Rule>, UnknownCode> {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(rule, _)| rule).trim());
    lines.filter(|line| !line.is_empty()).map(str::parse).collect()
}

impl Rule {
    pub fn allows(&self, finding: &Finding) -> bool {
        self.code == finding.code
            && self.pattern.as_deref().is_none_or(|pattern| {
                let quoted = finding.what.split('`').skip(1).step_by(2);
                subject(&finding.at).into_iter().chain(quoted).any(|text| matches(pattern, text))
            })
    }
}

fn subject(at: &Where) -> Option<&str> {
    match at {
        Where::Env { name } | Where::Label { name } => Some(name),
        Where::Layer { path, .. } => path.as_deref(),
        _ => None,
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, finding: &Finding, expected: bool) {
        assert_eq!(rule.parse::<Rule>().expect("a rule").allows(finding), expected, "{rule}");
    }

    #[test]
    fn a_rule_names_a_code_and_may_name_what_it_is_about() {
        let env = Finding::new(Code::ConfigInEnv, Where::Env { name: "APP_MODE".into() }, "x");
        check("config_in_env", &env, true);
        check("config_in_env:APP_*", &env, true);
        check("config_in_env:APP", &env, false);
        check("model_in_env", &env, false);
        let at = Where::Layer { layer: 1, path: Some("/app/a/b.py".into()), line: None, deleted_in: None };
        let model = Finding::new(Code::ModelInFile, at, "the model `gpt-5-mini`");
        check("model_in_file:/app/*.py", &model, true);
        check("model_in_file:*a*b*", &model, true);
        check("model_in_file:gpt-5*", &model, true);
        check("model_in_file:the model*", &model, false);
    }

    #[test]
    fn a_file_of_rules_has_comments_and_no_unknown_code() {
        let rules = parse("# ours\nsetuid_file   # no-new-privileges\n\nvolume: /data\n").expect("rules");
        assert_eq!(rules.len(), 2);
        assert_eq!(parse("setuid").expect_err("unknown").to_string(), "`setuid` is no code of a finding");
    }
}
