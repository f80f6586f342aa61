//! Hand-built record batches, after <https://kafka.apache.org/documentation/#recordbatch>, without any of the code
//! under test.

pub(crate) const LOG_APPEND_TIME: i16 = 1 << 3;
pub(crate) const TRANSACTIONAL: i16 = 1 << 4;
pub(crate) const CONTROL: i16 = 1 << 5;

/// Record to encode.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordForge<'a> {
    pub offset_delta: i64,
    pub timestamp_delta: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl<'a> RecordForge<'a> {
    pub(crate) fn value(offset_delta: i64, value: &'a [u8]) -> Self {
        Self { offset_delta, value: Some(value), ..Self::default() }
    }
}

/// Batch to encode, with its fields as on the wire.
#[derive(Clone, Debug)]
pub(crate) struct BatchForge {
    pub base_offset: i64,
    pub magic: i8,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub count: i32,
    pub body: Vec<u8>,
}

pub(crate) fn varint(value: i64) -> Vec<u8> {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    let mut out = Vec::new();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out
}

fn field(bytes: Option<&[u8]>) -> Vec<u8> {
    match bytes {
        None => varint(-1),
        Some(bytes) => [&varint(bytes.len() as i64)[..], bytes].concat(),
    }
}

/// Encodes a record without its length prefix.
pub(crate) fn inside(rec: &RecordForge<'_>) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(varint(rec.timestamp_delta));
    out.extend(varint(rec.offset_delta));
    out.extend(field(rec.key));
    out.extend(field(rec.value));
    out.extend(varint(rec.headers.len() as i64));
    for (name, value) in &rec.headers {
        out.extend(field(Some(name)));
        out.extend(field(*value));
    }
    out
}

pub(crate) fn sized(inside: &[u8]) -> Vec<u8> {
    [&varint(inside.len() as i64)[..], inside].concat()
}

pub(crate) fn body(recs: &[RecordForge<'_>]) -> Vec<u8> {
    recs.iter().flat_map(|rec| sized(&inside(rec))).collect()
}

impl BatchForge {
    pub(crate) fn new(base_offset: i64, recs: &[RecordForge<'_>]) -> Self {
        Self {
            base_offset,
            magic: 2,
            attributes: 0,
            last_offset_delta: recs.last().map_or(0, |rec| rec.offset_delta as i32),
            base_timestamp: 1_000,
            max_timestamp: 9_999,
            producer_id: -1,
            count: recs.len() as i32,
            body: body(recs),
        }
    }

    /// Creates a control batch of `producer_id`; `kind` 0 aborts, 1 commits.
    pub(crate) fn marker(base_offset: i64, producer_id: i64, kind: u8) -> Self {
        let key = [0, 0, 0, kind];
        let rec = RecordForge { key: Some(&key), value: Some(&[0, 0, 0, 0, 0, 0]), ..RecordForge::default() };
        Self { attributes: TRANSACTIONAL | CONTROL, producer_id, ..Self::new(base_offset, &[rec]) }
    }

    /// Creates a transactional batch of one record.
    pub(crate) fn in_transaction(base_offset: i64, producer_id: i64) -> Self {
        Self {
            attributes: TRANSACTIONAL,
            producer_id,
            ..Self::new(base_offset, &[RecordForge::value(0, b"v")])
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut checked = Vec::new();
        checked.extend(self.attributes.to_be_bytes());
        checked.extend(self.last_offset_delta.to_be_bytes());
        checked.extend(self.base_timestamp.to_be_bytes());
        checked.extend(self.max_timestamp.to_be_bytes());
        checked.extend(self.producer_id.to_be_bytes());
        checked.extend((-1i16).to_be_bytes());
        checked.extend((-1i32).to_be_bytes());
        checked.extend(self.count.to_be_bytes());
        checked.extend(&self.body);
        let mut out = self.base_offset.to_be_bytes().to_vec();
        out.extend((checked.len() as i32 + 9).to_be_bytes());
        out.extend(7i32.to_be_bytes());
        out.push(self.magic as u8);
        out.extend(crc32c::crc32c(&checked).to_be_bytes());
        out.extend(checked);
        out
    }
}
