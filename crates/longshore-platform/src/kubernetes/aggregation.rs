//! What a server behind the API server's aggregation layer asks of it: who may pass callers on, what a caller may do, and
//! which server the APIService points to.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Config, Error};
use serde_json::json;

use super::ClusterError;
use super::cluster::namespace_of;

/// The API server, and the namespace that is ours. Nothing is asked of it before there is something to ask. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    namespace: String,
}

impl ApiServer {
    /// That of the cluster that this process runs in, or that KUBECONFIG names.
    ///
    /// Errors: no cluster is known here, or what is known of it cannot be used.
    pub async fn find(namespace: Option<&str>) -> Result<ApiServer, ClusterError> {
        let config = Config::infer().await.map_err(|source| ClusterError::NotConfigured(source.into()))?;
        let namespace = namespace_of(&config, namespace);
        let client = Client::try_from(config)
            .map_err(|error| ClusterError::of("set up a client of the Kubernetes API", error))?;
        Ok(ApiServer { client, namespace })
    }

    /// One that listens there without TLS and asks for nothing; `None`: nobody could.
    pub fn at(url: http::Uri, namespace: &str) -> Option<ApiServer> {
        let client = Client::try_from(Config::new(url)).ok()?;
        Some(ApiServer { client, namespace: namespace.to_owned() })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// How long the API server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

const AUTHENTICATION: &str = "extension-apiserver-authentication";

#[derive(Debug, thiserror::Error)]
pub enum AggregationError {
    #[error("the Kubernetes API did not let us {what}: {said}")]
    Forbidden { what: &'static str, said: String },
    #[error("the Kubernetes API could not be asked to {what}")]
    Failed { what: &'static str, source: Box<Error> },
    /// Somebody else changed it meanwhile: it is to be looked at again.
    #[error("could not {what}: somebody else changed it")]
    Conflict { what: &'static str },
    #[error("the Kubernetes API did not answer within {} s when asked to {what}", PATIENCE.as_secs())]
    Silent { what: &'static str },
    #[error("ConfigMap `kube-system/{AUTHENTICATION}` says nothing of a front proxy: {0}")]
    NoFrontProxy(String),
}

async fn within<T>(
    what: &'static str,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, AggregationError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Api(status))) if matches!(status.code, 401 | 403) => {
            Err(AggregationError::Forbidden { what, said: status.message.clone() })
        }
        Ok(Err(Error::Api(status))) if status.code == 409 => Err(AggregationError::Conflict { what }),
        Ok(Err(source)) => Err(AggregationError::Failed { what, source: source.into() }),
        Err(_) => Err(AggregationError::Silent { what }),
    }
}

/// How the API server shows itself when it passes a request on, and says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Certificates in PEM, one of which has signed that of the API server.
    pub authorities: String,
    /// Common names that its certificate may have; none: any.
    pub names: Vec<String>,
    pub user: Vec<String>,
    pub uid: Vec<String>,
    pub group: Vec<String>,
    /// What headers with more of the caller begin with.
    pub extra: Vec<String>,
}

impl RequestHeader {
    fn read(data: &BTreeMap<String, String>) -> Result<RequestHeader, AggregationError> {
        let wrong = |why: String| AggregationError::NoFrontProxy(why);
        let list = |key: &str| match data.get(key) {
            None => Ok(Vec::new()),
            Some(text) => serde_json::from_str::<Vec<String>>(text)
                .map_err(|error| wrong(format!("`{key}` is not a list of names: {error}"))),
        };
        let authorities = data.get("requestheader-client-ca-file").filter(|text| !text.trim().is_empty());
        let authorities = authorities.ok_or_else(|| {
            wrong("`requestheader-client-ca-file` is missing: the API server has no aggregation layer".into())
        })?;
        let read = RequestHeader {
            authorities: authorities.clone(),
            names: list("requestheader-allowed-names")?,
            user: list("requestheader-username-headers")?,
            uid: list("requestheader-uid-headers")?,
            group: list("requestheader-group-headers")?,
            extra: list("requestheader-extra-headers-prefix")?,
        };
        if read.user.is_empty() {
            return Err(wrong("`requestheader-username-headers` names no header".into()));
        }
        Ok(read)
    }
}

/// Reads how the API server shows itself.
pub async fn read_request_header(client: &Client) -> Result<RequestHeader, AggregationError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map =
        within("read ConfigMap `kube-system/extension-apiserver-authentication`", maps.get(AUTHENTICATION));
    RequestHeader::read(&map.await?.data.unwrap_or_default())
}

/// A caller as the API server names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What somebody wants to do with something that is in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wish {
    pub verb: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub namespace: String,
    pub resource: String,
}

/// Whether a caller may do this, and what was said to it.
pub async fn review_access(
    client: &Client,
    user: &User,
    wish: &Wish,
) -> Result<Result<(), String>, AggregationError> {
    let attributes = ResourceAttributes {
        verb: Some(wish.verb.into()),
        group: Some(wish.group.into()),
        version: Some(wish.version.into()),
        namespace: Some(wish.namespace.clone()),
        resource: Some(wish.resource.clone()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: user.uid.clone(),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()),
        resource_attributes: Some(attributes),
        non_resource_attributes: None,
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let params = PostParams::default();
    let reviewed = within("review what a caller may do", reviews.create(&params, &review)).await?;
    Ok(match reviewed.status {
        Some(SubjectAccessReviewStatus { allowed: true, denied: None | Some(false), .. }) => Ok(()),
        status => Err(status.and_then(|status| status.reason).unwrap_or_default()),
    })
}

/// Who serves an API group of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Namespace and name of the Service; none: the API server itself.
    pub service: Option<(String, String)>,
    /// In PEM.
    pub authority: Option<String>,
    pub unverified: bool,
    /// Why the API server does not use it.
    pub unavailable: Option<String>,
    /// Of this sight, for a write that is to fail where it is out of date.
    pub version: String,
}

/// Reads an APIService; `None`: there is none.
pub async fn read_api_service(client: &Client, name: &str) -> Result<Option<Registered>, AggregationError> {
    let services: Api<APIService> = Api::all(client.clone());
    Ok(within("read the APIService of external metrics", services.get_opt(name)).await?.map(registered))
}

fn registered(service: APIService) -> Registered {
    let spec = service.spec.unwrap_or_default();
    let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
    let down = conditions.into_iter().find(|it| it.type_ == "Available" && it.status == "False");
    Registered {
        service: spec.service.map(|it| (it.namespace.unwrap_or_default(), it.name.unwrap_or_default())),
        authority: spec.ca_bundle.map(|ByteString(pem)| String::from_utf8_lossy(&pem).into_owned()),
        unverified: spec.insecure_skip_tls_verify.unwrap_or(false),
        unavailable: down.map(|it| it.message.or(it.reason).unwrap_or_default()),
        version: service.metadata.resource_version.unwrap_or_default(),
    }
}

/// Has the API server hold the server's certificate against this authority, in PEM: of the APIService that was seen, for
/// another one may have come in its place since, whose server is somebody else's.
pub async fn trust_authority(
    client: &Client,
    (name, seen): (&str, &Registered),
    manager: &str,
    authority: &str,
) -> Result<(), AggregationError> {
    let services: Api<APIService> = Api::all(client.clone());
    let bundle = ByteString(authority.as_bytes().to_vec());
    // With both the API server would refuse it.
    let spec = json!({ "caBundle": bundle, "insecureSkipTLSVerify": null });
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": seen.version }, "spec": spec }));
    within("patch the APIService of external metrics", services.patch(name, &params, &patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const CA: (&str, &str) = ("requestheader-client-ca-file", "-----BEGIN CERTIFICATE-----");
    const USER: (&str, &str) = ("requestheader-username-headers", "[\"X-Remote-User\"]");

    #[test]
    fn how_the_api_server_shows_itself_is_read() {
        let more = [
            CA,
            USER,
            ("requestheader-allowed-names", "[\"front-proxy-client\"]"),
            ("requestheader-group-headers", "[\"X-Remote-Group\"]"),
            ("requestheader-extra-headers-prefix", "[\"X-Remote-Extra-\"]"),
            ("client-ca-file", "of others"),
        ];
        let read = RequestHeader::read(&data(&more)).expect("complete");
        assert_eq!((read.authorities.as_str(), read.names.len()), (CA.1, 1));
        assert_eq!((read.user[0].as_str(), read.uid.len()), ("X-Remote-User", 0));
        assert!(RequestHeader::read(&data(&[CA, USER])).expect("enough").names.is_empty());
    }

    #[test]
    fn without_an_aggregation_layer_that_is_said() {
        let why =
            |pairs: &[(&str, &str)]| RequestHeader::read(&data(pairs)).expect_err("not enough").to_string();
        assert!(why(&[USER]).contains("requestheader-client-ca-file"));
        assert!(why(&[CA]).contains("names no header"));
        assert!(why(&[CA, ("requestheader-username-headers", "X-Remote-User")]).contains("not a list"));
    }

    #[test]
    fn an_api_service_tells_who_serves_it_and_why_it_is_not_used() {
        let service = serde_json::from_value(json!({
            "metadata": { "name": "v1beta1.external.metrics.k8s.io", "resourceVersion": "7" },
            "spec": {
                "service": { "namespace": "keda", "name": "keda-metrics" }, "caBundle": "Q0E=",
                "groupPriorityMinimum": 100, "versionPriority": 100,
            },
            "status": { "conditions": [
                { "type": "Available", "status": "False", "reason": "X", "message": "no endpoints" },
            ] },
        }));
        let read = registered(service.expect("an APIService"));
        assert_eq!(read.service, Some(("keda".into(), "keda-metrics".into())));
        assert_eq!((read.authority.as_deref(), read.unverified), (Some("CA"), false));
        assert_eq!((read.unavailable.as_deref(), read.version.as_str()), (Some("no endpoints"), "7"));
    }
}
