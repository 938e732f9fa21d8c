//! What encryption takes of an exchange of gradients: `cargo bench --bench exchange [ROUNDS]`.
//!
//! Two workers add up the gradients of an adapter of rank 16 on q, k, v and o of an 8B model, over
//! loopback: as a process group does, and by the same messages on a plain connection, in turn. Both
//! ends run on this machine, so it takes both ends' share of the work.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Instant;

use candle_core::{Device, Tensor};
use qlora_config::Layers;
use qlora_planner::find;
use qlora_trainer::process_group::{ProcessGroup, sum_of};
use qlora_worker::process_group::{Member, Rendezvous, join};

const MODEL: &str = "llama-3.1-8b-instruct";
const ROUNDS: usize = 15;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Elements of the gradients.
fn elements() -> Result<usize> {
    let set = [
        format!("model.base={MODEL}"),
        "data.train=none".into(),
        "lora.r=16".into(),
        "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]".into(),
    ];
    let layers = Layers {
        set: set.into(),
        ..Layers::default()
    };
    let entry = find(MODEL).ok_or("no such model")?;
    let config = layers.resolve()?;
    Ok(entry.shape.adapter_parameters(&config.config().lora))
}

/// Messages with their lengths, as in a process group, on a plain connection.
struct Plain(TcpStream);

impl Plain {
    fn send(&mut self, tensor: &Tensor) -> Result<()> {
        let values = tensor.to_vec1::<f32>()?;
        let words: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0.write_all(&(words.len() as u64).to_le_bytes())?;
        Ok(self.0.write_all(&words)?)
    }

    fn receive(&mut self) -> Result<Tensor> {
        let mut length = [0; 8];
        self.0.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        let mut words = Vec::with_capacity(length.min(1 << 20) as usize);
        (&self.0).take(length).read_to_end(&mut words)?;
        let values = words
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Tensor::from_iter(values, &Device::Cpu)?)
    }

    fn sum(&mut self, rank: usize, own: &Tensor) -> Result<Tensor> {
        if rank > 0 {
            self.send(own)?;
            return self.receive();
        }
        let sum = sum_of(&[own.clone(), self.receive()?])?;
        self.send(&sum)?;
        Ok(sum)
    }
}

/// Seconds of each round of one worker, encrypted and plain.
fn rounds(
    rank: usize,
    (mut group, mut plain): (impl ProcessGroup, Plain),
    (rounds, elements): (usize, usize),
    begin: &Barrier,
) -> Result<[Vec<f64>; 2]> {
    let own = Tensor::full(rank as f32 + 0.5, elements, &Device::Cpu)?;
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        begin.wait();
        let start = Instant::now();
        let encrypted = group.sum(&own)?;
        seconds[0].push(start.elapsed().as_secs_f64());
        begin.wait();
        let start = Instant::now();
        let sum = plain.sum(rank, &own)?;
        seconds[1].push(start.elapsed().as_secs_f64());
        assert_eq!(encrypted.get(7)?.to_scalar::<f32>()?, 2.0);
        assert_eq!(sum.get(7)?.to_scalar::<f32>()?, 2.0);
    }
    Ok(seconds)
}

/// Seconds of each round of the worker that waits for the sum, encrypted and plain.
fn measure(of: (usize, usize)) -> Result<[Vec<f64>; 2]> {
    let plain = TcpListener::bind("127.0.0.1:0")?;
    let (port, begin) = (plain.local_addr()?.port(), &Barrier::new(2));
    let (tell, told) = mpsc::channel();
    let member = |rank| Member {
        rank,
        world_size: 2,
        port: 0,
    };
    thread::scope(|scope| {
        let first = scope.spawn(move || {
            let (_, nobody) = mpsc::channel();
            let tell = |listening: qlora_worker::process_group::Listening| {
                let found = Rendezvous {
                    addresses: vec![format!("127.0.0.1:{}", listening.port)],
                    secret: listening.secret,
                };
                // Who is told is at the other end of this function.
                let _ = tell.send(found);
                Ok(())
            };
            let group = join(member(0), tell, &nobody)?;
            let (stream, _) = plain.accept()?;
            stream.set_nodelay(true)?;
            rounds(0, (group, Plain(stream)), of, begin)
        });
        let group = join(member(1), |_| Ok(()), &told)?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let seconds = rounds(1, (group, Plain(stream)), of, begin)?;
        first.join().map_err(|_| "the first worker broke")??;
        Ok(seconds)
    })
}

fn main() -> Result<()> {
    // Cargo adds `--bench` to what it was told.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let count = words.next().map_or(Ok(ROUNDS), |word| word.parse())?;
    let elements = elements()?;
    let [mut encrypted, mut plain] = measure((count.max(1), elements))?;
    let mut ratios: Vec<f64> = encrypted.iter().zip(&plain).map(|(e, p)| e / p).collect();
    let middle = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let megabytes = 4.0 * elements as f64 / 1e6;
    println!("{elements} elements, {megabytes:.1} MB each way; the median of {count} rounds");
    println!("encrypted {:7.1} ms", 1e3 * middle(&mut encrypted));
    println!("plain     {:7.1} ms", 1e3 * middle(&mut plain));
    println!("ratio     {:7.2}", middle(&mut ratios));
    Ok(())
}
