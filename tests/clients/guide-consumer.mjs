// The guide's consumer: a group with eachBatch, resolveOffset, heartbeat, commitOffsetsIfNecessary. It ends when it has
// seen COUNT records and prints how many events of each kind it processed.
// Usage: node guide-consumer.mjs BROKER GROUP COUNT

import { Kafka, logLevel } from 'kafkajs';

const [broker, group, count] = process.argv.slice(2);
const kafka = new Kafka({ clientId: 'my-app', brokers: [broker], logLevel: logLevel.ERROR });

const consumer = kafka.consumer({
  groupId: group,
  sessionTimeout: 30000,
  heartbeatInterval: 3000,
});

const seen = new Set();
const kinds = {};
let repeated = 0;
let done;
const finished = new Promise(resolve => { done = resolve; });

async function consumeMessages() {
  await consumer.connect();
  await consumer.subscribe({
    topic: 'user-events',
    fromBeginning: true,
  });
  await consumer.run({
    eachBatchAutoResolve: true,
    eachBatch: async ({ batch, resolveOffset, heartbeat, commitOffsetsIfNecessary }) => {
      for (const message of batch.messages) {
        const event = JSON.parse(message.value.toString());
        const place = `${batch.partition}:${message.offset}`;
        if (seen.has(place)) repeated += 1;
        seen.add(place);
        // Process the event (e.g., write to database)
        await processEvent(event);
        resolveOffset(message.offset);
        await heartbeat();
      }
      await commitOffsetsIfNecessary();
      if (seen.size >= Number(count)) done();
    },
  });
}

async function processEvent(event) {
  kinds[event.event] = (kinds[event.event] ?? 0) + 1;
}

consumeMessages().catch(error => { console.error(error); process.exit(1); });
await finished;
await consumer.disconnect();

const admin = kafka.admin();
await admin.connect();
const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: ['user-events'] });
await admin.disconnect();
const committed = partitions.reduce((sum, partition) => sum + Math.max(0, Number(partition.offset)), 0);
console.log(JSON.stringify({ seen: seen.size, repeated, committed, kinds }));
