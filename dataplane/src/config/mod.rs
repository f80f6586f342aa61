//! Configuration: validated settings from file, environment and flags.

mod keys;
mod layers;
mod machine;
mod settings;
mod values;
mod variables;

pub use keys::{ConfigKey, KEYS};
pub use layers::{ConfigError, ValueSource};
pub use settings::{
    ControlSettings, InvokeClient, InvokeSettings, IsolationSetting, KafkaSettings, LogFormat, LogSettings,
    NodeSettings, Settings,
};
pub use variables::{ENVIRONMENT_PREFIX, environment_variable};

#[cfg(test)]
mod tests;
