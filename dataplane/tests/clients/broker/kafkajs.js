// kafkajs against the embedded broker: a topic, a producer, a group.
const { Kafka, logLevel } = require('kafkajs');

const kafka = new Kafka({ clientId: 'js', brokers: [process.env.SERVERS], logLevel: logLevel.ERROR });

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 'kafkajs', numPartitions: 2 }], waitForLeaders: true });
  const producer = kafka.producer();
  await producer.connect();
  const messages = Array.from({ length: 100 }, (_, n) => ({ key: `k${n}`, value: `v${n}`, headers: { a: 'b' } }));
  await producer.send({ topic: 'kafkajs', messages });
  await producer.disconnect();
  const consumer = kafka.consumer({ groupId: 'js-group' });
  await consumer.connect();
  await consumer.subscribe({ topic: 'kafkajs', fromBeginning: true });
  const seen = new Set();
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`only ${seen.size} records`)), 45000).unref();
    consumer.run({
      eachMessage: async ({ partition, message }) => {
        seen.add(`${partition}-${message.offset}`);
        if (seen.size === 100) resolve();
      },
    });
  });
  await consumer.disconnect();
  const offsets = await admin.fetchTopicOffsets('kafkajs');
  if (offsets.reduce((sum, one) => sum + Number(one.high), 0) !== 100) throw new Error('watermarks');
  await admin.disconnect();
  console.log('kafkajs: fine');
}

main().catch((error) => { console.error(error); process.exit(1); });
