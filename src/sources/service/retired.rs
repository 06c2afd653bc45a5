//! What is done for Services that were served where the source of Services is switched off.

use k8s_openapi::api::core::v1::Service;

use super::super::{Facts, Source, Step};
use super::{ServiceSource, Services, is_known, status};

/// Replaces the source of Services where that is switched off. It sets `ipMode: Proxy` on
/// addresses that an earlier version wrote without it, and removes our finalizer from Services
/// that are being deleted. (Their claims go with them: Kubernetes deletes what they own.)
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retired;

impl Source for Retired {
    type Kind = Service;
    type Object = ServiceSource;

    const NAME: &'static str = Services::NAME;
    const KIND: &'static str = Services::KIND;
    const LISTED: &'static str = Services::LISTED;

    fn parse(&self, service: &Service) -> Option<ServiceSource> {
        let parsed = is_known(service).then(|| ServiceSource::parse(service, None));
        parsed.filter(|service| next(service).is_some())
    }

    fn missing(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn next(&self, facts: &Facts<'_, ServiceSource>) -> Option<Step> {
        next(facts.object?)
    }
}

fn next(service: &ServiceSource) -> Option<Step> {
    let release = || service.unmark().filter(|_| service.meta.deleting && service.has_finalizer());
    status::to_proxy(service).map(Step::Change).or_else(release)
}
