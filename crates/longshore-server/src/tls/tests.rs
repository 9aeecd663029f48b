//! Real handshakes between the listener and the clients that workers and people use.

use std::net::SocketAddr;
use std::path::Path;

use axum::routing::get;
use axum::{Json, Router};
use hyper_util::service::TowerToHyperService;
use longshore_api::client::{Client, ClientError};
use longshore_api::serve::{self, Room};
use longshore_store::OpenOptions;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const ANYWHERE: [SocketAddr; 2] = [SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0); 2];

fn store(dir: &Path) -> Store {
    Store::open(&OpenOptions::new(dir)).expect("a store")
}

async fn auto(store: &Store) -> Tls {
    Tls::start(&settings::Tls::Auto, store, &ANYWHERE, Vec::new()).await.expect("made").expect("on")
}

/// Serves `/v1/keys` with no keys, until dropped.
struct Served {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn served(tls: &Tls) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let answer = || async { Json(serde_json::json!({ "items": [] })) };
    let service = TowerToHyperService::new(Router::new().route("/v1/keys", get(answer)));
    let config = tls.config();
    let greet = move |stream| {
        let (shaken, service) = (handshake(&config, stream), service.clone());
        async move { Ok((shaken.await?, service)) }
    };
    let task = tokio::spawn(serve::serve(listener, Room::new("test", 100), greet, serve::never()));
    Served { addr, task }
}

async fn ask(base: &str, trust: &Trust) -> Result<(), String> {
    let client = Client::trusting(base, None, Some(trust)).expect("a client");
    match client.keys().await {
        Ok(keys) => {
            assert!(keys.items.is_empty());
            Ok(())
        }
        Err(ClientError::Unreachable { source, .. }) => Err(chain(&source)),
        Err(other) => panic!("{other}"),
    }
}

/// A client as any language has it: it trusts the authority, and holds the name that it calls against the certificate.
async fn call(tls: &Tls, name: &'static str) -> Result<(), String> {
    let served = served(tls).await;
    let mut roots = rustls::RootCertStore::empty();
    let pem = tls.authority().expect("its own").as_bytes();
    roots.add(CertificateDer::from_pem_slice(pem).expect("in PEM")).expect("an authority");
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(served.addr).await.expect("it listens");
    let name = rustls::pki_types::ServerName::try_from(name).expect("a name");
    let shaken = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    shaken.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn clients_in_a_cluster_call_it_by_the_names_of_its_services() {
    let dir = tempfile::tempdir().expect("a folder");
    let names = longshore_core::kubernetes::service_names("agents");
    let store = store(dir.path());
    let start = |names| Tls::start(&settings::Tls::Auto, &store, &ANYWHERE, names);
    let tls = start(names).await.expect("made").expect("on");
    for name in ["longshore.agents.svc", "longshore-link.agents.svc.cluster.local", "localhost"] {
        assert_eq!(call(&tls, name).await, Ok(()), "{name}");
    }
    assert!(call(&tls, "longshore.others.svc").await.is_err());
    let bare = start(Vec::new()).await.expect("made").expect("on");
    assert!(call(&bare, "longshore.agents.svc").await.is_err());
}

#[tokio::test]
async fn who_pins_the_authority_is_served_and_who_pins_another_is_not() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (tls, strange) = (auto(&store(dir.path())).await, auto(&store(other.path())).await);
    let served = served(&tls).await;
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, tls.authority().expect("its own")).expect("written");
    let base = format!("https://{}", served.addr);
    assert_eq!(ask(&base, tls.trust()).await, Ok(()));
    assert_eq!(ask(&base, &Trust::File(file)).await, Ok(()));
    let refused = ask(&base, strange.trust()).await.expect_err("another authority");
    assert!(refused.contains("certificate"), "{refused}");
    std::fs::write(dir.path().join("other.pem"), strange.authority().expect("its own")).expect("written");
    assert!(ask(&base, &Trust::File(dir.path().join("other.pem"))).await.is_err());
    assert!(ask(&base, &Trust::File(dir.path().join("absent.pem"))).await.is_err());
    assert!(ask(&format!("http://{}", served.addr), tls.trust()).await.is_err(), "nothing is said in plain");
}

#[tokio::test]
async fn replicas_of_one_store_have_one_authority_and_keys_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(dir.path());
    let (one, other) = tokio::join!(auto(&store), auto(&store));
    assert_eq!(one.trust(), other.trust());
    assert_ne!(leaf(&one), leaf(&other));
    let served = served(&other).await;
    assert_eq!(ask(&format!("https://{}", served.addr), one.trust()).await, Ok(()));
}

