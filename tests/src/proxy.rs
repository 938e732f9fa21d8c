//! A way between two programs that can be cut in one direction, without a word to either end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Listens, and passes on to another address what it is told.
pub struct Proxy {
    pub address: SocketAddr,
    way: Arc<Way>,
}

/// What becomes of bytes that are sent one way.
struct Way {
    cut: AtomicBool,
    /// Bytes until it is cut.
    left: AtomicUsize,
}

impl Proxy {
    /// # Panics
    /// No port is free.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address");
        let (way, to) = (Arc::new(Way::open()), address.to_owned());
        let heard = way.clone();
        std::thread::spawn(move || {
            for inward in listener.incoming().map_while(Result::ok) {
                let Ok(outward) = TcpStream::connect(&to) else {
                    continue;
                };
                let (back_from, back_to) = (outward.try_clone(), inward.try_clone());
                std::thread::spawn({
                    let heard = heard.clone();
                    move || pass(inward, outward, &heard)
                });
                if let (Ok(from), Ok(to)) = (back_from, back_to) {
                    std::thread::spawn(move || pass(from, to, &Way::open()));
                }
            }
        });
        Self { address: own, way }
    }

    /// From now on nothing arrives that is sent to the proxy; what comes back still does.
    pub fn cut(&self) {
        self.way.cut.store(true, SeqCst);
    }

    /// Cuts once so many further bytes have come.
    pub fn cut_after(&self, bytes: usize) {
        self.way.left.store(bytes, SeqCst);
    }

    pub fn is_cut(&self) -> bool {
        self.way.cut.load(SeqCst)
    }

    /// Passes on again what new connections are told; those of before have lost bytes.
    pub fn mend(&self) {
        self.way.left.store(usize::MAX, SeqCst);
        self.way.cut.store(false, SeqCst);
    }
}

impl Way {
    fn open() -> Self {
        Self {
            cut: AtomicBool::new(false),
            left: AtomicUsize::new(usize::MAX),
        }
    }

    /// Whether it is cut, now that so many bytes have come.
    fn is_cut_after(&self, bytes: usize) -> bool {
        let less = |left: usize| Some(left.saturating_sub(bytes));
        if self
            .left
            .fetch_update(SeqCst, SeqCst, less)
            .is_ok_and(|left| left <= bytes)
        {
            self.cut.store(true, SeqCst);
        }
        self.cut.load(SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, way: &Way) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 || (!way.is_cut_after(n) && to.write_all(&bytes[..n]).is_err()) {
            break;
        }
    }
    if !way.cut.load(SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
    }
}
