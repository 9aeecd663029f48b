//! What a path says of a file: whose it is, and what it should not be.

use std::borrow::Cow;

/// A path of an archive as `usr/bin/x`: no leading slash or dot. `None`: it leads out of the archive.
pub fn normal(raw: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(raw);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whose file it is: that decides how closely its text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The application's.
    Own,
    /// A library's that the application brings along.
    Dependency,
    /// The base image's.
    System,
}

pub fn owner(path: &str) -> Owner {
    const DEPENDENCIES: [&str; 14] = [
        "site-packages",
        "dist-packages",
        "node_modules",
        "vendor",
        "venv",
        ".venv",
        "deps",
        ".cargo",
        ".rustup",
        "__pycache__",
        "go/pkg/mod",
        ".cache",
        ".npm",
        "third_party",
    ];
    const SYSTEM: [&str; 16] = [
        "usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin", "var", "etc", "proc", "sys", "dev", "boot",
        "run", "nix", "tmp",
    ];
    let parts = || path.split('/');
    if DEPENDENCIES.iter().any(|folder| match folder.contains('/') {
        true => path.contains(folder),
        false => parts().any(|part| part == *folder),
    }) {
        return Owner::Dependency;
    }
    if ["usr/src/app/", "var/task/", "var/www/", "usr/app/"].iter().any(|folder| path.starts_with(folder)) {
        return Owner::Own;
    }
    match parts().next() {
        Some(first) if SYSTEM.contains(&first) => Owner::System,
        _ => Owner::Own,
    }
}

/// How the text of an application's file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// A program: what is configured there stands in quotes.
    Source,
    /// Names and values.
    Settings,
}

pub fn text(path: &str) -> Option<Text> {
    const SOURCE: [&str; 14] =
        ["py", "js", "mjs", "cjs", "ts", "mts", "tsx", "jsx", "sh", "rb", "php", "lua", "pl", "ipynb"];
    const SETTINGS: [&str; 10] =
        ["env", "ini", "cfg", "conf", "toml", "yaml", "yml", "json", "properties", "xml"];
    const LOCKS: [&str; 8] = [
        "package.json",
        "package-lock.json",
        "tsconfig.json",
        "pyproject.toml",
        "cargo.toml",
        "composer.json",
        "poetry.lock",
        "deno.json",
    ];
    let name = name(path).to_ascii_lowercase();
    if LOCKS.contains(&name.as_str()) || name.ends_with(".lock") || name.ends_with(".map") {
        return None;
    }
    if name.starts_with(".env") {
        return Some(Text::Settings);
    }
    let extension = name.rsplit_once('.')?.1;
    match extension {
        extension if SOURCE.contains(&extension) => Some(Text::Source),
        extension if SETTINGS.contains(&extension) => Some(Text::Settings),
        _ => None,
    }
}

pub fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A file that holds credentials by its purpose.
pub fn credential(path: &str) -> Option<&'static str> {
    let ends = |end: &str| path == end || path.strip_suffix(end).is_some_and(|rest| rest.ends_with('/'));
    const FILES: &[(&str, &str)] = &[
        (".netrc", "passwords of servers"),
        (".npmrc", "npm's settings, with its token"),
        (".yarnrc.yml", "yarn's settings, with its token"),
        (".pypirc", "the token for PyPI"),
        (".git-credentials", "git's passwords"),
        (".docker/config.json", "passwords of registries"),
        (".aws/credentials", "AWS keys"),
        (".config/gcloud/application_default_credentials.json", "a Google login"),
        (".kube/config", "access to a Kubernetes cluster"),
        (".ssh/id_rsa", "an SSH key"),
        (".ssh/id_ed25519", "an SSH key"),
        (".ssh/id_ecdsa", "an SSH key"),
        (".cargo/credentials.toml", "the token for crates.io"),
        (".pgpass", "passwords of Postgres"),
        (".huggingface/token", "a Hugging Face token"),
        (".cache/huggingface/token", "a Hugging Face token"),
    ];
    // npm itself and its tests bring such files along.
    if owner(path) == Owner::Dependency && !path.contains(".cache/huggingface") && !path.contains(".cargo/") {
        return None;
    }
    FILES.iter().find(|(file, _)| ends(file)).map(|(_, what)| *what)
}

/// A file of configuration that belongs to where the image runs.
pub fn configuration(path: &str) -> bool {
    if owner(path) != Owner::Own {
        return false;
    }
    let name = name(path);
    let sample = ["example", "sample", "template", "dist"].iter().any(|part| name.contains(part));
    name == "longshore.toml" || ((name == ".env" || name.starts_with(".env.")) && !sample)
}

/// The folder of a repository that the path lies in: it ends in `.git`.
pub fn repository(path: &str) -> Option<&str> {
    let at = if path.starts_with(".git/") { 0 } else { path.find("/.git/").map(|at| at + 1)? };
    let folder = &path[..at + 4];
    matches!(path[at + 5..].split('/').next(), Some("HEAD" | "objects" | "packed-refs" | "config"))
        .then_some(folder)
}

