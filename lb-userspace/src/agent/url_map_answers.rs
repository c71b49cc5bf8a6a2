//! What commands are told of URL maps, which no BPF map holds.
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::cli::UrlMapQuestion;
use crate::model::Problem;
use crate::plan::Desired;

/// The URL maps as they were last planned, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(super) struct UrlMapAnswers(Arc<Mutex<Arc<Told>>>);

#[derive(Debug, Default)]
struct Told {
    /// The URL maps, and of the Services those that they lead to.
    desired: Desired,
    problems: Vec<Problem>,
}

impl UrlMapAnswers {
    /// Puts the URL maps of a plan in the place of the former ones.
    pub(super) fn publish<'a>(&self, desired: &Desired, problems: impl Iterator<Item = &'a Problem>) {
        let of_ingresses = problems.filter(|problem| problem.kind == "Ingress").cloned();
        let told = Told { desired: desired.url_map_part(), problems: of_ingresses.collect() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(told);
    }

    /// Answers a command of this node.
    ///
    /// # Errors
    /// It is no question, or has no answer.
    pub(super) fn answer(&self, question: serde_json::Value) -> Result<String> {
        let question: UrlMapQuestion = serde_json::from_value(question)
            .context("cannot read the question: it may be of another version")?;
        let told = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        question.answer(&told.desired, &told.problems)
    }
}
