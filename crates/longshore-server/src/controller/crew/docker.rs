//! What a worker of platform `docker` needs before it is started: an engine that answers, its image, a network, a way
//! to the worker link, room on the host.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use longshore_api::tls::Trust;
use longshore_core::container::{Container, Egress, Supervisor};
use longshore_core::errors::chain;
use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::rollout::Release;
use longshore_core::room::{self, Room};
use longshore_core::settings::DockerSettings;
use longshore_platform::docker::{
    self, ContainerSpec, DockerError, DockerPlatform, Engine, Hidden, Limits, Network, NetworkSpec,
    SupervisorBinary,
};
use longshore_store::{Epoch, FleetRecord};
use tracing::{info, warn};

use super::containers::REMOVAL;
use super::{GRACE, planes, secrets};
use crate::app::App;
use crate::door::Door;

/// How long all of it may take: a hanging engine must not hold up the fleets beside.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What names of platforms on Docker begin with; the engine's id follows.
pub const PLACE: &str = "docker@";

pub struct Docker {
    app: App,
    settings: DockerSettings,
    /// The binary that is injected if nothing else is said.
    program: PathBuf,
    door: Door,
    platform: OnceLock<DockerPlatform>,
    /// As it answered last.
    engine: Mutex<Option<Engine>>,
    /// As which leader the containers there are have been looked through.
    adopted: Mutex<Option<Epoch>>,
    binary: tokio::sync::OnceCell<SupervisorBinary>,
    /// Which images the names of releases stand for; all of it is in the store.
    pins: Mutex<HashMap<(FleetName, Release), String>>,
    /// Networks of fleets that are gone may still be there.
    leaves: AtomicBool,
    /// Those of them that could not be removed when it was last tried.
    stay: Mutex<Staying>,
    /// Workers that are no more, whose containers could not be removed.
    orphans: Mutex<Staying>,
    /// Volumes with longshore, and containers that filled them, which could not be removed.
    volumes: Mutex<Staying>,
}

/// Workers that are being started, and what they are promised.
pub type Starting = HashMap<WorkerId, Room>;

/// A fleet whose workers can be started now.
pub struct Ready {
    pub platform: DockerPlatform,
    pub place: String,
    network: String,
    links: Vec<String>,
    volume: Option<String>,
    image_id: String,
}

/// What could not be removed when it was last tried, so that each is said once.
#[derive(Default)]
struct Staying(BTreeSet<String>);

impl Staying {
    /// `now`: what stays, each with why. Returns what did not stay before.
    fn news(&mut self, now: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
        let now: Vec<_> = now.into_iter().collect();
        let names = now.iter().map(|(name, _)| name.clone()).collect();
        let before = std::mem::replace(&mut self.0, names);
        now.into_iter().filter(|(name, _)| !before.contains(name)).collect()
    }
}

impl Docker {
    pub fn new(app: App, program: PathBuf, door: Door, settings: DockerSettings) -> Docker {
        Docker {
            app,
            settings,
            program,
            door,
            platform: OnceLock::new(),
            engine: Mutex::default(),
            adopted: Mutex::default(),
            binary: tokio::sync::OnceCell::new(),
            pins: Mutex::default(),
            leaves: AtomicBool::new(false),
            stay: Mutex::default(),
            orphans: Mutex::default(),
            volumes: Mutex::default(),
        }
    }

    /// Errors: its socket is not there.
    pub fn platform(&self) -> Result<DockerPlatform, DockerError> {
        if let Some(platform) = self.platform.get() {
            return Ok(platform.clone());
        }
        let variable = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = self.settings.host.clone().or(variable);
        let platform = DockerPlatform::new(host.as_deref(), &self.app.signer.installation())?;
        Ok(self.platform.get_or_init(|| platform).clone())
    }

    /// The platform that workers of this engine are recorded with; `None`: it has not answered yet.
    pub fn place(&self) -> Option<String> {
        let engine = self.engine.lock().expect("no holder panics");
        engine.as_ref().map(|engine| format!("{PLACE}{}", engine.id))
    }

    /// The compose project of the settings.
    pub fn project(&self) -> Option<&str> {
        self.settings.project.as_deref()
    }

    pub fn override_file(&self) -> Option<&str> {
        self.settings.override_file.as_deref()
    }

    /// Asks the engine who it is.
    pub async fn meet(&self) -> Result<DockerPlatform, DockerError> {
        let platform = self.platform()?;
        let engine = platform.engine().await?;
        *self.engine.lock().expect("no holder panics") = Some(engine);
        Ok(platform)
    }

