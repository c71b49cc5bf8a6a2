//! The configuration of Envoy.
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::rules::{HOSTS, PATHS, host, path};
use super::{CONNECTIONS_MAX, IDLE_TIMEOUT_S, KEPT_TIMEOUT_S, Places};

/// Requests that wait for a connection to the upstream, and connections to it: more than there are clients.
const PENDING_MAX: u32 = 16_384;

/// Two listeners with the same rules, of which each host is a virtual host. The fields that a request gets are those
/// that Podway's front-end adds.
#[must_use]
pub fn configuration(places: &Places) -> String {
    let Places { http, https, upstream, certificate, key, .. } = places;
    let secure = format!(
        "      transport_socket:\n        \
         name: envoy.transport_sockets.tls\n        \
         typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
         common_tls_context:\n            \
         alpn_protocols: [h2, http/1.1]\n            \
         tls_params: {{tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}}\n            \
         tls_certificates:\n            \
         - certificate_chain: {{filename: \"{}\"}}\n              \
         private_key: {{filename: \"{}\"}}\n",
        certificate.display(),
        key.display()
    );
    format!(
        "static_resources:\n\
         {}{}  clusters:\n  \
         - name: upstream\n    \
         type: STATIC\n    \
         connect_timeout: 5s\n    \
         circuit_breakers:\n      \
         thresholds:\n      \
         - {{max_connections: {PENDING_MAX}, max_pending_requests: {PENDING_MAX}, max_requests: {PENDING_MAX}}}\n    \
         typed_extension_protocol_options:\n      \
         envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
         common_http_protocol_options: {{idle_timeout: {KEPT_TIMEOUT_S}s}}\n        \
         explicit_http_config: {{http_protocol_options: {{}}}}\n    \
         load_assignment:\n      \
         cluster_name: upstream\n      \
         endpoints:\n      \
         - lb_endpoints:\n        \
         - endpoint: {{address: {}}}\n\
         overload_manager:\n  \
         resource_monitors:\n  \
         - name: envoy.resource_monitors.global_downstream_max_connections\n    \
         typed_config:\n      \
         \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig\n      \
         max_active_downstream_connections: {CONNECTIONS_MAX}\n",
        "  listeners:\n",
        listener("http", *http, "") + &listener("https", *https, &secure),
        address(*upstream)
    )
}

fn address(of: SocketAddr) -> String {
    format!("{{socket_address: {{address: \"{}\", port_value: {}}}}}", of.ip(), of.port())
}

fn listener(scheme: &str, place: SocketAddr, transport: &str) -> String {
    let mut text = format!(
        "  - name: {scheme}\n    \
         address: {}\n    \
         filter_chains:\n    \
         - filters:\n      \
         - name: envoy.filters.network.http_connection_manager\n        \
         typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: {scheme}\n          \
         codec_type: AUTO\n          \
         use_remote_address: true\n          \
         common_http_protocol_options: {{idle_timeout: {IDLE_TIMEOUT_S}s}}\n          \
         http_filters:\n          \
         - name: envoy.filters.http.router\n            \
         typed_config:\n              \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n          \
         route_config:\n            \
         name: rules\n            \
         request_headers_to_add:\n            \
         - header: {{key: x-forwarded-host, value: \"%REQ(:AUTHORITY)%\"}}\n            \
         - header: {{key: x-forwarded-port, value: \"%DOWNSTREAM_LOCAL_PORT%\"}}\n            \
         virtual_hosts:\n",
        address(place)
    );
    for number in 0..HOSTS {
        let name = host(number);
        write!(text, "            - name: {name}\n              domains: [{name}]\n              routes:\n")
            .expect("memory is enough");
        for part in 0..PATHS {
            writeln!(
                text,
                "              - {{match: {{prefix: {}}}, route: {{cluster: upstream, timeout: 30s}}}}",
                path(part)
            )
            .expect("memory is enough");
        }
    }
    text + transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_a_virtual_host_of_both_listeners_with_a_route_for_each_path() {
        let text = configuration(&super::super::places());
        assert_eq!(text.matches("- name: site-").count(), 200);
        assert_eq!(text.matches("route: {cluster: upstream, timeout: 30s}").count(), 2_000);
        assert!(text.contains("domains: [site-7.example]\n"), "{text}");
        let read: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
        let listeners = read["static_resources"]["listeners"].as_sequence().unwrap();
        let ports = listeners.iter().map(|one| one["address"]["socket_address"]["port_value"].as_u64());
        assert_eq!(ports.collect::<Vec<_>>(), [Some(8080), Some(8443)]);
        let of_upstream = &read["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0];
        let address = &of_upstream["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
        assert_eq!(address["port_value"].as_u64(), Some(9090));
    }

    #[test]
    fn only_the_second_listener_speaks_tls() {
        let text = configuration(&super::super::places());
        let read: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
        let chains = |index: usize| &read["static_resources"]["listeners"][index]["filter_chains"][0];
        assert!(chains(0).get("transport_socket").is_none());
        let context = &chains(1)["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(context["tls_certificates"][0]["private_key"]["filename"].as_str(), Some("/run/site.key"));
    }
}
