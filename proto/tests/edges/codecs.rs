//! Every framing that producers use, exact size limits, and invalid compressed data.

use std::io::Write;

use flate2::write::GzEncoder;
use lighterman_proto::records::{BatchInflater, Compression, RecordError};
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use proptest::prelude::*;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn snappy(plain: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(plain).expect("short enough")
}

/// Frames snappy as `SnappyOutputStream` of snappy-java does.
fn xerial(plain: &[u8], block_bytes: usize) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01".to_vec();
    for block in plain.chunks(block_bytes) {
        let block = snappy(block);
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out
}

fn lz4(plain: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

/// Compresses as Java's streams do: without the content size.
fn zstd_streamed(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 3).expect("memory")
}

fn zstd_sized(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 3).expect("memory")
}

/// Returns `plain` in every framing.
pub(crate) fn framings(plain: &[u8]) -> Vec<(&'static str, Compression, Vec<u8>)> {
    let half = plain.len() / 2;
    let java = FrameInfo::new().block_size(BlockSize::Max64KB);
    let checked = FrameInfo::new().block_size(BlockSize::Max4MB).content_checksum(true).block_checksums(true);
    vec![
        ("none", Compression::None, plain.to_vec()),
        ("gzip", Compression::Gzip, gzip(plain)),
        ("gzip in two members", Compression::Gzip, [gzip(&plain[..half]), gzip(&plain[half..])].concat()),
        ("snappy, raw", Compression::Snappy, snappy(plain)),
        ("snappy, xerial", Compression::Snappy, xerial(plain, 32 * 1024)),
        ("snappy, xerial in small blocks", Compression::Snappy, xerial(plain, 100)),
        ("lz4", Compression::Lz4, lz4(plain, java)),
        ("lz4, large blocks, checksums", Compression::Lz4, lz4(plain, checked)),
        ("zstd, streamed", Compression::Zstd, zstd_streamed(plain)),
        ("zstd, with size", Compression::Zstd, zstd_sized(plain)),
        (
            "zstd in two frames",
            Compression::Zstd,
            [zstd_streamed(&plain[..half]), zstd_sized(&plain[half..])].concat(),
        ),
    ]
}

fn text(bytes: usize) -> Vec<u8> {
    (0u32..).flat_map(|number| format!("{number:x},").into_bytes()).take(bytes).collect()
}

#[test]
fn reused_inflater_appends_every_framing() {
    let mut inflater = BatchInflater::default();
    for bytes in [1, 700, 65_535, 65_536, 65_537, 400_000] {
        let plain = text(bytes);
        for (name, codec, packed) in framings(&plain) {
            let mut into = b"before".to_vec();
            inflater
                .inflate(codec, &packed, bytes, &mut into)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(into.strip_prefix(b"before") == Some(&plain[..]), "{name} of {bytes} bytes");
        }
    }
}

#[test]
fn mem_1_decompressed_batch_capacity_equals_its_length() {
    let mut inflater = BatchInflater::default();
    for bytes in [10, 1_000, 70_000, 300_000] {
        for (name, codec, packed) in framings(&text(bytes)) {
            let mut into = Vec::new();
            inflater.inflate(codec, &packed, 1 << 20, &mut into).expect("inflates");
            assert_eq!(into.capacity(), bytes, "{name}: a lease of its length covers it");
        }
    }
}

#[test]
fn batch_beyond_exact_limit_restores_output() {
    let mut inflater = BatchInflater::default();
    for bytes in [1_000, 65_536, 200_000] {
        for (name, codec, packed) in framings(&text(bytes)) {
            let mut into = b"before".to_vec();
            let refused = inflater.inflate(codec, &packed, bytes - 1, &mut into);
            assert_eq!(refused, Err(RecordError::TooLarge { bytes_max: bytes - 1 }), "{name}");
            assert_eq!(into, b"before", "{name}");
            inflater
                .inflate(codec, &packed, bytes, &mut into)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn mem_1_decompression_bomb_stops_at_limit() {
    const LIMIT: usize = 1 << 20;
    let mut inflater = BatchInflater::default();
    for (name, codec, packed) in framings(&vec![0; 12 << 20]) {
        let mut into = Vec::new();
        let refused = inflater.inflate(codec, &packed, LIMIT, &mut into);
        assert_eq!(refused, Err(RecordError::TooLarge { bytes_max: LIMIT }), "{name}");
        assert_eq!(into.capacity(), 0, "{name}");
    }
}

#[test]
fn snappy_with_impossible_size_is_rejected() {
    let mut inflater = BatchInflater::default();
    let mut refuse = |body: &[u8]| {
        let mut into = Vec::new();
        let refused = inflater.inflate(Compression::Snappy, body, 64 << 20, &mut into);
        assert!(matches!(refused, Err(RecordError::Compressed { codec: "snappy", .. })), "{refused:?}");
        assert_eq!(into.capacity(), 0);
    };
    // Five bytes that claim a size of 32 MiB, raw and framed.
    let claim = [0x80, 0x80, 0x80, 0x10, 0];
    refuse(&claim);
    let framed = |length: u32, block: &[u8]| {
        let mut body = xerial(b"", 1);
        body.extend(length.to_be_bytes());
        body.extend(block);
        body
    };
    refuse(&framed(5, &claim));
    refuse(&framed(u32::MAX, &claim));
    refuse(&framed(6, &claim));
    refuse(&[&xerial(b"abc", 10)[..], &[0, 0]].concat());
}

#[test]
fn failed_codec_decompresses_the_next_batch() {
    let mut inflater = BatchInflater::default();
    let plain = text(5_000);
    for (name, codec, packed) in framings(&plain) {
        let mut into = Vec::new();
        if codec != Compression::None {
            let cut = inflater.inflate(codec, &packed[..packed.len() / 2], 1 << 20, &mut into);
            assert!(cut.is_err() || into.len() < plain.len(), "{name}: half of it is not all of it");
            into.clear();
        }
        inflater
            .inflate(codec, &packed, 1 << 20, &mut into)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(into == plain, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn noise_and_flipped_bits_stay_within_limit(
        plain in prop::collection::vec(0u8..4, 1..3_000),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        const LIMIT: usize = 4_000;
        let mut inflater = BatchInflater::default();
        for (name, codec, mut packed) in framings(&plain) {
            for (at, value) in &flips {
                let at = at.index(packed.len());
                packed[at] = *value;
            }
            for body in [&packed, &noise] {
                let mut into = Vec::new();
                let _ = inflater.inflate(codec, body, LIMIT, &mut into);
                prop_assert!(into.capacity() <= LIMIT, "{} took {}", name, into.capacity());
            }
        }
    }
}