    /// Its containers have been looked through by this leader.
    pub fn has_adopted(&self, epoch: Epoch) {
        *self.adopted.lock().expect("no holder panics") = Some(epoch);
    }

    pub fn leaves_something(&self) -> bool {
        self.leaves.load(Ordering::Relaxed)
    }

    /// All was looked through; `empty`: with nothing left, nor anything that could leave something.
    pub fn has_left(&self, empty: bool) {
        self.leaves.store(!empty, Ordering::Relaxed);
    }

    pub fn adopted(&self) -> bool {
        let adopted = *self.adopted.lock().expect("no holder panics");
        adopted.is_some() && adopted == self.app.epoch()
    }

    /// Everything that starting a worker needs, so that none is planned in vain.
    ///
    /// Errors: why none can be started now, for people.
    ///
    /// `starting`: workers that may have no container yet, and what they are promised.
    pub async fn prepare(&self, record: &FleetRecord, starting: &Starting) -> Result<Ready, String> {
        let prepared = tokio::time::timeout(PATIENCE, self.prepare_now(record, starting)).await;
        prepared.unwrap_or_else(|_| Err("the Docker engine does not answer in time".into()))
    }

    async fn prepare_now(&self, record: &FleetRecord, starting: &Starting) -> Result<Ready, String> {
        let fleet = &record.declaration;
        let container = fleet.container.as_ref().ok_or("the fleet declares no image")?;
        if !self.adopted() {
            return Err("the containers that are there have not been looked through yet".into());
        }
        let platform = self.meet().await.map_err(|error| chain(&error))?;
        let engine =
            self.engine.lock().expect("no holder panics").clone().ok_or("no Docker engine has answered")?;
        let image = image_of(container);
        let known = container.image_id.clone().or_else(|| self.pin_of(record));
        let (called, facts) =
            platform.pinned(&image, known.as_deref()).await.map_err(|error| chain(&error))?;
        let injected = container.supervisor == Supervisor::Inject;
        docker::check(&image, &facts, injected, &fleet.command, &engine.architecture)
            .map_err(|unfit| unfit.to_string())?;
        self.admit(&platform, container, &engine, starting).await?;
        let network = platform.network(&network_of(fleet, container)).await.map_err(|error| chain(&error))?;
        let links = self.links(&platform, &network).await?;
        let volume = match injected {
            true => Some(self.inject(&platform, &called).await?),
            false => None,
        };
        let place = format!("{PLACE}{}", engine.id);
        let image_id = match known {
            Some(known) => known,
            None => self.pin(record, facts.id).await?,
        };
        Ok(Ready { platform, place, network: network.name, links, volume, image_id })
    }

    /// Which image the name of a release stands for, if this process has learned it.
    fn pin_of(&self, record: &FleetRecord) -> Option<String> {
        let pins = self.pins.lock().expect("no holder panics");
        pins.get(&(record.name.clone(), record.release)).cloned()
    }

    /// The first worker of a release settles which image its name stands for: a tag that moves is followed by a deploy alone.
    async fn pin(&self, record: &FleetRecord, id: String) -> Result<String, String> {
        let pinned = self.app.store.pin_image(record.name.clone(), record.release, id.clone()).await;
        let id = pinned.map_err(|error| chain(&error))?.unwrap_or(id);
        let mut pins = self.pins.lock().expect("no holder panics");
        pins.insert((record.name.clone(), record.release), id.clone());
        Ok(id)
    }

    /// Whether the host has room, by what all workers on it were promised, other installations' too.
    async fn admit(
        &self,
        platform: &DockerPlatform,
        container: &Container,
        engine: &Engine,
        starting: &Starting,
    ) -> Result<(), String> {
        let host = room::usable(Room { cpu: engine.cpu, memory: engine.memory });
        let usable = Room {
            cpu: self.settings.cpu.map_or(host.cpu, u64::from),
            memory: self.settings.memory.unwrap_or(host.memory),
        };
        let there = platform.workers().await.map_err(|error| chain(&error))?;
        let unseen = starting.iter().filter(|(id, _)| there.iter().all(|it| it.worker != id.as_str()));
        let unseen: Vec<Room> = unseen.map(|(_, room)| *room).collect();
        let taken = there.into_iter().filter(|it| it.runs).map(|it| Room { cpu: it.cpu, memory: it.memory });
        let taken: Vec<Room> = taken.chain(unseen).collect();
        room::admit(usable, &taken, promised(container)).map_err(|full| full.to_string())
    }

