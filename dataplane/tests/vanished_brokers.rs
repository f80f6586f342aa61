//! Brokers that vanish silently: connections are neither rejected nor accepted.

mod scene;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lighterman::kafka::offsets::OffsetSpec;
use lighterman::local::broker::RequestFault;
use lighterman_proto::api::FilterCriteria;
use socket2::{Domain, Socket, Type};

use self::scene::scene;

const FETCH: i16 = 1;
const FIND_COORDINATOR: i16 = 10;
const HEARTBEAT: i16 = 12;
/// So many that sequential attempts, each up to its deadline, would take minutes.
const VANISHED: usize = 24;

/// An address that drops every SYN: it listens with a full backlog, and nobody accepts connections.
struct VanishedAddress {
    address: SocketAddr,
    _listener: Socket,
    _backlog: Vec<TcpStream>,
}

impl VanishedAddress {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("listens");
        let address = listener.local_addr().expect("bound").as_socket().expect("IPv4");
        let mut backlog = Vec::new();
        while let Ok(taken) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            backlog.push(taken);
        }
        Self { address, _listener: listener, _backlog: backlog }
    }
}

#[test]
fn liv_1_vanished_brokers_do_not_block_others() {
    scene(|scene| async move {
        let mut producer = scene.producer(3).await;
        producer.write(30).await.expect("written");
        let vanished: Vec<VanishedAddress> = (0..VANISHED).map(|_| VanishedAddress::new()).collect();
        let names = vanished.iter().map(|vanished| vanished.address.to_string());
        let servers: Vec<String> = names.chain([scene.broker.address().to_string()]).collect();
        scene.run_on(&servers.join(","), OffsetSpec::Earliest, FilterCriteria::default());
        scene.until("30 committed", |scene| scene.committed() == 30).await;
        // Every connection to the live broker breaks once.
        let faults = scene.broker.faults();
        for api in [HEARTBEAT, FIND_COORDINATOR, FETCH] {
            faults.add(api, 1, RequestFault::CutBefore);
        }
        producer.write(30).await.expect("written");
        scene.until("60 committed", |scene| scene.committed() == 60).await;
        scene.assert_each_once_in_order(60);
        scene.dataplane.drain().await;
    });
}
