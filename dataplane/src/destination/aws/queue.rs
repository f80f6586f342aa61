//! SQS destination, through `SendMessage`. The queue's URL is looked up once.

use std::sync::Arc;

use aws_sdk_sqs::Client;
use lighterman_proto::api::QueueArn;

use super::super::bounded_map::BoundedMap;
use super::super::error::DeliveryError;
use super::failure::error_of;
use super::{AwsDestinations, CLIENTS_MAX, MESSAGE_BYTES_MAX, call, fits, once, timeouts};

/// Maximum number of cached queue URLs.
const URLS_MAX: usize = 256;
const PERMISSION: &str = "sqs:SendMessage and sqs:GetQueueUrl";

pub(super) struct SqsSender {
    clients: BoundedMap<Arc<str>, Client>,
    urls: BoundedMap<Arc<str>, Arc<str>>,
}

impl SqsSender {
    pub(super) fn new() -> Self {
        Self { clients: BoundedMap::new(CLIENTS_MAX), urls: BoundedMap::new(URLS_MAX) }
    }
}

impl AwsDestinations {
    pub(super) async fn queue(&self, queue: &QueueArn, body: &str) -> Result<(), DeliveryError> {
        let to = queue.arn();
        fits(to, body.len(), MESSAGE_BYTES_MAX)?;
        let client = self.queue_client(queue).await?;
        let url = self.queue_url(&client, queue).await?;
        let send = Box::pin(client.send_message().queue_url(&*url).message_body(body).send());
        let sent =
            call(to, async { send.await.map_err(|error| error_of(to, body.len(), PERMISSION, &error)) })
                .await;
        if matches!(sent, Err(DeliveryError::Missing { .. })) {
            self.shared.queues.urls.remove(to);
        }
        sent.map(|_| ())
    }

    async fn queue_url(&self, client: &Client, queue: &QueueArn) -> Result<Arc<str>, DeliveryError> {
        let (to, urls) = (queue.arn(), &self.shared.queues.urls);
        if let Some(url) = urls.get(to) {
            return Ok(url);
        }
        let ask = client
            .get_queue_url()
            .queue_name(queue.name())
            .queue_owner_aws_account_id(queue.account())
            .send();
        let answer =
            call(to, async { Box::pin(ask).await.map_err(|error| error_of(to, 0, PERMISSION, &error)) })
                .await?;
        let url: Arc<str> = answer.queue_url().unwrap_or_default().into();
        urls.insert(Arc::clone(to), Arc::clone(&url));
        Ok(url)
    }

    async fn queue_client(&self, queue: &QueueArn) -> Result<Client, DeliveryError> {
        let (region, clients) = (queue.region(), &self.shared.queues.clients);
        if let Some(client) = clients.get(region) {
            return Ok(client);
        }
        let config = aws_sdk_sqs::config::Builder::from(self.config(queue.arn()).await?)
            .region(aws_config::Region::new(region.to_string()))
            .retry_config(once())
            .timeout_config(timeouts())
            .build();
        let client = Client::from_conf(config);
        clients.insert(Arc::clone(region), client.clone());
        Ok(client)
    }
}
