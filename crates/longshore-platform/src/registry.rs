//! Image registries: what a tag stands for, and who to be there.
//!
//! Asks, and changes nothing. Who deploys says what becomes of a tag that nobody could ask about.

mod login;
#[cfg(test)]
mod tests;

pub use login::{Login, Secret, login};

use std::net::IpAddr;
use std::time::Duration;

use longshore_core::container::Image;
use longshore_core::errors::chain;
use oci_client::client::{ClientConfig, ClientProtocol, current_platform_resolver};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::ImageIndexEntry;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

/// Who waits for a deploy waits for this.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(4);

/// For what can be done without.
const LABELS: Duration = Duration::from_secs(3);

/// Which commit an image was built from, as its labels say.
const REVISION: &str = "org.opencontainers.image.revision";

/// The user under whom registries of Azure take the token that `az acr login` leaves.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";
const AZURE: &str = ".azurecr.io";

/// Registries, as they are asked from here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// Those that speak plain HTTP, as `host:port`; those of this machine do anyway.
    pub insecure: Vec<String>,
}

/// What a name stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the manifest, or of the list of manifests where there are several architectures.
    pub digest: String,
    /// The commit that it was built from, if a label says so.
    pub revision: Option<String>,
}

/// Why nobody knows what a name stands for, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("{0}")]
    Missing(String),
    /// It could not be asked, or does not let us in.
    #[error("{0}")]
    Unasked(String),
}

impl Registries {
    /// What an image's name stands for at its registry now; without a tag it is `latest`.
    pub async fn find(&self, image: &Image) -> Result<Found, Unknown> {
        let registry = image.registry();
        let (client, reference, auth) = self.visit(image).await?;
        let known = auth != RegistryAuth::Anonymous;
        let asked = async {
            // By itself the client would go on without a token where it cannot be had, and be refused for that.
            client.auth(&reference, &auth, RegistryOperation::Pull).await?;
            client.fetch_manifest_digest(&reference, &auth).await
        };
        let digest = match timeout(PATIENCE, asked).await {
            Ok(digest) => digest.map_err(|error| unknown(image, known, &error))?,
            Err(_) => return Err(Unknown::Unasked(silent(registry, "it took longer than 10 s"))),
        };
        // Of that very image, whatever the tag stands for by now.
        let exact = reference_of(&image.by_digest(&digest))?;
        let revision = labelled(&client, &exact, &auth).await;
        Ok(Found { digest, revision })
    }

    /// The commit that an image was built from, if its registry lets that be read; one that is named by digest is the image it is.
    pub async fn revision(&self, image: &Image) -> Option<String> {
        let (client, reference, auth) = self.visit(image).await.ok()?;
        labelled(&client, &reference, &auth).await
    }

    /// All that it takes to ask about an image.
    async fn visit(&self, image: &Image) -> Result<(Client, Reference, RegistryAuth), Unknown> {
        let registry = image.registry();
        let login = login(image).await.map_err(Unknown::Unasked)?;
        let auth = login.map_or(Ok(RegistryAuth::Anonymous), |login| auth(registry, login))?;
        let reference = reference_of(image)?;
        let client = self.client(&reference).map_err(|error| {
            Unknown::Unasked(format!(
                "registry `{registry}` cannot be asked ({}): mount authorities of certificates at \
                 /etc/ssl/certs/ca-certificates.crt, or name a PEM file by SSL_CERT_FILE",
                chain(&error)
            ))
        })?;
        Ok((client, reference, auth))
    }

    /// Errors: no authority of certificates is installed here, whether one is needed or not.
    fn client(&self, reference: &Reference) -> Result<Client, OciDistributionError> {
        let host = reference.resolve_registry();
        let plain = is_this_machine(host) || self.insecure.iter().any(|insecure| insecure == host);
        Client::try_from(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(PATIENCE),
            platform_resolver: Some(Box::new(any_platform)),
            user_agent: concat!("longshore/", env!("CARGO_PKG_VERSION")),
            ..Default::default()
        })
    }
}

/// It is not needed to deploy.
async fn labelled(client: &Client, image: &Reference, auth: &RegistryAuth) -> Option<String> {
    match timeout(LABELS, client.pull_manifest_and_config(image, auth)).await {
        Ok(Ok((_, _, config))) => revision(&config),
        failed => {
            debug!(%image, ?failed, "an image's labels could not be read");
            None
        }
    }
}

/// That of this machine, else the first: all are built from one commit. What only tells of others is for no platform.
fn any_platform(entries: &[ImageIndexEntry]) -> Option<String> {
    let is_image = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_none_or(|platform| platform.os.to_string() != "unknown")
    };
    let first = || entries.iter().find(is_image).map(|entry| entry.digest.clone());
    current_platform_resolver(entries).or_else(first)
}

