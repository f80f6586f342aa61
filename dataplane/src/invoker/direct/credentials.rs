//! Cache of AWS credentials, refreshed shortly before they expire.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use parking_lot::Mutex;

/// Time before expiry at which credentials are refreshed.
const REFRESH_BEFORE_END: Duration = Duration::from_mins(5);
/// Credentials that expire within this time are not used.
const USELESS_BEFORE_END: Duration = Duration::from_secs(10);

/// Credentials provider and its last result.
pub(super) struct KeptCredentials {
    provider: SharedCredentialsProvider,
    kept: Mutex<Option<Credentials>>,
    /// Serialises refreshes: the provider may be a rate-limited metadata service.
    asking: tokio::sync::Mutex<()>,
}

impl KeptCredentials {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, kept: Mutex::new(None), asking: tokio::sync::Mutex::new(()) }
    }

    /// Returns the cached credentials without waiting, unless they are due for a refresh.
    pub(super) fn lasting(&self, now: SystemTime) -> Option<Credentials> {
        self.kept.lock().clone().filter(|kept| lasts(kept, now, REFRESH_BEFORE_END))
    }

    /// Returns usable credentials, refreshing them if necessary.
    pub(super) async fn get(&self) -> Result<Credentials, CredentialsError> {
        let _alone = self.asking.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = self.lasting(now) {
            return Ok(kept);
        }
        match self.provider.provide_credentials().await {
            Ok(fresh) => {
                *self.kept.lock() = Some(fresh.clone());
                Ok(fresh)
            }
            Err(error) => {
                let still_good = self.kept.lock().clone().filter(|kept| lasts(kept, now, USELESS_BEFORE_END));
                still_good.ok_or(error)
            }
        }
    }
}

fn lasts(credentials: &Credentials, now: SystemTime, margin: Duration) -> bool {
    credentials.expiry().is_none_or(|end| end > now + margin)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_credential_types::provider::future;

    use super::*;

    /// Hands out credentials that last `lasting`, then fails.
    #[derive(Debug)]
    struct ExpiringProvider {
        asked: Arc<AtomicU32>,
        most: u32,
        lasting: Duration,
    }

    impl ProvideCredentials for ExpiringProvider {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            future::ProvideCredentials::ready(if asked > self.most {
                Err(CredentialsError::not_loaded("no credentials left"))
            } else {
                let end = SystemTime::now() + self.lasting;
                Ok(Credentials::new(format!("AK{asked}"), "secret", None, Some(end), "few"))
            })
        }
    }

    fn kept(most: u32, lasting: Duration) -> (KeptCredentials, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let few = ExpiringProvider { asked: Arc::clone(&asked), most, lasting };
        (KeptCredentials::new(SharedCredentialsProvider::new(few)), asked)
    }

    #[tokio::test]
    async fn long_lived_credentials_are_requested_once() {
        let (kept, asked) = kept(1, Duration::from_hours(1));
        assert!(kept.lasting(SystemTime::now()).is_none());
        for _ in 0..3 {
            assert_eq!(kept.get().await.expect("credentials").access_key_id(), "AK1");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(kept.lasting(SystemTime::now() + Duration::from_mins(56)).is_none());
    }

    #[tokio::test]
    async fn expiring_credentials_are_used_when_refresh_fails() {
        let (kept, asked) = kept(1, Duration::from_mins(1));
        for _ in 0..3 {
            assert_eq!(kept.get().await.expect("still valid").access_key_id(), "AK1");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        let (spent, _) = self::kept(1, Duration::from_secs(5));
        assert!(spent.get().await.is_ok(), "as fresh as the provider has them");
        assert!(spent.get().await.is_err(), "expired before the request arrives");
    }
}
