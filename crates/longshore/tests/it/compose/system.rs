//! The whole system of examples/compose, with images of this machine's own programs under other names.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore_testkit::skip;

use super::scene::{Project, put, root_of};
use crate::plane::binary;

const ENTRY: &str = "#!/bin/sh
set -e
if [ ! -s \"$PGDATA/PG_VERSION\" ]; then
  initdb -D \"$PGDATA\" -U \"$POSTGRES_USER\" --pwfile=\"$POSTGRES_PASSWORD_FILE\" --auth-host=scram-sha-256 \\
    --auth-local=trust -E UTF8 --locale=C --no-sync
  echo 'host all all all scram-sha-256' >> \"$PGDATA/pg_hba.conf\"
  echo \"CREATE DATABASE $POSTGRES_DB;\" | postgres --single -D \"$PGDATA\" postgres
fi
exec postgres -D \"$PGDATA\" -c listen_addresses='*' -c unix_socket_directories=/tmp
";

/// Where Postgres is on this machine: its programs, its libraries, what it shares.
struct Postgres {
    bin: PathBuf,
    lib: PathBuf,
    share: PathBuf,
}

fn postgres() -> Option<Postgres> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<_> = versions.filter_map(|it| Some(it.ok()?.file_name())).collect();
    versions.sort();
    let version = versions.pop()?;
    let of = |folder: &str| Path::new(folder).join(&version);
    let lib = of("/usr/lib/postgresql");
    Some(Postgres { bin: lib.join("bin"), lib: lib.join("lib"), share: of("/usr/share/postgresql") })
}