fn reference_of(image: &Image) -> Result<Reference, Unknown> {
    let parsed = image.to_string().parse();
    parsed.map_err(|error| Unknown::Unasked(format!("`{image}` cannot be asked for: {error}")))
}

/// Docker, too, asks no certificate of these.
fn is_this_machine(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn auth(registry: &str, login: Login) -> Result<RegistryAuth, Unknown> {
    match login.secret {
        Secret::Password { user, password } => Ok(RegistryAuth::Basic(user, password)),
        Secret::Registry(token) => Ok(RegistryAuth::Bearer(token)),
        Secret::Identity(token) if registry.ends_with(AZURE) => {
            Ok(RegistryAuth::Basic(TOKEN_USER.to_owned(), token))
        }
        Secret::Identity(_) => Err(Unknown::Unasked(format!(
            "`docker login` kept an identity token for registry `{registry}`, which longshore cannot use: log in with a \
             password or an access token"
        ))),
    }
}

fn unknown(image: &Image, known: bool, error: &OciDistributionError) -> Unknown {
    let registry = image.registry();
    match error {
        OciDistributionError::UnauthorizedError { .. } => Unknown::Unasked(refused(registry, known, "401")),
        // It may be busy or broken, too.
        OciDistributionError::AuthenticationFailure(said) => {
            let said = shortened(said);
            Unknown::Unasked(match why(image, &said, known) {
                same if same == said => {
                    format!("where registry `{registry}` has logins checked, it is refused: {said}")
                }
                why => why,
            })
        }
        // Some registries hide from strangers what they have.
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. }
            if !known =>
        {
            Unknown::Unasked(refused(registry, known, "404"))
        }
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => {
            Unknown::Missing(missing(registry, &format!("`{image}`")))
        }
        OciDistributionError::ServerError { code: 403, .. } => {
            Unknown::Unasked(refused(registry, known, "403"))
        }
        OciDistributionError::ServerError { code: 429, .. } => Unknown::Unasked(too_often(registry)),
        OciDistributionError::ServerError { code, .. } => {
            Unknown::Unasked(format!("registry `{registry}` answers {code}"))
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let is = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            let said =
                || envelope.errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ");
            if is(&[OciErrorCode::Toomanyrequests]) {
                return Unknown::Unasked(too_often(registry));
            }
            if is(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                return Unknown::Unasked(refused(registry, known, &said()));
            }
            match is(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                true if !known => Unknown::Unasked(refused(registry, known, &said())),
                true => Unknown::Missing(missing(registry, &format!("`{image}`: {}", said()))),
                false => Unknown::Unasked(format!("registry `{registry}` refuses: {}", said())),
            }
        }
        OciDistributionError::RequestError(error) => Unknown::Unasked(silent(registry, &chain(error))),
        error => Unknown::Unasked(format!("registry `{registry}` could not be asked: {}", chain(error))),
    }
}

/// The commit in an image's own description.
fn revision(config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(config).ok()?;
    let text = config["config"]["Labels"][REVISION].as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// What a failed pull comes down to, for people; `known`: there was a login to try it with.
pub(crate) fn why(image: &Image, said: &str, known: bool) -> String {
    let (registry, lower) = (image.registry(), said.to_lowercase());
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["unauthorized", "no basic auth", "denied", "authentication required", "incorrect username"]) {
        return refused(registry, known, said);
    }
    if says(&["manifest unknown", "name unknown", "not found"]) && !says(&["no such host", "lookup "]) {
        return missing(registry, said);
    }
    if says(&[
        "connection refused",
        "no such host",
        "lookup ",
        "i/o timeout",
        "timeout",
        "unreachable",
        "connection reset",
        "eof",
    ]) {
        return silent(registry, said);
    }
    said.to_owned()
}

/// Docker's own registry does not tell one from the other.
fn refused(registry: &str, known: bool, said: &str) -> String {
    match known {
        true => format!(
            "registry `{registry}` refuses what `docker login` kept for it, or has no such image for it: {said}"
        ),
        false => format!(
            "registry `{registry}` lets nobody in without a login, or has no such image: as the user that asks run \
             `docker login {registry}`, or let DOCKER_CONFIG name the folder of a login; in a cluster name a Secret by \
             `[kubernetes] image_pull_secrets`: {said}"
        ),
    }
}

fn too_often(registry: &str) -> String {
    format!("registry `{registry}` has been asked too often (429): a login may be allowed more")
}

/// The beginning, on a line: some services answer with a page.
fn shortened(said: &str) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "it says nothing more".into() } else { line.chars().take(200).collect() }
}

fn missing(registry: &str, said: &str) -> String {
    format!("registry `{registry}` has no such image: {said}")
}

fn silent(registry: &str, said: &str) -> String {
    format!("registry `{registry}` does not answer: {said}")
}
