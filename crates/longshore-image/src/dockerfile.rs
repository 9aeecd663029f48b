//! Reads a Dockerfile: its instructions by line, with what continues over lines and heredocs put together.
//!
//! Checks what an image does not show: stages, pinned bases, secrets in arguments. Runs and resolves nothing.

mod lint;

pub use lint::lint;

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it begins, counted from 1.
    pub line: u32,
    /// In capitals.
    pub keyword: String,
    pub text: String,
}

/// The instructions of a text; what is no instruction is one with an unknown keyword, never an error.
pub fn parse(text: &str) -> Vec<Instruction> {
    let escape = escape_of(text);
    let mut lines = text.lines().enumerate().peekable();
    let mut instructions = Vec::new();
    while let Some((index, line)) = lines.next() {
        let mut whole = line.trim().to_owned();
        if whole.is_empty() || whole.starts_with('#') {
            continue;
        }
        while let Some(begun) = whole.strip_suffix(escape) {
            whole = begun.to_owned();
            // Comments and empty lines between do not end it.
            match lines
                .by_ref()
                .map(|(_, line)| line.trim())
                .find(|line| !line.is_empty() && !line.starts_with('#'))
            {
                Some(next) => whole.push_str(next),
                None => break,
            }
        }
        let (keyword, rest) = whole.split_once(char::is_whitespace).unwrap_or((&whole, ""));
        let keyword = keyword.to_ascii_uppercase();
        let rest = rest.trim().to_owned();
        if matches!(keyword.as_str(), "RUN" | "COPY" | "ADD") {
            for end in heredocs(&rest) {
                for (_, line) in lines.by_ref() {
                    if line.trim() == end {
                        break;
                    }
                }
            }
        }
        instructions.push(Instruction { line: index as u32 + 1, keyword, text: rest });
    }
    instructions
}

/// `# escape=` may stand among the first comments.
fn escape_of(text: &str) -> char {
    let directives = text.lines().map(str::trim).take_while(|line| line.starts_with('#'));
    let named = directives.filter_map(|line| line[1..].trim().strip_prefix("escape=").map(str::trim)).next();
    if named == Some("`") { '`' } else { '\\' }
}

/// The words that end the heredocs which an instruction opens.
fn heredocs(text: &str) -> Vec<String> {
    let opened = text.match_indices("<<").filter(|(at, _)| !text[..*at].ends_with('<'));
    opened
        .filter_map(|(at, _)| {
            let rest = text[at + 2..].trim_start_matches('-').trim_start_matches(['"', '\'']);
            let word: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            (!word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())).then_some(word)
        })
        .collect()
}

/// One FROM and what follows it.
pub struct Stage<'a> {
    pub line: u32,
    /// With the defaults of arguments filled in.
    pub base: String,
    pub name: Option<String>,
    pub instructions: &'a [Instruction],
}

pub fn stages(instructions: &[Instruction]) -> Vec<Stage<'_>> {
    let begins: Vec<usize> =
        (0..instructions.len()).filter(|index| instructions[*index].keyword == "FROM").collect();
    let global = &instructions[..begins.first().copied().unwrap_or(instructions.len())];
    let defaults: BTreeMap<&str, &str> = global
        .iter()
        .filter(|instruction| instruction.keyword == "ARG")
        .filter_map(|argument| argument.text.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches(['"', '\''])))
        .collect();
    let ends = begins.iter().skip(1).copied().chain([instructions.len()]);
    begins.iter().zip(ends).map(|(begin, end)| stage(&instructions[*begin..end], &defaults)).collect()
}

fn stage<'a>(instructions: &'a [Instruction], defaults: &BTreeMap<&str, &str>) -> Stage<'a> {
    let from = &instructions[0];
    let mut words = from.text.split_whitespace().filter(|word| !word.starts_with("--"));
    let base = filled(words.next().unwrap_or_default(), defaults);
    let named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"));
    let name = words.next().filter(|_| named).map(str::to_owned);
    Stage { line: from.line, base, name, instructions: &instructions[1..] }
}

/// `${NAME:-default}`, `${NAME}` and `$NAME`; one that has no value stays as it is.
fn filled(text: &str, defaults: &BTreeMap<&str, &str>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, fallback, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((inner, next)) => {
                let (name, fallback) = inner.split_once(":-").unwrap_or((inner, ""));
                (name, fallback, next)
            }
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], "", &after[end..])
            }
        };
        match defaults
            .get(name)
            .copied()
            .filter(|value| !value.is_empty())
            .or(Some(fallback).filter(|f| !f.is_empty()))
        {
            Some(value) => out.push_str(value),
            None => out.push_str(&rest[at..rest.len() - next.len()]),
        }
        rest = next;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let told = |instruction: Instruction| {
            format!("{} {} {}", instruction.line, instruction.keyword, instruction.text)
        };
        parse(text).into_iter().map(told).collect()
    }

    #[test]
    fn lines_that_go_on_are_one_instruction() {
        let text = "# a comment\nfrom a\nRUN x && \\\n  # between\n\n  y\nENV A=b\n";
        assert_eq!(told(text), ["2 FROM a", "3 RUN x && y", "7 ENV A=b"]);
        assert_eq!(told("# escape=`\nRUN a `\nb\nRUN c\\\n"), ["2 RUN a b", "4 RUN c\\"]);
        assert_eq!(told("RUN a \\"), ["1 RUN a"]);
    }

    #[test]
    fn heredocs_are_no_instructions() {
        let text = "RUN <<EOF\nFROM b\nEOF\nCOPY <<-'A' <<B /x/\nUSER root\nA\nENV z\nB\nUSER 1\nRUN cat <<<word\nUSER 2\n";
        assert_eq!(
            told(text),
            ["1 RUN <<EOF", "4 COPY <<-'A' <<B /x/", "9 USER 1", "10 RUN cat <<<word", "11 USER 2"]
        );
    }

    #[test]
    fn bases_are_known_with_their_arguments() {
        let text = "ARG V=3.13\nARG BASE=python:${V}\nFROM --platform=linux/amd64 python:${V}-slim AS build\nFROM $BASE\nFROM ${X:-busybox}\nFROM ${Y}";
        let instructions = parse(text);
        let told: Vec<_> = stages(&instructions)
            .iter()
            .map(|stage| (stage.line, stage.base.clone(), stage.name.clone()))
            .collect();
        let expected = [
            (3, "python:3.13-slim".to_owned(), Some("build".to_owned())),
            (4, "python:${V}".to_owned(), None),
            (5, "busybox".to_owned(), None),
            (6, "${Y}".to_owned(), None),
        ];
        assert_eq!(told, expected);
    }
}
