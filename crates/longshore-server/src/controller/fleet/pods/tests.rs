//! Rollouts against an API server that loses answers, refuses and rewrites, with leaders that come and go.

mod fake;

use longshore_core::container::{Container, Image};
use longshore_core::fleet::{Fleet, Platform};
use longshore_core::kubernetes::{DECLARATION, digest};
use longshore_core::rollout::{Order, Plan};
use longshore_platform::kubernetes::{Cluster, Watch};
use longshore_store::NewRelease;
use serde_json::{Value, json};

use self::fake::{Answer, Fake};
use super::*;
use crate::Server;
use crate::tests::scene;

struct World {
    server: Server,
    fake: Fake,
    sight: Sight,
    controller: Controller,
    _dir: tempfile::TempDir,
}

fn research(image: &str) -> Fleet {
    let mut fleet = Fleet::new(scene::fleet("research"), vec!["run".into()], String::new());
    fleet.platform = Platform::Kubernetes;
    (fleet.scaling.min, fleet.scaling.max, fleet.scaling.by) = (1, 1, ScaledBy::Hpa);
    (fleet.rollout.ready_ms, fleet.rollout.hold_ms) = (300, 0);
    fleet.container = Some(Container {
        image: Image::parse(image).expect("an image"),
        image_id: None,
        supervisor: Default::default(),
        egress: Default::default(),
        resources: Default::default(),
    });
    fleet
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"));
}

