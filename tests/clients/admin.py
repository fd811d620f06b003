"""What an operator does with confluent-kafka's AdminClient: make, describe, alter, grow, delete records.
Usage: python admin.py BROKER"""

import json
import sys

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

BROKER = sys.argv[1]
PATIENCE_S = 45
TOPIC = "admin-py"

admin = AdminClient({"bootstrap.servers": BROKER})


def done(futures):
    return {name: future.result(PATIENCE_S) for name, future in futures.items()}


def refused(futures):
    (future,) = futures.values()
    try:
        future.result(PATIENCE_S)
    except KafkaException as error:
        return error.args[0].name()
    return "nothing"


def configs(kind=ResourceType.TOPIC, name=TOPIC):
    (entries,) = done(admin.describe_configs([ConfigResource(kind, name)])).values()
    return entries


def step(name, operation, value=None):
    entry = ConfigEntry(name, value, incremental_operation=operation)
    return admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=[entry])])


told = {}
done(admin.create_topics([NewTopic(TOPIC, 1, 1, config={"retention.ms": "86400000", "compression.type": "zstd"})]))
entries = configs()
told["retention"] = entries["retention.ms"].value
told["retention_source"] = ConfigSource(entries["retention.ms"].source).name
told["default_source"] = ConfigSource(entries["cleanup.policy"].source).name
told["unknown_config"] = refused(admin.create_topics([NewTopic("never", 1, 1, config={"no.such.config": "1"})]))

done(step("max.message.bytes", AlterConfigOpType.SET, "100000"))
done(step("cleanup.policy", AlterConfigOpType.APPEND, "compact"))
told["after_steps"] = [configs()[name].value for name in ("max.message.bytes", "cleanup.policy", "retention.ms")]
done(step("cleanup.policy", AlterConfigOpType.DELETE))
done(admin.alter_configs([ConfigResource(ResourceType.TOPIC, TOPIC, set_config={"retention.ms": "5000000"})]))
told["after_alter"] = [configs()[name].value for name in ("max.message.bytes", "cleanup.policy", "retention.ms")]
told["bad_value"] = refused(step("retention.ms", AlterConfigOpType.SET, "soon"))
told["broker_partitions"] = configs(ResourceType.BROKER, "1")["num.partitions"].value

done(admin.create_partitions([NewPartitions(TOPIC, 4)]))
told["partitions"] = len(admin.list_topics(TOPIC, PATIENCE_S).topics[TOPIC].partitions)
told["fewer"] = refused(admin.create_partitions([NewPartitions(TOPIC, 2)]))

producer = Producer({"bootstrap.servers": BROKER, "acks": "all"})
for number in range(100):
    producer.produce(TOPIC, key=f"k{number}", value=f"v{number}", partition=3)
producer.flush(PATIENCE_S)
(deleted,) = done(admin.delete_records([TopicPartition(TOPIC, 3, 40)])).values()
told["low_watermark"] = deleted.low_watermark
told["beyond"] = refused(admin.delete_records([TopicPartition(TOPIC, 3, 1000)]))

consumer = Consumer({"bootstrap.servers": BROKER, "group.id": "admin", "auto.offset.reset": "earliest"})
told["watermarks"] = list(consumer.get_watermark_offsets(TopicPartition(TOPIC, 3), PATIENCE_S))
# Below the first offset: the client is told so and begins with the earliest one.
consumer.assign([TopicPartition(TOPIC, 3, 10)])
told["first_seen"] = consumer.poll(PATIENCE_S).offset()
consumer.close()

print(json.dumps(told))
