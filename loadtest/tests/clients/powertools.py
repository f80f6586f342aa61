"""Functions as people write them for Lambda with Powertools for Kafka. What they saw goes to the file that SEEN names."""

import json
import os

from aws_lambda_powertools.utilities.kafka import ConsumerRecords, SchemaConfig, kafka_consumer

json_values = SchemaConfig(value_schema_type="JSON")


def see(record, value):
    fields = {"partition": record.partition, "offset": record.offset, "value": value, "key": record.key,
              "topic": record.topic, "header": record.headers["h"].decode()}
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(json.dumps(fields) + "\n")


@kafka_consumer(schema_config=json_values)
def reads(event: ConsumerRecords, context):
    """Reads every value; one that is no JSON fails the whole batch."""
    values = [(record, record.value) for record in event.records]
    for record, value in values:
        see(record, value)


@kafka_consumer(schema_config=json_values)
def reports(event: ConsumerRecords, context):
    """Names the records that it could not process: those that a file says are not ready yet."""
    failed = []
    for record in event.records:
        value = record.value
        if value["needs"] is None or os.path.exists(os.environ["SEEN"] + value["needs"]):
            see(record, value)
        else:
            place = {"partition": f"{record.topic}-{record.partition}", "offset": record.offset}
            failed.append({"itemIdentifier": place})
    return {"batchItemFailures": failed}