    /// Where the fleet's containers reach the worker link.
    async fn links(&self, platform: &DockerPlatform, network: &Network) -> Result<Vec<String>, String> {
        if let Some(Trust::File(path)) = &self.app.link_trust {
            return Err(format!(
                "containers cannot read the certificate `{}` that they would hold the worker link against: set `[server] tls = \"auto\"`",
                path.display()
            ));
        }
        let others = self.gather(platform, network).await?;
        let own = match planes::own(platform).await? {
            Some(container) => {
                platform.join(&network.name, &container, None).await.map_err(|error| chain(&error))?;
                self.door.by_name(&container.name)?
            }
            None => match network.gateway {
                Some(gateway) => self.door.at(&self.app, gateway).await?,
                None => {
                    return Err(format!(
                        "network `{}` has no gateway, so the host is not in it",
                        network.name
                    ));
                }
            },
        };
        let mut links: Vec<String> = own.into_iter().chain(others).collect();
        links.sort();
        links.dedup();
        match links.is_empty() {
            true => {
                Err("no control plane with the role `link` is there, so workers could not register".into())
            }
            false => Ok(links),
        }
    }

    /// Has the control planes in containers of this engine join a network; returns where workers in it reach the link of all
    /// that live.
    async fn gather(&self, platform: &DockerPlatform, network: &Network) -> Result<Vec<String>, String> {
        let mut links = Vec::new();
        for found in planes::others(&self.app, platform).await? {
            match found {
                planes::Found::Here(plane) => {
                    plane.join(platform, &network.name).await?;
                    links.extend(plane.link);
                }
                planes::Found::Elsewhere(link) => links.extend(link.filter(|link| is_elsewhere(link))),
            }
        }
        Ok(links)
    }

    /// Removes networks of fleets that are no more, and volumes of other versions of longshore. Returns whether none is left: a
    /// network goes only after the last that is in it.
    pub async fn tidy(&self, platform: &DockerPlatform, keep: &[String]) -> Result<bool, String> {
        let others = planes::others(&self.app, platform).await?.into_iter();
        let here = others.filter_map(|found| match found {
            planes::Found::Here(plane) => Some(plane.container),
            planes::Found::Elsewhere(_) => None,
        });
        let all: Vec<_> = here.chain(planes::own(platform).await?).collect();
        let stay = platform.tidy_networks(keep, &all).await.map_err(|error| chain(&error))?;
        let empty = stay.is_empty();
        let stay = stay.into_iter().map(|(network, error)| (network, chain(&error)));
        for (network, error) in self.stay.lock().expect("no holder panics").news(stay) {
            info!(network, error, "network of a fleet that is no more stays while it is in use");
        }
        let left = self.tidy_volumes(platform).await;
        let empty = empty && left.is_empty();
        for (name, error) in self.volumes.lock().expect("no holder panics").news(left) {
            warn!(name, error, "left over from putting longshore into a volume; its removal is tried again");
        }
        Ok(empty)
    }

    /// What is left, each with why. Nothing else waits for it: an engine may be kept from saying anything of volumes.
    async fn tidy_volumes(&self, platform: &DockerPlatform) -> Vec<(String, String)> {
        // Before the first one is put in, nobody knows which of them is the one to keep.
        let Some(keep) = self.binary.get().map(SupervisorBinary::volume) else { return Vec::new() };
        match tokio::time::timeout(REMOVAL, platform.tidy_volumes(keep)).await {
            Ok(Ok(stay)) => stay.into_iter().map(|(name, error)| (name, chain(&error))).collect(),
            Ok(Err(error)) => vec![("volumes".into(), chain(&error))],
            Err(_) => vec![("volumes".into(), "the Docker engine does not answer in time".into())],
        }
    }

    /// Which containers of workers that are no more could not be removed this time, each with why. Returns whether none is left.
    pub fn orphans_stay(&self, stay: Vec<(String, String)>) -> bool {
        let empty = stay.is_empty();
        for (worker, error) in self.orphans.lock().expect("no holder panics").news(stay) {
            warn!(
                worker,
                error, "container of a worker that is no more cannot be removed; it is tried again"
            );
        }
        empty
    }

    /// Listens again in the networks that there are, where workers of an earlier control plane look for us.
    pub async fn open_doors(&self, platform: &DockerPlatform, fleets: &[&FleetName]) -> Result<(), String> {
        for name in networks(platform, fleets) {
            if let Some(network) = platform.find_network(&name).await.map_err(|error| chain(&error))? {
                self.links(platform, &network).await?;
            }
        }
        Ok(())
    }

