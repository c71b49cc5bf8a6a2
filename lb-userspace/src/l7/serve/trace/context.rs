//! A request's place in a trace, as its fields carry it (W3C Trace Context). Pure.
use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Characters of a `traceparent` of version 00 (§3.2.2); later versions begin with as many of the same meaning.
const TRACEPARENT_LEN: usize = 55;
/// Bytes of a `tracestate` that is taken into spans; a longer one only passes (§3.3.1.5 asks for as many at least).
const TRACESTATE_BYTES_MAX: usize = 512;
/// The flag of a caller that may have recorded the request (§3.2.2.5.1).
const SAMPLED: u8 = 1;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    /// Not 0.
    pub(super) trace_id: u128,
    /// The span's, not 0.
    pub(super) span_id: u64,
    pub(super) flags: u8,
}

impl TraceContext {
    /// The caller's; none where it says nothing, or what cannot be (§3.2.3: the request then begins a trace).
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        Self::parse(value.to_str().ok()?.trim())
    }

    fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(TRACEPARENT_LEN)?;
        let mut parts = known.split('-');
        let mut number = |digits| hex(parts.next()?, digits);
        let (version, trace_id, span_id, flags) = (number(2)?, number(32)?, number(16)?, number(2)?);
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if !is_whole || trace_id == 0 || span_id == 0 {
            return None;
        }
        // What further flags of later versions mean is not known (§4.3).
        let flags = flags as u8;
        let flags = if version == 0 { flags } else { flags & SAMPLED };
        Some(Self { trace_id, span_id: span_id as u64, flags })
    }

    pub(super) const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same trace's, of a span that is recorded.
    pub(super) const fn recorded_as(self, span_id: u64) -> Self {
        Self { trace_id: self.trace_id, span_id, flags: self.flags | SAMPLED }
    }

    /// The first span of a new trace, which is recorded.
    pub(super) const fn root(trace_id: u128, span_id: u64) -> Self {
        Self { trace_id, span_id, flags: SAMPLED }
    }

    /// Makes it the parent of whoever gets these fields.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let Self { trace_id, span_id, flags } = self;
        let value = HeaderValue::try_from(format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}"));
        if let Ok(value) = value {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// What systems say of themselves along a trace, as one list (§3.3.1.1); empty where there is none.
pub(super) fn state(headers: &HeaderMap) -> String {
    let values = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok());
    let state = values.collect::<Vec<_>>().join(",");
    if state.len() > TRACESTATE_BYTES_MAX { String::new() } else { state }
}

/// Takes out what belongs to a trace that the request is not part of (§3.2.3).
pub(super) fn remove_state(headers: &mut HeaderMap) {
    headers.remove(TRACESTATE);
}

/// A number of so many digits; upper-case ones are none (§3.2.2).
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != digits || !is_hex {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN_ID: u64 = 0x00f0_67aa_0ba9_02b7;

    fn of(values: &[&str]) -> Option<TraceContext> {
        let fields = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_str(value).expect("a value")));
        TraceContext::of(&fields.collect())
    }

    #[test]
    fn a_callers_place_is_read_and_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = of(&[text]).expect("a context");
        assert_eq!(read, TraceContext { trace_id: TRACE_ID, span_id: SPAN_ID, flags: 1 });
        let mut headers = HeaderMap::new();
        read.write(&mut headers);
        assert_eq!(headers[TRACEPARENT], text);
        read.recorded_as(0x1234).write(&mut headers);
        assert_eq!(headers[TRACEPARENT], "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000001234-01");
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let text = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-more";
        assert_eq!(of(&[text]), Some(TraceContext { trace_id: TRACE_ID, span_id: SPAN_ID, flags: 1 }));
        assert_eq!(of(&[&text.replace("-more", "more")]), None);
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02";
        assert_eq!(of(&[text]).map(|context| (context.flags, context.is_sampled())), Some((2, false)));
    }

    #[test]
    fn what_cannot_be_is_no_place() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for wrong in [
            "",
            "00",
            &text[..54],
            &format!("{text}-more"),
            &text.to_uppercase(),
            &text.replacen("00", "ff", 1),
            &text.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473+-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of(&[wrong]), None, "{wrong:?}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[text, text]), None, "two places");
    }

    #[test]
    fn the_state_is_one_list_and_not_a_long_one() {
        let value = |text: &str| (TRACESTATE, HeaderValue::from_str(text).expect("a value"));
        let headers: HeaderMap = [value("a=1,b=2"), value("c=3")].into_iter().collect();
        assert_eq!(state(&headers), "a=1,b=2,c=3");
        let long = format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX));
        assert_eq!(state(&[value(&long)].into_iter().collect()), "");
    }
}
