//! Answers of many requests, added up.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_tests::traffic::{Answer, Failure};

/// Who answered how often and what it saw, and what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answers by pod.
    pub(crate) by_pod: BTreeMap<String, usize>,
    /// Sources that each pod saw.
    pub(crate) sources: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Failures by reason.
    pub(crate) failed: BTreeMap<Failure, usize>,
}

/// Longest bar of a spread, in characters.
const BAR_CHARACTERS_MAX: usize = 40;

impl Tally {
    /// Of these answers.
    pub(crate) fn of(answers: &[Answer]) -> Self {
        let mut tally = Self::default();
        for answer in answers {
            match &answer.outcome {
                Ok(answered) => {
                    *tally.by_pod.entry(answered.by.clone()).or_default() += 1;
                    tally.sources.entry(answered.by.clone()).or_default().insert(answered.seen_source.ip());
                }
                Err(failure) => *tally.failed.entry(*failure).or_default() += 1,
            }
        }
        tally
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> usize {
        self.by_pod.values().sum()
    }

    /// Whether exactly `pods` answered all requests, each at least a third of its equal share: of 300
    /// requests to six pods a fair choice falls below that once in 10 million times.
    pub(crate) fn is_spread_over(&self, pods: &[&str]) -> bool {
        let least = self.answered() / pods.len().max(1) / 3;
        self.failed.is_empty()
            && self.by_pod.keys().map(String::as_str).eq(pods.iter().copied())
            && self.by_pod.values().all(|count| *count >= least)
    }

    /// Whether every pod saw just the source that `expected` names for it.
    pub(crate) fn saw(&self, expected: impl Fn(&str) -> IpAddr) -> bool {
        self.sources.iter().all(|(pod, sources)| sources.iter().eq([&expected(pod)]))
    }

    /// One line.
    pub(crate) fn summary(&self) -> String {
        let failed: usize = self.failed.values().sum();
        let mut text = format!("{} of {} answered", self.answered(), self.answered() + failed);
        let (least, most) = (self.by_pod.values().min(), self.by_pod.values().max());
        match (self.by_pod.keys().next(), least.zip(most)) {
            (Some(pod), _) if self.by_pod.len() == 1 => text += &format!(", all by {pod}"),
            (_, Some((least, most))) => {
                text += &format!(" by {} pods, {least} to {most} each", self.by_pod.len());
            }
            _ => {}
        }
        for (failure, count) in &self.failed {
            text += &format!("; {count} {failure:?}");
        }
        text
    }

    /// A bar for each pod, with the sources that it saw.
    pub(crate) fn bars(&self) -> Vec<String> {
        let most = self.by_pod.values().max().copied().unwrap_or(1);
        let bar = |(pod, count): (&String, &usize)| {
            let sources: Vec<String> = self.sources[pod].iter().map(ToString::to_string).collect();
            let filled = "█".repeat((count * BAR_CHARACTERS_MAX).div_ceil(most));
            format!("{pod:<8} {count:>4} {filled:<BAR_CHARACTERS_MAX$} saw {}", sources.join(", "))
        };
        self.by_pod.iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use lb_tests::traffic::Answered;

    use super::*;

    fn answers(by: &[(&str, usize)]) -> Vec<Answer> {
        let answer = |pod: &str| Answer {
            at_us: 0,
            elapsed_us: 0,
            outcome: Ok(Answered {
                by: pod.to_owned(),
                seen_source: ([192, 0, 2, 100], 40_000).into(),
                peer: ([198, 51, 100, 10], 80).into(),
            }),
        };
        by.iter().flat_map(|(pod, count)| vec![answer(pod); *count]).collect()
    }

    #[test]
    fn spread_wants_every_pod_and_no_other() {
        let tally = Tally::of(&answers(&[("a", 40), ("b", 60)]));
        assert!(tally.is_spread_over(&["a", "b"]));
        assert!(!tally.is_spread_over(&["a", "b", "c"]));
        assert!(!tally.is_spread_over(&["a"]));
    }

    #[test]
    fn spread_refuses_a_pod_with_far_less_than_its_share() {
        assert!(!Tally::of(&answers(&[("a", 90), ("b", 10)])).is_spread_over(&["a", "b"]));
    }

    #[test]
    fn failed_request_is_counted_and_spoils_the_spread() {
        let mut all = answers(&[("a", 3)]);
        all.push(Answer { at_us: 0, elapsed_us: 0, outcome: Err(Failure::TimedOut) });
        let tally = Tally::of(&all);
        assert_eq!(tally.summary(), "3 of 4 answered, all by a; 1 TimedOut");
        assert!(!tally.is_spread_over(&["a"]));
    }
}
