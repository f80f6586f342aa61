//! Parsers of values, with errors that show a valid value.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::layers::{ConfigError, ConfigLayers};

/// Returns the value at `path` as `T`, parsed by `parse`, whose error is the reason.
pub(super) fn typed<T>(
    layers: &ConfigLayers,
    path: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    let (origin, text) = layers.get(path);
    parse(text).map_err(|why| ConfigError::Value { key: path, origin, why })
}

/// Returns the value at `path` as `T`, or `None` if it is empty.
pub(super) fn optional<T>(
    layers: &ConfigLayers,
    path: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    if layers.get(path).1.is_empty() { Ok(None) } else { typed(layers, path, parse).map(Some) }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address: write IP:PORT, such as 127.0.0.1:9010"))
}

pub(super) fn word(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("it may not be empty".into()) } else { Ok(text.into()) }
}

pub(super) fn account(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.into());
    }
    Err(format!("`{text}` is no account id: write twelve digits, in quotes in the file"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration: write 10s, 500ms or 2m"))
}

pub(super) fn duration_within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let value = duration(text)?;
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
    Err(format!("`{text}` must lie between {least} and {most}"))
}

pub(super) fn number_within(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("must be a whole number between {least} and {most}"))
}

/// Parses a size, or a share of `whole` such as `25%`.
pub(super) fn bytes_or_share(text: &str, whole: u64, least: u64) -> Result<usize, String> {
    let mend = || format!("`{text}` is no size: write 512MiB, 2GiB, or a share such as 25%");
    let bytes = match text.strip_suffix('%') {
        Some(share) => {
            let share: u8 = share.trim().parse().map_err(|_| mend())?;
            if !(1..=90).contains(&share) {
                return Err(format!("`{text}`: a share lies between 1% and 90%"));
            }
            (whole / 100 * u64::from(share)).max(least)
        }
        None => text.parse::<bytesize::ByteSize>().map_err(|_| mend())?.as_u64(),
    };
    if bytes < least {
        return Err(format!("`{text}` is too little: at least {} is needed", bytesize::ByteSize(least)));
    }
    usize::try_from(bytes).map_err(|_| mend())
}

pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let one = |item: &str| {
        let item = item.trim();
        let bare = || item.parse::<std::net::IpAddr>().map(IpNet::from);
        item.parse::<IpNet>()
            .or_else(|_| bare())
            .map_err(|_| format!("`{item}` is no CIDR: write 10.0.0.0/8"))
    };
    text.split(',').filter(|item| !item.trim().is_empty()).map(one).collect()
}

pub(super) fn brokers(text: &str) -> Result<Vec<String>, String> {
    let one = |item: &str| {
        let item = item.trim();
        let port = item
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| port.parse().ok());
        match port {
            Some(1u16..) => Ok(item.to_owned()),
            _ => Err(format!("`{item}` is no broker: write HOST:PORT, such as kafka-1:9092")),
        }
    };
    text.split(',').map(one).collect()
}

pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is not one of {}", names.join(", "))
    })
}