/// Prepares the images and the folder of the sample; none after [`skip`].
pub fn install(project: &mut Project) -> Option<()> {
    let redis = ["redis-server", "redis-cli"].map(|name| Path::new("/usr/bin").join(name));
    let Some(postgres) = postgres().filter(|_| redis.iter().all(|program| program.exists())) else {
        skip("Debian's postgresql and redis-server are not installed");
        return None;
    };
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/compose");
    for file in ["docker-compose.yml", "longshore.toml"] {
        project.write(file, &fs::read_to_string(sample.join(file)).expect("the sample"));
    }
    let (secrets, scaled) = (project.dir.path().join("secrets"), project.dir.path().join("scaled"));
    for folder in [&secrets, &scaled] {
        fs::create_dir(folder).expect("the folder is writable");
    }
    if chown(&scaled, Some(10001), None).is_err() {
        fs::set_permissions(&scaled, fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    for name in ["postgres", "redis", "token"] {
        fs::write(secrets.join(name), format!("{name}-0123456789abcdef\n")).expect("the folder is writable");
    }
    let longshore = longshore_root();
    let at = "/usr/local/bin/longshore";
    let worker = format!("ENTRYPOINT [\"{at}\",\"worker\",\"--\"]");
    let images = [
        ("LONGSHORE_IMAGE", image(project, "own", &longshore, 10001, &[&format!("ENTRYPOINT [\"{at}\"]")])),
        (
            "AGENT_IMAGE",
            image(
                project,
                "agent",
                &longshore,
                10001,
                &[&worker, "CMD [\"sh\",\"-c\",\"sleep 0.5; echo done\"]"],
            ),
        ),
        (
            "REDIS_IMAGE",
            image(project, "redis", &shell_and(&redis.each_ref().map(PathBuf::as_path)), 999, &[]),
        ),
        (
            "POSTGRES_IMAGE",
            image(
                project,
                "postgres",
                &postgres_root(&postgres),
                999,
                &[
                    "ENTRYPOINT [\"/entry\"]",
                    "ENV PGDATA=/var/lib/postgresql/data",
                    &format!("ENV PATH={}:/bin:/usr/bin", postgres.bin.display()),
                ],
            ),
        ),
    ];
    for (name, image) in images {
        project.set(name, image);
    }
    let socket = project.engine.host().strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned();
    let group = fs::metadata(&socket).map(|socket| socket.gid()).unwrap_or_default();
    project.set("DOCKER_SOCKET", socket);
    project.set("DOCKER_GID", group.to_string());
    project.set("LONGSHORE_PORT", longshore_testkit::port::free().to_string());
    Some(())
}

/// A shell, and these programs where they are on this machine.
fn shell_and(programs: &[&Path]) -> tempfile::TempDir {
    let root = root_of(programs);
    for folder in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
        fs::create_dir_all(root.path().join(folder)).expect("the folder is writable");
    }
    fs::set_permissions(root.path().join("tmp"), fs::Permissions::from_mode(0o1777)).expect("it is ours");
    fs::copy("/bin/busybox", root.path().join("bin/busybox")).expect("busybox is there");
    for tool in ["sh", "sleep", "cat", "echo", "grep", "rm", "mkdir", "kill"] {
        symlink("busybox", root.path().join("bin").join(tool)).expect("a link");
    }
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nservice:x:999:999::/:/bin/sh\n")
        .expect("the folder is writable");
    root
}

fn longshore_root() -> tempfile::TempDir {
    let root = shell_and(&[]);
    put(root.path(), Path::new("/etc/ssl/certs/ca-certificates.crt"));
    let libraries = root_of(&[Path::new(binary())]);
    // The libraries where they are, the binary where its image has it.
    for folder in ["lib", "lib64", "usr"] {
        copy_all(&libraries.path().join(folder), root.path());
    }
    let at = root.path().join("usr/local/bin");
    fs::create_dir_all(&at).expect("the folder is writable");
    fs::copy(binary(), at.join("longshore")).expect("the binary under test");
    root
}

fn postgres_root(postgres: &Postgres) -> tempfile::TempDir {
    let programs = ["postgres", "initdb", "pg_isready"].map(|name| postgres.bin.join(name));
    let root = shell_and(&programs.each_ref().map(PathBuf::as_path));
    for library in ["plpgsql.so", "dict_snowball.so"] {
        put(root.path(), &postgres.lib.join(library));
    }
    let share = root.path().join(postgres.share.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(share.parent().expect("a folder")).expect("the folder is writable");
    copy_all(&postgres.share, share.parent().expect("a folder"));
    put(root.path(), Path::new("/usr/share/zoneinfo/UTC"));
    let data = root.path().join("var/lib/postgresql/data");
    fs::create_dir_all(&data).expect("the folder is writable");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let entry = root.path().join("entry");
    fs::write(&entry, ENTRY).expect("the folder is writable");
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).expect("it is ours");
    root
}

/// A folder that may not be there, with all that is in it.
fn copy_all(from: &Path, into: &Path) {
    if from.exists() {
        let copied = Command::new("cp").arg("-a").arg(from).arg(into).status();
        assert!(copied.expect("cp runs").success(), "{}", from.display());
    }
}

/// An image of this root file system, all of which belongs to the user that it runs as.
fn image(project: &mut Project, kind: &str, root: &tempfile::TempDir, user: u32, changes: &[&str]) -> String {
    let name = format!("longshore-test/{}-{kind}:1", project.engine.fleet);
    let mut import = Command::new("docker");
    import.env("DOCKER_HOST", project.engine.host()).arg("import");
    let always = [format!("LABEL longshore.test={}", project.engine.fleet), format!("USER {user}:{user}")];
    for change in changes.iter().copied().chain(always.iter().map(String::as_str)) {
        import.args(["--change", change]);
    }
    let import = import.args(["-", &name]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut import = import.expect("docker runs");
    let owner = [format!("--owner={user}"), format!("--group={user}")];
    let tar = Command::new("tar").args(owner).arg("-c").arg("-C").arg(root.path()).arg(".").output();
    let mut input = import.stdin.take().expect("piped");
    input.write_all(&tar.expect("tar runs").stdout).expect("docker reads it");
    drop(input);
    assert!(import.wait().expect("it ends").success(), "docker import");
    project.images.push(name.clone());
    name
}
