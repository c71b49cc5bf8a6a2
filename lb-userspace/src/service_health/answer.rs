//! The answer of one health check node port.
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::ServiceHealth;
use crate::plan::Family;

/// How many endpoints the node has, for balancers that weigh nodes (kubernetes 1.31 and later).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: u32,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// 200 with endpoints here and a healthy proxy, else 503; the same body either way, whatever the path.
#[must_use]
pub fn answer(health: &ServiceHealth, family: Family, is_proxy_healthy: bool) -> Response<String> {
    let local_endpoints = health.count(family);
    let body = Body {
        service: Name { namespace: &health.service.namespace, name: &health.service.name },
        local_endpoints,
        service_proxy_healthy: is_proxy_healthy,
    };
    // Two texts, a number and a truth: nothing of these can fail to be written.
    let mut response = Response::new(serde_json::to_string(&body).unwrap_or_default());
    if local_endpoints == 0 || !is_proxy_healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, local_endpoints.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn health(local_endpoints: &[(Family, u32)]) -> ServiceHealth {
        let service = ObjectName::new("shop", "web");
        ServiceHealth { service, local_endpoints: local_endpoints.iter().copied().collect() }
    }

    fn answer_of(count: u32, is_proxy_healthy: bool) -> Response<String> {
        answer(&health(&[(Family::V4, count)]), Family::V4, is_proxy_healthy)
    }

    #[test]
    fn endpoints_are_those_of_the_family_that_asks_where_the_service_has_it() {
        let weight = |health: &ServiceHealth, family| answer(health, family, true).headers()[WEIGHT].clone();
        let dual = health(&[(Family::V4, 2), (Family::V6, 1)]);
        assert_eq!([weight(&dual, Family::V4), weight(&dual, Family::V6)], ["2", "1"]);
        assert_eq!(weight(&health(&[(Family::V4, 2)]), Family::V6), "2");
    }

    #[test]
    fn body_is_the_one_of_kube_proxy() {
        assert_eq!(
            answer_of(2, true).body(),
            r#"{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#
        );
    }

    #[test]
    fn status_is_503_without_endpoints_or_with_a_proxy_that_is_behind() {
        let status = |count, healthy| answer_of(count, healthy).status().as_u16();
        assert_eq!([status(1, true), status(0, true), status(1, false)], [200, 503, 503]);
    }

    #[test]
    fn headers_are_those_of_kube_proxy() {
        let response = answer_of(3, true);
        let headers: Vec<(&str, &str)> =
            response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(
            headers,
            [
                ("content-type", "application/json"),
                ("x-content-type-options", "nosniff"),
                ("x-load-balancing-endpoint-weight", "3"),
            ]
        );
    }
}