    async fn inject(&self, platform: &DockerPlatform, image: &str) -> Result<String, String> {
        let path = self.settings.inject.clone().map_or_else(|| self.program.clone(), PathBuf::from);
        let read = || async move {
            let read = move || SupervisorBinary::read(&path, env!("CARGO_PKG_VERSION"));
            match tokio::task::spawn_blocking(read).await {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(_) => Err("the binary could not be read".into()),
            }
        };
        let binary = self.binary.get_or_try_init(read).await?;
        platform.inject(binary, image).await.map_err(|error| chain(&error))
    }

    /// Errors: in words, since nothing but a person can do something about them.
    pub fn spec(&self, record: &FleetRecord, id: &WorkerId, ready: &Ready) -> Result<ContainerSpec, String> {
        let fleet = &record.declaration;
        let container = fleet.container.as_ref().ok_or("the fleet declares no image")?;
        let resources = container.resources;
        let stop_grace = Duration::from_millis(fleet.drain.timeout_ms) + GRACE;
        Ok(ContainerSpec {
            worker_id: id.to_string(),
            fleet: fleet.name.to_string(),
            release: record.release,
            image: image_of(container),
            image_id: Some(ready.image_id.clone()),
            supervisor: ready.volume.clone().map_or(docker::Supervisor::Image, docker::Supervisor::Volume),
            command: fleet.command.clone(),
            working_dir: fleet.working_dir.clone(),
            env: self.environment(fleet, id, ready)?,
            network: ready.network.clone(),
            limits: Limits {
                cpu: resources.cpu,
                cpu_limit: resources.cpu_limit,
                memory: resources.memory,
                memory_limit: resources.memory_limit,
                pids: resources.pids,
            },
            // Longer than we wait ourselves.
            stop_grace_s: u32::try_from(stop_grace.as_secs() + 5).unwrap_or(u32::MAX),
        })
    }

    fn environment(
        &self,
        fleet: &Fleet,
        id: &WorkerId,
        ready: &Ready,
    ) -> Result<Vec<(String, Hidden)>, String> {
        let mut env: Vec<(String, String)> =
            fleet.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        env.extend(secrets(fleet)?);
        let mut own = |name: &str, value: String| env.push((name.to_owned(), value));
        if let Ok(log) = std::env::var("LONGSHORE_LOG") {
            own("LONGSHORE_LOG", log);
        }
        own("LONGSHORE_WORKER_ID", id.to_string());
        own("LONGSHORE_FLEET", fleet.name.to_string());
        own("LONGSHORE_LINK", ready.links.join(","));
        if let Some(trust) = &self.app.link_trust {
            own("LONGSHORE_LINK_CA", trust.to_string());
        }
        own("LONGSHORE_PROBE_ADDR", format!("0.0.0.0:{}", docker::PROBES));
        own("LONGSHORE_WORKER_TOKEN", self.app.signer.token_of_worker(&fleet.name, id));
        Ok(env.into_iter().map(|(name, value)| (name, Hidden(value))).collect())
    }
}

/// What a worker is promised.
pub fn promised(container: &Container) -> Room {
    Room { cpu: container.resources.cpu.into(), memory: container.resources.memory }
}

/// The networks that these fleets' containers may be in: while a rollout changes `egress`, in both.
pub fn networks(platform: &DockerPlatform, fleets: &[&FleetName]) -> Vec<String> {
    let of = |fleet: &FleetName| {
        [false, true].map(|closed| platform.network_name(&NetworkSpec { fleet: fleet.to_string(), closed }))
    };
    fleets.iter().flat_map(|fleet| of(fleet)).collect()
}

fn network_of(fleet: &Fleet, container: &Container) -> NetworkSpec {
    NetworkSpec { fleet: fleet.name.to_string(), closed: container.egress == Egress::Closed }
}

/// What a fleet's containers are made of.
fn image_of(container: &Container) -> String {
    container.image.to_string()
}

/// An address that means another place in a container than here.
fn is_elsewhere(link: &str) -> bool {
    let host = link.split_once("://").map_or(link, |(_, rest)| rest);
    !(host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_said_once_until_it_is_gone() {
        let mut staying = Staying::default();
        let mut news = |now: &[&str]| {
            let now = now.iter().map(|name| ((*name).to_owned(), "busy".to_owned()));
            staying.news(now).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(news(&["a"]), ["a"]);
        assert_eq!(news(&["a", "b"]), ["b"]);
        assert_eq!(news(&["b"]), [""; 0]);
        assert_eq!(news(&["a", "b"]), ["a"], "it had gone");
    }
}
