//! Writes into the text of a longshore.toml which images its tags stand for, and changes nothing else in it.
//!
//! Of what runs in a cluster, where every node would find out for itself: the fleets of platform `kubernetes`, and longshore's
//! own image.

use std::collections::BTreeMap;

use longshore_core::container::Image;
use longshore_core::fleet::Platform;
use longshore_core::id::FleetName;
use longshore_core::settings::Settings;
use longshore_platform::registry::{Registries, Unknown};
use toml_edit::{DocumentMut, Item, Value};

use crate::error::{Fault, Outcome};

/// A name in the file, and what it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `fleet.research.image`.
    pub key: String,
    pub from: Image,
    pub to: Image,
}

/// Where an image stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// None: longshore's own.
    fleet: Option<FleetName>,
    image: Image,
}

impl Place {
    fn key(&self) -> String {
        match &self.fleet {
            Some(fleet) => format!("fleet.{fleet}.image"),
            None => "kubernetes.image".into(),
        }
    }
}

/// Which images are meant.
#[derive(Clone, Copy, Debug)]
pub struct Which<'a> {
    /// Of these fleets alone; empty: of all.
    pub fleets: &'a [FleetName],
    /// longshore's own, too.
    pub own: bool,
    /// Also those that have a digest beside their tag already.
    pub again: bool,
}

/// Asks what tags stand for, each once.
///
/// Errors: all that could not be found out, each with its key.
pub async fn changes(settings: &Settings, which: Which<'_>) -> Outcome<Vec<Change>> {
    let registries = Registries { insecure: settings.kubernetes.insecure_registries.clone() };
    let mut asked: BTreeMap<String, Result<String, Unknown>> = BTreeMap::new();
    let (mut changes, mut unknown) = (Vec::new(), Vec::new());
    for place in places(settings, which) {
        let named = Image { digest: None, ..place.image.clone() };
        let text = named.to_string();
        if !asked.contains_key(&text) {
            let found = registries.find(&named).await.map(|found| found.digest);
            asked.insert(text.clone(), found);
        }
        match &asked[&text] {
            Ok(digest) if place.image.digest.as_ref() == Some(digest) => {}
            Ok(digest) => {
                let to = named.by_digest(digest);
                changes.push(Change { key: place.key(), from: place.image, to });
            }
            Err(why) => unknown.push(format!("{}: `{text}`: {why}", place.key())),
        }
    }
    match unknown.is_empty() {
        true => Ok(changes),
        false => Err(Fault::new("it is not known what every tag stands for").details(unknown).hint(
            "push what is missing, or write its digest into the file; an image that nodes have without any registry has none",
        )),
    }
}

/// Whose names have no digest.
pub fn unpinned(settings: &Settings, which: Which<'_>) -> Vec<String> {
    places(settings, Which { again: false, ..which }).iter().map(Place::key).collect()
}

fn places(settings: &Settings, Which { fleets: chosen, own, again }: Which<'_>) -> Vec<Place> {
    let own = settings.kubernetes.image.iter().filter(|_| own).map(|image| (None, image.clone()));
    let fleets = settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Kubernetes);
    let fleets = fleets.filter(|fleet| chosen.is_empty() || chosen.contains(&fleet.name));
    let theirs =
        fleets.filter_map(|fleet| Some((Some(fleet.name.clone()), fleet.container.as_ref()?.image.clone())));
    let wanted = |image: &Image| image.digest.is_none() || again && image.tag.is_some();
    own.chain(theirs)
        .filter(|(_, image)| wanted(image))
        .map(|(fleet, image)| Place { fleet, image })
        .collect()
}

