//! The rendezvous of a process group: the first listens, the others are told where.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use qlora_trainer::{Error, Result};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::TcpGroup;
use super::channel::{Channel, Words};
use super::handshake;
use super::link::Link;
use super::tls::{Ends, Secret};

/// How long an address may take to answer, and a handshake to be done.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all addresses are tried again, where none answers.
const TRIED_FOR: Duration = Duration::from_secs(30);
/// Time without a word after which the other end is asked whether it is there, three times at the
/// most.
const SILENCE: Duration = Duration::from_secs(30);
/// Connections whose handshakes go on at one time; more are closed.
const HANDSHAKES: usize = 64;

/// A process of a group: its rank, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub rank: usize,
    pub world_size: usize,
    /// Where the first one listens; 0 is any free port.
    pub port: u16,
}

/// Where the first one listens, as it tells its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    pub port: u16,
    pub secret: Secret,
}

/// Where the first one is found, as the others are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    /// host:port, the likeliest first.
    pub addresses: Vec<String>,
    pub secret: Secret,
}

fn fault(e: impl std::fmt::Display) -> Error {
    Error::Rendezvous {
        fault: e.to_string(),
    }
}

/// The first one, as long as the others are on their way.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    port: u16,
    secret: Secret,
    ends: Ends,
}

impl Listener {
    /// Listens on every address of this machine.
    pub fn open(port: u16, secret: Secret) -> Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .map_err(|e| {
                fault(format_args!(
                    "port {port} cannot be listened on ({e}); give --peer-port PORT"
                ))
            })?;
        let port = listener.local_addr().map_err(fault)?.port();
        Ok(Self {
            listener,
            port,
            secret,
            ends: Ends::new(&secret).map_err(fault)?,
        })
    }

    pub fn listening(&self) -> Listening {
        Listening {
            port: self.port,
            secret: self.secret,
        }
    }

    /// Waits until all others are here.
    ///
    /// Whoever connects is heard on a thread of its own: a stranger that says nothing keeps nobody
    /// waiting. The port stays open as long as the process; nobody is let in once all are here.
    pub fn group(self, world_size: usize) -> Result<TcpGroup> {
        let (sender, arrived) = mpsc::channel();
        std::thread::spawn(move || self.accept(world_size, &sender));
        let mut links: Vec<Option<Link>> = (1..world_size).map(|_| None).collect();
        while links.iter().any(Option::is_none) {
            let (rank, channel) = arrived
                .recv()
                .map_err(|_| fault("the port is not listened on any more"))?;
            links[rank - 1] = Some(Link::new(channel, format!("worker {rank}")));
        }
        Ok(TcpGroup::First(links.into_iter().flatten().collect()))
    }

    fn accept(self, world_size: usize, sender: &Sender<(usize, Channel)>) {
        let going_on = Arc::new(AtomicUsize::new(0));
        for stream in self.listener.incoming().flatten() {
            if going_on.fetch_add(1, Ordering::Relaxed) >= HANDSHAKES {
                going_on.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (sender, ends, going_on) = (sender.clone(), self.ends.clone(), going_on.clone());
            std::thread::spawn(move || {
                if let Ok(arrived) = welcome(stream, &ends, world_size) {
                    // Nobody waits where all are here already.
                    let _ = sender.send(arrived);
                }
                going_on.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

fn welcome(stream: TcpStream, ends: &Ends, world_size: usize) -> std::io::Result<(usize, Channel)> {
    let mut hurried = Hurried::new(stream)?;
    let mut end = ends.first(&mut hurried)?;
    let mut words = Words {
        end: &mut end,
        stream: &mut hurried,
    };
    let rank = handshake::welcome(&mut words, world_size)?;
    Ok((rank, Channel::new(hurried.at_leisure()?, end)))
}

/// A connection that has to have said everything by some time.
struct Hurried {
    stream: TcpStream,
    until: Instant,
}

impl Hurried {
    fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            until: Instant::now() + PATIENCE,
        })
    }

    fn left(&self) -> std::io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(std::io::ErrorKind::TimedOut.into())
        } else {
            Ok(Some(left))
        }
    }

    /// From now on words may take as long as a step does; the system asks whether the other end is
    /// still there.
    fn at_leisure(self) -> std::io::Result<TcpStream> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)?;
        sockopt::set_socket_keepalive(&self.stream, true)?;
        sockopt::set_tcp_keepidle(&self.stream, SILENCE)?;
        sockopt::set_tcp_keepintvl(&self.stream, SILENCE / 3)?;
        sockopt::set_tcp_keepcnt(&self.stream, 3)?;
        // Where words are on their way nothing is asked; elsewhere than on Linux the system's own
        // patience counts.
        #[cfg(target_os = "linux")]
        sockopt::set_tcp_user_timeout(&self.stream, 2 * SILENCE.as_millis() as u32)?;
        Ok(self.stream)
    }
}

impl Read for Hurried {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Hurried {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Finds the first one at any of `addresses`.
pub fn connect(
    addresses: &[String],
    secret: &Secret,
    rank: usize,
    world_size: usize,
) -> Result<TcpGroup> {
    let ends = Ends::new(secret).map_err(fault)?;
    let started = Instant::now();
    loop {
        let mut faults = Vec::new();
        for address in addresses {
            match try_address(address, &ends, rank) {
                Ok(channel) => {
                    return Ok(TcpGroup::Other {
                        rank,
                        world_size,
                        first: Link::new(channel, "the first worker".into()),
                    });
                }
                Err(e) => faults.push((address, e)),
            }
        }
        // Who answers and is not the one that is looked for will not become it.
        let strange = faults
            .iter()
            .all(|(_, e)| e.kind() == std::io::ErrorKind::PermissionDenied);
        let refused = faults
            .iter()
            .all(|(_, e)| e.kind() == std::io::ErrorKind::ConnectionRefused);
        if strange || refused || started.elapsed() > TRIED_FOR {
            let tried: Vec<String> = faults
                .iter()
                .map(|(address, e)| format!("{address}: {e}"))
                .collect();
            return Err(fault(format_args!(
                "the first worker is not reached ({}); open the way between the workers, or start them with --peer-address \
                 HOST and --peer-port PORT",
                tried.join(", ")
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn try_address(address: &str, ends: &Ends, rank: usize) -> std::io::Result<Channel> {
    let nowhere = || std::io::Error::other("the name has no address");
    let resolved: SocketAddr = address.to_socket_addrs()?.next().ok_or_else(nowhere)?;
    let mut hurried = Hurried::new(TcpStream::connect_timeout(&resolved, PATIENCE)?)?;
    let mut end = ends.other(&mut hurried)?;
    let mut words = Words {
        end: &mut end,
        stream: &mut hurried,
    };
    handshake::introduce(&mut words, rank)?;
    Ok(Channel::new(hurried.at_leisure()?, end))
}

/// Joins the group: the first one tells where it listens through `tell`, the others are told through
/// `told`.
///
/// # Errors
/// [`Error::Rendezvous`].
pub fn join(
    member: Member,
    tell: impl FnOnce(Listening) -> Result<()>,
    told: &Receiver<Rendezvous>,
) -> Result<TcpGroup> {
    if member.rank == 0 {
        let mut secret = Secret::default();
        getrandom::fill(&mut secret).map_err(fault)?;
        let listener = Listener::open(member.port, secret)?;
        tell(listener.listening())?;
        return listener.group(member.world_size);
    }
    let found = told.recv().map_err(|_| fault("the agent is gone"))?;
    connect(
        &found.addresses,
        &found.secret,
        member.rank,
        member.world_size,
    )
}
