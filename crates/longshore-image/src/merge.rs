//! Puts layers together: what a container sees, what later layers hide, and what of both should not be.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::content::Hit;
use crate::finding::{Code, Finding, Where};
use crate::layer::{Item, Layer};
use crate::paths;
use crate::stack::Stack;
use crate::tar::Kind;

/// What layers say together.
pub struct Merged {
    pub findings: Vec<Finding>,
    pub stack: Stack,
    /// Bytes of the files of all layers.
    pub bytes: u64,
    pub passwd: Option<String>,
}

/// For each entry of each layer, the layer that hides it, counted from 1.
struct Hidden(Vec<Vec<Option<usize>>>);

/// `user` is the number of the user that the image runs as.
pub fn merge(layers: &[Layer], user: Option<u64>, budget: Option<u64>) -> Merged {
    let hidden = Hidden::of(layers);
    let mut findings = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        kept(index, layer, &hidden, &mut findings);
        entries(index, layer, &hidden, user, &mut findings);
    }
    wasted(layers, &hidden, &mut findings);
    let stack =
        Stack::of(visible(layers, &hidden).filter(|item| item.kind != Kind::Folder).map(|item| &*item.path));
    let bytes = layers.iter().map(|layer| layer.bytes).sum();
    let most = budget.unwrap_or(stack.budget());
    if bytes > most {
        let what = format!("{} over all layers; {} is the budget of a {stack} agent", mib(bytes), mib(most));
        findings.push(Finding::new(Code::SizeBudget, Where::Image, what));
    }
    let passwd = layers.iter().rev().find_map(|layer| layer.passwd.clone());
    Merged { findings, stack, bytes, passwd }
}

fn visible<'a>(layers: &'a [Layer], hidden: &'a Hidden) -> impl Iterator<Item = &'a Item> {
    let each = layers.iter().zip(&hidden.0);
    each.flat_map(|(layer, hidden)| {
        layer.entries.iter().zip(hidden).filter(|(_, by)| by.is_none()).map(|(item, _)| item)
    })
}

impl Hidden {
    fn of(layers: &[Layer]) -> Hidden {
        // From the top: what was seen above, as what, and which folders are hidden with all below them.
        let mut above: HashMap<&str, (usize, Kind)> = HashMap::new();
        let mut gone: HashMap<&str, usize> = HashMap::new();
        let mut emptied: HashMap<&str, usize> = HashMap::new();
        let mut all = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate().rev() {
            let hides = |item: &Item| {
                let path = &*item.path;
                if let Some((by, _)) = above.get(path) {
                    return Some(*by);
                }
                gone.get(path).copied().or_else(|| {
                    parents(path).find_map(|parent| {
                        let replaced =
                            above.get(parent).filter(|(_, kind)| *kind != Kind::Folder).map(|(by, _)| *by);
                        gone.get(parent).or(emptied.get(parent)).copied().or(replaced)
                    })
                })
            };
            let by: Vec<_> = layer.entries.iter().map(hides).collect();
            all.push(by);
            for item in &layer.entries {
                above.entry(&item.path).or_insert((index + 1, item.kind));
            }
            layer.whiteouts.iter().for_each(|path| {
                gone.entry(path).or_insert(index + 1);
            });
            layer.opaque.iter().for_each(|path| {
                emptied.entry(path).or_insert(index + 1);
            });
        }
        all.reverse();
        Hidden(all)
    }
}

/// `a/b/c` has `a/b`, `a` and the root.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let path = rest.take().filter(|path| !path.is_empty())?;
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        rest = Some(parent);
        Some(parent)
    })
}

fn at(layer: usize, path: &str, line: Option<u32>, deleted_in: Option<usize>) -> Where {
    Where::Layer { layer: layer + 1, path: Some(format!("/{path}")), line, deleted_in }
}

/// What is in a layer stays in the image, whatever later layers hide: secrets, credentials, repositories.
fn kept(index: usize, layer: &Layer, hidden: &Hidden, findings: &mut Vec<Finding>) {
    let by = |entry: usize| hidden.0[index].get(entry).copied().flatten();
    let mut secret_files = HashSet::new();
    for (entry, Hit { code, line, what }) in &layer.hits {
        // What an entry is, is known once it was read whole.
        let Some(item) = layer.entries.get(*entry) else { continue };
        if *code == Code::SecretInFile {
            secret_files.insert(*entry);
        } else if by(*entry).is_some() {
            continue;
        }
        findings.push(Finding::new(*code, at(index, &item.path, *line, by(*entry)), what.clone()));
    }
    if layer.dropped > 0 {
        let what = format!("{} more are not listed", layer.dropped);
        let place = Where::Layer { layer: index + 1, path: None, line: None, deleted_in: None };
        findings.push(Finding::new(Code::SecretInFile, place, what));
    }
    let mut repositories = HashSet::new();
    for (entry, item) in layer.entries.iter().enumerate() {
        let place = || at(index, &item.path, None, by(entry));
        if let Some(folder) = paths::repository(&item.path) {
            if repositories.insert(folder) {
                let what = "a Git repository with its history".to_owned();
                findings.push(Finding::new(Code::GitFolder, at(index, folder, None, by(entry)), what));
            }
            continue;
        }
        if item.kind != Kind::File || item.size == 0 {
            continue;
        }
        if let Some(what) = paths::credential(&item.path) {
            findings.push(Finding::new(Code::CredentialFile, place(), what));
        } else if paths::configuration(&item.path) && !secret_files.contains(&entry) {
            let what = "configuration of one environment".to_owned();
            findings.push(Finding::new(Code::ConfigFile, place(), what));
        }
    }
}

