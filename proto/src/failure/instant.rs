//! Timestamps formatted from milliseconds alone: the proleptic Gregorian calendar in UTC, without a clock or a
//! library.

use std::fmt;

use uuid::Uuid;

use crate::ids::MappingId;
use crate::units::TimestampMs;

const MS_PER_SECOND: i64 = 1000;
const SECONDS_PER_DAY: i64 = 86_400;
const DAYS_PER_400_YEARS: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const DAYS_TO_EPOCH: i64 = 719_468;

/// Calendar date and time of day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CivilTime {
    year: IsoYear,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    millisecond: u16,
}

/// Year in ISO 8601: four digits, with a sign if four do not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IsoYear(i64);

impl fmt::Display for IsoYear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(year) = self;
        match year {
            0..=9999 => write!(f, "{year:04}"),
            10_000.. => write!(f, "+{year}"),
            ..0 => write!(f, "-{:04}", year.unsigned_abs()),
        }
    }
}

fn civil(at: TimestampMs) -> CivilTime {
    let seconds = at.0.div_euclid(MS_PER_SECOND);
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    // Start years in March, so that the leap day is the last of its year and of its cycle of 4, 100 and 400 years.
    let days = seconds.div_euclid(SECONDS_PER_DAY) + DAYS_TO_EPOCH;
    let cycle = days.div_euclid(DAYS_PER_400_YEARS);
    let of_cycle = days.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_cycle = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // The five months from March or from August together have 153 days.
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    CivilTime {
        year: IsoYear(cycle * 400 + year_of_cycle + i64::from(month <= 2)),
        month: month as u8,
        day: day as u8,
        hour: (of_day / 3600) as u8,
        minute: (of_day / 60 % 60) as u8,
        second: (of_day % 60) as u8,
        millisecond: at.0.rem_euclid(MS_PER_SECOND) as u16,
    }
}

/// Formats a timestamp as `2019-11-14T00:38:06.021Z`: always with milliseconds, in UTC.
pub fn iso_8601(at: TimestampMs) -> String {
    let CivilTime { year, month, day, hour, minute, second, millisecond } = civil(at);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// Returns the S3 key of a failure record:
/// `aws/lambda/<mapping>/<topic>-<partition>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<random>`.
///
/// AWS documents no layout for Kafka. This is the layout of Kinesis and `DynamoDB`, with the partition in place of
/// the shard.
/// <https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html>
pub fn object_key(mapping: MappingId, topic: &str, partition: i32, at: TimestampMs, random: Uuid) -> String {
    let CivilTime { year, month, day, hour, minute, second, .. } = civil(at);
    format!(
        "aws/lambda/{mapping}/{topic}-{partition}/{year}/{month:02}/{day:02}/\
         {year}-{month:02}-{day:02}T{hour:02}.{minute:02}.{second:02}-{random}"
    )
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants_are_formatted() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_573_691_886_021, "2019-11-14T00:38:06.021Z"),
            (253_402_300_800_000, "+10000-01-01T00:00:00.000Z"),
            (-62_167_219_200_001, "-0001-12-31T23:59:59.999Z"),
            (i64::MAX, "+292278994-08-17T07:12:55.807Z"),
            (i64::MIN, "-292275055-05-16T16:47:04.192Z"),
        ] {
            assert_eq!(iso_8601(TimestampMs(ms)), text);
        }
    }

    #[test]
    fn object_key_layout_equals_kinesis() {
        let mapping = MappingId(Uuid::from_u128(1));
        let key = object_key(mapping, "my-topic", 3, TimestampMs(1_573_691_886_021), Uuid::from_u128(2));
        assert_eq!(
            key,
            "aws/lambda/00000000-0000-0000-0000-000000000001/my-topic-3/2019/11/14/\
             2019-11-14T00.38.06-00000000-0000-0000-0000-000000000002"
        );
    }

    fn agrees(ms: i64) -> Result<(), TestCaseError> {
        let theirs = DateTime::from_timestamp_millis(ms).expect("within chrono's years");
        prop_assert_eq!(iso_8601(TimestampMs(ms)), theirs.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_chrono(near in -100_000_000_000_000i64..300_000_000_000_000, far in -8_000_000_000_000_000i64..8_000_000_000_000_000) {
            agrees(near)?;
            agrees(far)?;
        }

        #[test]
        fn every_timestamp_is_formatted_without_panic(ms: i64) {
            let _ = iso_8601(TimestampMs(ms));
        }
    }
}
