//! The Kafka of a run: in this process, started from its jars, or one that is there.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use lighterman::local::broker::{Broker, BrokerSettings};

use crate::kafka::{RealKafka, install};

/// Which Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kafka {
    /// The embedded broker, on a thread of this process.
    #[default]
    Embedded,
    /// This version of Apache Kafka, from Maven Central.
    Version(String),
    /// One that listens here: a single broker.
    At(String),
}

impl FromStr for Kafka {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_version = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        match text {
            "embedded" => Ok(Self::Embedded),
            version if is_version => Ok(Self::Version(version.to_owned())),
            address if address.contains(':') => Ok(Self::At(address.to_owned())),
            other => Err(format!("`{other}` is neither `embedded`, nor a version (4.2.1), nor host:port")),
        }
    }
}

impl fmt::Display for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Version(text) | Self::At(text) => f.write_str(text),
        }
    }
}

/// It runs; dropping it ends what was started.
pub(super) enum Cluster {
    Embedded(Broker),
    Real(RealKafka),
    Given(String),
}

impl Cluster {
    /// Starts what has to be started.
    pub(super) fn start(kafka: &Kafka) -> Result<Self> {
        Ok(match kafka {
            Kafka::Embedded => Self::Embedded(Broker::start(BrokerSettings::default())?),
            Kafka::Version(version) => {
                install(version)?;
                Self::Real(RealKafka::start(version)?)
            }
            Kafka::At(address) => Self::Given(address.clone()),
        })
    }

    /// `host:port`.
    pub(super) fn servers(&self) -> String {
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
    fn a_version_is_no_address() {
        assert_eq!("4.2.1".parse(), Ok(Kafka::Version("4.2.1".to_owned())));
        assert_eq!("127.0.0.1:9092".parse(), Ok(Kafka::At("127.0.0.1:9092".to_owned())));
        assert_eq!("embedded".parse(), Ok(Kafka::Embedded));
        for other in ["", "latest", "4.2.1-rc1", "../x"] {
            assert!(other.parse::<Kafka>().is_err(), "{other}");
        }
    }
}
