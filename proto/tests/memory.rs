//! MEM-1 in the codecs: allocation during decompression is bounded by the limit, whatever size the bytes claim.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::records::{
    Compression as Codec, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use lighterman_proto::records::{BatchInflater, Compression, batches, records};

/// Memory of the codecs besides their output: contexts, windows, tables, one input and one output block.
const CODEC_BYTES_MAX: u64 = 10 << 20;
const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Encodes a batch of `count` records of `value_bytes` zeroes.
fn frame(count: i64, value_bytes: usize, codec: Codec) -> Bytes {
    let one = |offset| Record {
        transactional: false,
        control: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        delete_horizon: false,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: 1,
        key: None,
        value: Some(Bytes::from(vec![0; value_bytes])),
        headers: IndexMap::new(),
    };
    let all: Vec<Record> = (0..count).map(one).collect();
    let mut into = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: codec };
    RecordBatchEncoder::encode(&mut into, &all, &options).expect("encodes");
    into.freeze()
}

#[test]
fn decompression_allocates_per_batch_not_per_record() {
    for codec in CODECS {
        let count = |records: i64| {
            let frame = frame(records, 100, codec);
            let batch = batches(&frame).next().expect("one").expect("a batch");
            let (mut inflater, mut plain) = (BatchInflater::default(), Vec::new());
            let mut inflate = || {
                plain.clear();
                inflater
                    .inflate(batch.header.compression, batch.body, 1 << 20, &mut plain)
                    .expect("inflates");
            };
            inflate();
            measure(inflate).count_total
        };
        let (few, many) = (count(10), count(300));
        assert_eq!(few, many, "{codec:?}");
        assert!(many < 12, "{codec:?}: {many}");
    }
}

#[test]
fn mem_1_bomb_takes_limit_plus_codec_memory() {
    const LIMIT: usize = 1 << 20;
    for codec in CODECS {
        let frame = frame(1, 48 << 20, codec);
        let batch = batches(&frame).next().expect("one").expect("a batch");
        let mut inflater = BatchInflater::default();
        let taken = measure(|| {
            let mut plain = Vec::new();
            let refused = inflater.inflate(batch.header.compression, batch.body, LIMIT, &mut plain);
            assert!(refused.is_err(), "{codec:?}");
        });
        // A growing vector briefly has two buffers.
        assert!(taken.bytes_max <= 2 * LIMIT as u64 + CODEC_BYTES_MAX, "{codec:?}: {taken:?}");
    }
}

#[test]
fn mem_1_impossible_sizes_rejected_before_allocation() {
    // Five bytes that claim a size of 32 MiB, raw and in xerial framing.
    let claim = [0x80, 0x80, 0x80, 0x10, 0];
    let framed = [&b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05"[..], &claim].concat();
    let mut inflater = BatchInflater::default();
    for body in [&claim[..], &framed] {
        let taken = measure(|| {
            let mut plain = Vec::new();
            assert!(inflater.inflate(Compression::Snappy, body, 64 << 20, &mut plain).is_err());
        });
        assert!(taken.bytes_max < 4_096, "{taken:?}");
    }
    let frame = frame(1, 1, Codec::None);
    let batch = batches(&frame).next().expect("one").expect("a batch");
    // Length, attributes, two deltas, null key, null value, and a header count of about two billion.
    let headers = [2 * 10, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
    let taken = measure(|| assert!(records(&batch.header, &headers).next().expect("one").is_err()));
    assert_eq!(taken.count_total, 0);
}
