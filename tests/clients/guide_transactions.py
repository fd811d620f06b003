"""The guide's consume-transform-produce with confluent-kafka. It ends when the group has come to the end of the input,
and prints what it met on the way. Usage: python guide_transactions.py BROKER INPUT OUTPUT TRANSACTIONAL_ID BEHAVIOUR
BEHAVIOUR: `commit`; `abort`: every third batch is aborted once with its output and offsets sent; `crash`: dies at the
fourth batch with everything sent and nothing committed."""

import json
import os
import signal
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

BROKER, INPUT, OUTPUT, TRANSACTIONAL_ID, BEHAVIOUR = sys.argv[1:]
PATIENCE_S = 45
BATCH = 20

consumer = Consumer(
    {
        "bootstrap.servers": BROKER,
        "group.id": f"{OUTPUT}-group",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "session.timeout.ms": 6000,
    }
)
producer = Producer({"bootstrap.servers": BROKER, "transactional.id": TRANSACTIONAL_ID, "linger.ms": 1})


def rewind():
    """Back to what is committed, as an application must after an abort."""
    for place in consumer.committed(consumer.assignment(), timeout=PATIENCE_S):
        consumer.seek(TopicPartition(place.topic, place.partition, max(place.offset, 0)))


def is_done():
    partitions = consumer.list_topics(INPUT, timeout=PATIENCE_S).topics[INPUT].partitions
    places = consumer.committed([TopicPartition(INPUT, number) for number in partitions], timeout=PATIENCE_S)
    return all(place.offset >= end(place) or end(place) == 0 for place in places)


def end(place):
    return consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=PATIENCE_S)[1]


producer.init_transactions(PATIENCE_S)
consumer.subscribe([INPUT])
deadline = time.monotonic() + PATIENCE_S
batches, committed, aborted = 0, 0, 0
while True:
    assert time.monotonic() < deadline, f"waited too long: {committed} committed, {aborted} aborted"
    messages = consumer.consume(BATCH, timeout=0.3)
    if not messages:
        if is_done():
            break
        continue
    for message in messages:
        assert message.error() is None, message.error()
    batches += 1
    producer.begin_transaction()
    for message in messages:
        enriched = json.loads(message.value())
        enriched["source"] = f"{message.topic()}:{message.partition()}:{message.offset()}"
        producer.produce(OUTPUT, key=message.key(), value=json.dumps(enriched))
    assert producer.flush(PATIENCE_S) == 0
    positions = consumer.position(consumer.assignment())
    producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), PATIENCE_S)
    if BEHAVIOUR == "crash" and batches == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if BEHAVIOUR == "abort" and batches % 3 == 0:
        producer.abort_transaction(PATIENCE_S)
        aborted += len(messages)
        rewind()
    else:
        producer.commit_transaction(PATIENCE_S)
        committed += len(messages)
consumer.close()
print(json.dumps({"committed": committed, "aborted": aborted}))
