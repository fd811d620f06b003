"""The guide's programs with confluent-kafka: a message with headers, a gzip batch of 10,000, a consumer group with
commits, two members of which one leaves, and dead letters. Usage: python guide.py BROKER"""

import json
import sys
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BROKER = sys.argv[1]
PATIENCE_S = 45


def producer(**settings):
    return Producer({"bootstrap.servers": BROKER, "acks": "all", **{k.replace("_", "."): v for k, v in settings.items()}})


def consumer(group):
    return Consumer(
        {
            "bootstrap.servers": BROKER,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "topic.metadata.refresh.interval.ms": 500,
        }
    )


def flush(sender, failures):
    assert sender.flush(PATIENCE_S) == 0, "not everything was delivered"
    assert not failures, failures


def delivered(failures):
    def report(error, message):
        if error is not None:
            failures.append(str(error))

    return report


def poll_until(what, consumers, handle, done):
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        for member in consumers:
            message = member.poll(0.05)
            if message is None:
                continue
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF or message.error().retriable(), message.error()
                continue
            handle(member, message)


def one_message_and_a_batch():
    failures = []
    sender = producer(compression_type="gzip", enable_idempotence=True)
    sender.produce(
        "py-events",
        key="user-123",
        value=json.dumps({"event": "page_view", "page": "/products"}),
        timestamp=1_700_000_000_123,
        headers=[("source", b"my-app"), ("version", b"1.0"), ("source", None)],
        on_delivery=delivered(failures),
    )
    flush(sender, failures)
    for number in range(10_000):
        sender.produce("py-events", key=f"user-{number % 100}", value=json.dumps({"n": number}), on_delivery=delivered(failures))
        sender.poll(0)
    flush(sender, failures)

    seen, first = set(), []

    def handle(member, message):
        place = (message.partition(), message.offset())
        assert place not in seen, f"{place} came twice"
        seen.add(place)
        if message.headers():
            first.append(message)
        member.commit(message=message, asynchronous=True)

    reader = consumer("py-analytics")
    reader.subscribe(["py-events"])
    poll_until("10,001 records", [reader], handle, lambda: len(seen) == 10_001)
    reader.commit(asynchronous=False)
    partitions = [TopicPartition("py-events", number) for number in range(3)]
    committed = sum(max(0, partition.offset) for partition in reader.committed(partitions, timeout=PATIENCE_S))
    reader.close()
    assert committed == 10_001, committed
    (message,) = first
    assert message.key() == b"user-123"
    assert message.timestamp()[1] == 1_700_000_000_123, message.timestamp()
    assert message.headers() == [("source", b"my-app"), ("version", b"1.0"), ("source", None)], message.headers()


def create(topic):
    admin = AdminClient({"bootstrap.servers": BROKER})
    for future in admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)]).values():
        future.result(PATIENCE_S)


def two_members_of_which_one_leaves():
    create("py-shared")
    seen = {}

    def handle(member, message):
        place = (message.partition(), message.offset())
        assert place not in seen, f"{place} came twice"
        seen[place] = json.loads(message.value())["n"]
        member.commit(message=message, asynchronous=False)

    def send(numbers):
        failures = []
        sender = producer()
        for number in numbers:
            sender.produce("py-shared", key=f"key-{number}", value=json.dumps({"n": number}), on_delivery=delivered(failures))
        flush(sender, failures)

    members = [consumer("py-members"), consumer("py-members")]
    for member in members:
        member.subscribe(["py-shared"])
    poll_until("both members", members, handle, lambda: sorted(len(m.assignment()) for m in members) == [1, 2])
    send(range(300))
    poll_until("the first half", members, handle, lambda: len(seen) == 300)
    members.pop().close()
    send(range(300, 600))
    poll_until("the second half", members, handle, lambda: len(seen) == 600)
    members.pop().close()
    assert sorted(seen.values()) == list(range(600))


def dead_letters():
    create("py-payments-dead")
    failures = []
    sender = producer()
    sender.produce("py-payments", key="bad", value=b"{not json", on_delivery=delivered(failures))
    flush(sender, failures)
    dead = []

    def handle(member, message):
        headers = dict(message.headers() or [])
        if message.topic() == "py-payments-dead":
            dead.append((message, headers))
            return
        retries = int(headers.get("retry-count", b"0"))
        try:
            json.loads(message.value())
        except ValueError as error:
            if retries >= 3:
                more = {"original-topic": message.topic(), "original-offset": str(message.offset()), "error": str(error)}
                topic = "py-payments-dead"
            else:
                more, topic = {"retry-count": str(retries + 1)}, "py-payments"
            sender.produce(topic, key=message.key(), value=message.value(), headers={**headers, **more}, on_delivery=delivered(failures))
            flush(sender, failures)

    reader = consumer("py-dead-letters")
    reader.subscribe(["py-payments", "py-payments-dead"])
    poll_until("a dead letter", [reader], handle, lambda: dead)
    reader.close()
    message, headers = dead[0]
    assert message.value() == b"{not json"
    assert headers["retry-count"] == b"3" and headers["original-topic"] == b"py-payments", headers


def every_codec():
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        failures, seen = [], []
        sender = producer(compression_type=codec, linger_ms=20)
        for number in range(500):
            sender.produce(f"py-{codec}", key="k", value=json.dumps({"n": number, "text": "tea " * 20}), on_delivery=delivered(failures))
        flush(sender, failures)
        reader = consumer(f"py-{codec}")
        reader.subscribe([f"py-{codec}"])
        poll_until(codec, [reader], lambda _, message: seen.append(json.loads(message.value())["n"]), lambda: len(seen) == 500)
        reader.close()
        assert seen == list(range(500)), codec


def every_topic():
    # librdkafka leaves three stray bytes behind this request; a broker lets them be.
    topics = AdminClient({"bootstrap.servers": BROKER}).list_topics(timeout=PATIENCE_S).topics
    assert len(topics["py-events"].partitions) == 3, topics


one_message_and_a_batch()
every_topic()
two_members_of_which_one_leaves()
dead_letters()
every_codec()
print("5 passed")
