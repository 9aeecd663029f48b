//! A Redis with a replica, watched by a sentinel that promotes it.

use super::{Redis, RedisOptions};
use crate::process::until;

const NAME: &str = "longshore";

/// A master, its replica and one sentinel. Half a second after the master is gone the replica is promoted.
pub struct RedisSentinel {
    sentinel: Redis,
    servers: [Redis; 2],
}

impl RedisSentinel {
    /// Starts all three and waits until the sentinel knows the replica; none after [`crate::skip`].
    pub fn start() -> Option<RedisSentinel> {
        let master = Redis::start()?;
        let port = master.port();
        let replica = Redis::options()
            .setting("replicaof", &format!("127.0.0.1 {port}"))
            // At once: without a disk in between, and without waiting for more replicas.
            .setting("repl-diskless-sync-delay", "0")
            .start()?;
        let sentinel = RedisOptions { sentinel: true, ..Redis::options() }
            .setting("sentinel", &format!("monitor {NAME} 127.0.0.1 {port} 1"))
            .setting("sentinel", &format!("down-after-milliseconds {NAME} 500"))
            .setting("sentinel", &format!("failover-timeout {NAME} 3000"))
            .start()?;
        let all = RedisSentinel { sentinel, servers: [master, replica] };
        all.await_replica();
        Some(all)
    }

    /// `redis://127.0.0.1:PORT` of the sentinel.
    pub fn url(&self) -> String {
        self.sentinel.url()
    }

    /// The name under which the sentinel knows the master.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The sentinel itself.
    pub fn sentinel(&self) -> &Redis {
        &self.sentinel
    }

    /// The server that the sentinel takes for the master now.
    pub fn master(&self) -> &Redis {
        let answer = self.sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        let port = answer.lines().last().and_then(|port| port.parse().ok());
        self.servers.iter().find(|server| Some(server.port()) == port).expect("it is one of the two")
    }

    /// Kills the master and waits until the other is one.
    pub fn fail_over(&self) {
        let lost = self.master().port();
        self.master().kill();
        until("the other to be master", || {
            let now = self.master();
            now.port() != lost && now.cli(&["ROLE"]).starts_with("master")
        });
    }

    fn await_replica(&self) {
        let [_, replica] = &self.servers;
        // It is in no vote before it is in step, and in none that the sentinel has not heard of.
        until("the replica to be in step", || {
            replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
                && self.sentinel.cli(&["SENTINEL", "REPLICAS", NAME]).contains(&replica.port().to_string())
        });
    }
}
