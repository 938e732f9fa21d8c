//! A way between two programs that can be cut in either direction, without a word to either end,
//! and mended again.
//!
//! As with a network that is cut, what is sent meanwhile arrives when the way is mended: nothing of
//! a stream is lost, it is late.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Listens, and passes on to another address what it is told.
pub struct Proxy {
    pub address: SocketAddr,
    forth: Arc<Gate>,
    back: Arc<Gate>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

/// A connection through the proxy, at its far end.
struct Connection {
    far: TcpStream,
    /// The far end is gone, and the near one is not to hear of it.
    is_gone: Arc<AtomicBool>,
}

impl Proxy {
    /// # Panics
    /// No port is free.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            forth: Arc::default(),
            back: Arc::default(),
            connections: Arc::default(),
        };
        let to = address.to_owned();
        let (forth, back) = (proxy.forth.clone(), proxy.back.clone());
        let connections = proxy.connections.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let connected = connect(&to, near, (&forth, &back));
                lock(&connections).extend(connected);
            }
        });
        proxy
    }

    /// From now on nothing arrives that is sent to the proxy; what comes back still does.
    pub fn cut(&self) {
        self.forth.set(true);
    }

    /// Cuts once so many further bytes were sent to the proxy.
    pub fn cut_after(&self, bytes: usize) {
        self.forth.left.store(bytes, SeqCst);
    }

    /// Whether nothing arrives that is sent to the proxy.
    pub fn is_cut(&self) -> bool {
        *lock(&self.forth.is_cut)
    }

    /// From now on nothing comes back; what is sent to the proxy still arrives.
    pub fn cut_back(&self) {
        self.back.set(true);
    }

    /// What was sent while the way was cut arrives, and the way is whole.
    pub fn mend(&self) {
        self.forth.set(false);
        self.back.set(false);
    }

    /// The far end of every connection is gone and the near one hears nothing of it, as when the
    /// other machine has lost its power and is back. New connections are made and work.
    pub fn lose_far_ends(&self) {
        for connection in lock(&self.connections).drain(..) {
            connection.is_gone.store(true, SeqCst);
            let _ = connection.far.shutdown(Shutdown::Both);
        }
    }
}

/// Carries `near` on to the address `to`; none where nobody is there.
fn connect(
    to: &str,
    near: TcpStream,
    (forth, back): (&Arc<Gate>, &Arc<Gate>),
) -> Option<Connection> {
    let far = TcpStream::connect(to).ok()?;
    let is_gone: Arc<AtomicBool> = Arc::default();
    let (back_from, back_to, kept) = (far.try_clone(), near.try_clone(), far.try_clone());
    let (back_from, back_to, kept) = (back_from.ok()?, back_to.ok()?, kept.ok()?);
    let (gate, gone) = (forth.clone(), is_gone.clone());
    std::thread::spawn(move || pass(near, far, &gate, &gone));
    let (gate, gone) = (back.clone(), is_gone.clone());
    std::thread::spawn(move || pass(back_from, back_to, &gate, &gone));
    Some(Connection { far: kept, is_gone })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where one direction may be cut.
struct Gate {
    is_cut: Mutex<bool>,
    changed: Condvar,
    /// Bytes until it is cut.
    left: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            is_cut: Mutex::default(),
            changed: Condvar::default(),
            left: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Gate {
    fn set(&self, is_cut: bool) {
        *lock(&self.is_cut) = is_cut;
        self.changed.notify_all();
    }

    /// So many bytes have come, and it is cut if they are all that it was to pass on.
    fn count(&self, bytes: usize) {
        let less = |left: usize| (left < usize::MAX).then(|| left.saturating_sub(bytes));
        if self
            .left
            .fetch_update(SeqCst, SeqCst, less)
            .is_ok_and(|left| left <= bytes)
        {
            self.left.store(usize::MAX, SeqCst);
            self.set(true);
        }
    }

    /// Waits until the way is whole.
    fn pass(&self) {
        drop(
            self.changed
                .wait_while(lock(&self.is_cut), |is_cut| *is_cut),
        );
    }
}

/// Carries bytes until one end is done; where the far one is gone, what is sent to it vanishes.
fn pass(mut from: TcpStream, mut to: TcpStream, gate: &Gate, is_gone: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n) = from.read(&mut bytes) {
        gate.count(n);
        gate.pass();
        let is_carried = n > 0 && to.write_all(&bytes[..n]).is_ok();
        if n == 0 || !(is_carried || is_gone.load(SeqCst)) {
            break;
        }
    }
    // The word that it ends is cut off as well.
    gate.pass();
    if !is_gone.load(SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use super::*;

    /// The two ends of a connection through a proxy.
    fn through() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Proxy::to(&listener.local_addr().expect("an address").to_string());
        let near = TcpStream::connect(proxy.address).expect("a connection");
        let far = listener.accept().expect("its other end").0;
        for end in [&near, &far] {
            let bound = Some(Duration::from_millis(300));
            end.set_read_timeout(bound).expect("a bound");
        }
        (proxy, near, far)
    }

    fn heard(end: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        let read = end.read(&mut byte);
        read.ok().filter(|n| *n == 1).map(|_| byte[0])
    }

    #[test]
    fn what_is_sent_while_a_direction_is_cut_arrives_when_it_is_mended() {
        let (proxy, mut near, mut far) = through();
        proxy.cut();
        near.write_all(b"a").expect("a byte");
        far.write_all(b"b").expect("a byte");
        assert_eq!((heard(&mut far), heard(&mut near)), (None, Some(b'b')));
        proxy.mend();
        assert_eq!(heard(&mut far), Some(b'a'));
        proxy.cut_back();
        near.write_all(b"c").expect("a byte");
        far.write_all(b"d").expect("a byte");
        assert_eq!((heard(&mut far), heard(&mut near)), (Some(b'c'), None));
        proxy.mend();
        assert_eq!(heard(&mut near), Some(b'd'));
    }

    #[test]
    fn a_far_end_that_is_lost_is_not_heard_of() {
        let (proxy, mut near, mut far) = through();
        near.write_all(b"a").expect("a byte");
        assert_eq!(heard(&mut far), Some(b'a'));
        proxy.lose_far_ends();
        near.write_all(b"b").expect("a byte that nobody gets");
        let silent = near.read(&mut [0]).expect_err("neither a byte nor an end");
        assert!(
            matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{silent}"
        );
    }
}
