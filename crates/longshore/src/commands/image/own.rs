//! `longshore image own`: the longshore image, made from this very binary. FROM scratch, so the binary has to be static.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::docker;
use crate::cli::Format;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the image
    #[arg(long, value_name = "NAME", default_value = NAME)]
    tag: String,

    #[command(flatten)]
    format: Format,
}

/// What the Dockerfiles of `longshore init` copy the binary from.
pub const NAME: &str = concat!("longshore:", env!("CARGO_PKG_VERSION"));

/// The argument by which such a Dockerfile names it.
const ARGUMENT: &str = "LONGSHORE_IMAGE";

const DOCKERFILE: &str = include_str!("../../templates/own.Dockerfile");

/// Where Debian and its kin keep the authorities that this machine trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Serialize)]
struct Made {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    bytes: u64,
}

pub fn run(args: &Args) -> Outcome {
    let bytes = make(&args.tag)?;
    let id = docker::ask(&["image", "inspect", "--format", "{{.Id}}", &args.tag])?;
    let made = Made { image: args.tag.clone(), id, bytes };
    if args.format.json {
        output::json(&made)?;
    } else {
        output::line(&format!("{}  {}", made.image, output::size(made.bytes)))?;
    }
    Ok(Exit::Done)
}

/// Sees to it that the image is there which a Dockerfile of ours copies from; nothing to do for others.
pub fn provide(dockerfile: &str, build_args: &[String]) -> Outcome<()> {
    let takes = longshore_image::dockerfile::parse(dockerfile).iter().any(|instruction| {
        instruction.keyword == "ARG"
            && instruction.text.split_whitespace().any(|word| word == format!("{ARGUMENT}={NAME}"))
    });
    let given = build_args.iter().any(|argument| argument.split('=').next() == Some(ARGUMENT));
    if !takes || given || docker::ask(&["image", "inspect", "--format", "{{.Id}}", NAME])?.is_some() {
        return Ok(());
    }
    output::note(&format!("the engine has no image `{NAME}`: it is made from this binary"));
    make(NAME).map(|_| ())
}

/// Builds it, and tells the size of what is in it.
fn make(tag: &str) -> Outcome<u64> {
    let binary = Path::new("/proc/self/exe");
    let failed = |what: &str, error: &io::Error| Fault::new(format!("could not {what}")).cause(error);
    if !is_static(binary).map_err(|error| failed("read this binary", &error))? {
        return Err(Fault::new(
            "this longshore is not a static binary, so that it cannot run in an image of its own",
        )
        .hint(format!(
            "build one with `./dev image`, or name an image that has one: --build-arg {ARGUMENT}=…"
        )));
    }
    let folder = Folder::new().map_err(|error| failed("make a folder for the build", &error))?;
    let mut bytes =
        fs::copy(binary, folder.0.join("longshore")).map_err(|error| failed("copy this binary", &error))?;
    // Without it the control plane in a container trusts no provider; a file, so that COPY finds something.
    let authorities = fs::read(AUTHORITIES).unwrap_or_default();
    bytes += authorities.len() as u64;
    fs::write(folder.0.join("ca-certificates.crt"), authorities).map_err(|error| failed("write", &error))?;
    fs::write(folder.0.join("Dockerfile"), DOCKERFILE).map_err(|error| failed("write", &error))?;
    let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
    let folder = folder.0.display().to_string();
    docker::run(&["build", "--quiet", "--tag", tag, "--build-arg", &version, &folder])?;
    Ok(bytes)
}

/// A folder that goes when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("longshore-image-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether a program needs no loader: its ELF header lists no interpreter (program header of type 3).
fn is_static(path: &Path) -> io::Result<bool> {
    use io::Read;
    let mut head = Vec::new();
    fs::File::open(path)?.take(64 << 10).read_to_end(&mut head)?;
    let number = |at: usize, bytes: usize| {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let elf = head.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]);
    let headers = || {
        let (at, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count).map(|index| number(at.checked_add(size * index)?, 4)).collect::<Option<Vec<usize>>>()
    };
    match headers().filter(|_| elf) {
        Some(kinds) => Ok(!kinds.contains(&3)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no 64-bit ELF file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(!is_static(Path::new("/bin/sh")).expect("an ELF file"));
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("x");
        fs::write(&file, "#!/bin/sh\n").expect("written");
        assert!(is_static(&file).is_err());
    }

    #[test]
    fn the_templates_copy_from_the_image_of_this_version() {
        for text in [
            include_str!("../../templates/python/Dockerfile"),
            include_str!("../../templates/node/Dockerfile"),
            include_str!("../../templates/rust/Dockerfile"),
            include_str!("../../templates/shell/Dockerfile"),
        ] {
            assert!(text.contains(&format!("ARG {ARGUMENT}={NAME}\n")), "{text}");
        }
    }
}
