"""boto3 and the AWS CLI, unchanged, against a node: life of a mapping, tags, refusals, and records that arrive."""
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ENDPOINT, SERVERS = os.environ["ENDPOINT"], os.environ["SERVERS"]
VPC = [{"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}]
SOURCE = {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [SERVERS]}}
client = boto3.client("lambda", endpoint_url=ENDPOINT)


def wait_for(what, check, seconds=60):
    deadline = time.time() + seconds
    while time.time() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"timed out waiting for {what}")


def refused(code, call, **kwargs):
    try:
        call(**kwargs)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response
        return error.response
    sys.exit(f"{code} expected")


def state_is(uuid, state):
    return lambda: client.get_event_source_mapping(UUID=uuid)["State"] == state


def cli(*arguments):
    command = [sys.executable, "-m", "awscli", "lambda", *arguments, "--endpoint-url", ENDPOINT, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def ours(path, body, signed=True):
    """POSTs to what AWS has no call for; the reply, or the status of a refusal and its body."""
    headers = {"content-type": "application/json"}
    request = AWSRequest("POST", f"{ENDPOINT}/lighterman/v1/{path}", data=json.dumps(body), headers=headers)
    if signed:
        SigV4Auth(boto3.Session().get_credentials(), "lambda", "eu-west-1").add_auth(request)
    ready = request.prepare()
    try:
        call = urllib.request.Request(ready.url, data=ready.body.encode(), headers=dict(ready.headers), method="POST")
        with urllib.request.urlopen(call, timeout=30) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def committed(group, topic):
    consumer = Consumer({"bootstrap.servers": SERVERS, "group.id": group})
    offset = consumer.committed([TopicPartition(topic, 0)], timeout=10)[0].offset
    consumer.close()
    return offset


def make_topic(topic):
    admin = AdminClient({"bootstrap.servers": SERVERS})
    for future in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        future.result(30)


# The recorded first answer, a duplicate, and AWS's words for both.
for topic in ("orders", "by-cli"):
    make_topic(topic)
made = client.create_event_source_mapping(
    FunctionName="sample", Topics=["orders"], SelfManagedEventSource=SOURCE, SourceAccessConfigurations=VPC,
    StartingPosition="TRIM_HORIZON", Tags={"team": "quay"})
uuid = made["UUID"]
assert made["ResponseMetadata"]["HTTPStatusCode"] == 202 and made["State"] == "Creating", made
assert made["SelfManagedKafkaEventSourceConfig"]["ConsumerGroupId"] == uuid and made["BatchSize"] == 100
assert made["LastProcessingResult"] == "No records processed" and "MaximumBatchingWindowInSeconds" not in made
wait_for("Enabled", state_is(uuid, "Enabled"))
duplicate = refused("ResourceConflictException", client.create_event_source_mapping, FunctionName="sample",
                    Topics=["orders"], SelfManagedEventSource=SOURCE, SourceAccessConfigurations=VPC)
assert duplicate["Error"]["Message"].endswith(f"Please update or delete the existing mapping with UUID {uuid}")
missing = refused("InvalidParameterValueException", client.create_event_source_mapping, FunctionName="nobody",
                  Topics=["orders"], SelfManagedEventSource=SOURCE, SourceAccessConfigurations=VPC)
assert missing["Error"]["Message"] == "Function does not exist"
refused("ResourceNotFoundException", client.get_event_source_mapping, UUID="0" * 8 + "-0000-4000-8000-" + "0" * 12)
stranger = boto3.client("lambda", endpoint_url=ENDPOINT, aws_access_key_id="AKIAWRONG", aws_secret_access_key="x")
refused("UnrecognizedClientException", stranger.list_event_source_mappings)
forger = boto3.client("lambda", endpoint_url=ENDPOINT, aws_secret_access_key="wrong",
                      aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"])
refused("InvalidSignatureException", forger.list_event_source_mappings)

# Records arrive and are committed.
producer = Producer({"bootstrap.servers": SERVERS})
for number in range(500):
    producer.produce("orders", key=str(number), value=json.dumps({"n": number}), headers=[("a", b"1"), ("a", None)])
assert producer.flush(30) == 0
wait_for("500 records committed", lambda: committed(uuid, "orders") == 500)
assert client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"] == "OK"

# Update, disable, enable, tags.
client.update_event_source_mapping(UUID=uuid, BatchSize=7, MaximumBatchingWindowInSeconds=1)
wait_for("Enabled again", state_is(uuid, "Enabled"))
assert client.get_event_source_mapping(UUID=uuid)["BatchSize"] == 7
client.update_event_source_mapping(UUID=uuid, Enabled=False)
wait_for("Disabled", state_is(uuid, "Disabled"))
producer.produce("orders", value="while disabled")
producer.flush(30)
client.update_event_source_mapping(UUID=uuid, Enabled=True)
wait_for("the record written while disabled", lambda: committed(uuid, "orders") == 501)
wait_for("Enabled", state_is(uuid, "Enabled"))

# Filters: refused in AWS's words with the place beside them, kept as given, obeyed, removed; tried before they are used.
filters = {"Filters": [{"Pattern": '{ "value": {"n": [{"numeric": [">=", 1000]}]} }'}, {"Pattern": '{"key":["é"]}'}]}
bad = {"Filters": [{"Pattern": '{"value":{"n":[{"numric":1}]}}'}]}
wrong = refused("InvalidParameterValueException", client.update_event_source_mapping, UUID=uuid, FilterCriteria=bad)
place = "Invalid filter pattern definition. See filter 1, value.n[0].numric (byte 15): no operator `numric`"
assert wrong["Error"]["Message"].startswith(place), wrong
assert client.update_event_source_mapping(UUID=uuid, FilterCriteria=filters)["FilterCriteria"] == filters
wait_for("Enabled with filters", state_is(uuid, "Enabled"))
assert client.get_event_source_mapping(UUID=uuid)["FilterCriteria"] == filters
assert client.list_event_source_mappings()["EventSourceMappings"][0]["FilterCriteria"] == filters
for number in range(40):
    producer.produce("orders", key=str(number), value=json.dumps({"n": number}))
producer.flush(30)
wait_for("what is filtered to be committed", lambda: committed(uuid, "orders") == 541)
client.update_event_source_mapping(UUID=uuid, FilterCriteria={})
wait_for("Enabled without filters", state_is(uuid, "Enabled"))
assert "FilterCriteria" not in client.get_event_source_mapping(UUID=uuid)
trial = {"FilterCriteria": filters, "Records": [{"value": {"n": 1e3}}, {"value": {"n": 1}}, {"value": "text"}]}
results = ours("filters/test", trial)["Results"]
assert [one["Matched"] for one in results] == [True, False, True], results
assert results[2]["ValueFormat"] == "text"
status, body = ours("filters/test", {"FilterCriteria": bad, "Records": []})
assert status == 400 and body["message"].startswith(place), body
assert ours("filters/test", trial, signed=False)[0] == 403

arn = made["EventSourceMappingArn"]
client.tag_resource(Resource=arn, Tags={"tier": "gold", "x y": "z"})
client.untag_resource(Resource=arn, TagKeys=["team", "x y"])
assert client.list_tags(Resource=arn)["Tags"] == {"tier": "gold"}

# The AWS CLI, and paging.
by_cli = cli("create-event-source-mapping", "--function-name", "sample", "--topics", "by-cli",
             "--starting-position", "LATEST", "--self-managed-event-source", json.dumps(SOURCE),
             "--source-access-configurations", *(f"Type={one['Type']},URI={one['URI']}" for one in VPC))
wait_for("the CLI's mapping", state_is(by_cli["UUID"], "Enabled"))
assert len(cli("list-event-source-mappings")["EventSourceMappings"]) == 2
pages = client.get_paginator("list_event_source_mappings").paginate(PaginationConfig={"PageSize": 1})
assert sorted(one["UUID"] for page in pages for one in page["EventSourceMappings"]) == sorted([uuid, by_cli["UUID"]])
cli("update-event-source-mapping", "--uuid", by_cli["UUID"], "--batch-size", "3")
wait_for("the CLI's update", state_is(by_cli["UUID"], "Enabled"))
for one in (uuid, by_cli["UUID"]):
    client.delete_event_source_mapping(UUID=one)
wait_for("both gone", lambda: client.list_event_source_mappings()["EventSourceMappings"] == [])
print("aws clients: fine")
