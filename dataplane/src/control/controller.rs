//! Controller that executes accepted API requests: it writes the store first, then changes the dataplane, then
//! records the settled state. Changes interrupted by the end of the process are resumed at the next start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use lighterman_proto::api::{
    AccountScope, ApiError, CreateRequest, ErrorKind, Mapping, MappingState, UpdateRequest,
    tag_resource_not_found,
};
use lighterman_proto::ids::{MappingId, Offset};
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

use super::registry::{RegisteredMapping, Registry, RegistryCommand};
use super::store::{Store, StoreError};
use crate::messages::skip::SkipAnswer;
use crate::runtime::clock;
use crate::runtime::outbox::ReceiverClosed;

/// Host that runs mappings.
pub trait MappingHost: Send + Sync {
    /// Runs `mapping`, or applies its new configuration without losing or reordering records, even if the future is
    /// dropped. Resolves once the mapping runs with it. [`ReceiverClosed`]: the node ends before.
    fn run(&self, mapping: &Mapping) -> BoxFuture<'static, Result<(), ReceiverClosed>>;
    /// Drains the mapping, commits and leaves the group, even if the future is dropped. Resolves when done.
    /// [`ReceiverClosed`]: the node ends before.
    fn stop(&self, id: MappingId) -> BoxFuture<'static, Result<(), ReceiverClosed>>;
    /// Returns `LastProcessingResult`, or `None` while the mapping does not run.
    fn last_result(&self, id: MappingId) -> Option<String>;
    /// Returns the live state of the mapping's partitions, as JSON.
    fn partitions(&self, id: MappingId) -> Option<Value>;
    /// Returns the audit of the mapping's partitions, checked against the committed offsets, as JSON.
    fn audit(&self, id: MappingId) -> BoxFuture<'static, Value>;
    /// Resolves a failing record as skipped. Returns `None` if no partition on this node has it.
    fn skip(&self, id: MappingId, wish: SkipWish) -> BoxFuture<'static, Option<SkipAnswer>>;
    /// Deletes all data of the mapping except its audit, which is set aside.
    fn forget(&self, id: MappingId);
    /// Returns false if Lambda reports that the function does not exist.
    fn function_exists(&self, function_arn: &str) -> BoxFuture<'static, bool>;
}

/// Operator's request to skip a failing record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipWish {
    /// Partition index.
    pub partition: i32,
    /// Offset of the record, or the first offset of an unreadable batch.
    pub offset: Offset,
    /// End offset (exclusive) of an unreadable batch.
    pub end: Option<Offset>,
    /// Reason given by the operator.
    pub reason: String,
}

/// Controller of one node. Clones share it.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<ControllerState>,
}

struct ControllerState {
    state: Mutex<(Store, Registry)>,
    /// Set while the node drains. It is set under the state's lock, and decisions read it under that lock.
    draining: AtomicBool,
    host: Arc<dyn MappingHost>,
    region: String,
    account: String,
}

/// Delay before retrying to record a settled state.
const SETTLE_AGAIN: Duration = Duration::from_secs(5);

fn seconds_now() -> f64 {
    clock::wall_ms().0 as f64 / 1000.0
}

impl Controller {
    /// Creates a controller on an open store.
    pub fn new(
        store: Store,
        registry: Registry,
        host: Arc<dyn MappingHost>,
        region: String,
        account: String,
    ) -> Self {
        let (state, draining) = (Mutex::new((store, registry)), AtomicBool::new(false));
        Self { shared: Arc::new(ControllerState { state, draining, host, region, account }) }
    }

