// The guide's "Using Transactions for Exactly-Once Semantics", mended: the producer has a transactionalId, sendOffsets
// takes topics. It ends when the group has come to the end of the input, and prints what it met on the way.
// Usage: node guide-transactions.mjs BROKER INPUT OUTPUT TRANSACTIONAL_ID BEHAVIOUR
// BEHAVIOUR: `commit`; `abort`: every seventh input fails once after its output was sent; `crash`: dies at the 20th
// input with everything sent and nothing committed.

import { Kafka, logLevel } from 'kafkajs';

const [broker, inputTopic, outputTopic, transactionalId, behaviour] = process.argv.slice(2);
const kafka = new Kafka({ clientId: 'my-app', brokers: [broker], logLevel: logLevel.NOTHING });
const groupId = `${outputTopic}-group`;

const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, maxWaitTimeInMs: 200 });
const producer = kafka.producer({ idempotent: true, transactionalId, maxInFlightRequests: 1, transactionTimeout: 60000 });

const failed = new Set();
let committed = 0;
let aborted = 0;
let done;
const finished = new Promise(resolve => { done = resolve; });

async function processAndProduce() {
  await consumer.connect();
  await producer.connect();
  await consumer.subscribe({ topic: inputTopic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ topic, partition, message }) => {
      const transaction = await producer.transaction();
      try {
        const input = JSON.parse(message.value.toString());
        const enriched = { ...input, source: `${topic}:${partition}:${message.offset}` };
        await transaction.send({
          topic: outputTopic,
          messages: [{ key: message.key, value: JSON.stringify(enriched) }],
        });
        if (behaviour === 'abort' && input.n % 7 === 0 && !failed.has(input.n)) {
          failed.add(input.n);
          throw new Error(`input ${input.n} fails once`);
        }
        await transaction.sendOffsets({
          consumerGroupId: groupId,
          topics: [{ topic, partitions: [{ partition, offset: (Number(message.offset) + 1).toString() }] }],
        });
        if (behaviour === 'crash' && committed === 20) process.kill(process.pid, 'SIGKILL');
        await transaction.commit();
        committed += 1;
      } catch (error) {
        await transaction.abort();
        aborted += 1;
        throw error;
      }
    },
  });
}

// Asks every now and then how far the group has come: another instance may have done part of the work.
async function watch() {
  const admin = kafka.admin();
  await admin.connect();
  for (;;) {
    const ends = await admin.fetchTopicOffsets(inputTopic);
    const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [inputTopic] });
    const reached = new Map(partitions.map(({ partition, offset }) => [partition, Number(offset)]));
    if (ends.every(({ partition, high }) => Number(high) === 0 || (reached.get(partition) ?? -1) >= Number(high))) break;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
  await admin.disconnect();
  done();
}

const fail = error => { console.error(error); process.exit(1); };
processAndProduce().catch(fail);
watch().catch(fail);
await finished;
await consumer.disconnect();
await producer.disconnect();
console.log(JSON.stringify({ committed, aborted }));
