"""boto3 and the AWS CLI, unchanged, against a node: members that are kept and shown, cleared as AWS's documentation says, and refusals."""
import json
import os
import subprocess
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, SERVERS = os.environ["ENDPOINT"], os.environ["SERVERS"]
VPC = [{"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}]
SOURCE = {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [SERVERS]}}
KEY = "arn:aws:kms:eu-west-1:000000000000:key/1"
QUEUE = "arn:aws:sqs:eu-west-1:000000000000:failed"
client = boto3.client("lambda", endpoint_url=ENDPOINT)
# Values are checked by the server alone.
careless = boto3.client("lambda", endpoint_url=ENDPOINT, config=Config(parameter_validation=False))


def settled(uuid):
    deadline = time.time() + 60
    while time.time() < deadline:
        shown = client.get_event_source_mapping(UUID=uuid)
        if shown["State"] in ("Enabled", "Disabled"):
            return shown
        time.sleep(0.05)
    sys.exit(f"{uuid} does not settle")


def update(uuid, **changes):
    client.update_event_source_mapping(UUID=uuid, **changes)
    return settled(uuid)


def refused(code, call, **kwargs):
    try:
        call(**kwargs)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response
        return error.response["Error"]["Message"]
    sys.exit(f"{code} expected")


def cli(*arguments):
    command = [sys.executable, "-m", "awscli", "lambda", *arguments, "--endpoint-url", ENDPOINT, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


first = {
    "KMSKeyArn": KEY, "MetricsConfig": {"Metrics": ["EventCount", "KafkaMetrics"]}, "LoggingConfig": {"SystemLogLevel": "INFO"},
    "BisectBatchOnFunctionError": True, "DestinationConfig": {"OnFailure": {"Destination": QUEUE}},
    "FunctionResponseTypes": ["ReportBatchItemFailures"], "MaximumRetryAttempts": 3,
    "ProvisionedPollerConfig": {"MinimumPollers": 1, "MaximumPollers": 2, "PollerGroupName": "harbour"},
}
made = client.create_event_source_mapping(
    FunctionName="sample", Topics=["members"], SelfManagedEventSource=SOURCE, SourceAccessConfigurations=VPC, Enabled=False, **first)
uuid = made["UUID"]
shown = settled(uuid)
assert {name: shown.get(name) for name in first} == first, shown
assert {name: made.get(name) for name in first} == first, made

# Each is changed alone, and cleared as the documentation says.
assert update(uuid, BisectBatchOnFunctionError=False)["BisectBatchOnFunctionError"] is False
assert update(uuid, MetricsConfig={"Metrics": ["ErrorCount"]})["MetricsConfig"] == {"Metrics": ["ErrorCount"]}
assert update(uuid, LoggingConfig={"SystemLogLevel": "WARN"})["LoggingConfig"] == {"SystemLogLevel": "WARN"}
assert "PollerGroupName" not in update(uuid, ProvisionedPollerConfig={"PollerGroupName": ""})["ProvisionedPollerConfig"]
assert settled(uuid)["KMSKeyArn"] == KEY and settled(uuid)["DestinationConfig"] == first["DestinationConfig"]
for name, nothing in (("KMSKeyArn", ""), ("MetricsConfig", {}), ("LoggingConfig", {}), ("DestinationConfig", {}),
                      ("ProvisionedPollerConfig", {}), ("FunctionResponseTypes", [])):
    assert name not in update(uuid, **{name: nothing}), name
assert settled(uuid)["BisectBatchOnFunctionError"] is False

# The AWS CLI says the same things its own way.
cli("update-event-source-mapping", "--uuid", uuid, "--kms-key-arn", KEY, "--metrics-config", "Metrics=EventCount",
    "--logging-config", "SystemLogLevel=DEBUG", "--bisect-batch-on-function-error",
    "--destination-config", json.dumps({"OnFailure": {"Destination": QUEUE}}))
settled(uuid)
shown = cli("get-event-source-mapping", "--uuid", uuid)
assert shown["KMSKeyArn"] == KEY and shown["BisectBatchOnFunctionError"] is True, shown
assert shown["MetricsConfig"] == {"Metrics": ["EventCount"]} and shown["LoggingConfig"] == {"SystemLogLevel": "DEBUG"}, shown
cli("update-event-source-mapping", "--uuid", uuid, "--no-bisect-batch-on-function-error", "--destination-config", "{}")
shown = settled(uuid)
assert shown["BisectBatchOnFunctionError"] is False and "DestinationConfig" not in shown, shown

# What is not for Kafka, not known, or not of the model is refused in AWS's words.
message = refused("InvalidParameterValueException", client.update_event_source_mapping, UUID=uuid, ParallelizationFactor=2)
assert message == "Unsupported 'parallelizationFactor' parameter for given event source mapping type."
message = refused("ValidationException", careless.update_event_source_mapping, UUID=uuid, LoggingConfig={"SystemLogLevel": "ALL"})
assert message.endswith("at 'loggingConfig.systemLogLevel' failed to satisfy constraint: Member must satisfy enum value set: [DEBUG, INFO, WARN]")
message = refused("ValidationException", client.update_event_source_mapping, UUID=uuid, MetricsConfig={"Metrics": ["Lag"]})
assert "'metricsConfig.metrics'" in message, message
message = refused("ValidationException", careless.get_event_source_mapping, UUID="short")
assert "'uUID'" in message, message
message = refused("ValidationException", careless.list_tags, Resource=made["EventSourceMappingArn"] + ":alias")
assert "Member must satisfy regular expression pattern: arn:" in message, message
message = refused("ValidationException", careless.tag_resource, Resource=made["EventSourceMappingArn"], Tags={"a\tb": ""})
assert "at 'tags'" in message, message
client.delete_event_source_mapping(UUID=uuid)
print("members: fine")
