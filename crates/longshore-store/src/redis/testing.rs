//! A Redis server of its own for each test, and a line to it that can be cut.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ::redis::{Client, FromRedisValue, cmd};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Redis;
use super::options::{Options, Topology};

/// Killed, with all it knew, when dropped.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) folder: TempDir,
    arguments: Vec<String>,
    child: Mutex<Child>,
    more: Option<TempDir>,
}

pub(super) use longshore_testkit::port::free as free_port;

pub(super) fn options(port: u16) -> Options {
    let address = format!("redis://127.0.0.1:{port}");
    Options::parse(Topology::Single, &[&address]).expect("valid")
}

/// Connected.
pub(super) async fn redis(server: &Server) -> Redis {
    let redis = Redis::connect(options(server.port));
    redis.wait_until(true).await;
    redis
}

impl Server {
    pub(super) async fn start() -> Server {
        Server::with(&[]).await
    }

    /// `{dir}` and `{port}` in the arguments stand for the server's own.
    pub(super) async fn with(arguments: &[&str]) -> Server {
        // A port that was free may be taken by the time the server has it.
        loop {
            if let Some(server) = Server::at(free_port(), arguments).await {
                return server;
            }
        }
    }

    async fn at(port: u16, arguments: &[&str]) -> Option<Server> {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().display().to_string();
        let arguments: Vec<String> = arguments
            .iter()
            .map(|text| text.replace("{dir}", &dir).replace("{port}", &port.to_string()))
            .collect();
        let child = Mutex::new(spawn(port, &dir, &arguments));
        let server = Server { port, folder, arguments, child, more: None };
        server.wait_until_it_listens().await.then_some(server)
    }

    async fn wait_until_it_listens(&self) -> bool {
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if self.child.lock().unwrap().try_wait().expect("a child").is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.child.lock().unwrap().try_wait().expect("a child").is_none()
    }

    /// Without a word, as a crash is.
    pub(super) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// On the same port, empty.
    pub(super) async fn start_again(&self) {
        self.kill();
        let dir = self.folder.path().display().to_string();
        *self.child.lock().unwrap() = spawn(self.port, &dir, &self.arguments);
        assert!(self.wait_until_it_listens().await, "the port was taken meanwhile");
    }

    /// A sentinel that watches that master, and takes its word alone.
    pub(super) async fn sentinel(master: u16) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 300\n\
             sentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).expect("it can be written");
        let mut server = Server::with(&[&file.display().to_string(), "--sentinel"]).await;
        server.more = Some(folder);
        server
    }

    /// Three masters that share all slots.
    pub(super) async fn cluster() -> [Server; 3] {
        let node = async || {
            // As for the port itself: that of the bus may be taken as well.
            loop {
                let bus = free_port().to_string();
                let arguments = [
                    "--cluster-enabled",
                    "yes",
                    "--cluster-config-file",
                    "nodes.conf",
                    "--cluster-port",
                    &bus,
                ];
                if let Some(server) = Server::at(free_port(), &arguments).await {
                    break (server, bus);
                }
            }
        };
        let nodes = [node().await, node().await, node().await];
        for ((server, _), (first, last)) in nodes.iter().zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            let (first, last) = (first.to_string(), last.to_string());
            server.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            for (other, bus) in &nodes {
                server.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), bus]).await;
            }
        }
        let servers = nodes.map(|(server, _)| server);
        for server in &servers {
            let complete = |info: &str| {
                info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384")
            };
            while !complete(&server.ask::<String>(&["CLUSTER", "INFO"]).await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        servers
    }

    /// Holds still without closing anything, or goes on.
    pub(super) fn freeze(&self, freeze: bool) {
        use nix::sys::signal::{Signal, kill};
        let signal = if freeze { Signal::SIGSTOP } else { Signal::SIGCONT };
        let id = self.child.lock().unwrap().id();
        kill(nix::unistd::Pid::from_raw(id as i32), signal).expect("it runs");
    }

    /// As the operator, past the code under test.
    pub(super) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("valid");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it listens");
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.expect("it answers")
    }

    /// How often a command was called so far.
    pub(super) async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.ask(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, dir: &str, arguments: &[String]) -> Child {
    // A configuration file comes first.
    let (file, arguments) =
        arguments.split_at(usize::from(arguments.first().is_some_and(|a| a.ends_with(".conf"))));
    Command::new("redis-server")
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", dir])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// A line to a server that can be cut and mended.
pub(super) struct Proxy {
    port: u16,
    whole: watch::Sender<bool>,
}

impl Proxy {
    pub(super) async fn to(server: u16) -> Proxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (whole, seen) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(pass(inbound, server, seen.clone()));
            }
        });
        Proxy { port, whole }
    }

    pub(super) fn options(&self) -> Options {
        options(self.port)
    }

    pub(super) fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub(super) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn pass(mut inbound: TcpStream, server: u16, mut whole: watch::Receiver<bool>) {
    if !*whole.borrow() {
        return;
    }
    let Ok(mut outbound) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut inbound, &mut outbound) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
