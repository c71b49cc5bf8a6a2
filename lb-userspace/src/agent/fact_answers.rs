//! What commands are told of the facts, which the loop alone has.
use tokio::sync::mpsc;

use crate::admin::FactsQuestion;
use crate::snapshot::RecordedFacts;

use super::Agent;

/// Questions that wait for the loop; a further one waits with its client.
pub(super) const QUESTIONS_MAX: usize = 4;

/// Where questions about facts come in.
pub(super) type FactsQuestions = mpsc::Receiver<FactsQuestion>;

impl Agent {
    /// Lends the facts of this moment: no object is copied here, and none is written down.
    pub(super) fn lend_facts(&self, question: FactsQuestion) {
        let (facts, node) = self.planner.facts();
        let facts = RecordedFacts::new(facts, node, &self.planner.desired, self.report.all());
        // Whoever asked may have gone.
        let _ = question.send(Box::new(move || Ok(serde_json::to_string(&facts)?)));
    }
}
