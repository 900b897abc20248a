//! The client: where the API is, who we are, and how long an answer may take.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use kube::client::{ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;
use tower::util::MapResponseLayer;

use super::Settings;
use super::backoff::{Backoff, Wrong};
use super::health::{Feature, Health};

/// To a connection, and to the head of an answer. A watch is answered at once, and then goes on.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Reads how to reach the API, and tries again as long as that cannot be used: a token may be mounted a moment later.
pub(super) async fn configure(settings: &Settings, health: &Health) -> Config {
    let mut backoff = Backoff::default();
    loop {
        match config(settings).await {
            Ok(config) => return config,
            Err(error) => {
                health.trouble_is(Feature::Pods, error, false);
                tokio::time::sleep(backoff.next(Wrong::Refused, fastrand::f64())).await;
            }
        }
    }
}

async fn config(settings: &Settings) -> Result<Config, String> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .map_err(|error| format!("reading {} failed: {error}", path.display()))?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.map_err(|error| format!("{} cannot be used: {error}", path.display()))?
        }
        None => Config::incluster()
            .map_err(|error| format!("the pod's service account cannot be used: {error}"))?,
    };
    config.connect_timeout = Some(ANSWERS_WITHIN);
    // Watches are silent for long; they end by a time-out of their own.
    config.read_timeout = None;
    config.write_timeout = Some(ANSWERS_WITHIN);
    // We try again ourselves, and then know how long it has been.
    config.default_retry = false;
    // So that what is wrong with it is told here, not at the first request of each use.
    ClientBuilder::try_from(config.clone()).map_err(|error| format!("{UNUSABLE}: {error}"))?;
    Ok(config)
}

const UNUSABLE: &str = "no client can be made of the configuration";

/// A client for one use, whose good answers are noted as such.
pub(super) fn client(config: &Config, feature: Feature, health: &Arc<Health>) -> Option<Client> {
    let builder = match ClientBuilder::try_from(config.clone()) {
        Ok(builder) => builder,
        Err(error) => {
            health.trouble_is(feature, format!("{UNUSABLE}: {error}"), false);
            return None;
        }
    };
    let health = health.clone();
    let noted = MapResponseLayer::new(move |response: Response<Box<DynBody>>| {
        if response.status().is_success() {
            health.answered(feature);
        }
        response
    });
    let within = TimeoutLayer::new(ANSWERS_WITHIN);
    Some(builder.with_layer(&noted).with_layer(&within).build())
}