    /// Rejects all later changes: the node drains and would not complete them. Changes accepted before are completed,
    /// or resumed at the next start. Reads remain possible.
    pub fn refuse_changes(&self) {
        let _state = self.shared.state.lock();
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Returns the error of every change after [`Controller::refuse_changes`].
    pub(super) fn accepts_changes(&self) -> Result<(), ApiError> {
        if !self.shared.draining.load(Ordering::Relaxed) {
            return Ok(());
        }
        let text = "This node is draining and accepts no changes any more. Send the request to another node, or again once \
                    this one has been restarted.";
        Err(ApiError::new(ErrorKind::Unavailable, text))
    }

    /// Resumes running mappings and interrupted changes. Call it inside an actix system.
    pub fn resume(&self) {
        let entries: Vec<RegisteredMapping> = self.shared.state.lock().1.mappings().cloned().collect();
        for entry in entries {
            match entry.state {
                MappingState::Disabled => {}
                MappingState::Enabled => drop(self.shared.host.run(&entry.mapping)),
                MappingState::Creating
                | MappingState::Enabling
                | MappingState::Updating
                | MappingState::Disabling
                | MappingState::Deleting => {
                    self.reconcile(entry.mapping, entry.state);
                }
            }
        }
    }

    /// Executes `CreateEventSourceMapping`.
    pub async fn create(&self, request: CreateRequest) -> Result<Value, ApiError> {
        self.accepts_changes()?;
        let now = seconds_now();
        let mapping = Mapping::create(request, MappingId(Uuid::new_v4()), self.account(), now)?;
        if !self.shared.host.function_exists(&mapping.function_arn).await {
            return Err(ApiError::invalid("Function does not exist"));
        }
        self.commit_change(|registry| registry.create(mapping.clone(), now))?;
        self.reconcile(mapping.clone(), MappingState::Creating);
        self.get(mapping.id)
    }

    /// Executes `UpdateEventSourceMapping`.
    pub async fn update(&self, id: MappingId, request: UpdateRequest) -> Result<Value, ApiError> {
        self.accepts_changes()?;
        let before = self.entry(id)?.mapping;
        let function = before.updated(request.clone(), self.account())?.function_arn;
        if function != before.function_arn && !self.shared.host.function_exists(&function).await {
            return Err(ApiError::invalid("Function does not exist"));
        }
        // Computed again on the current state: it may have changed while Lambda was asked.
        self.commit_change(|registry| {
            let mapping = registry.get(id)?.mapping.updated(request, self.account())?;
            registry.update(mapping, seconds_now())
        })?;
        let entry = self.entry(id)?;
        let shown = self.show(&entry);
        self.reconcile(entry.mapping, entry.state);
        Ok(shown)
    }

    /// Executes `DeleteEventSourceMapping`.
    pub fn delete(&self, id: MappingId) -> Result<Value, ApiError> {
        let mapping = self.entry(id)?.mapping;
        self.commit_change(|registry| registry.delete(id, seconds_now()))?;
        let shown = self.get(id);
        self.reconcile(mapping, MappingState::Deleting);
        shown
    }

    /// Executes `GetEventSourceMapping`.
    pub fn get(&self, id: MappingId) -> Result<Value, ApiError> {
        let entry = self.entry(id)?;
        Ok(self.show(&entry))
    }

    /// Executes `ListEventSourceMappings`: at most `most` mappings after `marker`, and the marker of the next page,
    /// if any.
    pub fn list(
        &self,
        function: Option<&str>,
        marker: Option<MappingId>,
        most: usize,
    ) -> (Vec<Value>, Option<MappingId>) {
        let entries: Vec<RegisteredMapping> = {
            let state = self.shared.state.lock();
            let matches = |entry: &&RegisteredMapping| {
                function.is_none_or(|function| names(&entry.mapping.function_arn, function))
            };
            let behind = |entry: &&RegisteredMapping| marker.is_none_or(|marker| entry.mapping.id > marker);
            state.1.mappings().filter(behind).filter(matches).take(most + 1).cloned().collect()
        };
        let next = (entries.len() > most).then(|| entries[most - 1].mapping.id);
        (entries.iter().take(most).map(|entry| self.show(entry)).collect(), next)
    }

    /// Returns the tags of the mapping with this ARN.
    pub fn tags(&self, arn: &str) -> Result<BTreeMap<String, String>, ApiError> {
        Ok(self.by_arn(arn)?.mapping.tags)
    }

    /// Adds tags to the mapping with this ARN.
    pub fn tag(&self, arn: &str, added: BTreeMap<String, String>) -> Result<(), ApiError> {
        self.change_tags(arn, |mapping| mapping.tagged(added))
    }

    /// Removes tags from the mapping with this ARN.
    pub fn untag(&self, arn: &str, keys: &[String]) -> Result<(), ApiError> {
        self.change_tags(arn, |mapping| {
            let mut tags = mapping.tags.clone();
            tags.retain(|key, _| !keys.contains(key));
            Ok(tags)
        })
    }

    fn change_tags(
        &self,
        arn: &str,
        change: impl FnOnce(&Mapping) -> Result<BTreeMap<String, String>, ApiError>,
    ) -> Result<(), ApiError> {
        let id = self.by_arn(arn)?.mapping.id;
        let decided = self
            .commit_change(|registry| registry.tag(id, change(&registry.get(id)?.mapping)?, seconds_now()))?;
        if let RegistryCommand::Put { mapping, state, .. } = decided {
            self.reconcile(*mapping, state);
        }
        Ok(())
    }

    /// Returns the live state of a mapping's partitions.
    pub fn partitions(&self, id: MappingId) -> Result<Value, ApiError> {
        self.entry(id)?;
        Ok(self.shared.host.partitions(id).unwrap_or_else(|| Value::Array(Vec::new())))
    }

    /// Returns the secret of a key pair.
    pub fn secret(&self, access_key_id: &str) -> Option<String> {
        self.shared.state.lock().1.secret(access_key_id).map(ToOwned::to_owned)
    }

    /// Adds the key pair of `id` and `secret`.
    pub fn put_key(&self, id: &str, secret: &str) -> Result<(), ApiError> {
        self.commit_change(|_| Ok(RegistryCommand::PutKey { id: id.to_owned(), secret: secret.to_owned() }))
            .map(|_| ())
    }

    /// Revokes a key pair. The last one cannot be revoked.
    pub fn remove_key(&self, id: &str) -> Result<(), ApiError> {
        self.commit_change(|registry| {
            if registry.secret(id).is_none() {
                return Err(ApiError::new(ErrorKind::ResourceNotFound, format!("There is no key {id}.")));
            }
            if registry.key_ids().len() == 1 {
                return Err(ApiError::new(ErrorKind::ResourceConflict, "The last key cannot be deleted."));
            }
            Ok(RegistryCommand::RemoveKey { id: id.to_owned() })
        })
        .map(|_| ())
    }

    /// Returns the ids of all key pairs.
    pub fn key_ids(&self) -> Vec<String> {
        self.shared.state.lock().1.key_ids()
    }

    fn account(&self) -> AccountScope<'_> {
        AccountScope { region: &self.shared.region, id: &self.shared.account }
    }

