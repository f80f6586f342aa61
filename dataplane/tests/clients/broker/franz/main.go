// franz-go against the embedded broker: as many topics as it is told, listed, produced to, consumed in a group, committed.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	count, err := strconv.Atoi(os.Getenv("TOPICS"))
	must(err)
	context, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	topics := make([]string, count)
	for number := range topics {
		topics[number] = fmt.Sprintf("g%d", number)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("SERVERS")))
	must(err)
	defer client.Close()
	admin := kadm.NewClient(client)
	created, err := admin.CreateTopics(context, 1, 1, nil, topics...)
	must(err)
	must(created.Error())
	listed, err := admin.ListTopics(context)
	must(err)
	must(listed.Error())
	if len(listed) != count {
		must(fmt.Errorf("%d of %d topics are listed", len(listed), count))
	}

	var records []*kgo.Record
	for _, topic := range topics {
		records = append(records, &kgo.Record{Topic: topic, Key: []byte("key"), Value: []byte(topic)})
	}
	must(client.ProduceSync(context, records...).FirstErr())

	consumer, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("SERVERS")), kgo.ConsumerGroup("franz"),
		kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	must(err)
	seen := map[string]bool{}
	for len(seen) < count {
		fetches := consumer.PollFetches(context)
		must(fetches.Err0())
		for _, failed := range fetches.Errors() {
			must(failed.Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if string(record.Value) != record.Topic || seen[record.Topic] {
				must(fmt.Errorf("%s holds %q", record.Topic, record.Value))
			}
			seen[record.Topic] = true
		})
	}
	must(consumer.CommitUncommittedOffsets(context))
	consumer.Close()

	committed, err := admin.FetchOffsets(context, "franz")
	must(err)
	for _, topic := range topics {
		offset, there := committed.Lookup(topic, 0)
		if !there || offset.At != 1 {
			must(fmt.Errorf("%s: %v is committed", topic, offset.At))
		}
	}
	deleted, err := admin.DeleteTopics(context, topics...)
	must(err)
	must(deleted.Error())
	fmt.Println("franz-go: fine")
}
