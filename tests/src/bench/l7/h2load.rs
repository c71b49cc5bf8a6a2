//! h2load: HTTP/2 over TLS, and HTTP/1.1 at a fixed rate.
use anyhow::{Context as _, Result, ensure};

/// Requests that were answered with 2xx, from what h2load prints.
///
/// # Errors
/// A request was not answered so, or this is not h2load's text.
pub fn answered(output: &str) -> Result<u64> {
    let count = |begin: &str, end: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(begin));
        let words = line.and_then(|line| line.trim().split(", ").find_map(|part| part.strip_suffix(end)));
        words.and_then(|count| count.parse::<u64>().ok())
    };
    let total =
        count("requests:", " total").with_context(|| format!("h2load told of no requests: {output}"))?;
    let good = count("status codes:", " 2xx").unwrap_or_default();
    ensure!(total > 0 && good == total, "{good} of {total} requests were answered with 2xx: {output}");
    Ok(good)
}

/// Time of each request in µs, from the file of `--log-file`: when it began, its status and its time, a line each.
///
/// # Errors
/// A line is another one.
pub fn latencies_us(log: &str) -> Result<Vec<f64>> {
    let time = |line: &str| {
        let mut fields = line.split('\t').skip(1);
        (fields.next() == Some("200")).then_some(())?;
        fields.next()?.parse::<f64>().ok()
    };
    log.lines()
        .map(|line| time(line).with_context(|| format!("h2load logged no answer with 200: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(good: u32, bad: u32) -> String {
        format!(
            "finished in 1.02s, 2953.11 req/s, 480.99KB/s\n\
             requests: 3000 total, 3000 started, 3000 done, {good} succeeded, {bad} failed, 0 errored, 0 timeout\n\
             status codes: {good} 2xx, 0 3xx, 0 4xx, {bad} 5xx\n"
        )
    }

    #[test]
    fn answers_are_counted() {
        assert_eq!(answered(&output(3_000, 0)).unwrap(), 3_000);
    }

    #[test]
    fn a_wrong_answer_is_a_failure() {
        let error = answered(&output(2_999, 1)).unwrap_err().to_string();
        assert!(error.starts_with("2999 of 3000 requests were answered with 2xx"), "{error}");
    }

    #[test]
    fn another_text_is_told() {
        let error = answered("cannot connect\n").unwrap_err().to_string();
        assert_eq!(error, "h2load told of no requests: cannot connect\n");
    }

    #[test]
    fn times_are_the_last_fields() {
        let log = "1796000000000000\t200\t431\n1796000000000100\t200\t1207\n";
        assert_eq!(latencies_us(log).unwrap(), [431.0, 1_207.0]);
    }

    #[test]
    fn a_request_that_was_not_answered_well_has_no_time() {
        let error = latencies_us("1796000000000000\t503\t431\n").unwrap_err().to_string();
        assert_eq!(error, "h2load logged no answer with 200: 1796000000000000\t503\t431");
    }
}
