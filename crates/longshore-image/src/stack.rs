//! What an agent is written in, as its image shows, and how large such an image may be.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stack {
    Python,
    Node,
    Java,
    Shell,
    /// A program that needs nothing but itself.
    Native,
}

impl Stack {
    /// By the programs that an image has. Base images of Node may bring Python along, not the other way.
    pub fn of<'a>(paths: impl Iterator<Item = &'a str>) -> Stack {
        let (mut node, mut python, mut java, mut shell) = (false, false, false, false);
        for path in paths {
            let Some((folder, name)) = path.rsplit_once('/') else { continue };
            if !(folder == "bin" || folder.ends_with("/bin")) {
                continue;
            }
            node |= name == "node" || name == "nodejs";
            python |= name
                .strip_prefix("python3")
                .is_some_and(|rest| rest.trim_matches(|c: char| c.is_ascii_digit() || c == '.').is_empty());
            java |= name == "java";
            shell |= matches!(name, "sh" | "bash" | "busybox");
        }
        match (node, python, java, shell) {
            (true, ..) => Stack::Node,
            (_, true, ..) => Stack::Python,
            (_, _, true, _) => Stack::Java,
            (.., true) => Stack::Shell,
            _ => Stack::Native,
        }
    }

    /// Bytes over all layers, unpacked: a slim base, longshore, and as much again of dependencies.
    pub fn budget(self) -> u64 {
        match self {
            Stack::Python | Stack::Node => 400 << 20,
            Stack::Java => 450 << 20,
            Stack::Shell => 150 << 20,
            Stack::Native => 100 << 20,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Stack::Python => "python",
            Stack::Node => "node",
            Stack::Java => "java",
            Stack::Shell => "shell",
            Stack::Native => "native",
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_is_told_by_its_programs() {
        let check =
            |paths: &[&str], expected| assert_eq!(Stack::of(paths.iter().copied()), expected, "{paths:?}");
        check(&["usr/local/bin/python3.13", "usr/bin/sh"], Stack::Python);
        check(&["usr/local/bin/node", "usr/bin/python3"], Stack::Node);
        check(&["bin/busybox"], Stack::Shell);
        check(&["usr/local/bin/longshore", "agent/hello"], Stack::Native);
        check(&["usr/bin/python3-config", "usr/share/node"], Stack::Native);
    }
}
