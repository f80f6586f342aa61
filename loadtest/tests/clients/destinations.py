"""boto3 and confluent-kafka at the destinations: makes queues, topics and buckets, and reads back what arrived, as JSON."""

import json
import os
import sys
import time

DEADLINE_SECONDS = 60


def client(service):
    import boto3

    return boto3.client(service, endpoint_url=os.environ["ENDPOINT"], region_name="us-east-1")


def create_queue(name):
    return client("sqs").create_queue(QueueName=name)["QueueUrl"]


def create_topic(name):
    """A topic cannot be read: a queue of the same name subscribes to it."""
    sns, url = client("sns"), create_queue(name)
    attributes = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    topic = sns.create_topic(Name=name)["TopicArn"]
    return sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=attributes["QueueArn"])["SubscriptionArn"]


def create_bucket(name):
    return client("s3").create_bucket(Bucket=name)["Location"]


def until(count, read):
    """What `read` brings together until there is as much, and a moment longer: for what should not be there."""
    found, deadline = [], time.monotonic() + DEADLINE_SECONDS
    while len(found) < count:
        if time.monotonic() > deadline:
            sys.exit(f"{len(found)} of {count} arrived")
        found += read()
    time.sleep(0.3)
    return found + read()


def received(name, count):
    sqs = client("sqs")
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]

    def read():
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in messages]

    return until(int(count), read)


def notified(name, count):
    """What SNS put into the subscribed queue, out of SNS's own envelope."""
    return [json.loads(body)["Message"] for body in received(name, count)]


def objects(name, count):
    s3, seen = client("s3"), set()

    def read():
        fresh = []
        for found in s3.list_objects_v2(Bucket=name).get("Contents", []):
            if found["Key"] not in seen:
                seen.add(found["Key"])
                got = s3.get_object(Bucket=name, Key=found["Key"])
                body = got["Body"].read().decode()
                fresh.append({"key": found["Key"], "type": got["ContentType"], "body": body})
        if not fresh:
            time.sleep(0.1)
        return fresh

    return until(int(count), read)


def consumed(servers, topic, count):
    from confluent_kafka import Consumer

    settings = {"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer(settings)
    consumer.subscribe([topic])

    def read():
        return [
            (message.key().decode(), message.value().decode())
            for message in consumer.consume(100, 1.0)
            if message.error() is None
        ]

    found = until(int(count), read)
    consumer.close()
    return found


print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
