import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

/** Apache's own client against the embedded broker: as many topics as it is told, listed, produced to, consumed in a group, committed. */
public class ManyTopics {
    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(System.getenv("TOPICS"));
        List<String> topics = IntStream.range(0, count).mapToObj(number -> "v" + number).toList();
        Properties common = new Properties();
        common.put("bootstrap.servers", System.getenv("SERVERS"));
        try (Admin admin = Admin.create(common)) {
            admin.createTopics(topics.stream().map(topic -> new NewTopic(topic, 1, (short) 1)).toList()).all().get();
            check(admin.listTopics().names().get().size(), count, "topics are listed");
            check(admin.describeTopics(topics).allTopicNames().get().size(), count, "topics are described");
            produce(common, topics);
            consume(common, topics);
            Map<TopicPartition, OffsetAndMetadata> committed =
                admin.listConsumerGroupOffsets("many").partitionsToOffsetAndMetadata().get();
            long right = committed.values().stream().filter(one -> one.offset() == 1).count();
            check((int) right, count, "topics are committed");
            Set<String> groups =
                admin.listConsumerGroups().all().get().stream().map(one -> one.groupId()).collect(Collectors.toSet());
            check(groups.contains("many") ? 1 : 0, 1, "groups are listed");
            admin.deleteTopics(topics).all().get();
        }
        System.out.println("many topics: fine");
    }

    private static void produce(Properties common, List<String> topics) {
        Properties producing = new Properties();
        producing.putAll(common);
        producing.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        producing.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(producing)) {
            topics.forEach(topic -> producer.send(new ProducerRecord<>(topic, "key", topic)));
        }
    }

    private static void consume(Properties common, List<String> topics) {
        Properties consuming = new Properties();
        consuming.putAll(common);
        consuming.putAll(Map.of("group.id", "many", "auto.offset.reset", "earliest", "enable.auto.commit", "false",
            "key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer",
            "value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer"));
        Set<String> seen = new HashSet<>();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(consuming)) {
            consumer.subscribe(topics);
            long deadline = System.currentTimeMillis() + 90_000;
            while (seen.size() < topics.size() && System.currentTimeMillis() < deadline) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> {
                    check(record.value().equals(record.topic()) && seen.add(record.topic()) ? 1 : 0, 1, record.topic());
                });
            }
            check(seen.size(), topics.size(), "records are consumed");
            consumer.commitSync();
        }
    }

    private static void check(int found, int expected, String what) {
        if (found != expected) {
            throw new IllegalStateException(found + " of " + expected + " " + what);
        }
    }
}
