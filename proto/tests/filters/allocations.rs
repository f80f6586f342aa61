//! Filtering allocates nothing per record, whatever the record holds and whether it passes.

use lighterman_proto::filter::{FilterSet, FilterSubject};
use lighterman_proto::records::Header;
use lighterman_proto::units::TimestampMs;

#[test]
fn record_is_filtered_without_allocation() {
    let filters = FilterSet::compile(&[
        r#"{"value":{"order":{"state":["paid",{"prefix":"re"}],"lines":{"price":[{"numeric":[">",10,"<=",20]}]}}}}"#,
        r#"{"value":{"$or":[{"note":[{"equals-ignore-case":"Ünï"}]},{"note":[{"anything-but":{"suffix":"x"}}]}]},"key":["k"]}"#,
        r#"{"headers":{"h":[{"exists":false}]},"partition":[{"anything-but":[0,1]}],"timestamp":[{"numeric":["<",0]}]}"#,
    ])
    .expect("patterns");
    let values: [Option<&[u8]>; 8] = [
        Some(br#"{"order":{"state":"p\u0061id","lines":[{"price":1},[{"price":2e1}]]},"note":"\u00dcNx"}"#),
        Some(br#"{"order":{"state":"new","state":null,"lines":{"price":10.00000000000000000001}}}"#),
        Some(br#"{"note":"\ud83d\ude00x","deep":[[[[[{"a":[1,2,{"b":"c"}]}]]]]]}"#),
        Some(br#"{"order":{"state":"paid"#),
        Some(b"\xff\xfe"),
        Some(b"plain"),
        Some(b"[{\"order\":1}]"),
        None,
    ];
    let mut passed = 0;
    let counted = allocation_counter::measure(|| {
        for value in values {
            for key in [Some(&b"k"[..]), None] {
                let subject = FilterSubject {
                    topic: "orders",
                    partition: 1,
                    timestamp: TimestampMs(i64::MIN),
                    key,
                    value,
                    headers: std::iter::once(Header { name: b"h", value: Some(b"v") }),
                };
                passed += usize::from(filters.verdict(subject).passes());
            }
        }
    });
    assert!((1..16).contains(&passed), "{passed}: some pass, some do not");
    assert_eq!(counted.count_total, 0);
}
