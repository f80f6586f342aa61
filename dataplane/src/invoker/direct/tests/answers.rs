//! Responses long enough to be charged to the mapping's byte budget.

use actix::{Actor, Context, Handler, Recipient};
use tokio::sync::mpsc;

use super::*;
use crate::credit::memory_budget::Overdraft;
use crate::credit::slots::{SlotReceiver, Slots};
use crate::invoker::facts::FunctionTimeout;
use crate::invoker::invocation::{
    ConcurrencyLimit, InvocationFinished, InvokeRequest, InvokedFunction, Invoker,
};
use crate::messages::batch::BatchId;

const LONG: usize = 300_000;
const BUDGET: usize = 1_000_000;

/// Starts a server that responds with `LONG` bytes of whitespace, chunked or with `content-length`.
async fn long_answer(is_chunked: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let body = " ".repeat(LONG);
    let answer = if is_chunked {
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{LONG:x}\r\n{body}\r\n0\r\n\r\n")
    } else {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n{body}")
    };
    let answer: Arc<str> = Arc::from(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                while read_request(&mut stream).await.is_some() {
                    stream.write_all(answer.as_bytes()).await.expect("writes");
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn mem_1_long_answer_waits_for_budget() {
    for is_chunked in [false, true] {
        let direct = DirectPort::from_sdk(&shared(&long_answer(is_chunked).await)).await.expect("a port");
        for of_sdk in [false, true] {
            let port: &dyn FunctionPort = if of_sdk { &direct.sdk } else { &direct };
            let budget = MemoryBudget::new(BUDGET);
            let others = budget.try_lease(BUDGET).expect("room");
            let another = budget.try_lease_or_overdraft(1, Overdraft::Answer).expect("the overdraft");
            let answer_room = AnswerRoom::new(ANSWER_BYTES_MAX, budget.clone());
            let invocation = Invocation { answer_room: answer_room.clone(), ..invocation() };
            let reply = tokio::spawn(port.invoke(invocation));
            while !budget.has_waiters() {
                assert!(!reply.is_finished(), "{is_chunked} {of_sdk}: nothing is free");
                tokio::task::yield_now().await;
            }
            drop(another);
            let reply = reply.await.expect("it runs");
            let InvokeResponse::Answer { status: 200, body, .. } = reply else {
                panic!("{is_chunked} {of_sdk}")
            };
            assert_eq!((body.len(), budget.leased() - others.bytes()), (LONG, LONG), "{is_chunked} {of_sdk}");
            drop(answer_room);
            assert_eq!(budget.leased(), others.bytes());
        }
    }
}

/// Forwards each received outcome.
struct AnswerListener(mpsc::UnboundedSender<InvocationFinished>);

impl Actor for AnswerListener {
    type Context = Context<Self>;
}

impl Handler<InvocationFinished> for AnswerListener {
    type Result = ();

    fn handle(&mut self, answered: InvocationFinished, _: &mut Self::Context) {
        self.0.send(answered).expect("the receiver is open");
    }
}

fn invoke(budget: &MemoryBudget, slots: &Slots, reply: Recipient<InvocationFinished>) -> InvokeRequest {
    let Invocation { payload, context, .. } = invocation();
    let grant: SlotReceiver = Arc::new(drop);
    InvokeRequest {
        lease: budget.try_lease(payload.len()).expect("room"),
        payload,
        slot: slots.take(0, &grant).expect("free"),
        ownership: lease(MINUTE),
        context,
        answer_room: AnswerRoom::new(ANSWER_BYTES_MAX, budget.clone()),
        batch: BatchId(1),
        reply,
    }
}

#[actix::test]
async fn mem_1_long_answer_stays_charged_until_dropped() {
    let port = DirectPort::from_sdk(&shared(&long_answer(false).await)).await.expect("a port");
    let function = InvokedFunction {
        name: Arc::from(FUNCTION),
        timeout: FunctionTimeout::new(MINUTE, clock::now()),
        doubt: Arc::new(|| ()),
    };
    let (slots, budget) = (Slots::new(1), MemoryBudget::new(BUDGET));
    let invoker = Invoker::new(Arc::new(port), function, ConcurrencyLimit::new(slots.clone()));
    let (tell, mut told) = mpsc::unbounded_channel();
    invoker.start(invoke(&budget, &slots, AnswerListener(tell).start().recipient()));
    let answered = told.recv().await.expect("an answer");
    assert!(matches!(&answered.verdict, InvocationOutcome::Delivered { response } if response.len() == LONG));
    while slots.take(0, &(Arc::new(drop) as SlotReceiver)).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(budget.leased(), LONG, "the task has ended");
    drop(answered);
    assert_eq!(budget.leased(), 0);
}
