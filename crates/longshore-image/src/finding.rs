//! What a check finds: a code, how bad it is, where, what, and what to do. Never holds a secret.

use std::fmt;

use serde::Serialize;

/// How bad a finding is. Errors break the contract; warnings are worse than they need to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
    Info,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

macro_rules! codes {
    ($($name:ident $code:literal $severity:ident $fix:literal)*) => {
        /// The name of a kind of finding: stable, so that scripts and allow rules may match on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($name),* }

        impl Code {
            /// In the order in which they are shown and documented.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code),* }
            }

            pub fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity),* }
            }

            /// What to do about it.
            pub fn fix(self) -> &'static str {
                match self { $(Code::$name => $fix),* }
            }
        }
    };
}

codes! {
    // Secrets
    SecretInEnv "secret_in_env" Error "take it out of ENV; the fleet's `secrets` give it to the agent at run time. Revoke it: whoever has the image has it"
    SecretInLabel "secret_in_label" Error "take it out of LABEL, and revoke it"
    SecretInHistory "secret_in_history" Error "do not pass secrets by ARG or on RUN lines; use `RUN --mount=type=secret`, and revoke this one"
    SecretInCommand "secret_in_command" Error "take it off the command line; the fleet's `secrets` give it to the agent at run time. Revoke it"
    SecretInFile "secret_in_file" Error "keep the file out by .dockerignore, build again (a later RUN rm does not take it out of its layer), and revoke it"
    CredentialFile "credential_file" Error "keep it out by .dockerignore; at build time use `RUN --mount=type=secret`"
    GitFolder "git_folder" Error "add `.git` to .dockerignore: it holds all that was ever committed"
    SecretInDockerfile "secret_in_dockerfile" Error "take it out of the Dockerfile, and revoke it"
    // Configuration
    ModelInEnv "model_in_env" Error "set the model by the fleet's `env`, so that one image serves every environment"
    UrlInEnv "url_in_env" Error "set the address by the fleet's `env`; LLM base URLs are set by longshore itself"
    ConfigInEnv "config_in_env" Warning "set it by the fleet's `env`, or allow it with --allow if it describes the image itself"
    ConfigFile "config_file" Error "keep the file out by .dockerignore; configuration comes from where the image runs"
    ModelInFile "model_in_file" Warning "read the model's name from the environment"
    UrlInFile "url_in_file" Warning "read the address from the environment; LLM base URLs are set by longshore itself"
    // How it starts
    UserRoot "user_root" Error "add `USER 10001` (a number other than 0) to the last stage"
    UserByName "user_by_name" Warning "write the user as a number: Kubernetes cannot tell whether a name is root"
    NoEntrypoint "no_entrypoint" Error "add ENTRYPOINT [\"/usr/local/bin/longshore\", \"worker\", \"--\", …]"
    ShellEntrypoint "shell_entrypoint" Error "write it in exec form, [\"program\", \"argument\"]: a shell as first process does not pass SIGTERM on"
    NotAWorker "not_a_worker" Warning "make longshore the first process: ENTRYPOINT [\"/usr/local/bin/longshore\", \"worker\", \"--\", …]; or run it with supervisor = \"inject\""
    NoHealthcheck "no_healthcheck" Warning "add HEALTHCHECK CMD [\"/usr/local/bin/longshore\", \"probe\", \"live\"]"
    MissingLabels "missing_labels" Warning "build it with `longshore image build`, or set them by --label"
    DirtyTree "dirty_tree" Warning "commit what was changed, and build again: this image cannot be traced to a commit"
    Volume "volume" Warning "remove VOLUME: what agents keep there is lost with the container and grows beside it; use the conversation or cache API"
    // What it holds
    SizeBudget "size_budget" Warning "start from a slim or distroless base, and copy only what the agent needs from the build stage; --budget sets another bound"
    WastedSpace "wasted_space" Warning "delete files in the RUN that makes them, or build in a stage of its own: layers keep what later ones delete"
    Compiler "compiler" Warning "install and compile in a build stage, and copy the result"
    PackageCache "package_cache" Warning "remove the cache in the RUN that fills it (pip --no-cache-dir, npm cache clean, rm -rf /var/lib/apt/lists/*)"
    SetuidFile "setuid_file" Warning "RUN find / -xdev -perm /6000 -type f -exec chmod a-s {} +; or a distroless base"
    WorldWritable "world_writable" Warning "chmod o-w; an agent writes to /tmp only"
    TmpNotOpen "tmp_not_open" Warning "chmod 1777 /tmp: runc before 1.2 gives a tmpfs the mode of the folder below it, and agents cannot write there"
    UserWritable "user_writable" Info "COPY without --chown, so that an agent cannot change its own code"
    DeviceFile "device_file" Warning "remove it: an image needs no device files"
    // The archive
    CorruptArchive "corrupt_archive" Error "build or pull the image again"
    PathTraversal "path_traversal" Error "do not run this image: no honest tool writes such an entry"
    DigestMismatch "digest_mismatch" Error "do not run this image: a layer is not what its manifest says. Pull it again from where you trust it"
    TooLarge "too_large" Error "this image does not unpack to a sensible size; look at what makes the layer"
    LayerUnread "layer_unread" Error "save the image with gzip or without compression; what is not read is not checked"
    // The Dockerfile
    SingleStage "single_stage" Warning "build in a stage of its own (FROM … AS build) and copy the result with COPY --from=build"
    UnpinnedBase "unpinned_base" Warning "name a version, such as python:3.13-slim, best with its digest"
    BaseWithoutDigest "base_without_digest" Info "add @sha256:…, so that every build starts from the same bytes"
    RemoteAdd "remote_add" Warning "fetch it in a build stage and check its digest"
    CopyEverything "copy_everything" Info "name what the agent needs; .dockerignore is then a second net, not the only one"
    // Run
    WrongArchitecture "wrong_architecture" Error "build it for this architecture: docker build --platform"
    DoesNotStart "does_not_start" Error "see its last words; `docker run --read-only --tmpfs /tmp` shows the same"
    RunsAsRoot "runs_as_root" Error "add `USER 10001` to the last stage"
    NotLive "not_live" Error "longshore has to be the first process, and an http agent has to answer its health path"
    NotReady "not_ready" Error "see its last words; an http agent has to listen on $PORT"
    HealthcheckFails "healthcheck_fails" Error "use HEALTHCHECK CMD [\"/usr/local/bin/longshore\", \"probe\", \"live\"]: it needs no shell and no curl"
    LogsNotJson "logs_not_json" Error "let longshore be the first process: it writes the agent's lines into JSON lines of its own"
    TrialTaskFailed "trial_task_failed" Warning "give a task that the agent can do with --input; LLM calls are never answered here"
    StopTooSlow "stop_too_slow" Error "the first process has to end on SIGTERM within its drain time-out"
    StopStatus "stop_status" Error "a stopped worker ends with status 0; longshore as first process sees to it"
    Zombies "zombies" Error "the first process has to reap orphans: longshore does, most programs do not"
    WritesOutside "writes_outside" Error "write to $TMPDIR (/tmp) only, and set caches to go there; everything else is read-only"
    NotProven "not_proven" Info "run the check where the engine is, without --no-run"
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The part of the image, or of its making, that is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "in", rename_all = "snake_case")]
pub enum Where {
    Env {
        name: String,
    },
    Label {
        name: String,
    },
    /// The step of the build, counted from 1.
    History {
        step: usize,
    },
    /// ENTRYPOINT and CMD.
    Command,
    Config,
    Image,
    Layer {
        /// Counted from 1, the lowest first.
        layer: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<u32>,
        /// A later layer hides it; it is still in the image.
        #[serde(skip_serializing_if = "Option::is_none")]
        deleted_in: Option<usize>,
    },
    Dockerfile {
        line: u32,
    },
    Run,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Where::Env { name } => write!(f, "ENV {name}"),
            Where::Label { name } => write!(f, "LABEL {name}"),
            Where::History { step } => write!(f, "history, step {step}"),
            Where::Command => f.write_str("ENTRYPOINT and CMD"),
            Where::Config => f.write_str("configuration"),
            Where::Image => f.write_str("image"),
            Where::Layer { layer, path, line, deleted_in } => {
                write!(f, "layer {layer}")?;
                if let Some(path) = path {
                    write!(f, ", {path}")?;
                }
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                deleted_in
                    .map_or(Ok(()), |later| write!(f, " (deleted in layer {later}, still in the image)"))
            }
            Where::Dockerfile { line } => write!(f, "Dockerfile:{line}"),
            Where::Run => f.write_str("run"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub code: Code,
    #[serde(rename = "where")]
    pub at: Where,
    pub what: String,
    pub fix: &'static str,
    /// The line of the Dockerfile that makes it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile_line: Option<u32>,
    /// The step of the build that made the layer, secrets taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

impl Finding {
    pub fn new(code: Code, at: Where, what: impl Into<String>) -> Finding {
        Finding {
            severity: code.severity(),
            code,
            at,
            what: what.into(),
            fix: code.fix(),
            dockerfile_line: None,
            made_by: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_with_its_severity() {
        let page = include_str!("../../../docs/images.md");
        for code in Code::ALL {
            let row = format!("| `{code}` | {} |", code.severity().as_str());
            assert!(page.contains(&row), "docs/images.md has no row that begins with {row}");
        }
    }
}
