//! Tests of the cached set of kept partitions.

use super::*;
use crate::kafka::group::effects::GroupEvent;

#[test]
fn own_1_ten_thousand_partitions_are_revoked_as_one_set() {
    let all: Vec<i32> = (0..10_000).collect();
    let (left, gone) = all.split_at(5_000);
    let mut core = stable(4, &all);
    let kept = core.kept();
    assert!(Arc::ptr_eq(&kept, &core.kept()), "the set is shared, not rebuilt on each heartbeat");
    let beat = say(&mut core, 103);
    let effects = core.heartbeat_answered(at(103), beat.seq, Ok(told(4, Some(left))), 0);
    assert!(effects.contains(&GroupEffect::Notify(GroupEvent::Revoke { partitions: gone.to_vec() })));
    assert!(core.kept().iter().eq(left));
    assert_eq!(say(&mut core, 106).owned, None, "every partition is kept until it has drained");
    core.released(at(107), gone);
    core.heartbeat_answered(at(107), core.session.last_heartbeat_seq(), Ok(told(4, None)), 0);
    assert_eq!(say(&mut core, 107).owned, Some(share(left)));
}
