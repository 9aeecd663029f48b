//! Puts longshore itself into a volume, from which any image's containers can run it.

use std::path::Path;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, Volume, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveContainerOptions, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    UploadToContainerOptionsBuilder,
};
use tracing::info;

use super::spec::{INJECTED, INJECTED_DIR};
use super::{DockerError, DockerPlatform, label};

/// A longshore that runs in any image.
#[derive(Clone)]
pub struct SupervisorBinary {
    bytes: bytes::Bytes,
    volume: String,
}

impl SupervisorBinary {
    /// Reads it, and refuses one that an image would have to bring libraries for.
    ///
    /// Blocks. `version` becomes part of the volume's name, as does what the file holds.
    pub fn read(path: &Path, version: &str) -> Result<SupervisorBinary, DockerError> {
        let wrong = |why: String| DockerError::Binary { path: path.display().to_string(), why };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        check(&bytes).map_err(|why| wrong(why.to_owned()))?;
        let volume = format!("longshore-{version}-{:016x}", fnv(&bytes));
        Ok(SupervisorBinary { bytes: bytes.into(), volume })
    }

    pub fn volume(&self) -> &str {
        &self.volume
    }
}

/// Names what a file holds; not secure, and need not be.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Errors: why this is no static program for Linux.
fn check(elf: &[u8]) -> Result<(), &'static str> {
    const NOT: &str = "it is no 64-bit Linux program";
    const DYNAMIC: &str = "it needs shared libraries that an image may not have: use a static one (the release is static; \
        `[docker] inject` names another file)";
    let half = |at: usize| elf.get(at..at + 2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(NOT);
    }
    let table = elf.get(32..40).and_then(|eight| eight.try_into().ok()).map(u64::from_le_bytes).ok_or(NOT)?;
    let (size, count) = (half(54).ok_or(NOT)?, half(56).ok_or(NOT)?);
    for entry in 0..count {
        let at = usize::try_from(table).map_err(|_| NOT)? + entry * size;
        let entry = elf.get(at..at + size).ok_or(NOT)?;
        let kind = entry.get(..4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes).ok_or(NOT)?;
        // PT_INTERP: it asks for a dynamic linker.
        if kind == 3 {
            return Err(DYNAMIC);
        }
    }
    Ok(())
}

/// An archive that holds one program, readable and runnable by all.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = [0u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000555\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    // Filled up to a whole block, and two empty ones at the end.
    tar.resize(BLOCK + content.len().div_ceil(BLOCK) * BLOCK + 2 * BLOCK, 0);
    tar
}

/// Which of the volumes of one name it is. One that the engine made by itself, for a container that asked for it, carries no
/// label.
fn which(volume: &Volume) -> String {
    let made = volume.labels.get(label::VOLUME).cloned();
    made.unwrap_or_else(|| volume.created_at.as_ref().map(|at| format!("{at:?}")).unwrap_or_default())
}

/// Of no other volume.
fn fresh() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), std::process::id())
}