    /// Returns the host that runs mappings.
    pub(super) fn host(&self) -> &Arc<dyn MappingHost> {
        &self.shared.host
    }

    pub(super) fn entry(&self, id: MappingId) -> Result<RegisteredMapping, ApiError> {
        self.shared.state.lock().1.get(id).cloned()
    }

    fn by_arn(&self, arn: &str) -> Result<RegisteredMapping, ApiError> {
        let state = self.shared.state.lock();
        let found = state.1.mappings().find(|entry| entry.mapping.arn == arn).cloned();
        found.ok_or_else(|| tag_resource_not_found(arn))
    }

    fn show(&self, entry: &RegisteredMapping) -> Value {
        let result = self.shared.host.last_result(entry.mapping.id);
        let result = result.unwrap_or_else(|| crate::status::NO_RECORDS.to_owned());
        entry.mapping.shown(entry.state, entry.last_modified, &result)
    }

    /// Executes [`Controller::record`] for a requested change, which is rejected once the node drains.
    fn commit_change(
        &self,
        decide: impl FnOnce(&Registry) -> Result<RegistryCommand, ApiError>,
    ) -> Result<RegistryCommand, ApiError> {
        self.record(|registry| {
            self.accepts_changes()?;
            decide(registry)
        })
    }

    /// Decides on the current state, makes the command durable and applies it, all under one lock.
    fn record(
        &self,
        decide: impl FnOnce(&Registry) -> Result<RegistryCommand, ApiError>,
    ) -> Result<RegistryCommand, ApiError> {
        let mut state = self.shared.state.lock();
        let (store, registry) = &mut *state;
        let command = decide(registry)?;
        store.append(&command).map_err(|error: StoreError| {
            tracing::error!(%error, "a write to the store failed");
            ApiError::new(ErrorKind::Service, error.to_string())
        })?;
        registry.apply(&command);
        Ok(command)
    }

