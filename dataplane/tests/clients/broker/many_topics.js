// kafkajs against the embedded broker: as many topics as it is told, listed, produced to, consumed in a group, committed.
const { Kafka, logLevel } = require('kafkajs');

const count = Number(process.env.TOPICS);
const topics = Array.from({ length: count }, (_, number) => `j${number}`);
const kafka = new Kafka({ clientId: 'js', brokers: [process.env.SERVERS], logLevel: logLevel.ERROR });

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: topics.map((topic) => ({ topic, numPartitions: 1 })), waitForLeaders: true });
  const listed = await admin.listTopics();
  if (listed.length !== count) throw new Error(`${listed.length} of ${count} topics are listed`);
  const producer = kafka.producer();
  await producer.connect();
  await producer.sendBatch({ topicMessages: topics.map((topic) => ({ topic, messages: [{ key: 'key', value: topic }] })) });
  await producer.disconnect();
  const consumer = kafka.consumer({ groupId: 'many' });
  await consumer.connect();
  await consumer.subscribe({ topics, fromBeginning: true });
  const seen = new Set();
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${seen.size} of ${count} records`)), 90000).unref();
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ topic, partition, message }) => {
        if (message.value.toString() !== topic || seen.has(topic)) reject(new Error(`${topic} holds ${message.value}`));
        seen.add(topic);
        await consumer.commitOffsets([{ topic, partition, offset: String(Number(message.offset) + 1) }]);
        if (seen.size === count) resolve();
      },
    }).catch(reject);
  });
  await consumer.disconnect();
  const committed = await admin.fetchOffsets({ groupId: 'many', topics });
  for (const { topic, partitions } of committed) {
    if (partitions[0].offset !== '1') throw new Error(`${topic}: ${partitions[0].offset} is committed`);
  }
  if (committed.length !== count) throw new Error(`${committed.length} of ${count} topics have an offset`);
  await admin.disconnect();
  console.log('many topics: fine');
}

main().catch((error) => { console.error(error); process.exit(1); });
