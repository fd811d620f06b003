// Two members share three partitions; one leaves; nothing is missed or repeated after the commit.
// Usage: node guide-members.mjs BROKER

import { Kafka, logLevel } from 'kafkajs';

const [broker] = process.argv.slice(2);
const kafka = new Kafka({ clientId: 'members', brokers: [broker], logLevel: logLevel.ERROR });
const topic = 'shared-events';
const half = 600;
const seen = new Map();
let repeated = 0;

const admin = kafka.admin();
await admin.connect();
await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] });
const producer = kafka.producer();
await producer.connect();

function sendHalf(from) {
  const messages = Array.from({ length: half }, (_, i) => ({ key: `key-${i}`, value: JSON.stringify({ n: from + i }) }));
  return producer.send({ topic, messages });
}

async function until(what, condition) {
  const deadline = Date.now() + 45000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited too long for ${what}; seen ${seen.size}, repeated ${repeated}`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

async function member(name) {
  const consumer = kafka.consumer({ groupId: 'members', sessionTimeout: 30000, heartbeatInterval: 300 });
  const self = { consumer, partitions: [], processed: 0 };
  consumer.on(consumer.events.GROUP_JOIN, event => { self.partitions = event.payload.memberAssignment[topic] ?? []; });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    eachBatchAutoResolve: true,
    eachBatch: async ({ batch, resolveOffset, heartbeat, commitOffsetsIfNecessary }) => {
      for (const message of batch.messages) {
        const place = `${batch.partition}:${message.offset}`;
        if (seen.has(place)) repeated += 1;
        seen.set(place, JSON.parse(message.value.toString()).n);
        self.processed += 1;
        resolveOffset(message.offset);
        await heartbeat();
      }
      await commitOffsetsIfNecessary();
    },
  });
  return self;
}

const first = await member('first');
const second = await member('second');
await until('both members to share three partitions', () => {
  const all = [...first.partitions, ...second.partitions].sort();
  return first.partitions.length > 0 && second.partitions.length > 0 && all.join() === '0,1,2';
});

await sendHalf(0);
await until('the first half', () => seen.size === half);
if (first.processed === 0 || second.processed === 0) throw new Error('one member did nothing');

await first.consumer.disconnect();
await until('the second member to own all partitions', () => second.partitions.length === 3);
await sendHalf(half);
await until('the second half', () => seen.size === 2 * half);
await second.consumer.disconnect();
await producer.disconnect();
await admin.disconnect();

const numbers = [...seen.values()].sort((a, b) => a - b);
if (numbers.some((n, i) => n !== i)) throw new Error('a record is missing or twice');
if (repeated !== 0) throw new Error(`${repeated} records were processed again after their commit`);
console.log(JSON.stringify({ seen: seen.size, repeated }));
