"""confluent-kafka (librdkafka) against the embedded broker: codecs, headers, groups of two, watermarks, times, commits."""
import os
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

SERVERS = os.environ["SERVERS"]
admin = AdminClient({"bootstrap.servers": SERVERS})
for future in admin.create_topics([NewTopic("librdkafka", 4, 1)]).values():
    future.result(30)

middle = None
for index, codec in enumerate(["none", "gzip", "snappy", "lz4", "zstd"]):
    producer = Producer({"bootstrap.servers": SERVERS, "compression.type": codec, "enable.idempotence": index % 2 == 0})
    if index == 3:
        time.sleep(0.05)
        middle = int(time.time() * 1000)
    for number in range(200):
        producer.produce("librdkafka", key=f"{codec}-{number}", value=b"v" * number, partition=number % 4,
                         headers=[("b", b"1"), ("a", b""), ("b", None)])
    assert producer.flush(30) == 0

reader = Consumer({"bootstrap.servers": SERVERS, "group.id": "lookup", "enable.auto.commit": False})
low, high = reader.get_watermark_offsets(TopicPartition("librdkafka", 0), timeout=10)
assert (low, high) == (0, 250), (low, high)
found = reader.offsets_for_times([TopicPartition("librdkafka", 0, middle)], timeout=10)[0].offset
assert found == 150, found
reader.commit(offsets=[TopicPartition("librdkafka", 0, 42, "meta")], asynchronous=False)
assert reader.committed([TopicPartition("librdkafka", 0)], timeout=10)[0].offset == 42
reader.close()

for strategy in ("range", "cooperative-sticky"):
    seen, lock, done = set(), threading.Lock(), threading.Event()

    def consume():
        consumer = Consumer({"bootstrap.servers": SERVERS, "group.id": f"group-{strategy}", "auto.offset.reset": "earliest",
                             "partition.assignment.strategy": strategy, "session.timeout.ms": 6000})
        consumer.subscribe(["librdkafka"])
        while not done.is_set():
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            assert [name for name, _ in message.headers()] == ["b", "a", "b"]
            with lock:
                seen.add((message.partition(), message.offset()))
                if len(seen) == 1000:
                    done.set()
        consumer.close()

    members = [threading.Thread(target=consume, daemon=True) for _ in range(2)]
    for member in members:
        member.start()
    if not done.wait(60):
        sys.exit(f"{strategy}: {len(seen)} of 1000 records")
    for member in members:
        member.join(30)
print("confluent-kafka: fine")
