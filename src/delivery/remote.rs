//! The listener for callers over the network: TCP, TLS, and who gets a connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, warn};

use super::{
    connection::Connection,
    idle::{Idle, Patience},
    login::Arrival,
    remote_places::{Failures, Origin, RemotePlaces, Taken},
};
use crate::{
    attest::{Attested, Tls, Unproven, Wire},
    broker::Broker,
    peer::{Remote, Seat, Witness},
};

/// How many may be connected, and how patient the daemon is with them.
#[derive(Debug, Clone, Copy)]
pub struct RemoteRoom {
    pub connections: usize,
    /// From one address, and of one name.
    pub per_address: usize,
    pub failures_per_minute: u32,
    pub handshake: Duration,
    pub first_call: Duration,
    pub idle: Duration,
}

/// Handshakes at one time. Each costs a fraction of a millisecond where its caller is quick, and a place while it is not.
const HANDSHAKES: usize = 256;
/// Of these, from one address.
const HANDSHAKES_PER_ADDRESS: usize = 64;

/// A bound port.
pub struct RemoteListener {
    listener: TcpListener,
    address: SocketAddr,
    front: Arc<Front>,
}

/// What each connection is met with.
struct Front {
    tls: Arc<Tls>,
    room: RemoteRoom,
    broker: Arc<Broker>,
    places: RemotePlaces,
    handshakes: super::remote_places::Counted<Origin>,
    failures: Failures,
}

/// A place by address, one by name, and one of all.
type Places = (Taken<Origin>, Option<Taken<Seat>>, OwnedSemaphorePermit);

/// A connection over the network.
pub type RemoteConnection = Connection<TlsStream<TcpStream>, Arrival, (Places, watch::Sender<()>)>;

impl RemoteListener {
    pub async fn bind(address: SocketAddr, tls: Arc<Tls>, room: RemoteRoom, broker: Arc<Broker>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (places, failures) = (RemotePlaces::default(), Failures::new(room.failures_per_minute));
        let front = Front { tls, room, broker, places, handshakes: Default::default(), failures };
        Ok(Self { listener, address, front: Arc::new(front) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn failures(&self) -> Failures {
        self.front.failures.clone()
    }

    /// Accepts, within the room there is, until `stop` resolves. Each handshake is a task of its own: one that is slow holds up nobody.
    pub fn incoming(self, stop: impl Future<Output = ()>) -> impl Stream<Item = io::Result<RemoteConnection>> {
        let permits = Arc::new(Semaphore::new(self.front.room.connections));
        let accepted = futures_util::stream::unfold((self, permits), |(this, permits)| async move {
            // A permit before accept: what is over the bound waits in the kernel's queue.
            let permit = permits.clone().acquire_owned().await.ok()?;
            let (stream, address) = this.accept().await;
            let front = this.front.clone();
            let admitted = tokio::spawn(async move { front.admit(stream, address, permit).await });
            Some((admitted, (this, permits)))
        });
        let admitted = accepted.take_until(stop).buffer_unordered(HANDSHAKES);
        admitted.filter_map(|admitted| async { admitted.ok().flatten().map(Ok) })
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection over the network");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Front {
    /// Shakes hands with a caller and finds it a place; `None`, and a record, where that cannot be.
    async fn admit(&self, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) -> Option<RemoteConnection> {
        match self.try_admit(stream, address, permit).await {
            Ok(connection) => Some(connection),
            Err(unproven) => {
                self.refuse(address, unproven);
                None
            }
        }
    }

    async fn try_admit(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<RemoteConnection, Unproven> {
        let origin = Origin::from(address.ip());
        if self.failures.too_many(address.ip()) {
            return Err(Unproven::TooManyFailures);
        }
        let too_many = Unproven::TooManyConnections;
        let of_address = self.places.origins.take(origin, self.room.per_address).ok_or(too_many)?;
        let shaking = self.handshakes.take(origin, HANDSHAKES_PER_ADDRESS.min(self.room.per_address)).ok_or(too_many)?;
        let stream = self.shake_hands(stream).await?;
        drop(shaking);
        let (open, closed) = watch::channel(());
        let wire = Arc::new(Wire::new(address, self.tls.clone(), stream.get_ref().1.peer_certificates(), closed)?);
        let arrival = Arrival::new(wire);
        // Who is somebody has as many as its name allows, wherever it calls from.
        let seat = arrival.by_certificate.as_ref().map(|caller| caller.peer().seat());
        let of_name = seat.map(|seat| self.places.seats.take(seat, self.room.per_address).ok_or(too_many)).transpose()?;
        debug!(remote = %address, subject = subject(arrival.by_certificate.as_ref()), "connected over the network");
        let patience = Patience { first: self.room.first_call, idle: self.room.idle };
        let idle = Idle::new(arrival.calls.clone(), patience);
        let places = (of_address, of_name, permit);
        Ok(Connection::new(stream, arrival.pace.clone(), arrival, Some(idle), (places, open)))
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Unproven> {
        // Answers are gathered already: waiting for more would only be late.
        let _ = stream.set_nodelay(true);
        let server = self.tls.server().ok_or(Unproven::NoIdentity)?;
        let shaken = timeout(self.room.handshake, TlsAcceptor::from(server).accept(stream)).await;
        let stream = shaken.map_err(|_| Unproven::HandshakeTimedOut)?.map_err(|error| {
            debug!(%error, "a handshake failed");
            Unproven::of_handshake(&error)
        })?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Ok(stream) } else { Err(Unproven::NotHttp2) }
    }

    fn refuse(&self, address: SocketAddr, unproven: Unproven) {
        // Who is not heard for its failures, or has too many open, does not fail once more by that; nor by what the daemon lacks.
        if !matches!(unproven, Unproven::TooManyFailures | Unproven::TooManyConnections | Unproven::NoIdentity) {
            self.failures.add(address.ip());
        }
        self.broker.login_refused(Remote { address, certificate: None, token: None }, unproven.reason(), &unproven.to_string());
    }
}

fn subject(caller: Option<&Attested>) -> String {
    caller.map_or_else(|| "-".into(), |caller| caller.peer().seat().to_string())
}
