//! The configuration of HAProxy.
use super::{CONNECTIONS_MAX, IDLE_TIMEOUT_S, KEPT_MAX, KEPT_TIMEOUT_S, Places, rules};

/// Descriptors for all clients' connections and those to the upstream. Without it HAProxy wants two for each client,
/// which a machine may not allow.
const DESCRIPTORS: u32 = CONNECTIONS_MAX + 4_000;

/// One thread. Rules are a map of which the longest begin of host and path holds, as its Ingress controllers make
/// one; the fields that a request gets are those that Podway's front-end adds.
#[must_use]
pub fn configuration(places: &Places) -> String {
    let Places { http, https, upstream, folder, certificate_and_key, .. } = places;
    let (map, certificate) = (folder.join("map"), certificate_and_key.display());
    format!(
        "global\n\
         nbthread 1\n\
         maxconn {CONNECTIONS_MAX}\n\
         no strict-limits\n\
         ulimit-n {DESCRIPTORS}\n\
         ssl-default-bind-options ssl-min-ver TLSv1.2\n\
         defaults\n\
         mode http\n\
         timeout connect 5s\n\
         timeout client {IDLE_TIMEOUT_S}s\n\
         timeout http-keep-alive {IDLE_TIMEOUT_S}s\n\
         timeout http-request 10s\n\
         timeout server 30s\n\
         http-reuse always\n\
         option forwardfor\n\
         frontend site\n\
         bind {http}\n\
         bind {https} ssl crt {certificate} alpn h2,http/1.1\n\
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         http-request set-header X-Forwarded-Port %[dst_port]\n\
         http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n\
         http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}\n\
         http-request set-header X-Request-Id %[uuid()]\n\
         use_backend %[base,map_beg({})]\n\
         backend upstream\n\
         server upstream {upstream} pool-max-conn {KEPT_MAX} pool-purge-delay {KEPT_TIMEOUT_S}s\n",
        map.display()
    )
}

/// The map that the configuration names, to be the file `map` of the folder.
#[must_use]
pub fn map() -> String {
    rules::all().map(|(host, path)| format!("{host}{path} upstream\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_a_line_of_the_map() {
        let map = map();
        assert_eq!(map.lines().count(), 1_000);
        assert!(map.starts_with("site-0.example/part-0/ upstream\nsite-0.example/part-1/ upstream\n"));
        assert!(map.ends_with("site-99.example/part-9/ upstream\n"));
    }

    #[test]
    fn requests_go_by_the_map_to_the_upstream() {
        let text = configuration(&super::super::places());
        assert!(text.contains("nbthread 1\n"), "{text}");
        assert!(text.contains("bind 127.0.0.1:8080\n"), "{text}");
        assert!(text.contains("bind 127.0.0.1:8443 ssl crt /run/site.pem alpn h2,http/1.1\n"), "{text}");
        assert!(text.contains("use_backend %[base,map_beg(/run/peer/map)]\n"), "{text}");
        assert!(text.contains("server upstream 127.0.0.1:9090 pool-max-conn 128 "), "{text}");
    }
}
