//! Training processes that work on one job together, as the trainer's [`ProcessGroup`] over TCP.
//!
//! Every process but the first holds one connection, to the first. Every message goes to the first
//! process and from there to all. Gradients travel that way too, unless a library of the devices
//! carries them faster. Connections are encrypted, and both ends know each other by a secret that
//! the coordinator handed out. What NCCL carries is not encrypted: GPUs of several machines belong
//! in a network of their own.
//!
//! A process that ends closes its connections, and the coordinator detects lost machines. A cut
//! connection between two machines is noticed within a minute or two, by TCP keep-alive.

mod channel;
mod handshake;
mod link;
mod rendezvous;
mod tls;

use candle_core::Tensor;
use qlora_trainer::process_group::{ProcessGroup, sum_of};
use qlora_trainer::stop::StopSignal;
use qlora_trainer::{Error, Result};

use self::link::{Link, elements, words};

pub use self::rendezvous::{Listening, Member, Rendezvous, join};

/// A process's way to the others, after the rendezvous.
#[derive(Debug)]
pub enum TcpGroup {
    /// The first one, with a link to every other from rank 1 on.
    First(Vec<Link>),
    Other {
        rank: usize,
        world_size: usize,
        first: Link,
    },
}

impl ProcessGroup for TcpGroup {
    fn rank(&self) -> usize {
        match self {
            Self::First(_) => 0,
            Self::Other { rank, .. } => *rank,
        }
    }

