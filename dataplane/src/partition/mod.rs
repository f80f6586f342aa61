//! One topic-partition under one epoch: fetch buffer, ledger, state machine.