    /// Brings the dataplane to the mapping's target state, then records the settled state.
    fn reconcile(&self, mapping: Mapping, from: MappingState) {
        let me = self.clone();
        actix_rt::spawn(async move {
            let (host, id) = (&me.shared.host, mapping.id);
            let command = |at| match (from, mapping.enabled) {
                (MappingState::Deleting, _) => RegistryCommand::Remove { id },
                (_, true) => RegistryCommand::Move { id, state: MappingState::Enabled, at },
                (_, false) => RegistryCommand::Move { id, state: MappingState::Disabled, at },
            };
            let carried_out = if mapping.enabled && from != MappingState::Deleting {
                host.run(&mapping).await
            } else {
                host.stop(id).await
            };
            // Resumed at the next start of the node.
            if carried_out.is_err() {
                return;
            }
            if from == MappingState::Deleting {
                host.forget(id);
            }
            // A failing store, such as a full disk, may recover. Until then the mapping rejects every change.
            while let Err(error) =
                me.record(|registry| me.only_if_still(registry, id, from, command(seconds_now())))
            {
                if error.kind != ErrorKind::Service {
                    break;
                }
                tokio::time::sleep(SETTLE_AGAIN).await;
            }
        });
    }
}

impl Controller {
    /// Returns `command` if the mapping is still in the state in which the change began.
    fn only_if_still(
        &self,
        registry: &Registry,
        id: MappingId,
        from: MappingState,
        command: RegistryCommand,
    ) -> Result<RegistryCommand, ApiError> {
        let state = registry.get(id)?.state;
        let text = format!("the mapping {id} of account {} is {state:?} by now", self.shared.account);
        if state == from { Ok(command) } else { Err(ApiError::new(ErrorKind::ResourceInUse, text)) }
    }
}

