//! Rights as RBAC grants them, and requests in its words.
use super::store::Resource;

/// A verb on a resource: granted, or asked for. Wildcards stand for nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The namespace; none is all of them, and of a request one that names none.
    pub namespace: Option<String>,
    /// The API group; empty for the core.
    pub group: String,
    /// The resource in the plural, with its subresource: `pods/status`.
    pub resource: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
}

impl Right {
    /// What a request asks for; `None` where a path or a method is none of the server's.
    pub(super) fn asked(method: &str, path: &str, is_watch: bool) -> Option<Self> {
        let (resource, namespace, rest) = Resource::of_path(path)?;
        let (name, subresource) = rest.split_once('/').unwrap_or((rest, ""));
        let verb = match method {
            "GET" if is_watch => "watch",
            "GET" if name.is_empty() => "list",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => return None,
        };
        let (group_path, plural) = resource.path().rsplit_once('/')?;
        let group = group_path.strip_prefix("/apis/").and_then(|group| group.split('/').next());
        let resource = match subresource {
            "" => plural.to_owned(),
            subresource => format!("{plural}/{subresource}"),
        };
        Some(Self {
            namespace: namespace.map(str::to_owned),
            group: group.unwrap_or_default().to_owned(),
            resource,
            verb: verb.to_owned(),
        })
    }

    /// Whether it grants what is asked for.
    #[must_use]
    pub fn covers(&self, asked: &Self) -> bool {
        let is_in_reach = self.namespace.is_none() || self.namespace == asked.namespace;
        is_in_reach
            && (&self.group, &self.resource, &self.verb) == (&asked.group, &asked.resource, &asked.verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(namespace: Option<&str>, group: &str, resource: &str, verb: &str) -> Right {
        let [group, resource, verb] = [group, resource, verb].map(str::to_owned);
        Right { namespace: namespace.map(str::to_owned), group, resource, verb }
    }

    #[test]
    fn requests_are_what_an_authorizer_takes_them_for() {
        let pod = "/api/v1/namespaces/shop/pods/web-1";
        for (method, path, is_watch, expected) in [
            ("GET", "/api/v1/services", false, right(None, "", "services", "list")),
            ("GET", "/api/v1/services", true, right(None, "", "services", "watch")),
            ("GET", "/api/v1/nodes/node-a", false, right(None, "", "nodes", "get")),
            ("PATCH", &format!("{pod}/status"), false, right(Some("shop"), "", "pods/status", "patch")),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/podway/leases/podway",
                false,
                right(Some("podway"), "coordination.k8s.io", "leases", "update"),
            ),
        ] {
            assert_eq!(Right::asked(method, path, is_watch), Some(expected), "{method} {path}");
        }
        assert_eq!(Right::asked("GET", "/version", false), None);
    }

    #[test]
    fn a_right_in_one_namespace_covers_nothing_outside_it() {
        let asked = |namespace| right(namespace, "", "secrets", "list");
        let everywhere = asked(None);
        assert!(everywhere.covers(&asked(Some("shop"))) && everywhere.covers(&everywhere));
        assert!(asked(Some("shop")).covers(&asked(Some("shop"))));
        assert!(!asked(Some("shop")).covers(&asked(Some("other"))));
        assert!(!asked(Some("shop")).covers(&everywhere));
        assert!(!everywhere.covers(&right(None, "", "secrets", "watch")));
    }
}
