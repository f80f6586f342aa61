//! SNS destination, through `Publish`.

use std::sync::Arc;

use aws_sdk_sns::Client;
use lighterman_proto::api::TopicArn;

use super::super::bounded_map::BoundedMap;
use super::super::error::DeliveryError;
use super::failure::error_of;
use super::{AwsDestinations, CLIENTS_MAX, MESSAGE_BYTES_MAX, call, fits, once, timeouts};

pub(super) struct SnsPublisher {
    clients: BoundedMap<Arc<str>, Client>,
}

impl SnsPublisher {
    pub(super) fn new() -> Self {
        Self { clients: BoundedMap::new(CLIENTS_MAX) }
    }
}

impl AwsDestinations {
    pub(super) async fn notification(&self, topic: &TopicArn, body: &str) -> Result<(), DeliveryError> {
        let to = topic.arn();
        fits(to, body.len(), MESSAGE_BYTES_MAX)?;
        let client = self.notification_client(topic).await?;
        let send = Box::pin(client.publish().topic_arn(&**to).message(body).send());
        call(to, async { send.await.map_err(|error| error_of(to, body.len(), "sns:Publish", &error)) })
            .await
            .map(|_| ())
    }

    async fn notification_client(&self, topic: &TopicArn) -> Result<Client, DeliveryError> {
        let (region, clients) = (topic.region(), &self.shared.notifications.clients);
        if let Some(client) = clients.get(region) {
            return Ok(client);
        }
        let config = aws_sdk_sns::config::Builder::from(self.config(topic.arn()).await?)
            .region(aws_config::Region::new(region.to_string()))
            .retry_config(once())
            .timeout_config(timeouts())
            .build();
        let client = Client::from_conf(config);
        clients.insert(Arc::clone(region), client.clone());
        Ok(client)
    }
}
