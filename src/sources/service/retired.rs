//! Corrects the addresses of an earlier version where the source of Services is switched
//! off.

use k8s_openapi::api::core::v1::Service;

use super::super::{Facts, Source, Step};
use super::{ServiceSource, Services, is_known, status};

/// Replaces the source of Services where that is switched off. It only sets `ipMode: Proxy`
/// on addresses that an earlier version wrote without it.
#[derive(Debug, Clone, Copy)]
pub struct Retired;

impl Source for Retired {
    type Kind = Service;
    type Object = ServiceSource;

    const NAME: &'static str = Services::NAME;
    const KIND: &'static str = Services::KIND;
    const LISTED: &'static str = Services::LISTED;

    fn parse(&self, service: &Service) -> Option<ServiceSource> {
        let parsed = is_known(service).then(|| ServiceSource::parse(service, None));
        parsed.filter(|service| status::to_proxy(service).is_some())
    }

    fn missing(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn next(&self, facts: &Facts<'_, ServiceSource>) -> Option<Step> {
        status::to_proxy(facts.object?).map(Step::Change)
    }
}
