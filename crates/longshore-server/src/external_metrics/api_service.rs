//! The leader's part: has the API server trust our certificates, and tells people where autoscalers get no numbers.
//!
//! The APIService is one for the whole cluster. It is only ever changed where it points to our own Service.

use std::collections::HashMap;
use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::id::FleetName;
use longshore_core::kubernetes::{MANAGER, METRICS, METRICS_API_SERVICE};
use longshore_platform::kubernetes::aggregation::{self, AggregationError, ApiServer, Registered};
use tracing::{info, warn};

use super::is_asked_for;
use crate::app::App;
use crate::controller::sleep_or_stop;

const EVERY: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });

/// Until this replica leads, and while something is wrong.
const SOON: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2000 });

/// What to do about an APIService.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It is ours, and does not trust us yet.
    Mend,
    /// Autoscalers get nothing from us, and why.
    Trouble(String),
}

fn judge(found: Option<&Registered>, namespace: &str, authority: &str) -> Verdict {
    let Some(found) = found else {
        return Verdict::Trouble(format!(
            "no autoscaler gets numbers: there is no APIService `{METRICS_API_SERVICE}`; apply what `longshore render kubernetes` writes"
        ));
    };
    let ours = (namespace.to_owned(), METRICS.to_owned());
    match &found.service {
        Some(service) if *service == ours => {}
        other => {
            let other = other
                .as_ref()
                .map_or("the API server".into(), |(namespace, name)| format!("{namespace}/{name}"));
            return Verdict::Trouble(format!(
                "no autoscaler gets numbers from longshore: APIService `{METRICS_API_SERVICE}`, of which a cluster has one, is served by `{other}`; set scaling.by = \"keda\" or \"direct\""
            ));
        }
    }
    if found.unverified || found.authority.as_deref() != Some(authority) {
        return Verdict::Mend;
    }
    match &found.unavailable {
        Some(why) => {
            Verdict::Trouble(format!("the API server does not get external metrics from longshore: {why}"))
        }
        None => Verdict::Good,
    }
}

/// Runs for as long as the process.
pub async fn keep(app: App, server: ApiServer, authority: String) -> &'static str {
    let mut wait = Duration::ZERO;
    while !sleep_or_stop(&app, wait).await {
        wait = SOON;
        let fleets = match app.epoch() {
            Some(_) => match app.store.fleets().await {
                Ok(fleets) => fleets
                    .into_iter()
                    .filter(|it| it.active && is_asked_for(&it.declaration))
                    .map(|it| it.name),
                // What is told stays as it is.
                Err(_) => continue,
            }
            .collect(),
            None => Vec::new(),
        };
        let trouble = match fleets.is_empty() {
            true => None,
            false => look(&server, &authority).await,
        };
        if trouble.is_none() && !fleets.is_empty() {
            wait = EVERY;
        }
        tell(&app, &fleets, trouble);
    }
    "APIService"
}

/// Mends what it may. Returns what is wrong.
async fn look(server: &ApiServer, authority: &str) -> Option<String> {
    let (client, namespace) = (server.client(), server.namespace());
    let looked = async || {
        let found = aggregation::read_api_service(client, METRICS_API_SERVICE).await?;
        let verdict = judge(found.as_ref(), namespace, authority);
        if let (Verdict::Mend, Some(seen)) = (&verdict, &found) {
            aggregation::trust_authority(client, (METRICS_API_SERVICE, seen), MANAGER, authority).await?;
            info!(name = METRICS_API_SERVICE, "the API server is told whose certificates to trust");
        }
        Ok::<_, AggregationError>(verdict)
    };
    let mut answer = looked().await;
    // It may be somebody else's by now.
    if matches!(answer, Err(AggregationError::Conflict { .. })) {
        answer = looked().await;
    }
    match answer {
        Ok(Verdict::Good | Verdict::Mend) => None,
        Ok(Verdict::Trouble(why)) => Some(why),
        Err(error) => Some(format!("autoscalers may get no numbers: {}", chain(&error))),
    }
}

fn tell(app: &App, fleets: &[FleetName], trouble: Option<String>) {
    let said =
        |why: &String| fleets.iter().map(|fleet| (fleet.clone(), why.clone())).collect::<HashMap<_, _>>();
    let next = trouble.as_ref().map(said).unwrap_or_default();
    let mut told = app.scaling_trouble.lock().expect("no holder panics");
    for (fleet, why) in next.iter().filter(|(fleet, why)| told.get(*fleet) != Some(*why)) {
        warn!(%fleet, why, "external metrics");
    }
    *told = next;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(service: Option<(&str, &str)>) -> Registered {
        Registered {
            service: service.map(|(namespace, name)| (namespace.into(), name.into())),
            authority: Some("CA".into()),
            unverified: false,
            unavailable: None,
            version: "1".into(),
        }
    }

    fn check(found: Option<Registered>, expected: Result<Verdict, &str>) {
        let verdict = judge(found.as_ref(), "agents", "CA");
        match (expected, verdict) {
            (Ok(expected), verdict) => assert_eq!(verdict, expected),
            (Err(words), Verdict::Trouble(why)) => assert!(why.contains(words), "{why}"),
            (Err(_), other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_an_api_service_that_is_ours_is_mended_and_everything_else_is_said() {
        let ours = || found(Some(("agents", "longshore-metrics")));
        check(Some(ours()), Ok(Verdict::Good));
        check(Some(Registered { authority: None, ..ours() }), Ok(Verdict::Mend));
        check(Some(Registered { authority: Some("other".into()), ..ours() }), Ok(Verdict::Mend));
        check(Some(Registered { unverified: true, ..ours() }), Ok(Verdict::Mend));
        check(Some(Registered { unavailable: Some("no endpoints".into()), ..ours() }), Err("no endpoints"));
        check(None, Err("longshore render kubernetes"));
        check(
            Some(found(Some(("keda", "keda-operator-metrics-apiserver")))),
            Err("`keda/keda-operator-metrics-apiserver`; set scaling.by"),
        );
        check(Some(found(Some(("other", "longshore-metrics")))), Err("`other/longshore-metrics`"));
        check(Some(found(None)), Err("the API server"));
    }
}