/// A program that makes programs.
pub fn compiler(path: &str) -> Option<Cow<'_, str>> {
    const FOLDERS: [&str; 5] = ["usr/bin", "usr/local/bin", "bin", "usr/local/go/bin", "usr/local/cargo/bin"];
    const NAMES: [&str; 15] = [
        "cc", "gcc", "g++", "c++", "clang", "clang++", "rustc", "cargo", "go", "javac", "make", "cmake",
        "ld", "cpp", "tsc",
    ];
    let (folder, name) = path.rsplit_once('/')?;
    if !FOLDERS.contains(&folder) {
        return None;
    }
    // `gcc-12`, `x86_64-linux-gnu-gcc-12`
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    let plain = plain.rsplit_once("-gnu-").map_or(plain, |(_, tool)| tool);
    NAMES.contains(&plain).then_some(Cow::Borrowed(name))
}

/// The package cache that a file lies in: whose it is.
pub fn cache(path: &str) -> Option<&'static str> {
    const CACHES: &[(&str, &str)] = &[
        ("var/cache/apt/", "apt"),
        ("var/lib/apt/lists/", "apt"),
        ("var/cache/apk/", "apk"),
        ("var/cache/dnf/", "dnf"),
        ("var/cache/yum/", "yum"),
        ("usr/local/share/.cache/yarn/", "yarn"),
    ];
    const ANYWHERE: &[(&str, &str)] = &[
        (".cache/pip/", "pip"),
        (".cache/uv/", "uv"),
        (".cache/pypoetry/", "poetry"),
        (".npm/_cacache/", "npm"),
        (".cache/yarn/", "yarn"),
        (".cache/go-build/", "go"),
        ("go/pkg/mod/cache/", "go"),
        (".cargo/registry/", "cargo"),
        ("usr/local/cargo/registry/", "cargo"),
    ];
    let at_root = CACHES.iter().find(|(folder, _)| path.starts_with(folder));
    let deeper = || {
        ANYWHERE.iter().find(|(folder, _)| path.starts_with(folder) || path.contains(&format!("/{folder}")))
    };
    at_root.or_else(deeper).map(|(_, whose)| *whose)
}

/// Where keys are samples: tests and documents of libraries.
pub fn is_sample(path: &str) -> bool {
    owner(path) != Owner::Own
        && path.split('/').any(|part| {
            matches!(
                part,
                "test"
                    | "tests"
                    | "testing"
                    | "testdata"
                    | "test_data"
                    | "fixtures"
                    | "examples"
                    | "doc"
                    | "docs"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_brought_to_one_form_and_none_leads_out() {
        let told = |raw: &str| normal(raw.as_bytes());
        assert_eq!(told("./usr//bin/./x").as_deref(), Some("usr/bin/x"));
        assert_eq!(told("/etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!(told("./").as_deref(), Some(""));
        assert_eq!(told("a/../../etc"), None);
        assert_eq!(normal(b"a\xff").as_deref(), Some("a\u{fffd}"));
    }

    #[test]
    fn files_are_told_apart_by_whose_they_are() {
        let check = |path: &str, expected| assert_eq!(owner(path), expected, "{path}");
        check("agent/agent.py", Owner::Own);
        check("usr/src/app/index.js", Owner::Own);
        check("opt/venv/lib/python3.13/site-packages/openai/x.py", Owner::Dependency);
        check("agent/node_modules/openai/index.js", Owner::Dependency);
        check("usr/lib/python3/x.py", Owner::System);
        check("home/app/settings.yaml", Owner::Own);
    }

    #[test]
    fn what_should_not_be_there_is_known_by_its_place() {
        assert_eq!(compiler("usr/bin/x86_64-linux-gnu-gcc-12").as_deref(), Some("x86_64-linux-gnu-gcc-12"));
        assert!(compiler("usr/bin/gccgo-helper").is_none() && compiler("agent/make").is_none());
        assert_eq!(cache("root/.cache/pip/http/a"), Some("pip"));
        assert_eq!(cache("var/lib/apt/lists/deb_main"), Some("apt"));
        assert_eq!(cache("agent/cache.py"), None);
        assert_eq!(repository("app/.git/HEAD"), Some("app/.git"));
        assert_eq!(repository(".git/objects/pack/x"), Some(".git"));
        assert_eq!(repository("app/.github/config"), None);
        assert!(credential("root/.aws/credentials").is_some() && credential("x/my.netrc").is_none());
        assert!(
            configuration("app/.env")
                && configuration("app/.env.production")
                && configuration("longshore.toml")
        );
        assert!(!configuration("app/.env.example") && !configuration("app/node_modules/x/.env"));
    }

    #[test]
    fn only_texts_of_programs_and_settings_are_read_by_lines() {
        assert_eq!(text("a/agent.py"), Some(Text::Source));
        assert_eq!(text("a/.env.prod"), Some(Text::Settings));
        assert_eq!(text("a/settings.yaml"), Some(Text::Settings));
        assert_eq!((text("a/package.json"), text("README.md"), text("bin")), (None, None, None));
    }
}
