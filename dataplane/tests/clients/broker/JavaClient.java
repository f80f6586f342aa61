import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;

/** Apache's own client against the embedded broker: cooperative-sticky group, every codec. */
public class JavaClient {
    public static void main(String[] args) throws Exception {
        Properties common = new Properties();
        common.put("bootstrap.servers", System.getenv("SERVERS"));
        try (Admin admin = Admin.create(common)) {
            admin.createTopics(List.of(new NewTopic("java", 3, (short) 1))).all().get();
        }
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            Properties producing = new Properties();
            producing.putAll(common);
            producing.put("compression.type", codec);
            producing.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
            producing.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
            try (KafkaProducer<String, String> producer = new KafkaProducer<>(producing)) {
                for (int number = 0; number < 100; number++) {
                    producer.send(new ProducerRecord<>("java", codec + number, "value " + number));
                }
            }
        }
        Properties consuming = new Properties();
        consuming.putAll(common);
        consuming.putAll(Map.of("group.id", "java-group", "auto.offset.reset", "earliest",
            "partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
            "key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer",
            "value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer"));
        Set<String> seen = new HashSet<>();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(consuming)) {
            consumer.subscribe(List.of("java"));
            long deadline = System.currentTimeMillis() + 45_000;
            while (seen.size() < 500 && System.currentTimeMillis() < deadline) {
                consumer.poll(Duration.ofMillis(200)).forEach(one -> seen.add(one.partition() + "-" + one.offset()));
            }
            consumer.commitSync();
        }
        if (seen.size() != 500) {
            throw new IllegalStateException(seen.size() + " of 500 records");
        }
        System.out.println("java: fine");
    }
}
