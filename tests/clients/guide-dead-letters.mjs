// The guide's dead-letter pattern with retry headers. Unmodified but for names and for the guide's slip that it never
// connects. Usage: node guide-dead-letters.mjs BROKER

import { Kafka, logLevel } from 'kafkajs';

const [broker] = process.argv.slice(2);
const kafka = new Kafka({ clientId: 'dead-letters', brokers: [broker], logLevel: logLevel.ERROR });
const processed = [];

async function processEvent(event) {
  processed.push(event);
}

async function consumeWithDLQ(inputTopic, dlqTopic, maxRetries = 3) {
  const consumer = kafka.consumer({ groupId: 'dlq-aware-group' });
  const producer = kafka.producer();
  await consumer.connect();
  await producer.connect();
  await consumer.subscribe({ topic: inputTopic, fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ topic, partition, message }) => {
      const retryHeader = message.headers?.['retry-count'];
      const retryCount = retryHeader ? parseInt(retryHeader.toString()) : 0;
      try {
        const event = JSON.parse(message.value.toString());
        await processEvent(event);
      } catch (error) {
        if (retryCount >= maxRetries) {
          // Send to dead letter queue
          await producer.send({
            topic: dlqTopic,
            messages: [{
              key: message.key,
              value: message.value,
              headers: {
                ...message.headers,
                'original-topic': topic,
                'original-partition': partition.toString(),
                'original-offset': message.offset,
                'error': error.message,
              },
            }],
          });
        } else {
          // Retry with incremented count
          await producer.send({
            topic: inputTopic,
            messages: [{
              key: message.key,
              value: message.value,
              headers: {
                ...message.headers,
                'retry-count': (retryCount + 1).toString(),
              },
            }],
          });
        }
      }
    },
  });
  return { consumer, producer };
}

const sender = kafka.producer();
await sender.connect();
await sender.send({
  topic: 'payments',
  messages: [
    { key: 'good', value: JSON.stringify({ id: 1 }) },
    { key: 'bad', value: '{not json', headers: { 'trace': 'abc' } },
    { key: 'good', value: JSON.stringify({ id: 2 }) },
  ],
});
await sender.disconnect();

const running = await consumeWithDLQ('payments', 'payments-dead');
const reader = kafka.consumer({ groupId: 'undertaker', allowAutoTopicCreation: true });
await reader.connect();
await reader.subscribe({ topic: 'payments-dead', fromBeginning: true });
const dead = await new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('no dead letter in 45 s')), 45000).unref();
  reader.run({ eachMessage: async ({ message }) => resolve(message) }).catch(reject);
});
await Promise.all([reader.disconnect(), running.consumer.disconnect(), running.producer.disconnect()]);

const headers = Object.fromEntries(Object.entries(dead.headers).map(([name, value]) => [name, value.toString()]));
console.log(JSON.stringify({ key: dead.key.toString(), value: dead.value.toString(), headers, processed }));
