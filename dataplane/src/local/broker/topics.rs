//! Topic APIs: metadata, creation, deletion, produce, configurations.

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, InitProducerIdResponse, MetadataRequest,
    MetadataResponse, ProduceRequest, ProduceResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::state::{BrokerState, NODE, SharedBroker};

pub(super) fn metadata(shared: &SharedBroker, request: MetadataRequest, version: i16) -> MetadataResponse {
    let mut state = shared.state.borrow_mut();
    let all =
        request.topics.is_none() || (version == 0 && request.topics.as_ref().is_some_and(Vec::is_empty));
    let names: Vec<String> = if all {
        state.topics.keys().cloned().collect()
    } else {
        let named = request.topics.unwrap_or_default();
        let name_of = |topic: MetadataRequestTopic| match topic.name {
            Some(name) => Some(name.to_string()),
            None => state.names.get(&topic.topic_id).cloned(),
        };
        named.into_iter().filter_map(name_of).collect()
    };
    let auto = state.settings.auto_create_partitions;
    if auto > 0 && request.allow_auto_topic_creation {
        for name in names.iter().filter(|name| is_topic_name(name)) {
            if !state.topics.contains_key(name) {
                state.grow_topic(name, auto);
            }
        }
    }
    let broker =
        MetadataResponseBroker::default().with_node_id(NODE).with_host(state.host()).with_port(state.port());
    let topics = names.iter().map(|name| describe(&state, name, version)).collect();
    let response = MetadataResponse::default().with_brokers(vec![broker]).with_topics(topics);
    let response = if version >= 1 { response.with_controller_id(NODE) } else { response };
    if version >= 2 {
        response.with_cluster_id(Some(StrBytes::from_static_str("lighterman-dev")))
    } else {
        response
    }
}

fn describe(state: &BrokerState, name: &str, version: i16) -> MetadataResponseTopic {
    let answer = MetadataResponseTopic::default().with_name(Some(topic_name(name)));
    let Some(topic) = state.topics.get(name) else {
        return answer.with_error_code(Code::UnknownTopicOrPartition.code());
    };
    let partitions = topic.partitions.iter().zip(0..).map(|(log, index)| {
        let led = state.leads(name, index);
        MetadataResponsePartition::default()
            .with_error_code(if led { 0 } else { Code::LeaderNotAvailable.code() })
            .with_partition_index(index)
            .with_leader_id(if led { NODE } else { (-1).into() })
            .with_leader_epoch(log.leader_epoch())
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    let answer = answer.with_partitions(partitions.collect());
    if version >= 10 { answer.with_topic_id(topic.id) } else { answer }
}

pub(super) fn produce(shared: &SharedBroker, request: ProduceRequest) -> ProduceResponse {
    let mut state = shared.state.borrow_mut();
    let topics = request.topic_data.into_iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|sent| {
            let answer = PartitionProduceResponse::default().with_index(sent.index).with_log_append_time_ms(-1);
            let Some(log) = state.log_mut(&topic.name, sent.index) else {
                return answer.with_error_code(Code::UnknownTopicOrPartition.code()).with_base_offset(-1);
            };
            match log.append(&sent.records.clone().unwrap_or_default()) {
                Ok(base) => answer.with_base_offset(base.0).with_log_start_offset(log.start().0),
                Err(error) => {
                    tracing::warn!(topic = topic.name.as_str(), partition = sent.index, %error, "produce refused");
                    answer.with_error_code(Code::CorruptMessage.code()).with_base_offset(-1)
                }
            }
        });
        let partitions = partitions.collect();
        TopicProduceResponse::default().with_name(topic.name.clone()).with_partition_responses(partitions)
    });
    let response = ProduceResponse::default().with_responses(topics.collect());
    shared.appended.notify_waiters();
    response
}

pub(super) fn create(
    shared: &SharedBroker,
    request: CreateTopicsRequest,
    version: i16,
) -> CreateTopicsResponse {
    let mut state = shared.state.borrow_mut();
    let topics = request.topics.into_iter().map(|topic| {
        let name = topic.name.to_string();
        let partitions = if topic.num_partitions == -1 { 1 } else { topic.num_partitions };
        let code = if !is_topic_name(&name) {
            Some(Code::InvalidTopicException)
        } else if state.topics.contains_key(&name) {
            Some(Code::TopicAlreadyExists)
        } else if partitions < 1 {
            Some(Code::InvalidPartitions)
        } else if !request.validate_only && !state.grow_topic(&name, partitions) {
            Some(Code::PolicyViolation)
        } else {
            None
        };
        let answer = CreatableTopicResult::default()
            .with_name(topic.name)
            .with_error_code(code.map_or(0, |code| code.code()));
        if version >= 5 {
            answer.with_num_partitions(partitions).with_replication_factor(1).with_configs(Some(Vec::new()))
        } else {
            answer
        }
    });
    CreateTopicsResponse::default().with_topics(topics.collect())
}

pub(super) fn delete(shared: &SharedBroker, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let mut state = shared.state.borrow_mut();
    let answers = request.topic_names.into_iter().map(|name| {
        let code = if state.delete_topic(&name) { 0 } else { Code::UnknownTopicOrPartition.code() };
        DeletableTopicResult::default().with_name(Some(name)).with_error_code(code)
    });
    let response = DeleteTopicsResponse::default().with_responses(answers.collect());
    shared.appended.notify_waiters();
    response
}

pub(super) fn configs(request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name)
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

pub(super) fn producer_id(shared: &SharedBroker) -> InitProducerIdResponse {
    let mut state = shared.state.borrow_mut();
    state.next_producer += 1;
    InitProducerIdResponse::default().with_producer_id(ProducerId(state.next_producer)).with_producer_epoch(0)
}

fn is_topic_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(good) && name != "." && name != ".."
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
