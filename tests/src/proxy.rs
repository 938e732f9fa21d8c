//! A way between two programs that can be cut in one direction, without a word to either end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Listens, and passes on to another address what it is told.
pub struct Proxy {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    /// # Panics
    /// No port is free.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address");
        let (cut, to) = (Arc::new(AtomicBool::new(false)), address.to_owned());
        let heard = cut.clone();
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
                    std::thread::spawn(move || pass(from, to, &AtomicBool::new(false)));
                }
            }
        });
        Self { address: own, cut }
    }

    /// From now on nothing arrives that is sent to the proxy; what comes back still does.
    pub fn cut(&self) {
        self.cut.store(true, SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 || (!cut.load(SeqCst) && to.write_all(&bytes[..n]).is_err()) {
            break;
        }
    }
    if !cut.load(SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
    }
}
