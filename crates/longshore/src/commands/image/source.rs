//! What an image is built from: version, commit, whether the tree has changes, where it comes from.
//!
//! Asks `git`; a folder without a repository has none of it, which is said and no error.

use std::path::Path;
use std::process::{Command, Stdio};

/// A commit, as a working tree has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub id: String,
    /// The tree has changes that it does not have, new files included.
    pub dirty: bool,
    /// Of the tags on it, the one that is a version, without its `v`.
    pub tag: Option<String>,
    /// Where it is fetched from, without a password.
    pub source: Option<String>,
}

impl Commit {
    pub fn of(folder: &Path) -> Option<Commit> {
        let git = |args: &[&str]| git(folder, args);
        let id = git(&["rev-parse", "HEAD"])?;
        // `None`: git could not tell, so nobody may trust the tree.
        let dirty = git(&["status", "--porcelain", "--", "."]).is_none_or(|changes| !changes.is_empty());
        let tags = git(&["tag", "--points-at", "HEAD"]).unwrap_or_default();
        let tag = tags.lines().filter_map(version).max().map(str::to_owned);
        let source = git(&["remote", "get-url", "origin"]).map(|url| without_password(&url));
        Some(Commit { id, dirty, tag, source })
    }

    /// As labels have it: `4b825dc…-dirty` where the tree has changes.
    pub fn revision(&self) -> String {
        format!("{}{}", self.id, self.mark())
    }

    pub fn mark(&self) -> &'static str {
        if self.dirty { "-dirty" } else { "" }
    }
}

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(args).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `v1.4.2` and `1.4.2` are versions.
fn version(tag: &str) -> Option<&str> {
    let version = tag.strip_prefix('v').unwrap_or(tag);
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}/{path}")
}

/// The version that the agent's own manifest declares.
pub fn declared(folder: &Path) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let toml = |name: &str, table: &str| {
        let text = read(name)?;
        let mut lines = text.lines().map(str::trim).skip_while(|line| *line != format!("[{table}]")).skip(1);
        let line = lines
            .by_ref()
            .take_while(|line| !line.starts_with('['))
            .find(|line| line.split('=').next().is_some_and(|key| key.trim() == "version"))?;
        let value = line.split_once('=')?.1.trim().trim_matches('"').to_owned();
        (!value.is_empty()).then_some(value)
    };
    let json = || {
        let text = read("package.json")?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["version"].as_str().map(str::to_owned)
    };
    toml("pyproject.toml", "project").or_else(json).or_else(|| toml("Cargo.toml", "package"))
}

/// Text as a tag may have it: other characters become dashes, and no more than 100 of them.
pub fn tag(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' };
    let tag: String = text.chars().map(plain).take(100).collect();
    tag.trim_start_matches(['.', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, args: &[&str]) {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(folder)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(args);
        let output = command.output().expect("git runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_tree_is_dirty_from_the_first_new_file_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path();
        assert_eq!(Commit::of(folder), None, "no repository");
        run(folder, &["init", "-q"]);
        std::fs::write(folder.join("a"), "1").expect("written");
        run(folder, &["add", "."]);
        run(folder, &["commit", "-q", "-m", "a"]);
        run(folder, &["tag", "v1.4.2"]);
        run(folder, &["tag", "release"]);
        run(folder, &["remote", "add", "origin", "https://me:secret@git.example/acme/agent.git"]);
        let commit = Commit::of(folder).expect("a commit");
        assert_eq!((commit.id.len(), commit.dirty, commit.tag.as_deref()), (40, false, Some("1.4.2")));
        assert_eq!(commit.source.as_deref(), Some("https://git.example/acme/agent.git"));
        std::fs::write(folder.join("b"), "2").expect("written");
        let commit = Commit::of(folder).expect("a commit");
        assert!(commit.dirty && commit.revision().ends_with("-dirty"));
    }

    #[test]
    fn the_version_is_read_from_the_agents_manifest() {
        let check = |name: &str, text: &str, expected: Option<&str>| {
            let dir = tempfile::tempdir().expect("a folder");
            std::fs::write(dir.path().join(name), text).expect("written");
            assert_eq!(declared(dir.path()).as_deref(), expected, "{text}");
        };
        check(
            "pyproject.toml",
            "[build-system]\nversion = \"9\"\n[project]\nname = \"a\"\nversion = \"1.2.3\"\n",
            Some("1.2.3"),
        );
        check("Cargo.toml", "[package]\nversion = \"0.3.0\"\n", Some("0.3.0"));
        check("Cargo.toml", "[package]\nname = \"a\"\n[dependencies]\nversion = \"1\"\n", None);
        check("package.json", "{\"version\": \"2.0.0\"}", Some("2.0.0"));
        check("package.json", "not json", None);
    }

    #[test]
    fn tags_hold_what_tags_may_hold() {
        assert_eq!(tag("1.4.2+build.7"), "1.4.2-build.7");
        assert_eq!(tag("-x/y"), "x-y");
        assert_eq!(without_password("git@host:acme/x.git"), "git@host:acme/x.git");
    }
}
