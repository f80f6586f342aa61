//! Recorded responses of AWS, compared with this API's responses to the same requests. They were recorded by
//! `LocalStack`'s authors (Apache-2.0, `tests/aws/services/lambda_/test_lambda_api.snapshot.json`); placeholders
//! are replaced by this test's values. Also requests that no signed client sends: unsigned, signed twice, wrongly
//! signed, too large, or invalid HTTP.

mod scene;
#[path = "api/served.rs"]
mod served;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use self::scene::scene;
use self::served::{MAPPINGS, ServedApi};

const RECORDED: &str = include_str!("api/localstack-recorded-answers.json");
const ARN: &str = "arn:aws:lambda:eu-west-1:000000000000";

/// Returns AWS's response in `test` at `step`.
fn recorded(test: &str, step: &str) -> Value {
    let all: Value = serde_json::from_str(RECORDED).expect("JSON");
    let answer = all[test]["recorded-content"][step].clone();
    assert!(answer.is_object(), "{test} {step} was recorded");
    answer
}

/// Returns status, exception and message of a recorded error, formatted as by this API's client.
fn refusal(test: &str, step: &str, placed: &[(&str, &str)]) -> String {
    let answer = recorded(test, step);
    let error = &answer["Error"];
    let told = format!(
        "{} {}: {}",
        answer["ResponseMetadata"]["HTTPStatusCode"],
        error["Code"].as_str().expect("a code"),
        error["Message"].as_str().expect("a message")
    );
    placed.iter().fold(
        told.replace("<partition>", "aws")
            .replace("<region>", "eu-west-1")
            .replace("111111111111", "000000000000"),
        |told, (from, to)| told.replace(from, to),
    )
}

#[test]
fn errors_match_the_recorded_responses() {
    scene(|scene| async move {
        let served = ServedApi::on(&scene);
        let test = "test_event_source_mapping_exceptions";
        let unknown = format!("{MAPPINGS}/01234567-89ab-cdef-0123-456789abcdef");
        for (step, method) in
            [("get_unknown_uuid", "GET"), ("delete_unknown_uuid", "DELETE"), ("update_unknown_uuid", "PUT")]
        {
            let told = served.refused(method, &unknown, &json!({})).await;
            assert_eq!(told, refusal(test, step, &[]));
        }
        let no_source = served.body(&json!({ "SelfManagedEventSource": null }));
        let success = json!({ "OnSuccess": { "Destination": "arn:aws:sqs:eu-west-1:000000000000:q" } });
        let test_self_managed = "test_create_event_source_self_managed";
        for (test, step, body) in [
            (test, "create_no_event_source_arn", no_source),
            (test, "destination_config_failure", served.body(&json!({ "DestinationConfig": success }))),
            (
                "test_create_event_source_validation",
                "invalid_starting_position",
                served.body(&json!({ "StartingPosition": "invalid" })),
            ),
            (
                test_self_managed,
                "missing-source-access-configuration",
                served.body(&json!({ "SourceAccessConfigurations": null })),
            ),
        ] {
            assert_eq!(served.refused("POST", MAPPINGS, &body).await, refusal(test, step, &[]));
        }
        served.stop(&scene).await;
    });
}

#[test]
fn self_managed_responses_equal_recorded_ones() {
    scene(|scene| async move {
        let served = ServedApi::on(&scene);
        let test = "test_create_event_source_self_managed";
        let servers = |servers: &[&str]| json!({ "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": servers } });
        let one = json!({ "FunctionName": "f", "Topics": ["topic"], "SelfManagedEventSource": servers(&["kafka:1000"]) });
        let mut first = served.body(&one);
        first.as_object_mut().expect("object").remove("Enabled");
        let answer = served.client.call("POST", MAPPINGS, Some(&first)).await.expect("created");
        let uuid = answer["UUID"].as_str().expect("text").to_owned();
        let mut expected = recorded(test, "event-source-mapping-default");
        assert!(answer["LastModified"].is_number());
        for (name, value) in [
            ("UUID", json!(uuid)),
            ("LastModified", answer["LastModified"].clone()),
            ("FunctionArn", json!(format!("{ARN}:function:f"))),
            ("SelfManagedKafkaEventSourceConfig", json!({ "ConsumerGroupId": uuid })),
            // The recording uses BASIC_AUTH, and predates ARNs of mappings.
            ("SourceAccessConfigurations", first["SourceAccessConfigurations"].clone()),
            ("EventSourceMappingArn", json!(format!("{ARN}:event-source-mapping:{uuid}"))),
        ] {
            expected[name] = value;
        }
        expected.as_object_mut().expect("object").remove("ResponseMetadata");
        assert_eq!(answer, expected);
        let placed = [("<resource:1>", "f"), ("<uuid:1>", uuid.as_str())];
        assert_eq!(
            served.refused("POST", MAPPINGS, &first).await,
            refusal(test, "duplicate-source", &placed)
        );
        let mut wider = first.clone();
        wider["SelfManagedEventSource"] = servers(&["kafka:1000", "kafka:2000"]);
        assert_eq!(
            served.refused("POST", MAPPINGS, &wider).await,
            refusal(test, "multiple-duplicate-source", &placed)
        );
        served.settled(&format!("{MAPPINGS}/{uuid}")).await;
        served.stop(&scene).await;
    });
}