/// Several paths that are one finding.
#[derive(Default)]
struct Group {
    paths: Vec<String>,
    count: usize,
    bytes: u64,
}

impl Group {
    fn add(&mut self, item: &Item) {
        if self.paths.len() < 5 {
            self.paths.push(format!("/{}", item.path));
        }
        self.count += 1;
        self.bytes += item.size;
    }

    fn told(&self) -> String {
        let more = self.count - self.paths.len();
        let names: Vec<String> = self.paths.iter().map(|path| format!("`{path}`")).collect();
        if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
    }
}

/// What a container sees and should not: each kind once for a layer.
fn entries(index: usize, layer: &Layer, hidden: &Hidden, user: Option<u64>, findings: &mut Vec<Finding>) {
    let mut groups: BTreeMap<Code, Group> = BTreeMap::new();
    let mut caches: BTreeMap<&str, Group> = BTreeMap::new();
    for (entry, item) in layer.entries.iter().enumerate() {
        if hidden.0[index][entry].is_some() {
            continue;
        }
        if item.kind == Kind::File
            && item.size > 0
            && let Some(whose) = paths::cache(&item.path)
        {
            caches.entry(whose).or_default().add(item);
        }
        for code in codes(item, user) {
            groups.entry(code).or_default().add(item);
        }
    }
    let place = || Where::Layer { layer: index + 1, path: None, line: None, deleted_in: None };
    for (code, group) in groups {
        findings.push(Finding::new(code, place(), group.told()));
    }
    for (whose, group) in caches {
        // Empty lock files and an index of a few bytes are in every base image.
        if group.bytes > 64 << 10 {
            let what = format!(
                "the cache of {whose}, {} in {} files: {}",
                mib(group.bytes),
                group.count,
                group.told()
            );
            findings.push(Finding::new(Code::PackageCache, place(), what));
        }
    }
}

fn codes(item: &Item, user: Option<u64>) -> impl Iterator<Item = Code> {
    let path = &*item.path;
    let file = item.kind == Kind::File;
    let sticky = item.mode & 0o1000 != 0 && item.kind == Kind::Folder;
    let open = item.mode & 0o002 != 0 && (file || item.kind == Kind::Folder) && !sticky;
    let place = matches!(path, "tmp" | "var/tmp" | "run" | "dev/shm") || path.starts_with("dev/");
    let own = file && paths::owner(path) == paths::Owner::Own && user.is_some_and(|user| user == item.uid);
    let program = file || item.kind == Kind::SymLink || item.kind == Kind::HardLink;
    [
        (file && (item.mode & 0o6000 != 0 || item.capabilities), Code::SetuidFile),
        (open && !place, Code::WorldWritable),
        (own && item.mode & 0o200 != 0 && (place || !open), Code::UserWritable),
        (path == "tmp" && item.kind == Kind::Folder && item.mode & 0o1777 != 0o1777, Code::TmpNotOpen),
        (item.kind == Kind::Device && !path.starts_with("dev/"), Code::DeviceFile),
        (program && paths::compiler(path).is_some(), Code::Compiler),
    ]
    .into_iter()
    .filter_map(|(holds, code)| holds.then_some(code))
}

/// Less than this is not worth a finding.
const WASTE: u64 = 10 << 20;

fn wasted(layers: &[Layer], hidden: &Hidden, findings: &mut Vec<Finding>) {
    for (index, layer) in layers.iter().enumerate() {
        let mut group = Group::default();
        let pairs = layer.entries.iter().zip(&hidden.0[index]);
        pairs.filter(|(_, by)| by.is_some()).for_each(|(item, _)| group.add(item));
        if group.bytes > WASTE {
            let what = format!("{} of it is hidden by later layers: {}", mib(group.bytes), group.told());
            let place = Where::Layer { layer: index + 1, path: None, line: None, deleted_in: None };
            findings.push(Finding::new(Code::WastedSpace, place, what));
        }
    }
}

/// `12.3 MiB`
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
