//! Images for tests, made in memory, in the forms that engines save.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::hex;
use crate::tar::make::{archive, file};

pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).expect("in memory");
    packer.finish().expect("in memory")
}

/// A configuration with the digests of these layers; `with` goes over its `config`.
pub fn config(layers: &[Vec<u8>], with: Value) -> Value {
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", digest(layer))).collect();
    json!({"architecture": "amd64", "os": "linux", "config": with, "rootfs": {"type": "layers", "diff_ids": ids}})
}

/// As engines before 25 save it, the manifest last.
pub fn docker(layers: &[Vec<u8>], config: &Value) -> Vec<u8> {
    let text = config.to_string();
    let name = format!("{}.json", digest(text.as_bytes()));
    let names: Vec<String> = (0..layers.len()).map(|index| format!("layer{index}/layer.tar")).collect();
    let mut parts: Vec<Vec<u8>> = names.iter().zip(layers).map(|(name, layer)| file(name, layer)).collect();
    parts.push(file(&name, &text));
    let manifest = json!([{"Config": name, "RepoTags": ["acme/agent:1.4.2"], "Layers": names}]);
    parts.push(file("manifest.json", manifest.to_string()));
    archive(&parts)
}

/// An OCI layout with packed layers, its index first.
pub fn oci(layers: &[Vec<u8>], config: &Value) -> Vec<u8> {
    let blob = |bytes: &[u8]| file(&format!("blobs/sha256/{}", digest(bytes)), bytes);
    let described =
        |bytes: &[u8]| json!({"digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()});
    let packed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "config": described(&config),
        "layers": packed.iter().map(|layer| described(layer)).collect::<Vec<_>>()});
    let manifest = manifest.to_string().into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [described(&manifest)]}).to_string();
    let mut parts = vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", index)];
    parts.extend(packed.iter().map(|layer| blob(layer)));
    parts.extend([blob(&config), blob(&manifest)]);
    archive(&parts)
}
