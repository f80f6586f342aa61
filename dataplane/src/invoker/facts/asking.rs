//! Task that queries the facts of functions in the order of the [`QuestionBook`] and notifies their watchers. It
//! ends with the last watch.

use std::collections::HashMap;
use std::sync::Arc;

use lighterman_proto::units::Moment;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::questions::{NextQuestion, QuestionBook};
use super::timeout::{FunctionTimeout, RUN_MAX};
use crate::invoker::port::{FunctionFacts, FunctionPort};
use crate::runtime::backoff::random;
use crate::runtime::clock;

/// Callback for each answer, called on the thread of the [`FactsActor`] task.
pub type FactsListener = Arc<dyn Fn(FunctionFacts) + Send + Sync>;

/// Facts service of one node. Clones share it.
#[derive(Clone)]
pub struct FactsActor {
    shared: Arc<AskingState>,
}

struct AskingState {
    port: Arc<dyn FunctionPort>,
    files: Mutex<FunctionFiles>,
    changed: Notify,
}

#[derive(Default)]
struct FunctionFiles {
    book: QuestionBook,
    functions: HashMap<Arc<str>, FunctionFile>,
    next_watch: u64,
    /// Set while the task runs.
    attended: bool,
}

struct FunctionFile {
    timeout: FunctionTimeout,
    listeners: HashMap<u64, FactsListener>,
}

/// Registered interest in a function, until dropped. Invocations in flight hold one, too.
pub struct FunctionWatch {
    desk: FactsActor,
    function: Arc<str>,
    id: u64,
    timeout: FunctionTimeout,
}

impl FactsActor {
    /// Creates the service, with queries through `port`.
    pub fn new(port: Arc<dyn FunctionPort>) -> Self {
        let shared = AskingState { port, files: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Watches `function` and calls `listener` with each answer. The task may start on the calling thread, so that
    /// thread must outlive all watches.
    pub fn watch(&self, function: &Arc<str>, listener: FactsListener) -> FunctionWatch {
        let now = clock::now();
        let (id, timeout, attend) = {
            let mut files = self.shared.files.lock();
            files.next_watch += 1;
            let id = files.next_watch;
            files.book.watch(function, now);
            let fresh =
                || FunctionFile { timeout: FunctionTimeout::new(RUN_MAX, now), listeners: HashMap::new() };
            let file = files.functions.entry(Arc::clone(function)).or_insert_with(fresh);
            file.listeners.insert(id, listener);
            let timeout = file.timeout.clone();
            (id, timeout, !std::mem::replace(&mut files.attended, true))
        };
        if attend {
            actix_rt::spawn(self.clone().attend());
        }
        self.shared.changed.notify_one();
        FunctionWatch { desk: self.clone(), function: Arc::clone(function), id, timeout }
    }

    async fn attend(self) {
        loop {
            let next = {
                let mut files = self.shared.files.lock();
                if files.book.is_empty() {
                    files.attended = false;
                    return;
                }
                files.book.next(clock::now())
            };
            match next {
                NextQuestion::Ask { function, asked } => {
                    actix_rt::spawn(self.clone().ask(function, asked));
                }
                NextQuestion::At(when) => {
                    let wait = when.since(clock::now());
                    let _ = tokio::time::timeout(wait, self.shared.changed.notified()).await;
                }
                NextQuestion::Never => self.shared.changed.notified().await,
            }
        }
    }

    async fn ask(self, function: Arc<str>, asked: Moment) {
        let facts = FunctionFacts::Unanswered { throttled: false };
        let mut answer = QuestionGuard { desk: self.clone(), function, asked, facts };
        answer.facts = self.shared.port.facts(Arc::clone(&answer.function)).await;
    }

    fn answered(&self, function: &Arc<str>, asked: Moment, facts: FunctionFacts) {
        metrics::counter!(crate::metrics::FUNCTION_QUESTIONS, "outcome" => label(facts)).increment(1);
        let now = clock::now();
        let listeners: Vec<FactsListener> = {
            let mut files = self.shared.files.lock();
            if !files.book.answered(function, asked, facts, now, random()) {
                return;
            }
            let Some(file) = files.functions.get(function) else { return };
            tell(&file.timeout, facts, asked, now);
            file.listeners.values().cloned().collect()
        };
        self.shared.changed.notify_one();
        for listener in listeners {
            listener(facts);
        }
    }

    fn doubt(&self, function: &str) {
        self.shared.files.lock().book.doubt(function, clock::now());
        self.shared.changed.notify_one();
    }

    fn unwatch(&self, function: &str, id: u64) {
        let mut files = self.shared.files.lock();
        if let Some(file) = files.functions.get_mut(function) {
            file.listeners.remove(&id);
        }
        if files.book.unwatch(function) {
            files.functions.remove(function);
        }
        drop(files);
        self.shared.changed.notify_one();
    }
}

/// Applies an answer to the timeout. A missing function keeps its last known timeout.
fn tell(timeout: &FunctionTimeout, facts: FunctionFacts, asked: Moment, now: Moment) {
    match facts {
        FunctionFacts::Known { timeout: known } => timeout.told(known, asked, now),
        FunctionFacts::Unknown => timeout.told(RUN_MAX, asked, now),
        FunctionFacts::Missing => timeout.told(timeout.current(), asked, now),
        FunctionFacts::Unanswered { .. } => {}
    }
}

fn label(facts: FunctionFacts) -> &'static str {
    match facts {
        FunctionFacts::Known { .. } => "known",
        FunctionFacts::Missing => "missing",
        FunctionFacts::Unknown => "untold",
        FunctionFacts::Unanswered { throttled: true } => "throttled",
        FunctionFacts::Unanswered { throttled: false } => "unanswered",
    }
}

/// Reports an answer even if its task panics. Without one the function would never be queried again.
struct QuestionGuard {
    desk: FactsActor,
    function: Arc<str>,
    asked: Moment,
    facts: FunctionFacts,
}

impl Drop for QuestionGuard {
    fn drop(&mut self) {
        self.desk.answered(&self.function, self.asked, self.facts);
    }
}

impl FunctionWatch {
    /// Timeout of the function.
    pub fn timeout(&self) -> &FunctionTimeout {
        &self.timeout
    }

    /// Reports that the known timeout may be wrong, because an outcome is unknown or a reply is overdue. It is
    /// queried soon.
    pub fn doubt(&self) {
        self.desk.doubt(&self.function);
    }
}

impl Drop for FunctionWatch {
    fn drop(&mut self) {
        self.desk.unwatch(&self.function, self.id);
    }
}
