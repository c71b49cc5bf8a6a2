//! The configuration of nginx.
use std::fmt::Write as _;

use super::rules::{HOSTS, PATHS, host, path};
use super::{CONNECTIONS_MAX, IDLE_TIMEOUT_S, KEPT_MAX, KEPT_TIMEOUT_S, Places};

/// Requests that a connection may carry: more than any of the bench does.
const REQUESTS_MAX: u32 = 1_000_000_000;

/// One worker, which is the process itself: there is no master that could outlive or be outlived by it. Answers of
/// 64 KiB fit the buffers, and the fields that a request gets are those that Podway's front-end adds.
#[must_use]
pub fn configuration(places: &Places) -> String {
    let Places { http, https, upstream, folder, certificate, key, .. } = places;
    let (folder, certificate, key) = (folder.display(), certificate.display(), key.display());
    let mut text = format!(
        "daemon off;\n\
         master_process off;\n\
         error_log stderr error;\n\
         pid {folder}/pid;\n\
         events {{ worker_connections {CONNECTIONS_MAX}; }}\n\
         http {{\n\
         access_log off;\n\
         client_body_temp_path {folder}/client;\n\
         proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi;\n\
         scgi_temp_path {folder}/scgi;\n\
         server_names_hash_max_size 4096;\n\
         keepalive_timeout {IDLE_TIMEOUT_S}s;\n\
         keepalive_requests {REQUESTS_MAX};\n\
         ssl_certificate {certificate};\n\
         ssl_certificate_key {key};\n\
         ssl_protocols TLSv1.2 TLSv1.3;\n\
         proxy_http_version 1.1;\n\
         proxy_buffers 32 4k;\n\
         proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Host $http_host;\n\
         proxy_set_header X-Forwarded-Port $server_port;\n\
         proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Request-Id $request_id;\n\
         upstream upstream {{\n\
         server {upstream};\n\
         keepalive {KEPT_MAX};\n\
         keepalive_requests {REQUESTS_MAX};\n\
         keepalive_timeout {KEPT_TIMEOUT_S}s;\n\
         }}\n"
    );
    for number in 0..HOSTS {
        let locations: String = (0..PATHS)
            .map(|part| format!("location {} {{ proxy_pass http://upstream; }}\n", path(part)))
            .collect();
        write!(
            text,
            "server {{\nlisten {http};\nlisten {https} ssl http2;\nserver_name {};\n{locations}}}\n",
            host(number)
        )
        .expect("memory is enough");
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_a_server_with_a_location_for_each_path() {
        let text = configuration(&super::super::places());
        assert_eq!(text.matches("server {\n").count(), 100);
        let server = "server {\nlisten 127.0.0.1:8080;\nlisten 127.0.0.1:8443 ssl http2;\n\
                      server_name site-7.example;\nlocation /part-0/ { proxy_pass http://upstream; }\n";
        assert!(text.contains(server), "{text}");
        assert_eq!(text.matches("proxy_pass http://upstream;").count(), 1_000);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn connections_to_the_upstream_are_kept() {
        let text = configuration(&super::super::places());
        assert!(text.contains("proxy_http_version 1.1;\n"), "{text}");
        assert!(text.contains("proxy_set_header Connection \"\";\n"), "{text}");
        assert!(text.contains("upstream upstream {\nserver 127.0.0.1:9090;\nkeepalive 128;\n"), "{text}");
    }
}
