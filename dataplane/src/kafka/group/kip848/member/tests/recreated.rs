//! Test of a topic that is recreated while the member owns partitions of the old one.

use super::*;
use crate::kafka::group::effects::GroupEvent;

#[test]
fn recreated_topic_waits_for_release_of_old_one() {
    let mut core = stable(3, &[0, 1]);
    let beat = say(&mut core, 103);
    let anew = TopicPartitions { topic: Uuid::from_u128(8), partitions: [0].into() };
    let heartbeat_interval = Duration::from_secs(5);
    let assignment = Some(vec![anew.clone()]);
    let answer = Ok(Kip848Response { member: String::new(), epoch: 4, heartbeat_interval, assignment });
    let effects = core.heartbeat_answered(at(103), beat.seq, answer, 0);
    assert!(
        effects.contains(&GroupEffect::Notify(GroupEvent::Revoke { partitions: vec![0, 1] })),
        "{effects:?}"
    );
    assert!(core.released(at(104), &[0]).is_empty());
    let effects = core.released(at(104), &[1]);
    assert!(
        matches!(&effects[..], [GroupEffect::Notify(GroupEvent::Assigned { added, .. })] if added == &[0]),
        "{effects:?}"
    );
    assert_eq!(say(&mut core, 106).owned, Some(anew));
}
