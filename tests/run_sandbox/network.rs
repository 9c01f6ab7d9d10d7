//! Sockets, and every way around the rules about them that we know.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream},
    },
};

use libc::{AF_INET, AF_INET6, EACCES, EAFNOSUPPORT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};

use super::*;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn socket(family: i32, kind: i32, protocol: i32) -> libc::c_long {
    // SAFETY: integers only.
    unsafe { libc::socket(family, kind, protocol) }.into()
}

#[test]
fn tcp_goes_to_the_listed_ports_only() {
    let ((_open, listed), (_closed, other)) = (listener(), listener());
    let wanted = v1::Sandbox { connect: vec![listed.port().into()], ..Default::default() };
    inside(&wanted, "network::listed_ports", &[&listed.to_string(), &other.to_string()]);
    inside(&v1::Sandbox::default(), "network::no_network", &[&listed.to_string()]);
}

pub fn listed_ports(addresses: &[String]) {
    TcpStream::connect(&addresses[0]).unwrap().write_all(b"text").unwrap();
    assert_eq!(error(TcpStream::connect(&addresses[1])), EACCES);
    assert_eq!(error(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))), EACCES);
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
}

pub fn no_network(address: &[String]) {
    assert_eq!(error(TcpStream::connect(&address[0])), EACCES);
    assert_eq!(error(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))), EACCES);
}

#[test]
fn fast_open_is_no_way_around() {
    let (closed, other) = listener();
    closed.set_nonblocking(true).unwrap();
    inside(&v1::Sandbox { connect: vec![1], ..Default::default() }, "network::fast_open", &[&other.to_string()]);
    assert_eq!(closed.accept().err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock), "nobody came");
}

pub fn fast_open(other: &[String]) {
    let other: SocketAddrV4 = other[0].parse().unwrap();
    let fd = socket(AF_INET, SOCK_STREAM, 0) as i32;
    // SAFETY: integers only.
    let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    to.sin_family = AF_INET as u16;
    to.sin_port = other.port().to_be();
    to.sin_addr.s_addr = u32::from_ne_bytes(other.ip().octets());
    let (address, length) = ((&raw const to).cast(), size_of_val(&to) as u32);
    // SAFETY: pointers to what outlives the call, with their lengths.
    let sent = unsafe { libc::sendto(fd, b"text".as_ptr().cast(), 4, libc::MSG_FASTOPEN, address, length) };
    assert_eq!(denied(sent as libc::c_long), EOPNOTSUPP);
    // Nor is a socket that listens without having been bound, nor one that becomes another kind.
    // SAFETY: integers only.
    assert_eq!(denied(unsafe { libc::listen(fd, 1) }.into()), EACCES);
    // SAFETY: a pointer and its length.
    let ulp = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, 31, b"smc".as_ptr().cast(), 3) };
    assert_eq!(denied(ulp.into()), libc::ENOPROTOOPT);
}

#[test]
fn no_protocol_that_landlock_does_not_see() {
    let wanted = v1::Sandbox { connect: vec![443], unix_sockets: true, ..Default::default() };
    inside(&wanted, "network::unseen_protocols", &[]);
}

pub fn unseen_protocols(_: &[String]) {
    const IPPROTO_UDPLITE: i32 = 136;
    for family in [AF_INET, AF_INET6] {
        for (kind, protocol) in [
            (SOCK_STREAM, libc::IPPROTO_MPTCP),
            (SOCK_STREAM, libc::IPPROTO_SCTP),
            (libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP),
            (SOCK_DGRAM, IPPROTO_UDPLITE),
            (SOCK_DGRAM, libc::IPPROTO_ICMP),
            (SOCK_RAW, libc::IPPROTO_TCP),
        ] {
            assert_eq!(denied(socket(family, kind | libc::SOCK_CLOEXEC, protocol)), EPROTONOSUPPORT, "{kind} {protocol}");
        }
    }
    for family in [libc::AF_VSOCK, libc::AF_PACKET, libc::AF_ALG, libc::AF_TIPC, libc::AF_BLUETOOTH, 43 /* AF_SMC */] {
        assert_eq!(denied(socket(family, SOCK_STREAM, 0)), EAFNOSUPPORT, "{family}");
    }
    assert_eq!(denied(socket(libc::AF_NETLINK, SOCK_RAW, libc::NETLINK_AUDIT)), EAFNOSUPPORT);
    assert!(socket(libc::AF_NETLINK, SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) >= 0);
}

/// As the broker's socket is: open to every user of the host.
#[test]
fn no_unix_socket_can_be_reached() {
    let place = Place::new();
    let path = place.0.path().join("tools.sock");
    let broker = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    broker.set_nonblocking(true).unwrap();
    let datagrams = UnixDatagram::bind(place.0.path().join("log.sock")).unwrap();
    std::fs::set_permissions(place.0.path().join("log.sock"), PermissionsExt::from_mode(0o666)).unwrap();
    datagrams.set_nonblocking(true).unwrap();

    let wanted = v1::Sandbox { write: vec![text(place.0.path())], connect: vec![443], ..Default::default() };
    inside(&wanted, "network::a_unix_socket", &[&text(&path)]);
    assert_eq!(broker.accept().err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock), "nobody came");
    assert_eq!(datagrams.recv(&mut [0]).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));

    inside(&v1::Sandbox { unix_sockets: true, ..wanted }, "network::a_unix_socket_where_it_may", &[&text(&path)]);
    broker.accept().unwrap();
}

pub fn a_unix_socket(path: &[String]) {
    let path = &path[0];
    assert_eq!(error(UnixStream::connect(path)), EACCES);
    let (mut one, _two) = UnixStream::pair().unwrap();
    one.write_all(b"text").unwrap();
    // One of a pair cannot be turned to the broker.
    assert!(rustix::net::connect(&one, &rustix::net::SocketAddrUnix::new(path.as_str()).unwrap()).is_err());
    assert_eq!(error(UnixDatagram::pair()), EACCES);
}

pub fn a_unix_socket_where_it_may(path: &[String]) {
    drop(UnixStream::connect(&path[0]).unwrap());
}

#[test]
fn abstract_sockets_outside_cannot_be_reached_even_where_unix_sockets_may_be_used() {
    let name = format!("valetkey-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    inside(&v1::Sandbox { unix_sockets: true, ..Default::default() }, "network::abstract_sockets", &[&name]);
}

pub fn abstract_sockets(name: &[String]) {
    let outside = UnixAddr::from_abstract_name(&name[0]).unwrap();
    assert_eq!(error(UnixStream::connect_addr(&outside)), EPERM);
    let own = UnixAddr::from_abstract_name(format!("valetkey-own-{}", std::process::id())).unwrap();
    let listener = UnixListener::bind_addr(&own).unwrap();
    UnixStream::connect_addr(&own).unwrap();
    assert!(listener.as_raw_fd() >= 0);
}
