//! Debian's registry, started for a test, and what `docker login` writes for it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longshore_testkit::skip;
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const USER: &str = "me";
pub const PASSWORD: &str = "s3cret";
/// As `htpasswd -nbB` makes it of these.
const HTPASSWD: &str = "me:$2y$05$vVCLSfNp4ZwKVPXmgfeC7eNteo7tkmi1BcYZxsLska375rpxi6gTe\n";

/// Debian's registry, which lets one user in.
pub struct Registry {
    child: Child,
    pub address: String,
    pub dir: tempfile::TempDir,
}

impl Registry {
    /// `None` after [`skip`].
    pub fn start() -> Option<Registry> {
        if !Path::new("/usr/bin/docker-registry").exists() {
            skip("docker-registry is not installed");
            return None;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("htpasswd"), HTPASSWD).expect("the folder is writable");
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {:?} }} }}\n\
             http: {{ addr: \"127.0.0.1:0\" }}\nauth: {{ htpasswd: {{ realm: test, path: {:?} }} }}\n",
            at("data"),
            at("htpasswd")
        );
        fs::write(at("config.yml"), config).expect("the folder is writable");
        let mut child = Command::new("/usr/bin/docker-registry")
            .args(["serve", &at("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let listens = |line: String| Some(line.split_once("listening on 127.0.0.1:")?.1.to_owned());
        let port = lines.by_ref().map_while(Result::ok).find_map(listens).expect("it says where it listens");
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        // Nobody reads them, and a full pipe would hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Registry { child, address: format!("127.0.0.1:{port}"), dir })
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Puts an image of nothing but labels there under a name such as `agents/worker:1`; returns its digest.
    pub async fn put(&self, name: &str, labels: Value) -> String {
        let (repository, tag) = name.split_once(':').expect("a tag");
        let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Labels": labels },
            "rootfs": { "type": "layers", "diff_ids": [] } });
        let config = config.to_string().into_bytes();
        let config_digest = digest(&config);
        let begun = self.ask(Method::POST, &format!("{repository}/blobs/uploads/")).send().await;
        let begun = begun.expect("it answers");
        let there = begun.headers()[header::LOCATION].to_str().expect("an address").to_owned();
        let there = format!("{there}&digest={config_digest}");
        let size = config.len();
        let stored = self.as_user(reqwest::Client::new().put(there)).body(config).send().await;
        assert!(stored.expect("it answers").status().is_success());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": size, "digest": config_digest },
            "layers": [],
        });
        let manifest = manifest.to_string().into_bytes();
        let manifest_digest = digest(&manifest);
        let put = self.ask(Method::PUT, &format!("{repository}/manifests/{tag}"));
        let put = put.header(header::CONTENT_TYPE, MANIFEST).body(manifest).send().await.expect("it answers");
        assert!(put.status().is_success(), "{put:?}");
        manifest_digest
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_user(reqwest::Client::new().request(method, format!("http://{}/v2/{path}", self.address)))
    }

    fn as_user(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(USER, Some(PASSWORD))
    }

    /// What `docker login` keeps of it, as a file's text.
    pub fn logged_in(&self) -> String {
        let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        json!({ "auths": { &self.address: { "auth": auth } } }).to_string()
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{digits}")
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