    fn world_size(&self) -> usize {
        match self {
            Self::First(others) => others.len() + 1,
            Self::Other { world_size, .. } => *world_size,
        }
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::First(others) => {
                let mut said = vec![own.to_vec()];
                for other in others.iter_mut() {
                    said.push(other.receive()?);
                }
                for other in others {
                    said.iter().try_for_each(|words| other.send(words))?;
                }
                Ok(said)
            }
            Self::Other {
                world_size, first, ..
            } => {
                first.send(own)?;
                (0..*world_size).map(|_| first.receive()).collect()
            }
        }
    }

    fn sum(&mut self, vector: &Tensor) -> Result<Tensor> {
        let (n, device) = (vector.elem_count(), vector.device());
        let tensor =
            |words: &[u8]| Ok::<_, Error>(Tensor::from_vec(elements(words, n)?, n, device)?);
        match self {
            Self::First(others) => {
                let mut vectors = vec![vector.clone()];
                for other in others.iter_mut() {
                    vectors.push(tensor(&other.receive()?)?);
                }
                let sum = sum_of(&vectors)?;
                let words = words(&sum.to_vec1::<f32>()?);
                others.iter_mut().try_for_each(|other| other.send(&words))?;
                Ok(sum)
            }
            Self::Other { first, .. } => {
                first.send(&words(&vector.to_vec1::<f32>()?))?;
                tensor(&first.receive()?)
            }
        }
    }

    fn stop_signal(&self) -> StopSignal {
        match self {
            Self::First(others) => others
                .iter()
                .map(Link::stop_signal)
                .fold(StopSignal::default(), StopSignal::or),
            Self::Other { first, .. } => first.stop_signal(),
        }
    }

    /// The first one passes it on, when it breaks its own share off.
    fn interrupt(&mut self) -> Result<()> {
        match self {
            Self::First(others) => others.iter_mut().try_for_each(Link::interrupt),
            Self::Other { first, .. } => first.interrupt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use candle_core::Device;
    use qlora_trainer::process_group::unless_stopped;

    use super::rendezvous::{Listener, connect};
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn listener() -> (Listener, String) {
        let listener = Listener::open(0, SECRET).expect("a port");
        let address = format!("127.0.0.1:{}", listener.listening().port);
        (listener, address)
    }

    /// A process group of `world_size` threads, each with what `work` gives.
    fn together<T: Send>(world_size: usize, work: impl Fn(TcpGroup) -> T + Sync) -> Vec<T> {
        let (listener, address) = listener();
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..world_size)
                .map(|rank| {
                    let (work, address) = (&work, address.clone());
                    scope.spawn(move || {
                        work(connect(&[address], &SECRET, rank, world_size).expect("a link"))
                    })
                })
                .collect();
            let first = work(listener.group(world_size).expect("the others"));
            let others = others
                .into_iter()
                .map(|thread| thread.join().expect("a thread"));
            std::iter::once(first).chain(others).collect()
        })
    }

    #[test]
    fn everyone_hears_everyone_in_the_order_of_ranks() {
        let heard = together(3, |mut group| {
            let own = vec![group.rank() as u8; group.rank() * 1000];
            (0..20)
                .map(|_| group.gather(&own).expect("words"))
                .collect::<Vec<_>>()
        });
        for words in heard.iter().flatten() {
            let lengths: Vec<usize> = words.iter().map(Vec::len).collect();
            assert_eq!(lengths, [0, 1000, 2000]);
            assert!(words[2].iter().all(|&byte| byte == 2));
        }
    }

    #[test]
    fn everyone_gets_the_same_bits_of_a_sum_whose_order_matters() {
        let values = |rank: usize| {
            (0..10_001)
                .map(move |i| ((i * 31 + rank * 17) as f32).sin() * 10f32.powi(rank as i32 * 3))
        };
        let sums = together(4, |mut group| {
            let own = Tensor::from_iter(values(group.rank()), &Device::Cpu).expect("a vector");
            group
                .sum(&own)
                .and_then(|sum| Ok(sum.to_vec1::<f32>()?))
                .expect("a sum")
        });
        let each: Vec<Vec<f32>> = (0..4).map(|rank| values(rank).collect()).collect();
        let wanted: Vec<f32> = (0..10_001)
            .map(|i| (each[0][i] + each[1][i]) + (each[2][i] + each[3][i]))
            .collect();
        assert!(sums.iter().all(|sum| *sum == wanted));
    }

    #[test]
    fn one_that_breaks_off_is_heard_by_all_within_their_work_and_nothing_else_is() {
        for interrupts in 0..3 {
            let shares = together(3, |mut group| {
                let (signal, rank) = (group.stop_signal(), group.rank());
                let heard = || {
                    (0..200).any(|_| {
                        signal.check().is_err() || {
                            std::thread::yield_now();
                            false
                        }
                    })
                };
                // Words that wait for one who still works are no interrupt; nobody interrupts
                // before all have looked.
                assert!(
                    group.gather(b"a word").is_ok() && !heard() && group.gather(b"another").is_ok()
                );
                let share = match rank == interrupts {
                    true => Err(Error::Stopped),
                    false => {
                        while signal.check().is_ok() {
                            std::thread::yield_now();
                        }
                        signal.check()
                    }
                };
                let agreed = unless_stopped(&mut group, share);
                let words = group.gather(&[rank as u8]).expect("words");
                (
                    matches!(agreed, Err(Error::Stopped)),
                    words.concat(),
                    signal.check().is_ok(),
                )
            });
            assert!(
                shares
                    .iter()
                    .all(|share| *share == (true, vec![0, 1, 2], true)),
                "{interrupts}: {shares:?}"
            );
        }
        let whole = together(3, |mut group| {
            unless_stopped(&mut group, Ok(5)).expect("the work")
        });
        assert_eq!(whole, [5; 3]);
    }

    #[test]
    fn whoever_ends_is_noticed_by_those_who_wait_for_it() {
        let ended = together(2, |mut group| match group.rank() {
            0 => group.gather(b"").map(drop),
            _ => Ok(()),
        });
        assert!(matches!(&ended[0], Err(Error::Peer { .. })), "{ended:?}");
    }

    #[test]
    fn strangers_are_sent_away_and_do_not_keep_others_out() {
        let (listener, address) = listener();
        let stranger = || std::net::TcpStream::connect(&address).expect("a connection");
        // One who says nothing, one who says nonsense, and one with another secret.
        let (_silent, mut noisy, mut liar) = (stranger(), stranger(), stranger());
        std::io::Write::write_all(&mut noisy, &[0xff; 100]).expect("noise");
        std::thread::scope(|scope| {
            let group = scope.spawn(|| listener.group(2).map(|group| group.world_size()));
            let other = tls::Ends::new(&[8; 32]).expect("another secret");
            let refused = other.other(&mut liar).expect_err("it is no way in");
            assert!(
                refused.to_string().contains("does not know the secret"),
                "{refused}"
            );
            connect(std::slice::from_ref(&address), &SECRET, 1, 2).expect("a link");
            assert_eq!(group.join().expect("a thread").expect("the other one"), 2);
        });
    }

    #[test]
    fn who_listens_with_another_secret_is_not_taken_for_the_first_worker() {
        let impostor = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = impostor.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = impostor.accept().expect("a connection");
                let other = tls::Ends::new(&[8; 32]).expect("another secret");
                other
                    .first(&mut stream)
                    .expect_err("the one who connects goes away");
            });
            let fault = connect(&[address], &SECRET, 1, 2)
                .expect_err("an impostor")
                .to_string();
            assert!(fault.contains("does not know the secret"), "{fault}");
        });
    }

    /// Carries what one end of a connection says to the other; gives it, once it has ended.
    fn overheard(from: &TcpStream, to: &TcpStream) -> Vec<u8> {
        let (mut all, mut next) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(n @ 1..) = (&*from).read(&mut next) {
            all.extend_from_slice(&next[..n]);
            if (&*to).write_all(&next[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        all
    }

    #[test]
    fn what_travels_is_not_readable() {
        let (listener, address) = listener();
        let between = TcpListener::bind("127.0.0.1:0").expect("a port");
        let found = between.local_addr().expect("an address").to_string();
        let own = |rank: usize| format!("gradients of {rank}, ").repeat(1500).into_bytes();
        let heard = std::thread::scope(|scope| {
            let spy = scope.spawn(|| {
                let (other, _) = between.accept().expect("a connection");
                let first = TcpStream::connect(&address).expect("the first one");
                std::thread::scope(|both| {
                    let said = both.spawn(|| overheard(&first, &other));
                    [overheard(&other, &first), said.join().expect("a thread")]
                })
            });
            let other = scope.spawn(|| {
                connect(&[found], &SECRET, 1, 2)
                    .and_then(|mut group| group.gather(&own(1)))
                    .expect("words")
            });
            let mut group = listener.group(2).expect("the other one");
            let words = group.gather(&own(0)).expect("words");
            assert_eq!(words, [own(0), own(1)]);
            assert_eq!(other.join().expect("a thread"), words);
            drop(group);
            spy.join().expect("a thread")
        });
        for said in heard {
            assert!(said.len() > 20_000, "{} bytes were heard", said.len());
            let readable = said.windows(9).any(|part| part == b"gradients");
            assert!(!readable, "words travel as they are");
        }
    }

    #[test]
    fn of_several_addresses_the_one_that_answers_is_taken_and_where_none_does_the_error_names_them()
    {
        let closed = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port")
            .to_string();
        let (listener, address) = listener();
        std::thread::scope(|scope| {
            let other = scope
                .spawn(|| connect(&[closed.clone(), address.clone()], &SECRET, 1, 2).map(drop));
            listener.group(2).expect("the other one");
            other.join().expect("a thread").expect("a link");
        });
        let nowhere = connect(std::slice::from_ref(&closed), &SECRET, 1, 2)
            .expect_err("nobody is there")
            .to_string();
        assert!(
            nowhere.contains(&closed) && nowhere.contains("--peer-address"),
            "{nowhere}"
        );
    }
}
