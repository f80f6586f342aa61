//! What the API says of a mapping while a change of it is under way: the old run drains, and until then nothing is settled.

mod scene;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lighterman::app::host::DataplaneHost;
use lighterman::control::client::ApiClient;
use lighterman::control::controller::Controller;
use lighterman::control::http::{Api, ApiServer};
use lighterman::control::sigv4::SigV4;
use lighterman::control::store::Store;
use serde_json::{Value, json};

use self::scene::{Scene, scene};

const REGION: &str = "eu-west-1";
const PATH: &str = "/2015-03-31/event-source-mappings";
const KEY: (&str, &str) = ("LMANTEST", "a secret");

/// A mapping on the scene's broker, and the API to it.
struct Mapped {
    client: ApiClient,
    server: ApiServer,
    path: String,
}

impl Mapped {
    async fn on(scene: &Scene, folder: &std::path::Path) -> Self {
        let (store, registry) = Store::open(folder).expect("opens");
        let host = Arc::new(DataplaneHost(Arc::clone(&scene.dataplane)));
        let controller = Controller::new(store, registry, host, REGION.to_owned(), "000000000000".to_owned());
        controller.put_key(KEY.0, KEY.1).expect("stored");
        let authenticator = Arc::new(SigV4 { region: REGION.to_owned() });
        let api = Api { controller, authenticator, node: "n".to_owned() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let server = ApiServer::start(api, listener).expect("serves");
        let endpoint = format!("http://{}", server.address());
        let client = ApiClient::new(endpoint, REGION.to_owned(), KEY.0, KEY.1);
        let request = json!({
            "FunctionName": "f", "Topics": ["orders"], "StartingPosition": "TRIM_HORIZON", "BatchSize": 5,
            "SelfManagedEventSource":
                {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [scene.broker.address().to_string()]}},
            "SourceAccessConfigurations": [
                {"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}
            ],
        });
        let created = client.call("POST", PATH, Some(&request)).await.expect("created");
        let path = format!("{PATH}/{}", created["UUID"].as_str().expect("text"));
        Self { client, server, path }
    }

    async fn state(&self) -> String {
        let shown = self.client.call("GET", &self.path, None).await.expect("there");
        shown["State"].as_str().expect("text").to_owned()
    }

    async fn put(&self, change: Value) -> String {
        let shown = self.client.call("PUT", &self.path, Some(&change)).await.expect("accepted");
        shown["State"].as_str().expect("text").to_owned()
    }

    async fn becomes(&self, settled: &str) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while self.state().await != settled {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{settled}: {}", self.state().await);
    }
}

#[test]
fn a_mapping_is_updating_until_its_old_run_has_drained() {
    scene(|scene| async move {
        let folder = tempfile::tempdir().expect("folder");
        let mapped = Mapped::on(&scene, folder.path()).await;
        mapped.becomes("Enabled").await;
        let changes = [
            (json!({"BatchSize": 7}), "Updating", "Enabled"),
            (json!({"Enabled": false}), "Disabling", "Disabled"),
        ];
        for (change, under_way, settled) in changes {
            let before = scene.memory.invocations();
            scene.memory.held.store(true, Ordering::Relaxed);
            scene.producer(1).await.write(1).await.expect("written");
            scene.until("an invocation is under way", |scene| scene.memory.invocations() > before).await;
            assert_eq!(mapped.put(change).await, under_way);
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                assert_eq!(mapped.state().await, under_way, "the old run is not over");
            }
            let other = mapped.client.call("PUT", &mapped.path, Some(&json!({"BatchSize": 9}))).await;
            let refused = other.expect_err("under way").to_string();
            assert!(refused.contains("ResourceInUseException"), "{refused}");
            scene.memory.held.store(false, Ordering::Relaxed);
            mapped.becomes(settled).await;
        }
        assert_eq!(mapped.put(json!({"Enabled": true})).await, "Enabling");
        mapped.becomes("Enabled").await;
        scene.producer(1).await.write(1).await.expect("written");
        scene
            .until("all of it", |scene| scene.memory.seen.lock().get(&0).is_some_and(|seen| seen.len() == 3))
            .await;
        scene.assert_each_once_in_order(3);
        mapped.server.stop().await;
        scene.dataplane.drain().await;
    });
}
