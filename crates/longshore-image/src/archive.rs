//! Reads an image archive in one pass, as `docker save` (old form and new) or an OCI layout in a tar gives it.
//!
//! What an entry is, its first bytes say: the manifest that names layers may come after them. Nothing is written to disk.

use std::collections::BTreeMap;
use std::io::{self, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::config::ImageConfig;
use crate::finding::{Code, Finding, Where};
use crate::layer::{self, Budget, End, Layer};
use crate::limits::Limits;
use crate::paths;
use crate::tar::{Kind, Tar, TarError};

/// An image as it was read.
#[derive(Debug)]
pub struct Archive {
    /// Digest of its configuration: Docker's image id.
    pub id: String,
    pub tags: Vec<String>,
    pub config: ImageConfig,
    /// The lowest first. A layer that could not be read is empty, and a finding says so.
    pub layers: Vec<Layer>,
    pub faults: Vec<Finding>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("could not read the archive")]
    Tar(#[source] TarError),
    #[error("this is no image archive: {0}")]
    NoImage(String),
    #[error("`{name}` in the archive is not what it should be")]
    Document { name: String, source: serde_json::Error },
}

/// Reads an image from an archive.
///
/// Time: linear in the archive's size. Memory: bounded by `limits`, whatever the archive says of itself.
/// Errors: only where there is no image to speak of; damage to layers is told as findings.
pub fn read(from: impl Read, limits: &Limits) -> Result<Archive, ArchiveError> {
    let mut parts = Parts { budget: Some(Budget::of(limits)), ..Parts::default() };
    let mut tar = Tar::new(from, *limits);
    loop {
        match tar.next_entry() {
            Ok(Some(entry)) => {
                let Some(name) = paths::normal(&entry.path) else { continue };
                match entry.kind {
                    Kind::File => parts.add(name, entry.size, &mut tar, limits).map_err(ArchiveError::Tar)?,
                    Kind::SymLink | Kind::HardLink => parts.alias(name, &entry.link),
                    _ => {}
                }
            }
            Ok(None) => break,
            Err(error) => return Err(ArchiveError::Tar(error)),
        }
        if parts.documents.len() + parts.layers.len() > MOST_PARTS {
            return Err(ArchiveError::NoImage(format!("it has more than {MOST_PARTS} parts")));
        }
    }
    parts.image()
}

/// More layers than any engine takes.
const MOST_PARTS: usize = 2_000;

#[derive(Default)]
struct Parts {
    documents: BTreeMap<String, Vec<u8>>,
    layers: BTreeMap<String, Part>,
    aliases: BTreeMap<String, String>,
    /// `None` once a bound was reached.
    budget: Option<Budget>,
    document_bytes: u64,
}

/// A layer by its name in the archive.
struct Part {
    layer: Layer,
    /// SHA-256 of its bytes as they lie there, and unpacked; `None` where it was not read to its end.
    packed: Option<String>,
    unpacked: Option<String>,
}

/// The first bytes of an entry and the rest.
type Whole<'a, R> = Chain<Cursor<Vec<u8>>, &'a mut Tar<R>>;

impl Parts {
    fn add<R: Read>(
        &mut self,
        name: String,
        size: u64,
        tar: &mut Tar<R>,
        limits: &Limits,
    ) -> Result<(), TarError> {
        let mut first = vec![0; 512.min(size as usize)];
        let mut filled = 0;
        while filled < first.len() {
            filled += tar.read(&mut first[filled..])?;
        }
        let kind = Form::of(&first);
        let mut whole: Whole<R> = Cursor::new(first).chain(tar);
        match kind {
            Form::Document
                if size <= limits.document && self.document_bytes + size <= 4 * limits.document =>
            {
                let mut bytes = Vec::new();
                whole.read_to_end(&mut bytes).map_err(TarError::Read)?;
                self.document_bytes += size;
                self.documents.insert(name, bytes);
            }
            Form::Tar => self.read_layer(name, whole, size, limits, false),
            Form::Gzip => self.read_layer(name, whole, size, limits, true),
            Form::Zstd => {
                let what = "it is packed with zstd, which is not read".to_owned();
                let layer = Layer { faults: vec![(Code::LayerUnread, what)], ..Layer::default() };
                self.layers.insert(name, Part { layer, packed: None, unpacked: None });
            }
            Form::Document | Form::Other => {}
        }
        Ok(())
    }

    fn read_layer<R: Read>(&mut self, name: String, mut raw: R, size: u64, limits: &Limits, gzip: bool) {
        let Some(budget) = &mut self.budget else { return };
        let (read, packed) = if gzip {
            let mut raw = Hashed::new(raw);
            let most = size.saturating_mul(limits.expansion).max(limits.expansion_from);
            let mut bounded = Bounded { from: MultiGzDecoder::new(&mut raw), left: most, beyond: false };
            let mut read = unpack(&mut bounded, limits, budget);
            if bounded.beyond {
                read.1 = End::Beyond(format!("{size} packed bytes unpack to more than {most}"));
            }
            let packed = read.2.is_some().then(|| raw.digest());
            (read, packed)
        } else {
            let read = unpack(&mut raw, limits, budget);
            let packed = read.2.clone();
            (read, packed)
        };
        let (mut layer, end, unpacked) = read;
        match end {
            End::Whole => {}
            End::Broken(error) => layer.faults.push((Code::CorruptArchive, told(&error))),
            End::Beyond(why) => {
                layer.faults.push((Code::TooLarge, format!("{why}; nothing from here on was read")));
                self.budget = None;
            }
        }
        self.layers.insert(name, Part { layer, packed, unpacked });
    }

    fn alias(&mut self, name: String, link: &[u8]) {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        // `docker save` of old engines writes a layer once, and `../ID/layer.tar` where it stands again.
        let link = String::from_utf8_lossy(link).into_owned();
        let target = match link.strip_prefix("../") {
            Some(rest) => {
                folder.rsplit_once('/').map_or(rest.to_owned(), |(above, _)| format!("{above}/{rest}"))
            }
            None if folder.is_empty() => link,
            None => format!("{folder}/{link}"),
        };
        if self.aliases.len() < MOST_PARTS {
            self.aliases.insert(name, target);
        }
    }

    fn image(mut self) -> Result<Archive, ArchiveError> {
        let named = self.named()?;
        let config: ImageConfig = self.document(&named.config)?;
        let bytes = &self.documents[&named.config];
        let id = format!("sha256:{}", hex(&Sha256::digest(bytes)));
        let mut image = Archive { id, tags: named.tags, config, layers: Vec::new(), faults: Vec::new() };
        if named.config.starts_with("blobs/sha256/") && !image.id.ends_with(blob(&named.config)) {
            let what = "the configuration is not what its name says".to_owned();
            image.faults.push(Finding::new(Code::DigestMismatch, Where::Config, what));
        }
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        for (index, name) in named.layers.iter().enumerate() {
            let real =
                self.aliases.get(name).filter(|_| !self.layers.contains_key(name)).unwrap_or(name).clone();
            let at = |code, what: String| {
                Finding::new(
                    code,
                    Where::Layer { layer: index + 1, path: None, line: None, deleted_in: None },
                    what,
                )
            };
            let Some(part) = self.layers.remove(&real) else {
                if !taken.contains_key(&real) {
                    let code = if self.budget.is_none() { Code::TooLarge } else { Code::CorruptArchive };
                    let what = format!("`{}` was not read, or is not in the archive", shown(name));
                    image.faults.push(at(code, what));
                }
                image.layers.push(Layer::default());
                continue;
            };
            taken.insert(real.clone(), index);
            image.faults.extend(part.layer.faults.iter().map(|(code, what)| at(*code, what.clone())));
            let told = image.config.rootfs.diff_ids.get(index).map(|id| id.trim_start_matches("sha256:"));
            let wrong = |have: &Option<String>, told: Option<&str>| {
                have.as_ref().zip(told).is_some_and(|(have, told)| have != told)
            };
            let named = real.starts_with("blobs/sha256/").then(|| blob(&real));
            if wrong(&part.unpacked, told) || wrong(&part.packed, named) {
                image.faults.push(at(
                    Code::DigestMismatch,
                    "its bytes are not those that its digest names".to_owned(),
                ));
            }
            image.layers.push(part.layer);
        }
        Ok(image)
    }

    /// Which documents and layers make up the image: from Docker's manifest, else from the OCI index.
    fn named(&self) -> Result<Named, ArchiveError> {
        if self.documents.contains_key("manifest.json") {
            let manifests: Vec<DockerManifest> = self.document("manifest.json")?;
            let first = manifests.into_iter().next();
            let first = first.ok_or_else(|| ArchiveError::NoImage("its manifest is empty".into()))?;
            return Ok(Named {
                config: first.config,
                tags: first.tags.unwrap_or_default(),
                layers: first.layers,
            });
        }
        if !self.documents.contains_key("index.json") {
            return Err(ArchiveError::NoImage("it has neither manifest.json nor index.json".into()));
        }
        let mut name = "index.json".to_owned();
        // An index of platforms lies within the index of tags.
        for _ in 0..4 {
            let document: OciDocument = self.document(&name)?;
            if let Some(config) = document.config {
                let layers = document.layers.iter().map(|layer| file(&layer.digest)).collect();
                return Ok(Named { config: file(&config.digest), tags: Vec::new(), layers });
            }
            let there = document.manifests.iter().map(|manifest| file(&manifest.digest));
            let next = there.into_iter().find(|name| self.documents.contains_key(name));
            name = next
                .ok_or_else(|| ArchiveError::NoImage("none of the manifests of its index is in it".into()))?;
        }
        Err(ArchiveError::NoImage("its index leads to indexes only".into()))
    }

    fn document<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T, ArchiveError> {
        let missing =
            || ArchiveError::NoImage(format!("`{}`, which its manifest names, is missing", shown(name)));
        let bytes = self.documents.get(name).ok_or_else(missing)?;
        serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document { name: shown(name), source })
    }
}

