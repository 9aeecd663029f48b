use std::time::Duration;

use longshore_core::access::{Scope, Verb};
use longshore_core::fleet::Fleet;
use longshore_core::id::{ConversationId, KeyId, TenantName};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

fn key(n: u8, scope: Scope) -> NewKey {
    NewKey {
        id: KeyId(Uuid::from_u128(u128::from(n))),
        hash: [n; 32],
        name: format!("key {n}"),
        hint: "Xy1z".into(),
        scope,
        expires_at: None,
    }
}

pub async fn a_key_is_found_by_its_hash_alone(world: &World) {
    let narrow = Scope {
        verbs: [Verb::Read, Verb::Submit].into(),
        fleets: [fleet("b"), fleet("a")].into(),
        tenant: Some(TenantName::new("acme").unwrap()),
    };
    let now = world.now();
    let expires_at = Some(now.after(Duration::from_secs(60)));
    world.store.create_key(NewKey { expires_at, ..key(1, narrow.clone()) }, now).await.unwrap();
    world.store.create_key(key(2, Scope::everything()), now).await.unwrap();
    let found = world.store.key_by_hash([1; 32]).await.unwrap().unwrap();
    let expected = KeyRecord {
        id: KeyId(Uuid::from_u128(1)),
        hash: [1; 32],
        name: "key 1".into(),
        hint: "Xy1z".into(),
        scope: narrow,
        created_at: now,
        expires_at,
        revoked_at: None,
        used_at: None,
    };
    assert_eq!(found, expected);
    let all = world.store.keys().await.unwrap();
    assert_eq!(all.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["key 2", "key 1"]);
    assert_eq!((&all[0].scope, &all[1]), (&Scope::everything(), &expected));
    assert_eq!(world.store.key_by_hash([3; 32]).await.unwrap(), None);
    let again = world.store.create_key(key(3, Scope::everything()), now).await;
    assert!(again.is_ok());
    let same_hash = NewKey { hash: [1; 32], ..key(4, Scope::everything()) };
    assert!(world.store.create_key(same_hash, now).await.is_err(), "one hash, one key");
}

pub async fn a_revoked_key_stays_revoked(world: &World) {
    world.store.create_key(key(1, Scope::everything()), world.now()).await.unwrap();
    let revoked_at = world.now();
    let revoked = world.store.revoke_key(KeyId(Uuid::from_u128(1)), revoked_at).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(revoked_at));
    world.pass(Duration::from_secs(5));
    let again = world.store.revoke_key(revoked.id, world.now()).await.unwrap();
    assert_eq!(again.as_ref(), Some(&revoked), "the first word counts");
    assert_eq!(world.store.key_by_hash([1; 32]).await.unwrap(), Some(revoked));
    assert_eq!(world.store.revoke_key(KeyId(Uuid::from_u128(9)), world.now()).await.unwrap(), None);
}

pub async fn the_last_use_only_moves_on(world: &World) {
    world.store.create_key(key(1, Scope::everything()), world.now()).await.unwrap();
    let id = KeyId(Uuid::from_u128(1));
    let first = world.now();
    let later = first.after(Duration::from_secs(60));
    world.store.touch_key(id, later).await.unwrap();
    world.store.touch_key(id, first).await.unwrap();
    assert_eq!(world.store.key_by_hash([1; 32]).await.unwrap().unwrap().used_at, Some(later));
    world.store.touch_key(KeyId(Uuid::from_u128(9)), first).await.unwrap();
}

pub async fn tasks_and_conversations_have_owners(world: &World) {
    let declared = ["a", "b"].map(|name| Fleet::new(fleet(name), vec!["true".into()], "/".into()));
    world.store.put_fleets(declared.into(), world.now()).await.unwrap();
    let talk = ConversationId::new("talk").unwrap();
    let task = |name| NewTask { fleet: fleet(name), conversation: Some(talk.clone()), ..new_task() };
    let owner = |name| Owner { fleet: fleet(name), tenant: TenantName::default() };
    assert_eq!(world.store.conversation_owners(talk.clone()).await.unwrap(), []);
    let of_b = world.submit(task("b")).await;
    world.submit(task("a")).await;
    world.submit(task("b")).await;
    assert_eq!(world.store.task_owner(of_b).await.unwrap(), Some(owner("b")));
    assert_eq!(world.store.conversation_owners(talk).await.unwrap(), [owner("a"), owner("b")]);
    let nobody = longshore_core::id::TaskId(Uuid::nil());
    assert_eq!(world.store.task_owner(nobody).await.unwrap(), None);
}

pub async fn what_begins_at_once_agrees(world: &World) {
    let begin = |value: &str| world.store.meta_first("secret".into(), value.into());
    let (one, two, three) = tokio::join!(begin("1"), begin("2"), begin("3"));
    let kept = world.store.meta_get("secret".into()).await.unwrap().unwrap();
    assert_eq!([one.unwrap(), two.unwrap(), three.unwrap()], [kept.clone(), kept.clone(), kept.clone()]);
    world.store.meta_put("secret".into(), "new".into()).await.unwrap();
    assert_eq!(world.store.meta_first("secret".into(), "4".into()).await.unwrap(), "new");
    for value in ["first", "second"] {
        world.store.meta_put_leading("led".into(), value.into(), world.epoch).await.unwrap();
        assert_eq!(world.store.meta_get("led".into()).await.unwrap().as_deref(), Some(value));
    }
}

pub async fn an_erased_tenants_keys_go_with_it(world: &World) {
    let of = |name| Scope {
        verbs: [Verb::Submit].into(),
        fleets: [].into(),
        tenant: Some(TenantName::new(name).unwrap()),
    };
    for (n, scope) in [(1, of("acme")), (2, of("other")), (3, Scope::everything())] {
        world.store.create_key(key(n, scope), world.now()).await.unwrap();
    }
    let acme = TenantName::new("acme").unwrap();
    while world.store.erase_tenant(acme.clone(), "erased".into(), world.now()).await.unwrap().more {}
    let left = world.store.keys().await.unwrap();
    assert_eq!(left.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["key 3", "key 2"]);
}
