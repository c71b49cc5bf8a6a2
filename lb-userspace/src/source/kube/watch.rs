//! One watch that never ends.
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Error, Event, InitialListStrategy, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Settings;
use super::backoff::{Backoff, jittered};
use super::known::Known;
use super::lenient::Lenient;
use crate::model::{Change, ObjectName};
use crate::source::objects::Converted;
use crate::source::{Interner, SourceEvent};

/// Streamed lists that may break off before a paged list is tried: a server of before Kubernetes
/// 1.27 takes the request for a plain watch and never says that the list is complete.
const STREAMED_LISTS_MAX: u32 = 3;

/// What is to know of a kind of object.
pub(super) struct Kind<K> {
    pub(super) name: &'static str,
    pub(super) selector: Option<&'static str>,
    /// Whether a server may lack the kind, or not let us read it: there is none of it then.
    pub(super) is_optional: bool,
    pub(super) convert: fn(&K, &mut Interner) -> Converted,
    pub(super) gone: fn(ObjectName) -> Change,
    /// Of which of its objects one asks.
    pub(super) fields: Option<String>,
    /// Whether it is told how far the watch has come ([`SourceEvent::Followed`]).
    pub(super) is_followed: bool,
}

/// A watch of one kind, and what it has seen.
pub(super) struct Watch<K> {
    kind: Kind<K>,
    known: Known,
    interner: Interner,
    backoff: Backoff,
    strategy: InitialListStrategy,
    settings: Settings,
    sender: mpsc::Sender<SourceEvent>,
    /// Watches that have not completed their first list.
    unsynced: Arc<AtomicUsize>,
    is_synced: bool,
    /// The greatest version up to which everything is sent.
    followed: u64,
    /// The greatest version in the list that is being read.
    listed: u64,
    /// Lists begun since the last complete one.
    lists_begun: u32,
    /// The failure that was logged last, until the watch is well again.
    failure: Option<String>,
}

