// What an operator does with kafkajs' admin: make, describe, alter, grow, delete records. Usage: node admin.mjs BROKER

import kafkajs from 'kafkajs';

const { ConfigResourceTypes, Kafka, logLevel } = kafkajs;

const [broker] = process.argv.slice(2);
const topic = 'admin-js';

const kafka = new Kafka({ clientId: 'operator', brokers: [broker], logLevel: logLevel.NOTHING });
const admin = kafka.admin();
await admin.connect();

const told = {};

async function refused(act) {
  try {
    await act();
  } catch (error) {
    return (error.errors?.[0] ?? error).type ?? error.message;
  }
  return 'nothing';
}

async function configs(names) {
  const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: names }];
  const described = await admin.describeConfigs({ resources, includeSynonyms: true });
  return described.resources[0].configEntries;
}

function alter(entries) {
  return admin.alterConfigs({
    validateOnly: false,
    resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: entries }],
  });
}

await admin.createTopics({
  topics: [{ topic, numPartitions: 1, configEntries: [{ name: 'retention.ms', value: '86400000' }] }],
});
const [retention] = await configs(['retention.ms']);
told.retention = retention.configValue;
told.synonyms = retention.configSynonyms.map((synonym) => synonym.configName);
told.known = (await configs([])).length;
await alter([{ name: 'max.message.bytes', value: '100000' }]);
told.altered = (await configs(['max.message.bytes', 'retention.ms'])).map((entry) => entry.configValue);
told.badValue = await refused(() => alter([{ name: 'cleanup.policy', value: 'burn' }]));

await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] });
told.partitions = (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length;
told.fewer = await refused(() => admin.createPartitions({ topicPartitions: [{ topic, count: 2 }] }));

const producer = kafka.producer();
await producer.connect();
const messages = Array.from({ length: 100 }, (_, number) => ({ key: `k${number}`, value: `v${number}`, partition: 2 }));
await producer.send({ topic, messages });
await producer.disconnect();
await admin.deleteTopicRecords({ topic, partitions: [{ partition: 2, offset: '40' }] });
const offsets = await admin.fetchTopicOffsets(topic);
const { low, high } = offsets.find(({ partition }) => partition === 2);
told.offsets = [low, high];
await admin.deleteTopicRecords({ topic, partitions: [{ partition: 2, offset: '-1' }] });
told.emptied = (await admin.fetchTopicOffsets(topic)).find(({ partition }) => partition === 2).low;

await admin.disconnect();
console.log(JSON.stringify(told));
