//! When an agent writes its report: seldom, and at once where another waits for it. Pure.
use super::{Report, Summary};

/// Time between two renewals of a report, milliseconds, at up to [`NODES_PER_SECOND`] nodes times this.
const RENEW_MIN_MS: u64 = 10_000;

/// Renewals of all agents in a second: in a larger cluster each renews less often.
const NODES_PER_SECOND: u64 = 100;

/// Least time between two writes of one agent, milliseconds.
pub(super) const WRITE_INTERVAL_MS: u64 = 1_000;

/// Time between two renewals in a cluster of so many nodes, milliseconds. A report holds for four times this.
#[must_use]
pub fn renew_ms(nodes: usize) -> u64 {
    round_ms(nodes).max(RENEW_MIN_MS)
}

/// Least time between two questions to all agents, milliseconds: each answers with one write.
pub(super) fn round_ms(nodes: usize) -> u64 {
    (nodes as u64 * 1_000 / NODES_PER_SECOND).max(WRITE_INTERVAL_MS)
}

/// What an agent wrote last, and when.
#[derive(Clone, Debug, Default)]
pub struct Pacing {
    written: Option<(Report, u64)>,
}

impl Pacing {
    /// Whether a report is to be written at `now_ms` in a cluster of so many nodes.
    #[must_use]
    pub fn is_due(&self, report: &Report, summary: &Summary, nodes: usize, now_ms: u64) -> bool {
        let Some((written, at_ms)) = &self.written else { return true };
        let passed_ms = now_ms.saturating_sub(*at_ms);
        if passed_ms >= renew_ms(nodes) {
            return true;
        }
        let is_asked = summary.wanted > written.programmed && report.programmed >= summary.wanted;
        let is_awaited = summary.wanted > 0 && report.behind != written.behind;
        let asks = report.wanted != written.wanted;
        let is_news = report.unhealthy != written.unhealthy;
        passed_ms >= WRITE_INTERVAL_MS && (is_asked || is_awaited || asks || is_news)
    }

    /// A report was written.
    pub fn note(&mut self, report: Report, now_ms: u64) {
        self.written = Some((report, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Keys;

    fn written(report: Report) -> Pacing {
        let mut pacing = Pacing::default();
        pacing.note(report, 0);
        pacing
    }

    fn programmed(programmed: u64) -> Report {
        Report { programmed, ..Report::default() }
    }

    #[test]
    fn what_nobody_waits_for_is_told_with_the_renewal() {
        let pacing = written(programmed(7));
        let is_due = |now_ms| pacing.is_due(&programmed(9), &Summary::default(), 3, now_ms);
        assert_eq!([9_999, 10_000].map(is_due), [false, true]);
    }

    #[test]
    fn what_is_asked_for_is_told_as_soon_as_it_is_so() {
        let pacing = written(programmed(7));
        let asked = Summary { wanted: 9, ..Summary::default() };
        let is_due = |version, now_ms| pacing.is_due(&programmed(version), &asked, 3, now_ms);
        assert_eq!([is_due(8, 5_000), is_due(9, 999), is_due(9, 1_000)], [false, false, true]);
        assert!(!written(programmed(9)).is_due(&programmed(12), &asked, 3, 5_000), "it has been told");
    }

    #[test]
    fn findings_and_wishes_are_told_once_a_second_at_most() {
        let pacing = written(programmed(7));
        let found = Report { unhealthy: Keys([1].into()), ..programmed(7) };
        let wish = Report { wanted: 9, ..programmed(7) };
        for report in [found, wish] {
            let is_due = |now_ms| pacing.is_due(&report, &Summary::default(), 3, now_ms);
            assert_eq!([999, 1_000].map(is_due), [false, true]);
        }
    }

    #[test]
    fn renewals_of_all_nodes_are_a_hundred_a_second_at_most() {
        assert_eq!([1, 1_000, 5_000].map(renew_ms), [10_000, 10_000, 50_000]);
        assert_eq!([1, 100, 1_000].map(round_ms), [1_000, 1_000, 10_000]);
    }
}