/// How to go on after an event or a failure.
enum Next {
    /// With the same stream.
    Go,
    /// With a new stream, which begins with a list.
    List,
    /// The receiver is gone.
    End,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    pub(super) fn new(
        kind: Kind<K>,
        settings: Settings,
        sender: mpsc::Sender<SourceEvent>,
        unsynced: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            known: Known::new(kind.name, kind.gone),
            kind,
            interner: Interner::default(),
            backoff: Backoff::new(settings.backoff_min, settings.backoff_max),
            strategy: InitialListStrategy::StreamingList,
            settings,
            sender,
            unsynced,
            is_synced: false,
            followed: 0,
            listed: 0,
            lists_begun: 0,
            failure: None,
        }
    }

    /// Runs until the receiver is gone.
    pub(super) async fn run(mut self, api: Api<Lenient<K>>) {
        let sender = self.sender.clone();
        let work = async {
            loop {
                let mut stream = pin!(watcher(api.clone(), self.config()));
                loop {
                    let next = match stream.next().await {
                        Some(Ok(event)) => self.event(event).await,
                        Some(Err(error)) => self.failed(&error).await,
                        None => Next::List,
                    };
                    match next {
                        Next::Go => {}
                        Next::List => break,
                        Next::End => return,
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = sender.closed() => {}
        }
    }

    fn config(&self) -> watcher::Config {
        let timeout = jittered(self.settings.watch_timeout, random());
        watcher::Config {
            label_selector: self.kind.selector.map(str::to_owned),
            field_selector: self.kind.fields.clone(),
            timeout: Some(u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)),
            initial_list_strategy: self.strategy.clone(),
            page_size: Some(self.settings.page_objects_max),
            ..watcher::Config::default()
        }
    }

    async fn event(&mut self, event: Event<Lenient<K>>) -> Next {
        if matches!(event, Event::Init) {
            // Says nothing of the server yet.
            self.known.list_begins();
            self.listed = 0;
            self.lists_begun += 1;
            if self.lists_begun > STREAMED_LISTS_MAX && self.strategy == InitialListStrategy::StreamingList {
                return self.list_in_pages("streamed lists break off");
            }
            return Next::Go;
        }
        self.is_well();
        let followed = self.now_followed(&event);
        let mut events = match event {
            Event::Init => Vec::new(),
            Event::InitApply(object) | Event::Apply(object) => self.update(object),
            Event::Delete(object) => self.known.remove(name_of(object.meta())),
            Event::InitDone => self.list_is_complete(),
        };
        if self.kind.is_followed && followed > self.followed {
            self.followed = followed;
            events.push(SourceEvent::Followed(followed));
        }
        for event in events {
            if self.sender.send(event).await.is_err() {
                return Next::End;
            }
        }
        Next::Go
    }

    /// How far the watch is once an event is taken. A watch goes by rising versions, a list does not: it counts as
    /// a whole. Versions are numbers that rise (KEP-5504).
    fn now_followed(&mut self, event: &Event<Lenient<K>>) -> u64 {
        let version = |object: &Lenient<K>| {
            object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        match event {
            Event::Init => 0,
            Event::InitApply(object) => {
                self.listed = self.listed.max(version(object));
                0
            }
            Event::Apply(object) | Event::Delete(object) => version(object),
            Event::InitDone => self.listed,
        }
    }

    fn list_is_complete(&mut self) -> Vec<SourceEvent> {
        self.lists_begun = 0;
        let mut events = self.known.list_ends();
        self.interner.forget_unused();
        let is_first = !std::mem::replace(&mut self.is_synced, true);
        if is_first && self.unsynced.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The other watches had sent their facts before they counted down.
            events.push(SourceEvent::Synced);
        }
        events
    }

    fn update(&mut self, object: Lenient<K>) -> Vec<SourceEvent> {
        match object.into_object() {
            Ok(object) => {
                let converted = (self.kind.convert)(&object, &mut self.interner);
                self.known.update(name_of(object.meta()), converted)
            }
            Err(undecodable) => {
                let meta = &undecodable.meta;
                let resource_version = meta.resource_version.as_deref().unwrap_or_default();
                self.known.undecodable(name_of(meta), resource_version, &undecodable.reason)
            }
        }
    }

    async fn failed(&mut self, error: &Error) -> Next {
        let code = status_code(error);
        if let (Error::WatchStartFailed(_), Some(400 | 422), InitialListStrategy::StreamingList) =
            (error, code, &self.strategy)
        {
            // "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled".
            return self.list_in_pages("the server does not stream lists");
        }
        let is_missing = self.kind.is_optional && self.known.is_empty() && matches!(code, Some(403 | 404));
        if is_missing && !self.is_synced {
            // An older server, one without the definition, or a role of before the kind was asked for.
            for event in self.list_is_complete() {
                if self.sender.send(event).await.is_err() {
                    return Next::End;
                }
            }
        }
        let what = match code {
            Some(code) => format!("{} {code}", variant(error)),
            None => variant(error).to_owned(),
        };
        if self.failure.as_ref() != Some(&what) {
            warn!(kind = self.kind.name, %error, "watch failed; what is known stays; trying again");
            self.failure = Some(what);
        }
        if !is_missing && self.sender.send(SourceEvent::Interrupted(self.kind.name)).await.is_err() {
            return Next::End;
        }
        let wait = match is_missing {
            true => jittered(self.settings.missing_kind_wait, random()),
            false => self.backoff.delay(Instant::now(), random()),
        };
        sleep(wait).await;
        match (error, code) {
            // The watcher itself lists again after a 410 inside a watch, but not after one that
            // refuses the watch.
            (Error::WatchStartFailed(_), Some(410)) => Next::List,
            _ => Next::Go,
        }
    }

    fn list_in_pages(&mut self, reason: &'static str) -> Next {
        info!(kind = self.kind.name, reason, "listing in pages");
        self.strategy = InitialListStrategy::ListWatch;
        Next::List
    }

    fn is_well(&mut self) {
        if self.failure.take().is_some() {
            info!(kind = self.kind.name, "watch is well again");
        }
    }
}

/// Differs from agent to agent and from call to call.
fn random() -> u32 {
    RandomState::new().hash_one(0u8) as u32
}

/// The HTTP status, or the code of an error event.
fn status_code(error: &Error) -> Option<u16> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// The kind of a failure, by which it is logged once.
fn variant(error: &Error) -> &'static str {
    match error {
        Error::InitialListFailed(_) => "list",
        Error::WatchStartFailed(_) => "watch start",
        Error::WatchError(_) => "watch event",
        Error::WatchFailed(_) => "watch",
        Error::NoResourceVersion => "no resourceVersion",
    }
}

fn name_of(meta: &ObjectMeta) -> ObjectName {
    ObjectName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
