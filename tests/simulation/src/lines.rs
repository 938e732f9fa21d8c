//! Connections, which a machine that dies closes in the order in which it opened them.
//!
//! A runtime that ends drops its tasks in an order that depends on how many tasks the whole process
//! has spawned before. Were connections closed in that order, a seed would take another course each
//! time: every message of their end draws its delay from the same random numbers.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

type Shared = Arc<Mutex<Option<TcpStream>>>;

thread_local! {
    /// All that are open, each with the address of its machine, in the order of their opening.
    static OPEN: RefCell<Vec<(IpAddr, Shared)>> = const { RefCell::new(Vec::new()) };
    /// A machine dies: what is closed now is closed by its death.
    static DYING: Cell<bool> = const { Cell::new(false) };
}

/// One end of a connection.
pub struct Line {
    machine: IpAddr,
    stream: Shared,
}

impl Line {
    /// An end on the machine that runs now.
    ///
    /// # Errors
    /// The connection has no address.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let machine = stream.local_addr()?.ip();
        let stream = Arc::new(Mutex::new(Some(stream)));
        OPEN.with_borrow_mut(|open| open.push((machine, stream.clone())));
        Ok(Self { machine, stream })
    }

    /// What `act` makes of the stream; a fault once the machine has died.
    fn with<T>(
        &self,
        act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match lock(&self.stream).as_mut() {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let is_closed = |(machine, stream): &mut (IpAddr, Shared)| {
            Arc::ptr_eq(stream, &self.stream) || (DYING.get() && *machine == self.machine)
        };
        let closed: Vec<_> = OPEN.with_borrow_mut(|open| open.extract_if(.., is_closed).collect());
        for (_, stream) in closed {
            drop(lock(&stream).take());
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(context, into))
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(context))
    }
}

/// A simulation begins on this thread: no connection is open.
pub fn begin() {
    drop(OPEN.take());
    DYING.set(false);
}

/// Does what makes one machine die.
pub fn dying(die: impl FnOnce()) {
    DYING.set(true);
    die();
    DYING.set(false);
}

fn lock(stream: &Shared) -> MutexGuard<'_, Option<TcpStream>> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}
