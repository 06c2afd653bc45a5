//! Parses requests to the API server.

use std::collections::BTreeMap;

use http::{Method, Uri};

/// A kind of objects, as in the paths of the API server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resource {
    /// `api/v1`, or `apis/` with a group and a version
    pub(super) group_version: String,
    /// The plural of the kind, in lower case
    pub(super) plural: String,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectPath {
    pub(super) resource: Resource,
    /// Empty for a cluster-scoped object
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The objects of one kind in one namespace, or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collection {
    pub(super) resource: Resource,
    /// `None`: all namespaces, or a cluster-scoped kind
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
}

impl Collection {
    /// Whether it contains an object with this path and these labels.
    pub(super) fn has(&self, path: &ObjectPath, labels: &BTreeMap<&str, &str>) -> bool {
        self.resource == path.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == path.namespace)
            && self.selector.0.iter().all(|requirement| requirement.is_met(labels))
    }
}

/// The operation of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Get(ObjectPath),
    List(Collection),
    Watch {
        collection: Collection,
        /// The resourceVersion after which it begins, if that is a number
        since: Option<u64>,
    },
    Create(Collection),
    Patch {
        object: ObjectPath,
        /// Whether only the status is written
        status: bool,
        manager: String,
    },
    Delete(ObjectPath),
    /// Another read
    OtherRead,
    /// Another write
    OtherChange,
}

impl Operation {
    /// The operation of a request with this method and URI.
    pub(super) fn of(method: &Method, uri: &Uri) -> Self {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let other = if reads { Self::OtherRead } else { Self::OtherChange };
        let Some((resource, namespace, rest)) = split(uri.path()) else { return other };
        let parameters: BTreeMap<_, _> =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let parameter = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
        let (name, subresource) = match *rest.as_slice() {
            [] => (None, None),
            [name] => (Some(name), None),
            [name, subresource] => (Some(name), Some(subresource)),
            _ => return other,
        };
        let Some(name) = name else {
            let selector = Selector::parse(parameter("labelSelector"));
            let collection = Collection { resource, namespace: namespace.map(str::to_owned), selector };
            return match *method {
                Method::GET if !parameter("fieldSelector").is_empty() => other,
                Method::GET if parameter("watch") == "true" => {
                    Self::Watch { collection, since: parameter("resourceVersion").parse().ok() }
                }
                Method::GET => Self::List(collection),
                Method::POST => Self::Create(collection),
                _ => other,
            };
        };
        let namespace = namespace.unwrap_or_default().to_owned();
        let object = ObjectPath { resource, namespace, name: name.to_owned() };
        match (method, subresource) {
            (&Method::GET, None) => Self::Get(object),
            (&Method::PATCH, None | Some("status")) => {
                let manager = parameter("fieldManager").to_owned();
                Self::Patch { object, status: subresource.is_some(), manager }
            }
            (&Method::DELETE, None) => Self::Delete(object),
            _ => other,
        }
    }
}

/// The kind, the namespace, and what follows in a path of the API server.
fn split(path: &str) -> Option<(Resource, Option<&str>, Vec<&str>)> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let group_version = match parts.next()? {
        "api" => format!("api/{}", parts.next()?),
        "apis" => format!("apis/{}/{}", parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match *rest.as_slice() {
        ["namespaces", namespace, _, ..] => (Some(namespace), &rest[2..]),
        _ => (None, rest.as_slice()),
    };
    let (plural, rest) = rest.split_first()?;
    Some((Resource { group_version, plural: (*plural).to_owned() }, namespace, rest.to_vec()))
}

/// A label selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Equals(String, String),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// Parses the forms of selectors that the controller's watches have: `key=value`, `key`
    /// and `!key`, joined by commas.
    fn parse(text: &str) -> Self {
        let requirement = |text: &str| match (text.split_once('='), text.strip_prefix('!')) {
            (Some((key, value)), _) => Requirement::Equals(key.to_owned(), value.to_owned()),
            (None, Some(key)) => Requirement::Absent(key.to_owned()),
            (None, None) => Requirement::Exists(text.to_owned()),
        };
        Self(text.split(',').filter(|part| !part.is_empty()).map(requirement).collect())
    }
}

impl Requirement {
    fn is_met(&self, labels: &BTreeMap<&str, &str>) -> bool {
        match self {
            Self::Equals(key, value) => labels.get(key.as_str()) == Some(&value.as_str()),
            Self::Exists(key) => labels.contains_key(key.as_str()),
            Self::Absent(key) => !labels.contains_key(key.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: &Method, uri: &str) -> Operation {
        Operation::of(method, &uri.parse().expect("a URI"))
    }

    fn resource(group_version: &str, plural: &str) -> Resource {
        Resource { group_version: group_version.to_owned(), plural: plural.to_owned() }
    }

    fn object(resource: Resource, namespace: &str, name: &str) -> ObjectPath {
        ObjectPath { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn objects_with_and_without_a_namespace_are_distinguished() {
        let class = object(resource("apis/sharedlb.dev/v1alpha1", "sharedlbclasses"), "", "default");
        assert_eq!(
            operation(
                &Method::PATCH,
                "/apis/sharedlb.dev/v1alpha1/sharedlbclasses/default/status?&fieldManager=sharedlb"
            ),
            Operation::Patch { object: class, status: true, manager: "sharedlb".to_owned() }
        );
        let service = object(resource("api/v1", "services"), "team", "web");
        assert_eq!(operation(&Method::DELETE, "/api/v1/namespaces/team/services/web?"), Operation::Delete(service));
        let namespace = object(resource("api/v1", "namespaces"), "", "kube-system");
        assert_eq!(operation(&Method::GET, "/api/v1/namespaces/kube-system"), Operation::Get(namespace));
    }

    #[test]
    fn lists_and_watches_have_the_labels_that_they_select() {
        let labels = |pairs: &[(&'static str, &'static str)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
        let uri = "/api/v1/configmaps?&watch=true&labelSelector=app%3Dloadbalancer%2C%21hidden&resourceVersion=17";
        let Operation::Watch { collection, since } = operation(&Method::GET, uri) else { panic!("it is a watch") };
        assert_eq!(since, Some(17));
        let map = object(resource("api/v1", "configmaps"), "team", "tcp");
        assert!(collection.has(&map, &labels(&[("app", "loadbalancer")])));
        assert!(!collection.has(&map, &labels(&[("app", "web")])));
        assert!(!collection.has(&map, &labels(&[("app", "loadbalancer"), ("hidden", "")])));
        let Operation::List(collection) = operation(&Method::GET, "/api/v1/namespaces/team/configmaps?limit=500")
        else {
            panic!("it is a list")
        };
        assert!(collection.has(&map, &labels(&[])));
        assert!(!collection.has(&object(resource("api/v1", "configmaps"), "other", "tcp"), &labels(&[])));
    }

    #[test]
    fn a_change_that_is_not_known_is_never_taken_for_a_read() {
        for (method, uri) in [
            (Method::DELETE, "/api/v1/namespaces/team/services?"),
            (Method::PUT, "/api/v1/namespaces/team/services/web"),
            (Method::POST, "/api/v1/namespaces/team/pods/web/eviction"),
            (Method::PATCH, "/api/v1/namespaces/team/pods/web/ephemeralcontainers"),
            (Method::POST, "/elsewhere"),
        ] {
            assert_eq!(operation(&method, uri), Operation::OtherChange, "{method} {uri}");
        }
        assert_eq!(operation(&Method::GET, "/version"), Operation::OtherRead);
    }
}
