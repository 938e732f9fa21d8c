//! A hub of models that answers as the real one does, and stands still in the middle of an answer
//! when it is told to.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::json;

/// Serves the files of a folder as those of every repository.
pub struct Hub {
    /// What `HF_ENDPOINT` is to be.
    pub url: String,
    desk: Arc<Desk>,
}

struct Desk {
    folder: PathBuf,
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    /// Bytes of an answer after which it stands still; with 0 not even its head is sent.
    still_after: Option<usize>,
    /// Answers that stand still.
    standing: usize,
    /// Files that were asked for, and from which byte on.
    asked: Vec<(String, usize)>,
}

impl Hub {
    /// # Panics
    /// No port is free.
    pub fn of(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let desk = Arc::new(Desk {
            folder: folder.into(),
            orders: Mutex::default(),
            changed: Condvar::new(),
        });
        let at_desk = desk.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let desk = at_desk.clone();
                // Who asks may leave in the middle of an answer.
                std::thread::spawn(move || desk.answer(stream));
            }
        });
        Self {
            url: format!("http://{address}"),
            desk,
        }
    }

    /// From now on every answer stands still after so many bytes.
    pub fn stand_still_after(&self, bytes: usize) {
        self.desk.orders().still_after = Some(bytes);
    }

    /// Whether an answer stands still.
    pub fn stands_still(&self) -> bool {
        self.desk.orders().standing > 0
    }

    /// Answers go on.
    pub fn go_on(&self) {
        self.desk.orders().still_after = None;
        self.desk.changed.notify_all();
    }

    /// From which bytes on `file` was asked for.
    pub fn asked(&self, file: &str) -> Vec<usize> {
        let orders = self.desk.orders();
        let of_file = orders.asked.iter().filter(|(asked, _)| asked == file);
        of_file.map(|(_, from)| *from).collect()
    }
}

impl Desk {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the one request of a connection; none where who asks has left.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let request = request(&mut stream)?;
        let path = request.split(' ').nth(1)?;
        if path.starts_with("/api/models/") {
            let list = self.list().to_string();
            return self.send(&mut stream, "200 OK", list.as_bytes());
        }
        let file = path.rsplit('/').next()?;
        let Ok(bytes) = fs::read(self.folder.join(file)) else {
            return self.send(&mut stream, "404 Not Found", b"");
        };
        let from = begin(&request);
        self.orders().asked.push((file.to_owned(), from));
        let status = if from == 0 {
            "200 OK"
        } else {
            "206 Partial Content"
        };
        self.send(&mut stream, status, bytes.get(from..)?)
    }

    fn list(&self) -> serde_json::Value {
        let files = fs::read_dir(&self.folder).expect("a folder");
        let entry = |file: fs::DirEntry| {
            let size = file.metadata().expect("a size").len();
            json!({"type": "file", "path": file.file_name().to_string_lossy(), "size": size})
        };
        files.filter_map(Result::ok).map(entry).collect()
    }

    fn send(&self, stream: &mut TcpStream, status: &str, body: &[u8]) -> Option<()> {
        let still_after = self.orders().still_after;
        if still_after == Some(0) {
            self.stand_still();
        }
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let first = still_after.unwrap_or(length).min(length);
        stream.write_all(&body[..first]).ok()?;
        if first < length && first > 0 {
            self.stand_still();
        }
        stream.write_all(&body[first..]).ok()
    }

    fn stand_still(&self) {
        let mut orders = self.orders();
        orders.standing += 1;
        let waiting = |orders: &mut Orders| orders.still_after.is_some();
        let waited = self.changed.wait_while(orders, waiting);
        orders = waited.unwrap_or_else(PoisonError::into_inner);
        orders.standing -= 1;
    }
}

/// The head of a request.
fn request(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// The byte from which on a request wants a file.
fn begin(request: &str) -> usize {
    let lower = request.to_lowercase();
    let range = lower.split_once("range: bytes=");
    let start = range.and_then(|(_, range)| range.split_once('-')?.0.parse().ok());
    start.unwrap_or(0)
}
