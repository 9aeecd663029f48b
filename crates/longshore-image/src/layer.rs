//! Reads one layer: what it adds, what it hides, and what its files hold.

use std::io::Read;

use crate::content::{self, Hit};
use crate::finding::Code;
use crate::limits::Limits;
use crate::paths;
use crate::tar::{Entry, Kind, Tar, TarError};

/// A layer as far as it could be read.
#[derive(Debug, Default)]
pub struct Layer {
    pub entries: Vec<Item>,
    /// Paths that it hides, with all that lies in them.
    pub whiteouts: Vec<String>,
    /// Folders of which it hides what lower layers put in.
    pub opaque: Vec<String>,
    /// What was found in files, by the number of their entry.
    pub hits: Vec<(usize, Hit)>,
    /// What is wrong with the layer itself.
    pub faults: Vec<(Code, String)>,
    /// Bytes of its files.
    pub bytes: u64,
    pub passwd: Option<String>,
    /// Hits beyond the bound, which are not kept.
    pub dropped: usize,
}

#[derive(Debug)]
pub struct Item {
    pub path: Box<str>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub size: u64,
    pub capabilities: bool,
}

/// What is left of the bounds, over all layers.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub entries: u64,
    pub bytes: u64,
    /// Bytes of names, which are what is held in memory.
    pub names: u64,
}

impl Budget {
    pub fn of(limits: &Limits) -> Budget {
        Budget { entries: limits.entries, bytes: limits.total, names: 512 << 20 }
    }

    fn spend(&mut self, entry: &Entry) -> Result<(), String> {
        let beyond = |what: &str| format!("it has more than the {what} that are read");
        self.entries = self.entries.checked_sub(1).ok_or_else(|| beyond("entries"))?;
        let bytes = self.bytes.checked_sub(entry.size);
        self.bytes = bytes
            .ok_or_else(|| format!("it unpacks to more bytes than are read, {} in one file", entry.size))?;
        let names = self.names.checked_sub(entry.path.len() as u64);
        self.names = names.ok_or_else(|| beyond("bytes of names"))?;
        Ok(())
    }
}

/// How the reading of a layer ended.
pub enum End {
    Whole,
    /// The layer is damaged; the archive around it may go on.
    Broken(TarError),
    /// A bound was reached: nothing more of the image is read.
    Beyond(String),
}

/// Most bytes of /etc/passwd that are looked at.
const PASSWD: u64 = 64 << 10;

pub fn read(tar: &mut Tar<impl Read>, limits: &Limits, budget: &mut Budget) -> (Layer, End) {
    let mut layer = Layer::default();
    loop {
        let entry = match tar.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (layer, End::Whole),
            Err(error) => return (layer, End::Broken(error)),
        };
        if let Err(why) = budget.spend(&entry) {
            return (layer, End::Beyond(why));
        }
        if let Err(error) = layer.add(entry, tar, limits) {
            return (layer, End::Broken(error));
        }
    }
}

impl Layer {
    fn add(&mut self, entry: Entry, tar: &mut Tar<impl Read>, limits: &Limits) -> Result<(), TarError> {
        let Some(path) = paths::normal(&entry.path) else {
            self.fault(
                Code::PathTraversal,
                format!("the entry `{}` leads out of the image", shown(&entry.path)),
            );
            return Ok(());
        };
        if entry.kind == Kind::HardLink && paths::normal(&entry.link).is_none() {
            let link = shown(&entry.link);
            self.fault(
                Code::PathTraversal,
                format!("the hard link `{path}` leads out of the image, to `{link}`"),
            );
            return Ok(());
        }
        if self.hides(&path) {
            return Ok(());
        }
        let number = self.entries.len();
        self.bytes += entry.size;
        if entry.kind == Kind::File && entry.size > 0 {
            self.read_contents(number, &path, &entry, tar, limits)?;
        }
        self.entries.push(Item {
            path: path.into_boxed_str(),
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            size: entry.size,
            capabilities: entry.capabilities,
        });
        Ok(())
    }

    fn read_contents(
        &mut self,
        number: usize,
        path: &str,
        entry: &Entry,
        tar: &mut Tar<impl Read>,
        limits: &Limits,
    ) -> Result<(), TarError> {
        if path == "etc/passwd" && entry.size <= PASSWD {
            let mut text = Vec::new();
            tar.read_to_end(&mut text).map_err(of_read)?;
            self.passwd = Some(String::from_utf8_lossy(&text).into_owned());
            return Ok(());
        }
        for hit in content::scan(path, entry.size, tar, limits).map_err(of_read)? {
            if self.hits.len() < limits.findings {
                self.hits.push((number, hit));
            } else {
                self.dropped += 1;
            }
        }
        Ok(())
    }

    /// Whether the entry is a mark that hides something of the layers below.
    fn hides(&mut self, path: &str) -> bool {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(hidden) = name.strip_prefix(".wh.") else { return false };
        if hidden == ".wh..opq" {
            self.opaque.push(folder.to_owned());
        } else if !hidden.starts_with(".wh.") && !hidden.is_empty() {
            let slash = if folder.is_empty() { "" } else { "/" };
            self.whiteouts.push(format!("{folder}{slash}{hidden}"));
        }
        true
    }

    fn fault(&mut self, code: Code, what: String) {
        // A layer of a million such entries needs no million findings.
        if self.faults.len() < 20 {
            self.faults.push((code, what));
        }
    }
}

fn of_read(error: std::io::Error) -> TarError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => TarError::Cut,
        _ => TarError::Read(error),
    }
}

fn shown(raw: &[u8]) -> String {
    String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned()
}
