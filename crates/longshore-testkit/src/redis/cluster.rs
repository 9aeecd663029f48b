//! A Redis cluster of three nodes.

use super::Redis;
use crate::port;
use crate::process::until;

/// All slots that there are.
const SLOTS: u16 = 16_384;

const NODES: u16 = 3;

/// Three masters without replicas: each key lives on one, and a node that dies takes its third along until it is back.
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts the nodes and waits until they know each other; none after [`crate::skip`].
    pub fn start() -> Option<RedisCluster> {
        let nodes = (0..NODES).map(|_| node()).collect::<Option<Vec<_>>>()?;
        let cluster = RedisCluster { nodes };
        cluster.share_slots();
        cluster.introduce();
        cluster.await_whole();
        Some(cluster)
    }

    /// Its nodes; any of them tells a client of the others.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// `redis://127.0.0.1:PORT` of each node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// Waits until each node knows all, and every slot is served.
    pub fn await_whole(&self) {
        let whole = |node: &Redis| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_size:{NODES}"))
        };
        until("the cluster to be whole", || self.nodes.iter().all(whole));
    }

    fn share_slots(&self) {
        for (node, at) in self.nodes.iter().zip(0..) {
            let (first, last) = (at * SLOTS / NODES, (at + 1) * SLOTS / NODES - 1);
            done(node, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            // Else all have the same epoch, and would have to settle that first.
            done(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
    }

    fn introduce(&self) {
        let (first, others) = self.nodes.split_first().expect("there are three");
        for other in others {
            let bus = bus_of(other);
            done(first, &["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus]);
        }
    }
}

fn node() -> Option<Redis> {
    Redis::options()
        .setting("cluster-enabled", "yes")
        // The default, the port plus 10,000, may be another server's.
        .setting("cluster-port", &port::free().to_string())
        .setting("cluster-node-timeout", "1000")
        .start()
}

fn bus_of(node: &Redis) -> String {
    let answer = node.cli(&["CONFIG", "GET", "cluster-port"]);
    answer.lines().last().expect("name and value").to_owned()
}

fn done(node: &Redis, command: &[&str]) {
    assert_eq!(node.cli(command), "OK", "{command:?}");
}
