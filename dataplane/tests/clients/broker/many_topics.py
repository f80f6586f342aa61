"""confluent-kafka (librdkafka) against the embedded broker: as many topics as it is told, listed, produced to, consumed in a group,
committed. librdkafka reckons the memory for a list of topics from the bytes of the reply: short names are its hard case."""
import os
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

SERVERS, COUNT = os.environ["SERVERS"], int(os.environ["TOPICS"])
topics = [f"c{number}" for number in range(COUNT)]
admin = AdminClient({"bootstrap.servers": SERVERS})
for future in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics]).values():
    future.result(60)
listed = admin.list_topics(timeout=60)
assert sorted(listed.topics) == sorted(topics), (len(listed.topics), COUNT)
assert all(topic.error is None and len(topic.partitions) == 1 for topic in listed.topics.values())

producer = Producer({"bootstrap.servers": SERVERS})
for topic in topics:
    producer.produce(topic, key="key", value=topic)
assert producer.flush(60) == 0

consumer = Consumer({"bootstrap.servers": SERVERS, "group.id": "many", "auto.offset.reset": "earliest", "enable.auto.commit": False})
consumer.subscribe(["^c.*"])
seen, deadline = {}, time.time() + 90
while len(seen) < COUNT and time.time() < deadline:
    message = consumer.poll(0.5)
    if message is None:
        continue
    if message.error():
        raise KafkaException(message.error())
    assert message.value().decode() == message.topic() and message.topic() not in seen
    seen[message.topic()] = message.offset()
if len(seen) != COUNT:
    sys.exit(f"{len(seen)} of {COUNT} records")
consumer.commit(asynchronous=False)
committed = consumer.committed([TopicPartition(topic, 0) for topic in topics], timeout=60)
assert all(one.offset == 1 and one.error is None for one in committed), committed[:3]
consumer.close()
groups = admin.list_consumer_groups().result(60)
assert "many" in [group.group_id for group in groups.valid] and not groups.errors, groups
print("many topics: fine")
