//! Unreadable batches from outside: each is shown with its offsets and reason. None of its offsets is skipped until
//! an operator names exactly that range, and the audit records the operator's reason.

mod scene;
#[path = "api/served.rs"]
mod served;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use lighterman::control::client::ApiClient;
use lighterman_proto::ids::Offset;
use serde_json::{Value, json};

use self::scene::scene;
use self::served::{KEY, REGION, ServedApi};

const ZSTD: u8 = 4;

/// Creates a batch of offsets 5 to 9 whose records section is invalid, with a correct checksum.
fn nonsense(codec: u8) -> Vec<u8> {
    let mut bytes = 5i64.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(0i32.to_be_bytes());
    bytes.push(2);
    bytes.extend([0; 4]);
    bytes.extend([0, codec]);
    bytes.extend(4i32.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend([0xff; 14]);
    bytes.extend(5i32.to_be_bytes());
    bytes.extend([0x7f; 50]);
    let length = bytes.len() as u32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn kinds() -> [Bytes; 3] {
    let mut wrong_checksum = nonsense(0);
    wrong_checksum[17] ^= 0xff;
    [wrong_checksum.into(), nonsense(ZSTD).into(), nonsense(0).into()]
}

async fn refuses_other_ranges(client: &ApiClient, path: &str) {
    for wrong in
        [json!({"Offset": 5}), json!({"Offset": 5, "EndOffset": 12}), json!({"Offset": 6, "EndOffset": 10})]
    {
        let mut body = wrong.clone();
        body["Reason"] = json!("no");
        let refused = client.call("POST", path, Some(&body)).await;
        let refused = refused.expect_err("not that range").to_string();
        assert!(refused.contains("Offset 5 and EndOffset 10"), "{wrong}: {refused}");
    }
}

async fn until(what: &str, client: &ApiClient, path: &str, fact: impl Fn(&Value) -> bool) -> Value {
    let mut shown = Value::Null;
    for _ in 0..1_200 {
        shown = client.call("GET", path, None).await.expect("there");
        if fact(&shown) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: {shown:#}");
}

/// Runs `lighterman mapping skip` against the API.
async fn skip_by_hand(listen: SocketAddr, uuid: String, partition: i64) -> String {
    let run = move || {
        let partition = partition.to_string();
        let args = ["mapping", "skip", &uuid, &partition, "5", "--end", "10", "--reason", "by hand"];
        let environment = [
            ("LIGHTERMAN_LISTEN", listen.to_string()),
            ("LIGHTERMAN_ROOT_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("LIGHTERMAN_ROOT_SECRET_ACCESS_KEY", KEY.1.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
        ];
        Command::new(env!("CARGO_BIN_EXE_lighterman")).args(args).envs(environment).output().expect("runs")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Checks ALO-1: the audit accounts for all records, with the reason of each skip.
async fn check_audit(client: &ApiClient, uuid: &str) {
    let audit = format!("/lighterman/v1/mappings/{uuid}/audit");
    let audit = until("audited", client, &audit, |audit| {
        let all = audit["partitions"].as_array().expect("a list");
        all.len() == 3 && all.iter().all(|one| one["end"] == 15)
    })
    .await;
    for (one, reason) in
        audit["partitions"].as_array().expect("a list").iter().zip(["INC-1", "by hand", "by hand"])
    {
        assert_eq!(one["verdict"], "accounted", "{one:#}");
        assert_eq!(one["totals"], json!({"delivered": 10, "skipped": 5}), "{one:#}");
        assert!(one.to_string().contains(&format!("\"5\":\"{reason}\"")), "{one:#}");
    }
}

#[test]
fn alo_1_com_1_unreadable_batch_is_skipped_only_by_range() {
    scene(|scene| async move {
        let mut producer = scene.producer(3).await;
        for _ in 0..3 {
            producer.write(15).await.expect("written");
        }
        for (partition, bytes) in (0..).zip(kinds()) {
            scene.broker.replace("orders", partition, Offset(5), bytes).await;
        }
        let api = ServedApi::on(&scene);
        let client = &api.client;
        let changes = json!({ "Enabled": true, "StartingPosition": "TRIM_HORIZON", "BatchSize": 5 });
        let mapping = api.create(&changes).await;
        let uuid = mapping.rsplit('/').next().expect("a path").to_owned();
        let path = format!("/lighterman/v1/mappings/{uuid}/partitions");
        let shown = until("all three are shown", client, &path, |shown| {
            let shown = shown["partitions"].as_array().expect("a list");
            shown.len() == 3 && shown.iter().all(|one| one["committed"] == 5 && one["unreadable"].is_object())
        })
        .await;
        let told = ["CRC", "zstd data is broken", "record 0"];
        for (one, told) in shown["partitions"].as_array().expect("a list").iter().zip(told) {
            let unreadable = &one["unreadable"];
            assert_eq!((&unreadable["first"], &unreadable["end"]), (&json!(5), &json!(10)), "{one:#}");
            assert!(unreadable["reason"].as_str().expect("text").contains(told), "{one:#}");
        }
        let result = api.get(&mapping).await["LastProcessingResult"].to_string();
        assert!(result.contains("PROBLEM: offsets 5 to 9 of partition 0 cannot be read"), "{result}");
        assert!(result.contains("mapping skip"), "{result}");

        refuses_other_ranges(client, &format!("{path}/0/skip")).await;
        let body = json!({"Offset": 5, "EndOffset": 10, "Reason": "INC-1"});
        let answer = client.call("POST", &format!("{path}/0/skip"), Some(&body)).await.expect("skipped");
        assert_eq!(answer, json!({"Partition": 0, "Offset": 5, "EndOffset": 10, "State": "Skipped"}));
        for partition in [1, 2] {
            let told = skip_by_hand(api.address(), uuid.clone(), partition).await;
            assert!(told.contains("Skipped"), "{told}");
        }
        until("all of it", client, &path, |shown| {
            let shown = shown["partitions"].as_array().expect("a list");
            shown.iter().all(|one| one["committed"] == 15 && one["unreadable"].is_null())
        })
        .await;
        for (partition, seen) in scene.memory.seen.lock().iter() {
            assert!(seen.iter().copied().eq((0..5).chain(10..15)), "{partition}: {seen:?}");
        }
        check_audit(client, &uuid).await;
        api.stop(&scene).await;
    });
}
