//! Egress policy of every dial: resolve, check the address, dial exactly that address. Advertised listeners come from
//! brokers, and brokers belong to tenants, so a name alone is not trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;

/// Denial of an address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("dialling {address} is not allowed: {rule}. If it is meant, add it to `egress.allow`")]
pub struct EgressDenied {
    /// Resolved address.
    pub address: SocketAddr,
    /// Rule that denies it.
    pub rule: &'static str,
}

/// Policy of addresses that may be dialled.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// CIDRs allowed although they are loopback. They never lift the fixed denials.
    pub allow: Vec<IpNet>,
    /// CIDRs that are denied.
    pub deny: Vec<IpNet>,
    /// Set to allow loopback, while Lighterman's API listens on loopback, as on a laptop.
    pub loopback: bool,
    /// Lighterman's own listeners. A broker that advertises them would turn the node on itself.
    pub own_listeners: Vec<SocketAddr>,
}

impl Egress {
    /// Returns the policy of a laptop, which allows loopback.
    pub fn laptop() -> Self {
        Self { loopback: true, ..Self::default() }
    }

    /// Checks a resolved address.
    pub fn check(&self, address: SocketAddr) -> Result<(), EgressDenied> {
        let ip = address.ip().to_canonical();
        let denied = |rule| Err(EgressDenied { address, rule });
        if self.is_own_listener(ip, address.port()) {
            return denied("it is one of our own listeners");
        }
        if let Some(rule) = never_dialled(ip) {
            return denied(rule);
        }
        if self.deny.iter().any(|net| net.contains(&ip)) {
            return denied("`egress.deny` names it");
        }
        if self.allow.iter().any(|net| net.contains(&ip)) {
            return Ok(());
        }
        if ip.is_loopback() && !self.loopback {
            return denied("loopback, and `listen` is not on loopback");
        }
        Ok(())
    }

    fn is_own_listener(&self, ip: IpAddr, port: u16) -> bool {
        self.own_listeners.iter().any(|own| {
            own.port() == port && (own.ip() == ip || (own.ip().is_unspecified() && ip.is_loopback()))
        })
    }
}

fn never_dialled(ip: IpAddr) -> Option<&'static str> {
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    const METADATA_ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    if ip.is_unspecified() {
        return Some("unspecified address");
    }
    if ip.is_multicast() {
        return Some("multicast address");
    }
    match ip {
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local address, cloud metadata lives there"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("broadcast address"),
        IpAddr::V4(METADATA_ALIBABA) | IpAddr::V6(METADATA_V6) => Some("cloud metadata address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn metadata_address_denied_in_every_form() {
        let egress = Egress { allow: vec!["0.0.0.0/0".parse().expect("net")], ..Egress::laptop() };
        for bad in [
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[::ffff:169.254.169.254]:80",
            "0.0.0.0:9092",
            "[fe80::1]:1",
            "224.0.0.1:1",
        ] {
            assert!(egress.check(at(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_follows_listen_and_allow() {
        let server = Egress::default();
        assert!(server.check(at("127.0.0.1:9092")).is_err());
        assert!(server.check(at("[::ffff:127.0.0.1]:9092")).is_err());
        assert!(Egress::laptop().check(at("127.0.0.1:9092")).is_ok());
        let allowed = Egress { allow: vec!["127.0.0.1/32".parse().expect("net")], ..Egress::default() };
        assert!(allowed.check(at("127.0.0.1:9092")).is_ok());
        assert!(server.check(at("10.1.2.3:9092")).is_ok());
    }

    #[test]
    fn own_listeners_are_never_dialled() {
        let egress = Egress { own_listeners: vec![at("0.0.0.0:9010")], ..Egress::laptop() };
        assert!(egress.check(at("127.0.0.1:9010")).is_err());
        assert!(egress.check(at("127.0.0.1:9092")).is_ok());
    }
}