impl DockerPlatform {
    /// Fills the volume once after each start of this process, so that one that an earlier process left half full is mended; and
    /// again if it is another one by now: engines remove volumes that nothing uses when they are asked to prune.
    ///
    /// Any image will do; it is not run. Returns the volume's name.
    pub async fn inject(&self, binary: &SupervisorBinary, image: &str) -> Result<String, DockerError> {
        let mut filled = self.0.filled.lock().await;
        let there = self.volume(&binary.volume).await?.map(|volume| which(&volume));
        if there.is_some() && filled.remove(&binary.volume) == there {
            filled.extend(there.map(|which| (binary.volume.clone(), which)));
            return Ok(binary.volume.clone());
        }
        let labels = [(label::INSTALLATION, self.0.installation.clone()), (label::VOLUME, fresh())];
        let volume = VolumeCreateRequest {
            name: Some(binary.volume.clone()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            ..Default::default()
        };
        let made = self.0.docker.create_volume(volume).await;
        made.map_err(self.0.failed(format!("make the volume `{}`", binary.volume)))?;
        let name = format!("{}{:08x}", self.filler(), std::process::id());
        // Of an earlier process of the same number.
        let _ = self.0.docker.remove_container(&name, Some(by_force())).await;
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec![INJECTED.into()]),
            labels: Some([(label::INSTALLATION.to_owned(), self.0.installation.clone())].into()),
            host_config: Some(HostConfig {
                mounts: Some(vec![Mount {
                    typ: Some(MountType::VOLUME),
                    source: Some(binary.volume.clone()),
                    target: Some(INJECTED_DIR.into()),
                    ..Default::default()
                }]),
                network_mode: Some("none".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let created = self.0.docker.create_container(Some(options), body).await;
        created.map_err(self.0.failed(format!("fill the volume `{}`", binary.volume)))?;
        let options = UploadToContainerOptionsBuilder::new().path(INJECTED_DIR).build();
        let tar = archive("longshore", &binary.bytes).into();
        let filling = self.0.docker.upload_to_container(&name, Some(options), bollard::body_full(tar)).await;
        // While the container is there, it is the one that was filled.
        let there = self.volume(&binary.volume).await;
        // One that stays is looked for by `tidy_volumes`.
        let _ = self.0.docker.remove_container(&name, Some(by_force())).await;
        filling.map_err(self.0.failed(format!("fill the volume `{}`", binary.volume)))?;
        info!(volume = binary.volume, bytes = binary.bytes.len(), "volume with longshore filled");
        filled.extend(there?.map(|volume| (binary.volume.clone(), which(&volume))));
        Ok(binary.volume.clone())
    }

    /// What the names of containers begin with that are there to fill a volume.
    fn filler(&self) -> String {
        format!("longshore-fill-{}-", self.0.installation)
    }

    /// `None`: there is none of this name.
    async fn volume(&self, name: &str) -> Result<Option<Volume>, DockerError> {
        let found = self.0.docker.inspect_volume(name).await;
        match found.map_err(self.0.failed(format!("look at the volume `{name}`"))) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what filled volumes, and the volumes that this installation made but the one that is kept: those of other
    /// versions, once no container uses them. Must not run beside [`DockerPlatform::inject`].
    ///
    /// Returns what stays, each with why.
    pub async fn tidy_volumes(&self, keep: &str) -> Result<Vec<(String, DockerError)>, DockerError> {
        let mut stay = Vec::new();
        let filters = self.0.of_installation();
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.0.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(self.0.failed("list containers"))?.into_iter();
        let names = listed.flat_map(|container| container.names.unwrap_or_default());
        let names = names.map(|name| name.trim_start_matches('/').to_owned());
        for name in names.filter(|name| name.starts_with(&self.filler())) {
            let removed = self.0.docker.remove_container(&name, Some(by_force())).await;
            match removed.map_err(self.0.failed(format!("remove the container `{name}`"))) {
                Ok(()) => info!(container = name, "container that had filled a volume removed"),
                Err(error) if error.is_missing() => {}
                Err(error) => stay.push((name, error)),
            }
        }
        let mut filters = self.0.of_installation();
        filters.entry("label".into()).or_default().push(label::VOLUME.to_owned());
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let listed = self.0.docker.list_volumes(Some(options)).await;
        let listed = listed.map_err(self.0.failed("list volumes"))?.volumes.unwrap_or_default();
        for volume in listed.into_iter().filter(|volume| volume.name != keep) {
            let removed = self.0.docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await;
            match removed.map_err(self.0.failed(format!("remove the volume `{}`", volume.name))) {
                Ok(()) => info!(volume = volume.name, "volume with longshore removed: nothing uses it"),
                // A container uses it.
                Err(error) if matches!(error.status(), Some(404 | 409)) => {}
                Err(error) => stay.push((volume.name, error)),
            }
        }
        Ok(stay)
    }
}

fn by_force() -> RemoveContainerOptions {
    RemoveContainerOptionsBuilder::new().force(true).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a 64-bit program with one entry in its table.
    fn elf(kind: u32) -> Vec<u8> {
        let mut elf = vec![0u8; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64..68].copy_from_slice(&kind.to_le_bytes());
        elf
    }

    #[test]
    fn only_a_static_program_is_put_into_containers() {
        assert_eq!(check(&elf(1)), Ok(()));
        assert!(check(&elf(3)).is_err_and(|why| why.contains("shared libraries")));
        for no_program in [&b"#!/bin/sh\n"[..], b"", &elf(1)[..70], &elf(1)[..40]] {
            assert!(check(no_program).is_err(), "{no_program:?}");
        }
    }

    #[test]
    fn an_archive_is_what_tar_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.tar"), archive("longshore", b"content")).expect("written");
        let done =
            std::process::Command::new("tar").current_dir(folder.path()).args(["-xpf", "a.tar"]).status();
        assert!(done.expect("tar runs").success());
        let file = folder.path().join("longshore");
        assert_eq!(std::fs::read(&file).expect("unpacked"), b"content");
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("there").permissions());
        assert_eq!(mode & 0o777, 0o555);
    }
}
