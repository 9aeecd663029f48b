use longshore_testkit::{RedisCluster, RedisSentinel};

#[test]
fn a_cluster_serves_each_key_on_one_node_and_is_whole_again_after_one_was_lost() {
    let Some(cluster) = RedisCluster::start() else { return };
    let answers: Vec<_> = cluster.nodes().iter().map(|node| node.cli(&["SET", "{tag}k", "v"])).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "OK").count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("MOVED ")).count(), 2, "{answers:?}");
    let holder = answers.iter().position(|answer| answer == "OK").unwrap();
    cluster.nodes()[holder].kill();
    cluster.nodes()[holder].start_again();
    cluster.await_whole();
    assert_eq!(cluster.nodes()[holder].cli(&["GET", "{tag}k"]), "v");
}

#[test]
fn a_sentinel_promotes_the_replica_of_a_master_that_is_gone() {
    let Some(watched) = RedisSentinel::start() else { return };
    watched.master().cli(&["SET", "k", "v"]);
    assert_eq!(watched.master().cli(&["WAIT", "1", "10000"]), "1");
    watched.fail_over();
    assert_eq!(watched.master().cli(&["GET", "k"]), "v");
    assert_eq!(watched.master().cli(&["SET", "k", "w"]), "OK");
}
