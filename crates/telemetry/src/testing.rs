//! A recorder for one thread, so that tests beside each other do not see each other's metrics.

use crate::emit::activate;
use crate::{Naming, Recorder};

/// Everything emitted by this thread, while it lives, goes to a recorder of its own. On tokio's single-thread runtime
/// that is everything a test does.
#[must_use = "emissions go elsewhere once this is dropped"]
pub struct Local {
    // Dropped before the recorder it points to.
    guard: Option<metrics::LocalRecorderGuard<'static>>,
    recorder: Recorder,
}

impl Local {
    /// A recorder with SPIRE's server prefix and no labels of its own.
    pub fn new() -> Self {
        Self::with(Recorder::new(Naming { prefix: "spire_server".to_owned(), ..Naming::default() }))
    }

    /// That recorder.
    pub fn with(recorder: Recorder) -> Self {
        activate();
        // A few bytes per test are leaked: the guard borrows the recorder.
        let leaked: &'static Recorder = Box::leak(Box::new(recorder.clone()));
        Self { guard: Some(metrics::set_default_local_recorder(leaked)), recorder }
    }

    /// The recorder.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What a scrape would see.
    #[must_use]
    pub fn render(&self) -> String {
        self.recorder.render()
    }

    /// Whether a line of the exposition begins with `name` (labels included) and ends with this value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        let text = self.render();
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.guard = None;
    }
}
