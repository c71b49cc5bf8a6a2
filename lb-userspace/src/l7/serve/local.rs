//! Tasks of a serving thread stay on it.
use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Runs what hyper wants to run beside a connection on the same thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}