#[test]
fn tag_responses_equal_recorded_ones() {
    scene(|scene| async move {
        let served = ServedApi::on(&scene);
        let path = served.create(&json!({})).await;
        let arn = served.get(&path).await["EventSourceMappingArn"].as_str().expect("text").to_owned();
        let at = |arn: &str| format!("/2017-03-31/tags/{}", arn.replace(':', "%3A"));
        let tag = |tags: Value| ("POST", at(&arn), Some(json!({ "Tags": tags })));
        let untag = |query: &str| ("DELETE", format!("{}?{query}", at(&arn)), None);
        for (step, (method, path, body)) in [
            ("tag_single_response", tag(json!({ "A": "tag-a" }))),
            ("tag_multiple_response", tag(json!({ "B": "tag-b", "C": "tag-c" }))),
            ("tag_overlap_response", tag(json!({ "C": "tag-c-newsuffix", "D": "tag-d" }))),
            ("untag_single_response", untag("tagKeys=A")),
            ("untag_multiple_response", untag("tagKeys=B&tagKeys=C")),
            ("untag_nonexisting_response", untag("tagKeys=F")),
            ("untag_existing_and_nonexisting_response", untag("tagKeys=D&tagKeys=F")),
        ] {
            served.client.call(method, &path, body.as_ref()).await.expect("taken");
            let listed = format!("{step}_listtags");
            let expected = recorded("test_tag_lifecycle[event_source_mapping]", &listed);
            assert_eq!(served.tags(&arn).await, expected["Tags"], "{step}");
        }
        let test = "test_tag_exceptions[event_source_mapping]";
        let name = "01234567-89ab-cdef-0123-456789abcdef";
        let unknown = format!("{ARN}:event-source-mapping:{name}");
        let (aliased, foobar) = (format!("{unknown}:alias"), format!("{ARN}:foobar:{name}"));
        let tags = json!({ "Tags": { "A": "a" } });
        for (step, arn, method) in [
            ("not_found_exception_tag", &unknown, "POST"),
            ("not_found_exception_untag", &unknown, "DELETE"),
            ("not_found_exception_list", &unknown, "GET"),
            ("aliased_arn_exception", &aliased, "POST"),
            ("aliased_arn_exception", &aliased, "GET"),
            ("invalid_arn_exception", &foobar, "POST"),
            ("invalid_arn_exception", &foobar, "DELETE"),
        ] {
            let path = if method == "DELETE" { format!("{}?tagKeys=A", at(arn)) } else { at(arn) };
            let told = served.refused(method, &path, &tags).await;
            assert_eq!(told, refusal(test, step, &[("<resource-name>", name)]), "{method} {arn}");
        }
        let null = |at: &str| {
            format!(
                "400 ValidationException: 1 validation error detected: Value null at '{at}' failed to satisfy constraint: \
                 Member must not be null"
            )
        };
        assert_eq!(served.refused("POST", &at(&arn), &json!({})).await, null("tags"));
        assert_eq!(served.refused("DELETE", &at(&arn), &json!({})).await, null("tagKeys"));
        served.stop(&scene).await;
    });
}

/// Sends raw bytes and returns status, headers and body of the response.
fn raw(address: SocketAddr, request: &[u8]) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    stream.write_all(request).expect("written");
    let mut reply = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).expect("a reply within a minute");
        reply.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&reply).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(read > 0, "cut off: {text}");
            continue;
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        if let Ok(body) = serde_json::from_str(body) {
            return (status, head.to_lowercase(), body);
        }
        if read == 0 {
            return (status, head.to_lowercase(), Value::Null);
        }
    }
}

#[test]
fn malformed_or_wrongly_signed_requests_get_aws_errors() {
    scene(|scene| async move {
        let served = ServedApi::on(&scene);
        let address = served.address();
        let get = |headers: &str| {
            format!("GET {MAPPINGS} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").into_bytes()
        };
        let signed = "Authorization: AWS4-HMAC-SHA256 Credential=A/20261130/eu-west-1/lambda/aws4_request, \
                      SignedHeaders=host;x-amz-date, Signature=0\r\n";
        let stamp = "X-Amz-Date: 20261130T000000Z\r\n";
        let large = format!("POST {MAPPINGS} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 3000000\r\n\r\n");
        let chunked = format!(
            "POST {MAPPINGS} HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        );
        let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
            ("unsigned", get(""), 403, "missingauthenticationtokenexception"),
            (
                "another scheme",
                get(&format!("Authorization: Basic YTpi\r\n{stamp}")),
                400,
                "incompletesignatureexception",
            ),
            ("empty", get(&format!("Authorization:\r\n{stamp}")), 400, "incompletesignatureexception"),
            (
                "not text",
                [b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: \xff\xfe\r\n\r\n".as_slice()].concat(),
                400,
                "incompletesignatureexception",
            ),
            ("no date", get(signed), 400, "incompletesignatureexception"),
            ("twice", get(&format!("{signed}{signed}{stamp}")), 400, "incompletesignatureexception"),
            (
                "two schemes",
                get(&format!("{signed}Authorization: Bearer b\r\n{stamp}")),
                400,
                "incompletesignatureexception",
            ),
            ("an old date", get(&format!("{signed}{stamp}")), 403, "invalidsignatureexception"),
            ("too large", large.into_bytes(), 413, "requestentitytoolargeexception"),
            ("chunks that are none", chunked.into_bytes(), 400, "serializationexception"),
        ];
        for (what, request, status, name) in cases {
            let answered =
                tokio::task::spawn_blocking(move || raw(address, &request)).await.expect("answered");
            let (told, head, body) = answered;
            assert_eq!(told, status, "{what}: {head} {body}");
            assert!(head.contains(&format!("x-amzn-errortype: {name}")), "{what}: {head}");
            assert!(
                head.contains("x-amzn-requestid: ") && body["message"].is_string(),
                "{what}: {head} {body}"
            );
        }
        served.stop(&scene).await;
    });
}