/// Returns true if `given` (name, partial ARN, ARN) names the function of `arn`.
fn names(arn: &str, given: &str) -> bool {
    let partial = given.contains(":function:") && arn.ends_with(&format!(":{given}"));
    arn == given || partial || arn.ends_with(&format!(":function:{given}"))
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::control::store::Store;

    /// Host that records the mappings it runs, and completes calls while permits are available.
    struct RecordingHost {
        ran: Mutex<Vec<Mapping>>,
        may_work: Arc<Semaphore>,
    }

    impl Default for RecordingHost {
        fn default() -> Self {
            Self { ran: Mutex::default(), may_work: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
        }
    }

    impl RecordingHost {
        fn hold(&self) {
            self.may_work.forget_permits(Semaphore::MAX_PERMITS);
        }
    }

    impl MappingHost for RecordingHost {
        fn run(&self, mapping: &Mapping) -> BoxFuture<'static, Result<(), ReceiverClosed>> {
            self.ran.lock().push(mapping.clone());
            let may_work = Arc::clone(&self.may_work);
            Box::pin(async move { may_work.acquire().await.map(drop).map_err(|_| ReceiverClosed) })
        }

        fn stop(&self, _: MappingId) -> BoxFuture<'static, Result<(), ReceiverClosed>> {
            let may_work = Arc::clone(&self.may_work);
            Box::pin(async move { may_work.acquire().await.map(drop).map_err(|_| ReceiverClosed) })
        }

        fn last_result(&self, _: MappingId) -> Option<String> {
            None
        }

        fn partitions(&self, _: MappingId) -> Option<Value> {
            None
        }

        fn audit(&self, _: MappingId) -> BoxFuture<'static, Value> {
            Box::pin(async { Value::Null })
        }

        fn skip(&self, _: MappingId, _: SkipWish) -> BoxFuture<'static, Option<SkipAnswer>> {
            Box::pin(async { None })
        }

        fn forget(&self, _: MappingId) {}

        fn function_exists(&self, _: &str) -> BoxFuture<'static, bool> {
            Box::pin(async { true })
        }
    }

    async fn settled(controller: &Controller, id: MappingId) {
        while !controller.entry(id).expect("there").state.is_settled() {
            tokio::task::yield_now().await;
        }
    }

    fn controller_on(folder: &std::path::Path, host: &Arc<RecordingHost>) -> Controller {
        let (store, registry) = Store::open(folder).expect("opens");
        let host = Arc::<RecordingHost>::clone(host);
        Controller::new(store, registry, host, "eu-west-1".to_owned(), "000000000000".to_owned())
    }

    async fn created(controller: &Controller) -> RegisteredMapping {
        let request = serde_json::json!({
            "FunctionName": "f", "Topics": ["orders"],
            "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": ["k:1"] } },
            "SourceAccessConfigurations": [
                { "Type": "VPC_SUBNET", "URI": "subnet:s" }, { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:g" }
            ],
        });
        let created =
            controller.create(serde_json::from_value(request).expect("request")).await.expect("new");
        let arn = created["EventSourceMappingArn"].as_str().expect("text").to_owned();
        let id = controller.by_arn(&arn).expect("there").mapping.id;
        settled(controller, id).await;
        controller.entry(id).expect("there")
    }

    async fn turns() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    fn change(fields: Value) -> UpdateRequest {
        serde_json::from_value(fields).expect("request")
    }

    #[actix::test]
    async fn state_lasts_until_change_is_complete() {
        let folder = tempfile::tempdir().expect("folder");
        let host = Arc::new(RecordingHost::default());
        let controller = controller_on(folder.path(), &host);
        let id = created(&controller).await.mapping.id;
        let state = |controller: &Controller| controller.get(id).expect("there")["State"].clone();
        let steps = [
            (serde_json::json!({"BatchSize": 7}), "Updating", "Enabled"),
            (serde_json::json!({"Enabled": false}), "Disabling", "Disabled"),
            (serde_json::json!({"Enabled": true}), "Enabling", "Enabled"),
        ];
        for (fields, under_way, done) in steps {
            host.hold();
            controller.update(id, change(fields)).await.expect("accepted");
            turns().await;
            assert_eq!(state(&controller), under_way);
            let other = controller.update(id, change(serde_json::json!({"BatchSize": 9}))).await;
            assert_eq!(other.expect_err("in progress").kind, ErrorKind::ResourceInUse);
            host.may_work.add_permits(Semaphore::MAX_PERMITS);
            settled(&controller, id).await;
            assert_eq!(state(&controller), done);
        }
        host.hold();
        controller.update(id, change(serde_json::json!({"BatchSize": 8}))).await.expect("accepted");
        // The node ends before the old run has drained.
        host.may_work.close();
        turns().await;
        assert_eq!(state(&controller), "Updating");
        drop(controller);
        let next = Arc::new(RecordingHost::default());
        let controller = controller_on(folder.path(), &next);
        assert_eq!(state(&controller), "Updating");
        controller.resume();
        settled(&controller, id).await;
        assert_eq!(state(&controller), "Enabled");
        let ran: Vec<i64> =
            next.ran.lock().iter().map(|mapping| i64::from(mapping.batch_records_max)).collect();
        assert_eq!(ran, [8]);
    }

    #[actix::test]
    async fn drn_1_draining_node_completes_only_accepted_changes() {
        let folder = tempfile::tempdir().expect("folder");
        let host = Arc::new(RecordingHost::default());
        let controller = controller_on(folder.path(), &host);
        let Mapping { arn, id, .. } = created(&controller).await.mapping;
        host.hold();
        controller.update(id, change(serde_json::json!({"Enabled": false}))).await.expect("accepted");
        controller.refuse_changes();
        let ran = host.ran.lock().len();
        let refused = |answer: Result<(), ApiError>| {
            let error = answer.expect_err("draining");
            assert_eq!((error.kind.status(), error.kind.name()), (503, "ServiceException"));
            assert!(error.message.contains("draining"), "{error}");
        };
        let request = serde_json::json!({
            "FunctionName": "f", "Topics": ["other"],
            "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": ["k:1"] } },
            "SourceAccessConfigurations": [
                { "Type": "VPC_SUBNET", "URI": "subnet:s" }, { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:g" }
            ],
        });
        refused(controller.create(serde_json::from_value(request).expect("request")).await.map(drop));
        refused(controller.update(id, change(serde_json::json!({"BatchSize": 7}))).await.map(drop));
        refused(controller.delete(id).map(drop));
        refused(controller.tag(&arn, BTreeMap::from([("team".to_owned(), "a".to_owned())])));
        refused(controller.untag(&arn, &["team".to_owned()]));
        refused(controller.put_key("LMANOTHER", "a secret"));
        assert_eq!(controller.get(id).expect("reads are served")["State"], "Disabling");
        assert_eq!(controller.list(None, None, 10).0.len(), 1);
        assert_eq!(host.ran.lock().len(), ran, "no change starts");
        host.may_work.add_permits(Semaphore::MAX_PERMITS);
        settled(&controller, id).await;
        assert_eq!(controller.get(id).expect("there")["State"], "Disabled");
        drop(controller);
        let controller = controller_on(folder.path(), &Arc::new(RecordingHost::default()));
        assert_eq!(controller.get(id).expect("durable")["State"], "Disabled");
    }

    #[actix::test]
    async fn interrupted_delete_resumes_at_next_start() {
        let folder = tempfile::tempdir().expect("folder");
        let host = Arc::new(RecordingHost::default());
        let controller = controller_on(folder.path(), &host);
        let id = created(&controller).await.mapping.id;
        host.hold();
        controller.delete(id).expect("accepted");
        host.may_work.close();
        turns().await;
        assert_eq!(controller.get(id).expect("still present")["State"], "Deleting");
        drop(controller);
        let controller = controller_on(folder.path(), &Arc::new(RecordingHost::default()));
        controller.resume();
        while controller.get(id).is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[actix::test]
    async fn behaviour_tags_reach_the_running_mapping() {
        let folder = tempfile::tempdir().expect("folder");
        let host = Arc::new(RecordingHost::default());
        let controller = controller_on(folder.path(), &host);
        let Mapping { arn, id, .. } = created(&controller).await.mapping;
        let tag = |tag: &str, value: &str| {
            controller.tag(&arn, BTreeMap::from([(tag.to_owned(), value.to_owned())])).expect("accepted");
        };
        tag("team", "a");
        tag("lighterman:on-destination-failure", "drop");
        settled(&controller, id).await;
        controller.untag(&arn, &["lighterman:on-destination-failure".to_owned()]).expect("accepted");
        settled(&controller, id).await;
        controller.untag(&arn, &["team".to_owned()]).expect("accepted");
        let ran: Vec<usize> = host.ran.lock().iter().map(|mapping| mapping.tags.len()).collect();
        assert_eq!(ran, [0, 2, 1], "created, tagged, untagged; other tags do not restart the mapping");
        let reply =
            controller.tag(&arn, BTreeMap::from([("lighterman:on-failure".to_owned(), String::new())]));
        assert_eq!(reply.expect_err("unknown").kind, ErrorKind::InvalidParameterValue);
        assert_eq!(controller.tags(&arn).expect("there").len(), 0);
    }
}
