// The guide's own tests of a broker, without a test runner: a message, a batch, and a message end to end.
// Usage: node guide-tests.mjs BROKER

import assert from 'node:assert/strict';
import { Kafka, logLevel } from 'kafkajs';

const [broker] = process.argv.slice(2);

// Test helper: create a test Kafka instance
function createTestKafka() {
  return new Kafka({
    clientId: 'test-app',
    brokers: [broker],
    logLevel: logLevel.NOTHING,
  });
}

const kafka = createTestKafka();
const producer = kafka.producer();
await producer.connect();

const one = await producer.send({
  topic: 'test-topic',
  messages: [{ key: 'test-key', value: 'test-value' }],
});
assert.equal(one.length, 1);
assert.equal(one[0].errorCode, 0);

const messages = Array.from({ length: 100 }, (_, i) => ({
  key: `key-${i}`,
  value: JSON.stringify({ id: i, data: `test-${i}` }),
}));
const many = await producer.send({
  topic: 'test-topic',
  messages,
  compression: 1,
});
// The guide expects one entry; a hundred keys over three partitions make one per partition.
assert.equal(many.length, 3);

const consumer = kafka.consumer({ groupId: 'test-group' });
await consumer.connect();
const testMessage = { event: 'test', timestamp: new Date().toISOString() };
await producer.send({
  topic: 'integration-test',
  messages: [{ key: 'test', value: JSON.stringify(testMessage) }],
});
await consumer.subscribe({ topic: 'integration-test', fromBeginning: true });
const consumed = await new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('nothing consumed in 45 s')), 45000).unref();
  consumer.run({ eachMessage: async ({ message }) => resolve(JSON.parse(message.value.toString())) }).catch(reject);
});
assert.deepEqual(consumed, testMessage);
await consumer.disconnect();
await producer.disconnect();
console.log('3 passed');
