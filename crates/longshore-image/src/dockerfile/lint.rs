//! What a Dockerfile should say otherwise.

use super::{Instruction, Stage, parse, stages};
use crate::config;
use crate::finding::{Code, Finding, Where};
use crate::secret;

/// The findings of a Dockerfile, by line.
pub fn lint(text: &str) -> Vec<Finding> {
    let instructions = parse(text);
    let stages = stages(&instructions);
    let mut findings = Vec::new();
    bases(&stages, &mut findings);
    for instruction in &instructions {
        secrets(instruction, &mut findings);
        remote(instruction, &mut findings);
    }
    if let Some(last) = stages.last() {
        if stages.len() == 1 && builds(last) {
            findings.push(at(
                Code::SingleStage,
                last.line,
                "it builds and runs in one stage: tools and caches of the build stay",
            ));
        }
        last_stage(last, inherits(last, &stages), &mut findings);
    }
    findings
}

fn at(code: Code, line: u32, what: impl Into<String>) -> Finding {
    Finding::new(code, Where::Dockerfile { line }, what)
}

/// Whether a stage installs or compiles. Copying into a base is no build.
fn builds(stage: &Stage) -> bool {
    stage.instructions.iter().any(|instruction| instruction.keyword == "RUN")
}

fn inherits(stage: &Stage, stages: &[Stage]) -> bool {
    stages.iter().any(|other| other.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&stage.base)))
}

fn bases(stages: &[Stage], findings: &mut Vec<Finding>) {
    for stage in stages {
        // A base that an argument without a default names is pinned, or not, by whoever builds.
        if stage.base == "scratch"
            || stage.base.contains('$')
            || stage.base.is_empty()
            || inherits(stage, stages)
        {
            continue;
        }
        if stage.base.contains("@sha256:") {
            continue;
        }
        let tag = stage.base.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
        match tag {
            None => findings.push(at(
                Code::UnpinnedBase,
                stage.line,
                format!("`{}` names no version", stage.base),
            )),
            Some("latest") => findings.push(at(
                Code::UnpinnedBase,
                stage.line,
                format!("`{}` is another image tomorrow", stage.base),
            )),
            Some(_) => findings.push(at(
                Code::BaseWithoutDigest,
                stage.line,
                format!("`{}` has no digest", stage.base),
            )),
        }
    }
}

fn secrets(instruction: &Instruction, findings: &mut Vec<Finding>) {
    let what = match secret::find(&instruction.text).first() {
        Some(found) => Some(found.told()),
        None => {
            secret::password_in_url(&instruction.text).map(|shown| format!("a password in a URL ({shown})"))
        }
    };
    let named = || {
        matches!(instruction.keyword.as_str(), "ARG" | "ENV" | "LABEL").then_some(())?;
        let pairs = pairs(&instruction.text);
        let name = pairs
            .into_iter()
            .find(|(name, value)| secret::is_secret_name(name) && !secret::is_filler(value))?
            .0;
        Some(format!("a value for `{name}`, which is called a secret"))
    };
    if let Some(what) = what.or_else(named) {
        findings.push(at(Code::SecretInDockerfile, instruction.line, what));
    }
}

/// `A=b C="d e"`, or the old form `A b`.
fn pairs(text: &str) -> Vec<(String, String)> {
    if let Some((name, value)) = text.split_once(char::is_whitespace).filter(|(name, _)| !name.contains('='))
    {
        return vec![(name.to_owned(), value.trim().to_owned())];
    }
    let (mut pairs, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars().chain([' ']) {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if let Some((name, value)) = word.split_once('=') {
                    pairs.push((name.to_owned(), value.to_owned()));
                }
                word.clear();
            }
            (c, _) => word.push(c),
        }
    }
    pairs
}

fn remote(instruction: &Instruction, findings: &mut Vec<Finding>) {
    let url = instruction
        .text
        .split_whitespace()
        .find(|word| word.starts_with("http://") || word.starts_with("https://"));
    if instruction.keyword == "ADD"
        && let Some(url) = url
        && !instruction.text.contains("--checksum=")
    {
        let url: String = secret::redacted(url.split('?').next().unwrap_or(url)).chars().take(120).collect();
        findings.push(at(
            Code::RemoteAdd,
            instruction.line,
            format!("`{url}` is fetched without a look at its digest"),
        ));
    }
}

