//! Kafka of a run: embedded in this process, started from its jars, or an existing one.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use lighterman::kafka::transport::BrokerAddress;
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};

use crate::kafka::RealKafka;
use crate::kafka_dist::{install, version};
use crate::produce::TestProducer;

/// Choice of the Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KafkaChoice {
    /// Embedded broker on a thread of this process.
    #[default]
    Embedded,
    /// This version of Apache Kafka, from Maven Central.
    Version(String),
    /// Existing single broker at this address.
    At(String),
}

impl FromStr for KafkaChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        // A URL or a list would be taken for a host name that does not resolve.
        if text.contains(':') && !text.contains(['/', ',']) {
            return BrokerAddress::parse(text).map(|address| Self::At(address.to_string()));
        }
        let neither =
            || format!("`{text}` is neither `embedded`, nor a version (4.2.1), nor host:port of one broker");
        version(text).map(Self::Version).map_err(|_| neither())
    }
}

impl fmt::Display for KafkaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Version(text) | Self::At(text) => f.write_str(text),
        }
    }
}

/// A running Kafka. Dropping it stops what was started.
pub enum RunningCluster {
    /// Embedded broker of this process.
    Embedded(EmbeddedBroker),
    /// Process of its own.
    Real(RealKafka),
    /// Address of an existing broker.
    Given(String),
}

impl RunningCluster {
    /// Starts the Kafka if it is not an existing one.
    pub fn start(kafka: &KafkaChoice) -> Result<Self> {
        Ok(match kafka {
            KafkaChoice::Embedded => Self::Embedded(EmbeddedBroker::start(BrokerSettings::default())?),
            KafkaChoice::Version(version) => {
                install(version)?;
                Self::Real(RealKafka::start(version)?)
            }
            KafkaChoice::At(address) => Self::Given(address.clone()),
        })
    }

    /// Deletes the topic on an existing Kafka; the others end together with their data.
    pub async fn sweep(&self, topic: &str) {
        let Self::Given(address) = self else { return };
        let swept = async { TestProducer::connect(address).await?.delete_topic(topic).await };
        if let Err(error) = swept.await {
            println!("the topic {topic} stays on {address}: {error:#}");
        }
    }

    /// Returns `host:port`.
    pub fn servers(&self) -> String {
        match self {
            Self::Embedded(broker) => broker.address().to_string(),
            Self::Real(kafka) => kafka.servers(),
            Self::Given(address) => address.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_not_taken_for_an_address() {
        assert_eq!("4.2.1".parse(), Ok(KafkaChoice::Version("4.2.1".to_owned())));
        assert_eq!("127.0.0.1:9092".parse(), Ok(KafkaChoice::At("127.0.0.1:9092".to_owned())));
        assert_eq!("embedded".parse(), Ok(KafkaChoice::Embedded));
        let address = "[::1]:9092".parse::<KafkaChoice>();
        assert_eq!(address, Ok(KafkaChoice::At("[::1]:9092".to_owned())));
        for other in ["", "latest", "4.2.1-rc1", "../x", "127.0.0.1", "PLAINTEXT://a:9092", "a:9092,b:9092"] {
            assert!(other.parse::<KafkaChoice>().expect_err("neither").contains("is neither"), "{other}");
        }
        for (wrong, why) in [("a:b", "no valid port"), ("a:65536", "no valid port"), (":9092", "no host")] {
            assert!(wrong.parse::<KafkaChoice>().expect_err("wrong").contains(why), "{wrong}");
        }
    }
}