fn leaf(tls: &Tls) -> CertificateDer<'static> {
    tls.current.get().cert[0].clone()
}

#[tokio::test]
async fn a_made_certificate_is_renewed_in_time_and_still_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(dir.path());
    let mut tls = auto(&store).await;
    let served = served(&tls).await;
    let first = leaf(&tls);
    let days = |days: u64| now().after(Duration::from_secs(days * 24 * 3600));
    tls.look(days(19)).await;
    assert_eq!(leaf(&tls), first, "not due");
    if let Source::Authority { renew_at, .. } = &mut tls.source {
        *renew_at = now();
    }
    tls.look(now()).await;
    assert_ne!(leaf(&tls), first);
    assert_eq!(ask(&format!("https://{}", served.addr), tls.trust()).await, Ok(()));
    // The next one is as far away again.
    let second = leaf(&tls);
    tls.look(days(19)).await;
    assert_eq!(leaf(&tls), second);
    tls.look(days(21)).await;
    assert_ne!(leaf(&tls), second);
}

/// A certificate that signs itself, and its key, in PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["longshore.example".to_owned()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[tokio::test]
async fn given_files_are_read_again_when_they_change_and_bad_ones_are_not_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (cert, key) = (at("tls.crt"), at("tls.key"));
    let write = |path: &str, text: &str| std::fs::write(path, text).expect("written");
    let files = settings::Tls::Files { cert: cert.clone(), key: key.clone() };
    let store = store(&dir.path().join("store"));
    let start = || Tls::start(&files, &store, &ANYWHERE, Vec::new());
    assert!(matches!(start().await, Err(TlsError::Read { .. })));
    let (one, other) = (pair(), pair());
    write(&cert, &one.0);
    write(&key, &other.1);
    let error = start().await.err().expect("of two pairs");
    assert!(matches!(&error, TlsError::Pair { .. }) && !error.to_string().contains("BEGIN"), "{error}");
    write(&key, "nonsense");
    assert!(matches!(start().await, Err(TlsError::Pem { .. })));
    write(&key, &one.1);
    let mut tls = start().await.expect("a pair").expect("on");
    let served = served(&tls).await;
    let base = format!("https://{}", served.addr);
    // Not for this address, but pinned itself.
    assert_eq!(ask(&base, tls.trust()).await, Ok(()));
    let first = leaf(&tls);
    write(&cert, &other.0);
    tls.look(now()).await;
    assert_eq!(leaf(&tls), first, "half of an exchange");
    assert!(ask(&base, tls.trust()).await.is_err(), "the file is ahead of what is served");
    write(&key, &other.1);
    tls.look(now()).await;
    assert_ne!(leaf(&tls), first);
    assert_eq!(ask(&base, tls.trust()).await, Ok(()));
    std::fs::remove_file(&cert).expect("there");
    tls.look(now()).await;
    assert_ne!(leaf(&tls), first, "goes on with what it has");
}

#[tokio::test]
async fn files_that_stay_unreadable_are_said_once_and_again_when_it_is_for_another_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (cert, key) = (at("tls.crt"), at("tls.key"));
    let (text, private) = pair();
    let write = |path: &str, text: &str| std::fs::write(path, text).expect("written");
    write(&cert, &text);
    write(&key, &private);
    let mut tls = Tls::of_files(&cert, &key).await.expect("a pair");
    let said = |tls: &Tls| match &tls.source {
        Source::Files { unread, .. } => unread.said.clone(),
        Source::Authority { .. } => panic!("they are files"),
    };
    std::fs::remove_file(&key).expect("there");
    for _ in 1..UNREAD {
        tls.look(now()).await;
    }
    assert_eq!(said(&tls), None, "an exchange may take a while");
    tls.look(now()).await;
    let first = said(&tls).expect("after a minute");
    assert!(first.contains("tls.key"), "{first}");
    std::fs::remove_file(&cert).expect("there");
    tls.look(now()).await;
    assert!(said(&tls).expect("another file").contains("tls.crt"));
    write(&cert, &text);
    write(&key, &private);
    tls.look(now()).await;
    assert_eq!(said(&tls), None, "it is over");
    std::fs::remove_file(&key).expect("there");
    tls.look(now()).await;
    assert_eq!(said(&tls), None, "a new exchange has a minute of its own");
}

#[test]
fn the_same_reason_is_said_once() {
    let mut unread = Unread::default();
    let said: Vec<u32> = (1..=50).filter(|_| unread.again("permission denied")).collect();
    assert_eq!(said, [UNREAD]);
    assert!(unread.again("no such file"));
    assert!(!unread.again("no such file"));
}
