//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::process::metrics::Metrics;
use crate::process::readiness::Readiness;
use crate::process::tasks::{POLL_MAX, Tasks};

/// The content type of the text format of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The pages for probes and Prometheus.
pub(crate) fn router(metrics: Arc<Metrics>, readiness: Arc<Readiness>, tasks: Arc<Tasks>) -> Router {
    Router::new()
        .route("/healthz", get(healthz).with_state(tasks))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(encode).with_state(metrics))
}

/// Healthy as long as every task yields. A restart would not help if the API server cannot
/// be reached.
async fn healthz(State(tasks): State<Arc<Tasks>>) -> (StatusCode, String) {
    match tasks.stuck(POLL_MAX) {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(stuck) => (StatusCode::INTERNAL_SERVER_ERROR, stuck),
    }
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> (StatusCode, String) {
    match readiness.missing() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
    }
}

async fn encode(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let body = metrics.encode().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
    ([(header::CONTENT_TYPE, OPENMETRICS)], body)
}