/// The file with these changes.
///
/// Errors: a name does not stand in the file, so it comes from somewhere else.
pub fn write(text: &str, changes: &[Change]) -> Outcome<String> {
    let mut file: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| Fault::new(error.to_string()))?;
    for change in changes {
        let mut item = Some(file.as_item_mut());
        for key in change.key.split('.') {
            item = item.and_then(|item| item.as_table_like_mut()?.get_mut(key));
        }
        let found = item.is_some_and(|item| put(item, &change.to));
        if !found {
            return Err(Fault::new(format!(
                "{} is not written in the file itself: pin it where it comes from",
                change.key
            )));
        }
    }
    Ok(file.to_string())
}

/// Changes a name, whether it is a text or a table. False: it is neither.
fn put(item: &mut Item, image: &Image) -> bool {
    if let Some(table) = item.as_table_like_mut() {
        table.remove("tag");
        return table.get_mut("repository").is_some_and(|item| put_text(item, image));
    }
    put_text(item, image)
}

/// What stands around it, a comment say, stays.
fn put_text(item: &mut Item, image: &Image) -> bool {
    let Some(value) = item.as_value_mut().filter(|value| value.is_str()) else { return false };
    let around = value.decor().clone();
    *value = Value::from(image.to_string());
    *value.decor_mut() = around;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Which<'static> = Which { fleets: &[], own: true, again: false };

    const FILE: &str = "# Ours.\n[kubernetes]\nimage = 'registry.internal/longshore:1'   # by hand\n\n\
        [fleet.research]\nplatform = \"kubernetes\"\nimage = { tag = \"1.4\", repository = \"registry.internal/research\" }\n\
        [fleet]\ncrawl.platform = \"kubernetes\"\ncrawl.image = \"registry.internal/crawl\"  # the newest\n\
        [fleet.local]\nplatform = \"docker\"\nimage = \"local:1\"\n";

    fn settings(text: &str) -> Settings {
        longshore_core::settings::parse(text, "longshore.toml", &[], "/srv").expect("a good file").0
    }

    fn digest(letter: &str) -> String {
        format!("sha256:{}", letter.repeat(64))
    }

    fn pinned(place: Place, letter: &str) -> Change {
        let to = place.image.by_digest(&digest(letter));
        Change { key: place.key(), from: place.image, to }
    }

    #[test]
    fn only_names_change_and_they_are_read_back_as_what_they_stand_for() {
        let changes: Vec<Change> =
            places(&settings(FILE), ALL).into_iter().map(|place| pinned(place, "a")).collect();
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["kubernetes.image", "fleet.crawl.image", "fleet.research.image"]);
        let text = write(FILE, &changes).expect("they are there");
        let a = digest("a");
        let expected = FILE
            .replace("'registry.internal/longshore:1'", &format!("\"registry.internal/longshore:1@{a}\""))
            .replace(
                "tag = \"1.4\", repository = \"registry.internal/research\"",
                &format!("repository = \"registry.internal/research:1.4@{a}\""),
            )
            .replace("crawl\"", &format!("crawl@{a}\""));
        assert_eq!(text, expected);
        let again = settings(&text);
        assert_eq!(unpinned(&again, ALL), Vec::<String>::new());
        let one = ["crawl".parse().expect("a name")];
        let chosen = places(&settings(FILE), Which { fleets: &one, own: false, again: false });
        assert_eq!(chosen.iter().map(Place::key).collect::<Vec<_>>(), ["fleet.crawl.image"]);
        // One that was named without a tag has none to ask about again.
        let tagged: Vec<String> =
            places(&again, Which { again: true, ..ALL }).iter().map(Place::key).collect();
        assert_eq!(tagged, ["kubernetes.image", "fleet.research.image"]);
    }

    #[test]
    fn a_name_that_comes_from_elsewhere_is_not_lost() {
        let place = Place {
            fleet: Some("other".parse().expect("a name")),
            image: Image::parse("a:1").expect("an image"),
        };
        let fault = write(FILE, &[pinned(place, "a")]).expect_err("it is not in the file");
        assert!(
            fault.summary().contains("fleet.other.image is not written in the file"),
            "{}",
            fault.summary()
        );
    }
}
