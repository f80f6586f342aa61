//! Configuration: file, environment and flags into validated settings.

mod keys;
mod layers;
mod machine;
mod settings;
mod values;

pub use keys::{ENVIRONMENT_PREFIX, KEYS, Key, environment_variable};
pub use layers::{ConfigError, Source};
pub use settings::{
    ControlSettings, InvokeClient, InvokeSettings, Isolation, KafkaSettings, LogFormat, LogSettings,
    NodeSettings, Settings,
};

#[cfg(test)]
mod tests;