impl World {
    /// A fleet that runs release 1, `research:1`, and is known to.
    async fn new() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let server = Box::pin(scene::start(&dir, "", None)).await.expect("it starts");
        let app = server.app().clone();
        until("it to lead", || app.epoch().is_some()).await;
        let fleet = research("research:1");
        app.store.put_fleets(vec![fleet.clone()], now()).await.expect("stored");
        let fake = Fake::start(&digest(&fleet), "research:1").await;
        let cluster = Cluster::at(fake.url(), "agents").await.expect("it answers");
        let watch = Watch::start(&cluster);
        watch.ready().await;
        let controller = Controller::new(app.epoch().expect("it leads"));
        let mut world = World { server, fake, sight: Sight::of(cluster, watch), controller, _dir: dir };
        assert_eq!(world.look().await, Ok(()));
        world
    }

    fn app(&self) -> &App {
        self.server.app()
    }

    /// Once all that has happened is seen.
    async fn look(&mut self) -> Result<(), String> {
        let open = self.app().store.open_rollouts().await.expect("read").pop();
        self.look_with(open).await
    }

    /// `open`: the rollout as it was read, which somebody may have changed since.
    async fn look_with(&mut self, open: Option<RolloutRecord>) -> Result<(), String> {
        let app = self.app().clone();
        let (version, watch) = (self.fake.version(), &self.sight.watch);
        until("what has happened", || watch.deployment("research").is_some_and(|it| it.version == version))
            .await;
        let record = app.store.fleet(scene::fleet("research")).await.expect("read").expect("declared");
        // Nobody waits for the next attempt.
        for (at, _) in self.controller.pods.failed.values_mut() {
            *at -= AGAIN;
        }
        Box::pin(self.controller.keep_seen(&app, &self.sight, &record, open)).await.expect("stored")
    }

    /// The leader is gone, and another one knows what is in the store.
    fn another_leads(&mut self) {
        self.controller = Controller::new(self.app().epoch().expect("it leads"));
    }

    async fn deploy(&self, image: &str) {
        let release = NewRelease { declaration: research(image), commit: None, supersede: true };
        let deployed =
            self.app().store.deploy(scene::fleet("research"), release, now()).await.expect("stored");
        assert!(matches!(deployed, longshore_store::Deployed::Begun(_)), "{deployed:?}");
    }

    async fn undo(&self) {
        let undone =
            self.app().store.undo_rollout(scene::fleet("research"), None, "an operator".into(), now());
        undone.await.expect("stored");
    }

    async fn order(&self, order: Order) {
        self.app().store.order_rollout(scene::fleet("research"), order, now()).await.expect("stored");
    }

    /// Of its rollouts, newest first: from, to and how each stands.
    async fn rollouts(&self) -> Vec<(u64, u64, &'static str)> {
        let all = self.app().store.rollouts(Some(scene::fleet("research")), 9).await.expect("read");
        all.into_iter().map(|it| (it.plan.from, it.plan.to, it.plan.phase.as_str())).collect()
    }

    async fn open(&self) -> Plan {
        let mut open = self.app().store.open_rollouts().await.expect("read");
        open.pop().expect("one is under way").plan
    }

    fn notes(&self) -> String {
        let notes = self.app().notes.lock().expect("no holder panics");
        notes.get(&scene::fleet("research")).cloned().unwrap_or_default().join("; ")
    }

    async fn end(mut self) {
        self.fake.stop();
        self.server.stop().await;
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_taken_for_nobodys_word_by_this_leader_or_the_next() {
    for (another, then) in [(false, "undo"), (true, "undo"), (false, "deploy"), (true, "deploy")] {
        let mut world = World::new().await;
        world.deploy("research:2").await;
        world.fake.answers(Answer::Lost);
        world.look().await.expect_err("the answer is lost");
        assert_eq!(world.fake.image(), "research:2", "and it was done");
        world.fake.answers(Answer::Good);
        if another {
            world.another_leads();
        }
        let (image, rollouts) = match then {
            "undo" => {
                world.undo().await;
                ("research:1", vec![(1, 2, "rolled_back")])
            }
            _ => {
                world.deploy("research:3").await;
                ("research:3", vec![(1, 3, "forward"), (1, 2, "superseded")])
            }
        };
        for _ in 0..3 {
            _ = world.look().await;
        }
        assert_eq!(world.fake.image(), image, "{then}, {another}");
        assert_eq!(world.rollouts().await, rollouts, "{then}, {another}");
        world.end().await;
    }
}

#[tokio::test]
async fn what_a_webhook_makes_of_a_release_is_that_release() {
    let mut world = World::new().await;
    world.fake.answers(Answer::Rewritten);
    world.deploy("research:2").await;
    for _ in 0..3 {
        assert_eq!(world.look().await, Ok(()));
    }
    assert_eq!(world.fake.image(), "mirror/research:2");
    assert_eq!(world.rollouts().await, [(1, 2, "forward")]);
    world.end().await;
}

#[tokio::test]
async fn who_sets_again_what_was_taken_back_is_followed_and_not_fought() {
    let mut world = World::new().await;
    let set = |fake: &Fake| {
        fake.edit(|spec| spec["template"]["spec"]["containers"][0]["image"] = "research:9".into());
    };
    set(&world.fake);
    _ = world.look().await;
    assert_eq!(world.rollouts().await, [(1, 2, "forward")]);
    world.undo().await;
    _ = world.look().await;
    assert_eq!(world.fake.image(), "research:1", "an operator's word");
    assert_eq!(world.look().await, Ok(()));
    set(&world.fake);
    for another in [false, false, true, false] {
        if another {
            world.another_leads();
        }
        _ = world.look().await;
    }
    assert_eq!(world.fake.image(), "research:9");
    let began = Instant::now();
    let open = loop {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it is judged still: {:?}",
            world.open().await.policy
        );
        // What only time changes in a plan is not saved at each look.
        _ = world.look().await;
        let open = world.open().await;
        assert_eq!((open.to, open.phase.as_str()), (3, "forward"));
        if is_without_verdict(&open.policy) {
            break open;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(open.to_string(), "release 1 is replaced by 3: Kubernetes replaces the pods");
    assert!(world.notes().contains("release 3 was taken back"), "{}", world.notes());
    world.undo().await;
    _ = world.look().await;
    assert_eq!(world.fake.image(), "research:1", "a person may say so still");
    world.end().await;
}

#[tokio::test]
async fn the_next_leader_knows_whose_pause_it_is() {
    for lost in [false, true] {
        let mut world = World::new().await;
        world.deploy("research:2").await;
        assert_eq!(world.look().await, Ok(()));
        world.order(Order::Pause).await;
        world.fake.answers(if lost { Answer::Lost } else { Answer::Good });
        assert_eq!(world.look().await.is_err(), lost);
        assert!(world.fake.is_paused());
        world.fake.answers(Answer::Good);
        // It goes on, and the leader dies before it looks again.
        world.order(Order::Resume).await;
        world.another_leads();
        assert_eq!(world.look().await, Ok(()));
        assert!(!world.fake.is_paused() && !world.open().await.paused, "{lost}");
        assert_eq!(world.look().await, Ok(()));
        // Whoever else says something then is heard.
        world.fake.edit(|spec| spec["paused"] = true.into());
        assert_eq!(world.look().await, Ok(()));
        assert!(world.open().await.paused && world.fake.is_paused());
        world.another_leads();
        world.fake.edit(|spec| spec["paused"] = false.into());
        assert_eq!(world.look().await, Ok(()));
        assert!(!world.open().await.paused && !world.fake.is_paused());
        world.end().await;
    }
}

#[tokio::test]
async fn a_pause_of_ours_is_taken_back_by_whoever_leads_when_its_rollout_has_ended() {
    let mut world = World::new().await;
    world.deploy("research:2").await;
    assert_eq!(world.look().await, Ok(()));
    world.order(Order::Pause).await;
    assert_eq!(world.look().await, Ok(()));
    world.order(Order::Supersede { by: "nobody".into() }).await;
    world.another_leads();
    for _ in 0..2 {
        assert_eq!(world.look().await, Ok(()));
    }
    assert!(!world.fake.is_paused());
    // Another's pause is left alone.
    world.fake.edit(|spec| spec["paused"] = true.into());
    for _ in 0..2 {
        assert_eq!(world.look().await, Ok(()));
    }
    assert!(world.fake.is_paused());
    world.end().await;
}

#[tokio::test]
async fn a_pause_by_hand_that_comes_too_late_for_its_rollout_is_never_taken_for_ours() {
    let mut world = World::new().await;
    world.deploy("research:2").await;
    assert_eq!(world.look().await, Ok(()));
    let open = world.app().store.open_rollouts().await.expect("read").pop();
    world.order(Order::Supersede { by: "nobody".into() }).await;
    world.fake.edit(|spec| spec["paused"] = true.into());
    assert_eq!(world.look_with(open).await, Ok(()));
    for _ in 0..2 {
        assert_eq!(world.look().await, Ok(()));
    }
    assert!(world.fake.is_paused(), "whoever paused it lets it go on");
    world.end().await;
}

#[tokio::test]
async fn a_rendering_of_the_same_image_is_a_release_and_is_none_again_once_it_is_declared() {
    // By its annotation, by one that says nothing, and as the Helm chart writes it where its values differ from the file's.
    for annotation in ["its own", "others", ""] {
        let mut world = World::new().await;
        let mut other = research("research:1");
        other.env.insert("MODEL".into(), "$(large)".into());
        other.container.as_mut().expect("it has one").resources.cpu = 1500;
        let annotation = match annotation {
            "" => Value::Null,
            "its own" => digest(&other).into(),
            others => others.into(),
        };
        world.fake.edit(|spec| {
            let template = &mut spec["template"];
            let annotations = template["metadata"]["annotations"].as_object_mut().expect("a mapping");
            match annotation {
                Value::Null => annotations.remove(DECLARATION),
                text => annotations.insert(DECLARATION.into(), text),
            };
            let agent = &mut template["spec"]["containers"][0];
            agent["args"] = json!(["run"]);
            agent["env"] = json!([{ "name": "MODEL", "value": "$$(large)" }, { "name": "LONGSHORE_FLEET", "value": "x" }]);
            agent["resources"] = json!({ "requests": { "cpu": "1500m", "memory": "512Mi" } });
        });
        let generation = world.fake.generation();
        assert_eq!(world.look().await, Ok(()));
        assert_eq!(world.rollouts().await, [(1, 2, "forward")]);
        world.app().store.put_fleets(vec![other], now()).await.expect("stored");
        for another in [false, true, false] {
            if another {
                world.another_leads();
            }
            assert_eq!(world.look().await, Ok(()));
        }
        assert_eq!(world.rollouts().await, [(1, 2, "forward")], "it is the same");
        assert_eq!(world.fake.generation(), generation, "no pod is replaced twice");
        world.undo().await;
        _ = world.look().await;
        assert_eq!(world.rollouts().await, [(1, 2, "rolled_back")]);
        assert!(world.fake.generation() > generation, "it can go back");
        world.end().await;
    }
}

#[tokio::test]
async fn a_change_that_is_no_release_is_told_while_pods_are_replaced_for_it() {
    let mut world = World::new().await;
    for (revision, updated, told) in [(1, 1, false), (2, 0, true), (2, 0, true), (2, 1, false)] {
        world.fake.rolled(revision, updated);
        assert_eq!(world.look().await, Ok(()));
        assert_eq!(world.notes().contains("somebody else changed"), told, "{revision}, {updated}");
    }
    world.deploy("research:2").await;
    assert_eq!(world.look().await, Ok(()));
    world.fake.rolled(3, 0);
    assert_eq!(world.look().await, Ok(()));
    assert!(!world.notes().contains("somebody else changed"), "{}", world.notes());
    world.end().await;
}

#[tokio::test]
async fn a_release_that_the_api_server_refuses_is_given_up_after_ready() {
    let mut world = World::new().await;
    world.fake.answers(Answer::Refused);
    world.deploy("research:2").await;
    world.look().await.expect_err("it is refused");
    assert_eq!(world.open().await.phase.as_str(), "forward");
    let began = Instant::now();
    while world.rollouts().await != [(1, 2, "rolled_back")] {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", world.rollouts().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        _ = world.look().await;
    }
    assert_eq!((world.look().await, world.fake.image().as_str()), (Ok(()), "research:1"));
    world.end().await;
}