fn last_stage(stage: &Stage, inherits: bool, findings: &mut Vec<Finding>) {
    let last =
        |keyword: &str| stage.instructions.iter().rev().find(|instruction| instruction.keyword == keyword);
    match last("USER") {
        Some(user) => {
            let name = user.text.split(':').next().unwrap_or_default();
            if name == "root" || name.parse::<u64>() == Ok(0) {
                findings.push(at(Code::UserRoot, user.line, format!("`USER {}` is root", user.text)));
            }
        }
        None if inherits => {}
        None => findings.push(at(
            Code::UserRoot,
            stage.line,
            "the last stage has no USER: its base's counts, mostly root",
        )),
    }
    for keyword in ["ENTRYPOINT", "CMD"] {
        let Some(start) = last(keyword) else { continue };
        if !start.text.starts_with('[') && !start.text.is_empty() {
            findings.push(at(
                Code::ShellEntrypoint,
                start.line,
                format!("{keyword} is written in shell form"),
            ));
        }
    }
    if last("HEALTHCHECK").is_none() && !inherits {
        findings.push(at(Code::NoHealthcheck, stage.line, "the last stage has no HEALTHCHECK"));
    }
    for instruction in stage.instructions {
        match instruction.keyword.as_str() {
            "ENV" => {
                for (name, value) in pairs(&instruction.text) {
                    if !value.contains('$')
                        && let Some((code, what)) = config::variable_fault(&name, &value)
                        && code != Code::SecretInEnv
                    {
                        findings.push(at(code, instruction.line, what));
                    }
                }
            }
            "COPY" | "ADD" => {
                let words: Vec<&str> =
                    instruction.text.split_whitespace().filter(|word| !word.starts_with("--")).collect();
                if !instruction.text.contains("--from=") && matches!(words.first(), Some(&("." | "./" | "*")))
                {
                    findings.push(at(
                        Code::CopyEverything,
                        instruction.line,
                        "the whole folder goes into the image",
                    ));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let told: Vec<_> = lint(text).iter().map(|found| format!("{} {}", found.at, found.code)).collect();
        assert_eq!(told, expected, "{text}");
    }

    #[test]
    fn what_init_writes_has_no_fault_but_digests() {
        for text in [
            include_str!("../../../longshore/src/templates/python/Dockerfile"),
            include_str!("../../../longshore/src/templates/node/Dockerfile"),
            include_str!("../../../longshore/src/templates/rust/Dockerfile"),
            include_str!("../../../longshore/src/templates/shell/Dockerfile"),
        ] {
            let faults: Vec<_> =
                lint(text).into_iter().filter(|found| found.code != Code::BaseWithoutDigest).collect();
            assert!(faults.is_empty(), "{faults:?}");
        }
    }

    #[test]
    fn a_careless_file_is_told_line_by_line() {
        check(
            "FROM python\nARG PIP_TOKEN=q7Rk2ZpV9xTb\nENV MODEL=gpt-5-mini LOG_LEVEL=debug PYTHONUNBUFFERED=1\nADD https://x.example/tool.tgz /t\n\
             COPY . .\nRUN pip install -r requirements.txt\nENTRYPOINT python agent.py\n",
            &[
                "Dockerfile:1 unpinned_base",
                "Dockerfile:2 secret_in_dockerfile",
                "Dockerfile:4 remote_add",
                "Dockerfile:1 single_stage",
                "Dockerfile:1 user_root",
                "Dockerfile:7 shell_entrypoint",
                "Dockerfile:1 no_healthcheck",
                "Dockerfile:3 model_in_env",
                "Dockerfile:3 config_in_env",
                "Dockerfile:5 copy_everything",
            ],
        );
    }

    #[test]
    fn bases_are_pinned_by_version_or_digest() {
        let rest = "\nUSER 1\nHEALTHCHECK CMD [\"x\"]";
        check(&format!("FROM a:1{rest}"), &["Dockerfile:1 base_without_digest"]);
        check(&format!("FROM a:latest{rest}"), &["Dockerfile:1 unpinned_base"]);
        check(&format!("FROM reg:5000/a{rest}"), &["Dockerfile:1 unpinned_base"]);
        check(&format!("FROM a:1@sha256:00{rest}"), &[]);
        check(&format!("FROM scratch{rest}"), &[]);
        check(&format!("FROM a@sha256:00 AS b\nFROM b{rest}"), &[]);
    }

    #[test]
    fn a_secret_in_quotes_is_a_secret() {
        check(
            "FROM scratch AS x\nENV DB_PASSWORD=\"a long one\"\nFROM x\n",
            &["Dockerfile:2 secret_in_dockerfile"],
        );
        check(
            "FROM scratch AS x\nENV DB_PASSWORD hunter22\nARG API_KEY\nFROM x\n",
            &["Dockerfile:2 secret_in_dockerfile"],
        );
    }
}
