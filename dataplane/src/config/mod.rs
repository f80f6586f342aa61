//! Configuration: file, environment and flags into validated settings.

mod keys;
mod layers;
mod machine;
mod settings;
mod values;
mod variables;

pub use keys::{KEYS, Key};
pub use layers::{ConfigError, Source};
pub use settings::{
    ControlSettings, InvokeClient, InvokeSettings, Isolation, KafkaSettings, LogFormat, LogSettings,
    NodeSettings, Settings,
};
pub use variables::{ENVIRONMENT_PREFIX, environment_variable};

#[cfg(test)]
mod tests;
