//! Lambda endpoint, resolved once by AWS's own rules.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_lambda::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_types::service_config::ServiceConfigKey;
use http::Uri;
use thiserror::Error;

/// Error for an endpoint that cannot be used.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// AWS's rules yield no endpoint.
    #[error("no Lambda endpoint follows from the AWS configuration")]
    Unresolved(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not of the form `http://host` or `https://host`.
    #[error("the Lambda endpoint `{0}` is no http or https URL: check AWS_ENDPOINT_URL_LAMBDA")]
    NotHttp(String),
}

/// Scheme, authority and base path of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::invoker) struct EndpointUrl {
    pub(super) tls: bool,
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    /// Value of the `Host` header. It has a port only if that is not the scheme's default.
    pub(super) authority: String,
    /// Base path without a trailing slash.
    pub(super) base_path: String,
}

impl EndpointUrl {
    pub(in crate::invoker) fn parse(url: &str) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::NotHttp(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?;
        let usual = if tls { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let authority = if port == usual { host.to_owned() } else { format!("{host}:{port}") };
        let base_path = uri.path().trim_end_matches('/').to_owned();
        let host = Arc::from(host.trim_start_matches('[').trim_end_matches(']'));
        Ok(Self { tls, host, port, authority, base_path })
    }

    /// Resolves the endpoint from `AWS_ENDPOINT_URL_LAMBDA`, `AWS_ENDPOINT_URL`, the profile, or the region's
    /// default.
    pub(super) async fn resolve(shared: &SdkConfig) -> Result<Self, EndpointError> {
        let params = Params::builder()
            .set_region(shared.region().map(ToString::to_string))
            .set_use_fips(shared.use_fips())
            .set_use_dual_stack(shared.use_dual_stack())
            .set_endpoint(configured(shared))
            .build()
            .map_err(|error| EndpointError::Unresolved(error.into()))?;
        let resolved =
            DefaultResolver::new().resolve_endpoint(&params).await.map_err(EndpointError::Unresolved)?;
        Self::parse(resolved.url())
    }
}

/// Returns the configured endpoint. The service's own setting takes precedence over the global one, as in every
/// SDK.
fn configured(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("Lambda")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let own = shared.service_config().and_then(|settings| settings.load_config(key));
    own.or_else(|| shared.endpoint_url().map(ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use aws_config::Region;

    use super::*;

    #[test]
    fn endpoint_is_host_port_and_path() {
        let plain = EndpointUrl::parse("http://localhost:3001/base/").expect("parses");
        assert_eq!((plain.tls, plain.port, &*plain.authority), (false, 3001, "localhost:3001"));
        assert_eq!(plain.base_path, "/base");
        let v6 = EndpointUrl::parse("http://[::1]:80").expect("parses");
        assert_eq!((&*v6.host, &*v6.authority, &*v6.base_path), ("::1", "[::1]", ""));
        for wrong in ["localhost:3001", "ftp://x", "http://", ""] {
            assert!(EndpointUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn endpoint_defaults_to_the_regions_own() {
        let config = SdkConfig::builder().region(Region::new("eu-west-1")).build();
        let own = EndpointUrl::resolve(&config).await.expect("resolves");
        assert_eq!((own.tls, &*own.authority), (true, "lambda.eu-west-1.amazonaws.com"));
        let fips = config.to_builder().region(Region::new("us-east-1")).use_fips(true).build();
        let fips = EndpointUrl::resolve(&fips).await.expect("resolves");
        assert_eq!(&*fips.host, "lambda-fips.us-east-1.amazonaws.com");
        let named = config.to_builder().endpoint_url("http://localhost:3001").build();
        let named = EndpointUrl::resolve(&named).await.expect("resolves");
        assert_eq!((named.tls, &*named.authority), (false, "localhost:3001"));
    }
}