struct Named {
    config: String,
    tags: Vec<String>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct DockerManifest {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct OciDocument {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

fn file(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn blob(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn shown(name: &str) -> String {
    name.chars().take(120).collect()
}

enum Form {
    Document,
    Tar,
    Gzip,
    Zstd,
    Other,
}

impl Form {
    fn of(first: &[u8]) -> Form {
        let letter = first.iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            [0x1f, 0x8b, ..] => Form::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Form::Zstd,
            // An empty layer is two blocks of zeros.
            _ if first.len() == 512
                && (&first[257..262] == b"ustar" || first.iter().all(|byte| *byte == 0)) =>
            {
                Form::Tar
            }
            _ if matches!(letter, Some(b'{' | b'[')) => Form::Document,
            _ => Form::Other,
        }
    }
}

fn unpack<R: Read>(from: R, limits: &Limits, budget: &mut Budget) -> (Layer, End, Option<String>) {
    let mut hashed = Hashed::new(from);
    let mut tar = Tar::new(&mut hashed, *limits);
    let (layer, mut end) = layer::read(&mut tar, limits, budget);
    // What follows the closing blocks belongs to the digest too.
    if matches!(end, End::Whole)
        && let Err(error) = tar.finish()
    {
        end = End::Broken(error);
    }
    let digest = matches!(end, End::Whole).then(|| hashed.digest());
    (layer, end, digest)
}

/// Hashes what passes through.
struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    fn new(from: R) -> Hashed<R> {
        Hashed { from, hash: Sha256::new() }
    }

    fn digest(&mut self) -> String {
        hex(&std::mem::take(&mut self.hash).finalize())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hash.update(&into[..read]);
        Ok(read)
    }
}

/// Ends what unpacks to more than anything honest does.
struct Bounded<R> {
    from: R,
    left: u64,
    beyond: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                self.beyond = true;
                return Err(io::Error::other("it unpacks to too much"));
            }
        }
        Ok(read)
    }
}

fn told(error: &TarError) -> String {
    match error {
        TarError::Read(error) => format!("it cannot be unpacked: {error}"),
        error => error.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub mod make;
#[cfg(test)]
mod tests;
