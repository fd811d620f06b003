// Transactions with Kafka's own client: consume-transform-produce with aborts, a fenced zombie, and what its admin client
// asks about transactions. Usage: java -cp 'java/lib/*' java/Transactions.java BROKER

import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

public class Transactions {
    static final Duration PATIENCE = Duration.ofSeconds(45);
    static String broker;
    static Admin admin;
    static int passed = 0;

    interface Check { void run() throws Exception; }

    static void check(String name, Check check) throws Exception {
        System.err.println("--- " + name);
        check.run();
        passed += 1;
    }

    static void equal(Object found, Object expected, String what) {
        if (!Objects.equals(found, expected)) throw new AssertionError(what + ": " + found + ", not " + expected);
    }

    static Map<String, Object> settings(Object... pairs) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", broker));
        for (int i = 0; i < pairs.length; i += 2) all.put((String) pairs[i], pairs[i + 1]);
        return all;
    }

    static Producer<String, String> producer(String transactionalId, Object... more) {
        Map<String, Object> all = settings(more);
        all.put("transactional.id", transactionalId);
        return new KafkaProducer<>(all, new StringSerializer(), new StringSerializer());
    }

    static Consumer<String, String> consumer(String group, String isolation) {
        return new KafkaConsumer<>(
            settings("group.id", group, "isolation.level", isolation, "auto.offset.reset", "earliest", "enable.auto.commit", false),
            new StringDeserializer(), new StringDeserializer());
    }

    static void create(String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get(45, TimeUnit.SECONDS);
    }

    static List<String> readAll(String topic, int partitions, String isolation) {
        try (Consumer<String, String> reader = consumer("reader", isolation)) {
            List<TopicPartition> places = new ArrayList<>();
            for (int i = 0; i < partitions; i++) places.add(new TopicPartition(topic, i));
            reader.assign(places);
            reader.seekToBeginning(places);
            Map<TopicPartition, Long> ends = reader.endOffsets(places);
            List<String> values = new ArrayList<>();
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (places.stream().anyMatch(place -> reader.position(place) < ends.get(place))) {
                if (System.nanoTime() > deadline) throw new AssertionError("waited too long for " + ends);
                reader.poll(Duration.ofMillis(100)).forEach(record -> values.add(record.value()));
            }
            return values;
        }
    }

    static Throwable fails(String what, Check check) {
        try {
            check.run();
        } catch (ExecutionException error) {
            return error.getCause();
        } catch (Exception error) {
            return error;
        }
        throw new AssertionError(what + " should fail");
    }

    static void is(Class<? extends Throwable> expected, Throwable found) {
        if (!expected.isInstance(found)) throw new AssertionError(found + " is no " + expected.getSimpleName(), found);
    }

    static void consumeTransformProduce() throws Exception {
        create("j-input", 2);
        create("j-output", 2);
        try (Producer<String, String> input = new KafkaProducer<>(settings("enable.idempotence", true), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < 200; i++) input.send(new ProducerRecord<>("j-input", "key-" + i, "" + i));
        }
        Set<String> seen = new HashSet<>();
        int batches = 0, aborts = 0;
        try (Consumer<String, String> consumer = consumer("j-transform", "read_committed"); Producer<String, String> producer = producer("j-transform")) {
            producer.initTransactions();
            consumer.subscribe(List.of("j-input"));
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (seen.size() < 200) {
                if (System.nanoTime() > deadline) throw new AssertionError("waited too long: " + seen.size());
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(100));
                if (records.isEmpty()) continue;
                boolean abort = batches++ % 3 == 0;
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                producer.beginTransaction();
                for (ConsumerRecord<String, String> record : records) {
                    producer.send(new ProducerRecord<>("j-output", record.key(), record.value()));
                    offsets.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                if (abort) {
                    // What was not sent yet would never come to the log.
                    producer.flush();
                    producer.abortTransaction();
                    aborts += 1;
                    var committed = consumer.committed(consumer.assignment());
                    committed.forEach((place, offset) -> consumer.seek(place, offset == null ? 0 : offset.offset()));
                } else {
                    producer.commitTransaction();
                    records.forEach(record -> seen.add(record.value()));
                }
            }
        }
        List<String> committed = readAll("j-output", 2, "read_committed");
        equal(committed.size(), 200, "records committed");
        equal(new HashSet<>(committed), seen, "each input once");
        if (aborts == 0 || readAll("j-output", 2, "read_uncommitted").size() <= 200) throw new AssertionError("nothing was aborted");
    }

    static void zombieIsFenced() throws Exception {
        create("j-fenced", 1);
        try (Producer<String, String> zombie = producer("j-fenced"); Producer<String, String> heir = producer("j-fenced")) {
            zombie.initTransactions();
            zombie.beginTransaction();
            zombie.send(new ProducerRecord<>("j-fenced", "k", "zombie")).get();
            heir.initTransactions();
            is(ProducerFencedException.class, fails("the zombie's commit", zombie::commitTransaction));
            heir.beginTransaction();
            heir.send(new ProducerRecord<>("j-fenced", "k", "heir"));
            heir.commitTransaction();
        }
        equal(readAll("j-fenced", 1, "read_committed"), List.of("heir"), "what is committed");
    }

    // A producer that was fenced while it wrote learns it at the write.
    static void zombieThatWritesIsFenced() throws Exception {
        try (Producer<String, String> zombie = producer("j-writes"); Producer<String, String> heir = producer("j-writes")) {
            zombie.initTransactions();
            heir.initTransactions();
            Throwable refused = fails("the zombie's transaction", () -> {
                zombie.beginTransaction();
                zombie.send(new ProducerRecord<>("j-fenced", "k", "zombie"));
                zombie.commitTransaction();
            });
            if (!(refused instanceof ProducerFencedException || refused instanceof InvalidProducerEpochException || refused.getCause() instanceof InvalidProducerEpochException)) throw new AssertionError(refused);
        }
        equal(readAll("j-fenced", 1, "read_committed"), List.of("heir"), "what is committed");
    }

    static void adminSeesAnOpenTransaction() throws Exception {
        create("j-open", 1);
        TopicPartition place = new TopicPartition("j-open", 0);
        try (Producer<String, String> open = producer("j-open", "transaction.timeout.ms", 70_000);
             Consumer<String, String> stable = consumer("j-open", "read_committed"); Consumer<String, String> all = consumer("j-open", "read_uncommitted")) {
            open.initTransactions();
            open.beginTransaction();
            open.send(new ProducerRecord<>("j-open", "k", "1")).get();
            open.commitTransaction();
            open.beginTransaction();
            open.send(new ProducerRecord<>("j-open", "k", "2")).get();
            open.sendOffsetsToTransaction(Map.of(place, new OffsetAndMetadata(1)), new ConsumerGroupMetadata("j-open-group"));

            equal(stable.endOffsets(List.of(place)).get(place), 2L, "the last stable offset, behind one record and its marker");
            equal(all.endOffsets(List.of(place)).get(place), 3L, "the high watermark");

            var producers = admin.describeProducers(List.of(place)).partitionResult(place).get().activeProducers();
            equal(producers.size(), 1, "producers");
            var state = producers.get(0);
            equal(state.currentTransactionStartOffset(), OptionalLong.of(2), "the open transaction's first offset");
            equal(state.lastSequence(), 1, "the last sequence");

            var described = admin.describeTransactions(List.of("j-open")).description("j-open").get();
            equal(described.state(), TransactionState.ONGOING, "state");
            equal(described.topicPartitions(), Set.of(place), "partitions");
            equal(described.transactionTimeoutMs(), 70_000L, "timeout");
            equal(described.producerId(), state.producerId(), "producer id");
            equal(described.producerEpoch(), state.producerEpoch(), "producer epoch");
            if (Math.abs(described.transactionStartTimeMs().getAsLong() - System.currentTimeMillis()) > 60_000) throw new AssertionError(described.toString());

            var ongoing = new ListTransactionsOptions().filterStates(List.of(TransactionState.ONGOING));
            equal(ids(ongoing), Set.of("j-open"), "ongoing");
            var ended = new ListTransactionsOptions().filterStates(List.of(TransactionState.COMPLETE_COMMIT));
            if (!ids(ended).containsAll(List.of("j-transform", "j-fenced"))) throw new AssertionError(ids(ended).toString());
            equal(ids(new ListTransactionsOptions().filterProducerIds(List.of(state.producerId()))), Set.of("j-open"), "by producer");
            equal(ids(new ListTransactionsOptions().filterOnDuration(600_000)), Set.of(), "open for ten minutes");

            // Not before the transaction's end is the offset told to who asks for stable ones.
            var spec = Map.of("j-open-group", new ListConsumerGroupOffsetsSpec());
            var ofStable = new ListConsumerGroupOffsetsOptions().requireStable(true);
            equal(admin.listConsumerGroupOffsets(spec, ofStable).all().get().get("j-open-group").get(place), null, "no offset yet");
            try (Consumer<String, String> member = consumer("j-open-group", "read_committed")) {
                is(TimeoutException.class, fails("a stable offset", () -> member.committed(Set.of(place), Duration.ofMillis(800))));
            }
            open.commitTransaction();
            equal(admin.listConsumerGroupOffsets(spec, ofStable).all().get().get("j-open-group").get(place).offset(), 1L, "the offset");
            equal(admin.describeTransactions(List.of("j-open")).description("j-open").get().state(), TransactionState.COMPLETE_COMMIT, "state");
        }
        is(TransactionalIdNotFoundException.class, fails("an unknown id", () -> admin.describeTransactions(List.of("nobody")).all().get()));
    }

    static Set<String> ids(ListTransactionsOptions options) throws Exception {
        Set<String> ids = new HashSet<>();
        admin.listTransactions(options).all().get().forEach(listing -> ids.add(listing.transactionalId()));
        return ids;
    }

    static void adminFencesAProducer() throws Exception {
        try (Producer<String, String> victim = producer("j-victim")) {
            victim.initTransactions();
            victim.beginTransaction();
            victim.send(new ProducerRecord<>("j-fenced", "k", "victim")).get();
            admin.fenceProducers(List.of("j-victim")).all().get(45, TimeUnit.SECONDS);
            is(ProducerFencedException.class, fails("the victim's commit", victim::commitTransaction));
        }
        equal(readAll("j-fenced", 1, "read_committed"), List.of("heir"), "what is committed");
    }

    // Who is no member of the group, or of an old generation, takes nothing of it into a transaction.
    static void aStrangersOffsetsAreRefused() throws Exception {
        Map<TopicPartition, OffsetAndMetadata> offsets = Map.of(new TopicPartition("j-input", 0), new OffsetAndMetadata(7));
        try (Consumer<String, String> member = consumer("j-members", "read_committed"); Producer<String, String> producer = producer("j-stranger")) {
            member.subscribe(List.of("j-input"));
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (member.assignment().isEmpty()) {
                if (System.nanoTime() > deadline) throw new AssertionError("no assignment");
                member.poll(Duration.ofMillis(100));
            }
            var now = member.groupMetadata();
            producer.initTransactions();
            for (var metadata : List.of(
                    new ConsumerGroupMetadata("j-members", now.generationId() - 1, now.memberId(), Optional.empty()),
                    new ConsumerGroupMetadata("j-members", now.generationId(), "a stranger", Optional.empty()),
                    new ConsumerGroupMetadata("j-nobody", 3, "a stranger", Optional.empty()))) {
                producer.beginTransaction();
                is(CommitFailedException.class, fails("the stranger's offsets", () -> producer.sendOffsetsToTransaction(offsets, metadata)));
                producer.abortTransaction();
            }
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(offsets, now);
            producer.commitTransaction();
            equal(member.committed(offsets.keySet()).get(new TopicPartition("j-input", 0)).offset(), 7L, "the member's offset");
        }
    }

    static void aTimeoutBeyondTheLimitIsRefused() {
        try (Producer<String, String> slow = producer("j-slow", "transaction.timeout.ms", 900_001, "max.block.ms", 20_000)) {
            Throwable refused = fails("initTransactions", slow::initTransactions);
            if (!String.valueOf(refused).contains("timeout") && !String.valueOf(refused.getCause()).contains("timeout")) throw new AssertionError(refused);
        }
    }

    public static void main(String[] arguments) throws Exception {
        broker = arguments[0];
        admin = Admin.create(settings());
        check("consume-transform-produce", Transactions::consumeTransformProduce);
        check("a zombie is fenced", Transactions::zombieIsFenced);
        check("a zombie that writes is fenced", Transactions::zombieThatWritesIsFenced);
        check("admin sees an open transaction", Transactions::adminSeesAnOpenTransaction);
        check("admin fences a producer", Transactions::adminFencesAProducer);
        check("a stranger's offsets are refused", Transactions::aStrangersOffsetsAreRefused);
        check("a timeout beyond the limit is refused", Transactions::aTimeoutBeyondTheLimitIsRefused);
        admin.close();
        System.out.println(passed + " passed");
    }
}
