//! What passes through a connection whose ends have agreed on keys.
//!
//! How they know each other is in `tls`, what the words mean in `link`.

use std::io::{BufRead, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

use rustix::net::{RecvFlags, recv};
use rustls::Connection;

/// What is read and written through the `end` of a connection that passes over `stream`.
pub struct Words<'a, S> {
    pub end: &'a mut Connection,
    pub stream: &'a mut S,
}

impl<S: Read + Write> Read for Words<'_, S> {
    fn read(&mut self, words: &mut [u8]) -> Result<usize> {
        loop {
            match self.end.reader().read(words) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.end.complete_io(self.stream)?;
        }
    }
}

impl<S: Read + Write> Write for Words<'_, S> {
    fn write(&mut self, words: &[u8]) -> Result<usize> {
        // What has been taken is sent once: whoever is told of an interruption gives it again.
        let taken = self.end.writer().write(words)?;
        while self.end.wants_write() {
            match self.end.write_tls(self.stream) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.flush()
    }
}

/// A connection whose both ends know each other.
#[derive(Debug)]
pub struct Channel {
    stream: TcpStream,
    end: Mutex<Connection>,
}

impl Channel {
    pub fn new(stream: TcpStream, end: Connection) -> Self {
        Self {
            stream,
            end: Mutex::new(end),
        }
    }

    /// Does `work` with what is read and written here.
    fn with<T>(&self, work: impl FnOnce(Words<'_, &TcpStream>) -> T) -> T {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        work(Words {
            end: &mut end,
            stream: &mut &self.stream,
        })
    }

    /// Whether the next words that arrived are `words`, which were written at once and alone.
    /// Waits for nothing and takes nothing away; words that have not arrived are not these.
    pub fn is_next(&self, words: &[u8]) -> bool {
        // Who holds the end waits for the next words itself.
        let Ok(mut end) = self.end.try_lock() else {
            return false;
        };
        loop {
            match end.reader().fill_buf() {
                Ok(next) => return next == words,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            // A connection that broke is noticed by whoever waits for words.
            let mut arrived = Arrived(&self.stream);
            let more = matches!(end.read_tls(&mut arrived), Ok(bytes) if bytes > 0);
            if !more || end.process_new_packets().is_err() {
                return false;
            }
        }
    }
}

impl Read for &Channel {
    fn read(&mut self, words: &mut [u8]) -> Result<usize> {
        self.with(|mut here| here.read(words))
    }
}

impl Write for &Channel {
    fn write(&mut self, words: &[u8]) -> Result<usize> {
        self.with(|mut here| here.write(words))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What has arrived of a stream, and no waiting for more.
struct Arrived<'a>(&'a TcpStream);

impl Read for Arrived<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let (read, _) = recv(self.0, bytes, RecvFlags::DONTWAIT)?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::super::tls::Ends;
    use super::*;

    /// A connection of this machine, with both of its ends.
    fn connection() -> [(TcpStream, Connection); 2] {
        let ends = Ends::new(&[7; 32]).expect("ends");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut there = TcpStream::connect(address).expect("a connection");
        let (mut here, _) = listener.accept().expect("a connection");
        let (first, other) = thread::scope(|scope| {
            let first = scope.spawn(|| ends.first(&mut here).expect("keys"));
            let other = ends.other(&mut there).expect("keys");
            (first.join().expect("a thread"), other)
        });
        [(here, first), (there, other)]
    }

    /// Writes little at a time, and is interrupted before each time.
    struct Interrupted<'a> {
        stream: &'a TcpStream,
        writes: usize,
    }

    impl Read for Interrupted<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
            self.stream.read(bytes)
        }
    }

    impl Write for Interrupted<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.writes += 1;
            match self.writes % 2 {
                0 => self.stream.write(&bytes[..bytes.len().min(100)]),
                _ => Err(ErrorKind::Interrupted.into()),
            }
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_written_through_interruptions_arrives_once() {
        let [(here, mut first), (there, other)] = connection();
        let said: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
        let mut stream = Interrupted {
            stream: &here,
            writes: 0,
        };
        let mut words = Words {
            end: &mut first,
            stream: &mut stream,
        };
        words.write_all(&said).expect("words");
        words.write_all(b"the end").expect("words");
        assert!(stream.writes > 80, "{} writes", stream.writes);
        let mut heard = vec![0; said.len() + 7];
        let mut channel = &Channel::new(there, other);
        channel.read_exact(&mut heard).expect("words");
        assert!(heard == [&said[..], b"the end"].concat());
    }

    /// Takes nothing.
    struct Full;

    impl Read for Full {
        fn read(&mut self, _: &mut [u8]) -> Result<usize> {
            Ok(0)
        }
    }

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> Result<usize> {
            Ok(0)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_takes_nothing_is_not_written_to_for_ever() {
        let [(_, mut first), _] = connection();
        let mut words = Words {
            end: &mut first,
            stream: &mut Full,
        };
        let fault = words.write(b"words").expect_err("nothing was taken");
        assert_eq!(fault.kind(), ErrorKind::WriteZero);
    }
}
