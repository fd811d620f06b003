// The guide's producer: one message with key, value, timestamp and headers, then a batch of 10,000 with GZIP, then the
// tuned one. Usage: node guide-producer.mjs BROKER
//
// Unmodified but for names and for the guide's slip that `compression: 2` is LZ4: in kafkajs it is Snappy, which needs a
// codec of its own, so the tuned batch is GZIP too.

import { Kafka, logLevel } from 'kafkajs';

const [broker] = process.argv.slice(2);

const kafka = new Kafka({
  clientId: 'my-app',
  brokers: [broker],
  logLevel: logLevel.INFO,
});

const producer = kafka.producer({
  allowAutoTopicCreation: true,
  transactionTimeout: 30000,
});

async function sendMessage(topic, key, value) {
  await producer.connect();
  const result = await producer.send({
    topic,
    messages: [
      {
        key,
        value,
        timestamp: Date.now().toString(),
        headers: {
          'source': 'my-app',
          'version': '1.0',
        },
      },
    ],
  });
  console.log(`Sent message to ${topic}:`, result);
  return result;
}

// Batch produce for high throughput
async function sendBatch(topic, messages) {
  await producer.connect();
  const batch = messages.map(msg => ({
    key: msg.key,
    value: msg.value,
    timestamp: Date.now().toString(),
  }));
  const result = await producer.send({
    topic,
    messages: batch,
    compression: 1, // GZIP compression
  });
  console.log(`Batch sent ${batch.length} messages:`, result);
  return result;
}

function expect(condition, what) {
  if (!condition) throw new Error(`expected ${what}`);
}

const single = await sendMessage('user-events', 'user-123', JSON.stringify({
  event: 'page_view',
  page: '/products',
  timestamp: new Date().toISOString(),
}));
expect(single.length === 1 && single[0].errorCode === 0, 'one partition without an error');

const messages = Array.from({ length: 10000 }, (_, i) => ({
  key: `user-${i % 100}`,
  value: JSON.stringify({ event: 'click', page: `/products/${i}`, timestamp: new Date().toISOString() }),
}));
const sent = await sendBatch('user-events', messages);
expect(sent.every(partition => partition.errorCode === 0), 'no errors');
await producer.disconnect();

// High-throughput producer configuration
const admin = kafka.admin();
await admin.connect();
await admin.createTopics({ topics: [{ topic: 'high-volume-events', numPartitions: 6 }] });
const tuned = kafka.producer({
  allowAutoTopicCreation: false,
  idempotent: true,
  transactionTimeout: 60000,
});
await tuned.connect();
await tuned.send({
  topic: 'high-volume-events',
  messages: messages.slice(0, 1000),
  acks: -1, // All replicas
  timeout: 30000, // 30s timeout
  compression: 1,
});
await tuned.disconnect();
const offsets = await admin.fetchTopicOffsets('high-volume-events');
expect(offsets.length === 6, 'six partitions');
expect(offsets.reduce((sum, partition) => sum + Number(partition.high), 0) === 1000, 'a thousand records');
await admin.disconnect();
