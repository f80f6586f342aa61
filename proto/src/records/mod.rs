//! Record batches (magic 2) walked in place: a borrowed cursor over the received frame.
