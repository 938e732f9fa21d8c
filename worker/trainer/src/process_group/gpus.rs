//! The GPUs of a group add up vectors among themselves by NCCL, if all of them have it.

use candle_core::Tensor;
use qlora_kernels::Backend;
use qlora_kernels::backend::Communicator;

use super::ProcessGroup;
use crate::Result;
use crate::stop::StopSignal;

/// `group`, with vectors on the way that is fastest between its devices; and what that way is, in
/// words.
///
/// Everyone has to call this at the same time. Where one cannot join the others, all go the way
/// that `group` has.
pub fn joined<'a>(
    group: &'a mut dyn ProcessGroup,
    backend: &dyn Backend,
) -> Result<(Box<dyn ProcessGroup + 'a>, String)> {
    if group.world_size() == 1 {
        return Ok((Box::new(group), String::new()));
    }
    let offers = group.gather(&written(&offer(group.rank(), backend)))?;
    match all(&offers) {
        Ok(()) => join(group, &offers[0][1..], backend),
        Err(why) => Ok((Box::new(group), over_tcp(&why))),
    }
}

/// What one can do, or why not.
type Said = std::result::Result<Vec<u8>, String>;

fn written(said: &Said) -> Vec<u8> {
    let (mark, words) = match said {
        Ok(words) => (1, words.as_slice()),
        Err(fault) => (0, fault.as_bytes()),
    };
    [&[mark], words].concat()
}

fn over_tcp((rank, fault): &(usize, String)) -> String {
    format!("gradients are added up over TCP: worker {rank} {fault}")
}

/// The first of all that cannot.
fn all(said: &[Vec<u8>]) -> std::result::Result<(), (usize, String)> {
    let fault =
        |words: &[u8]| String::from_utf8_lossy(words.get(1..).unwrap_or_default()).into_owned();
    match said.iter().position(|words| words.first() != Some(&1)) {
        Some(rank) => Err((rank, fault(&said[rank]))),
        None => Ok(()),
    }
}

/// The first of a group invites, the others say that they would come.
fn offer(rank: usize, backend: &dyn Backend) -> Said {
    let invitation = backend.invite()?;
    Ok(if rank == 0 { invitation } else { Vec::new() })
}

fn join<'a>(
    group: &'a mut dyn ProcessGroup,
    invitation: &[u8],
    backend: &dyn Backend,
) -> Result<(Box<dyn ProcessGroup + 'a>, String)> {
    let rank = group.rank();
    let joined = backend
        .join(invitation, rank, group.world_size())
        .map_err(|e| (rank, format!("cannot join the others ({e})")));
    let own = joined
        .as_ref()
        .map(|_| Vec::new())
        .map_err(|(_, fault)| fault.clone());
    let said = group.gather(&written(&own))?;
    Ok(match all(&said).and(joined) {
        Ok(gpus) => (
            Box::new(Gpus { words: group, gpus }),
            "gradients are added up by NCCL".into(),
        ),
        Err(why) => (Box::new(group), over_tcp(&why)),
    })
}

/// Words go their own way, vectors from GPU to GPU.
struct Gpus<'a> {
    words: &'a mut dyn ProcessGroup,
    gpus: Box<dyn Communicator>,
}

impl ProcessGroup for Gpus<'_> {
    fn rank(&self) -> usize {
        self.words.rank()
    }

    fn world_size(&self) -> usize {
        self.words.world_size()
    }

    fn gather(&mut self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.words.gather(words)
    }

    fn sum(&mut self, vector: &Tensor) -> Result<Tensor> {
        self.gpus
            .sum(vector)
            .map_err(|fault| crate::Error::Peer { fault })
    }

    fn stop_signal(&self) -> StopSignal {
        self.words.stop_signal()
    }

    fn interrupt(&mut self) -> Result<()> {
        self.words.interrupt()
    }
}

impl ProcessGroup for &mut dyn ProcessGroup {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world_size(&self) -> usize {
        (**self).world_size()
    }

    fn gather(&mut self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        (**self).gather(words)
    }

    fn sum(&mut self, vector: &Tensor) -> Result<Tensor> {
        (**self).sum(vector)
    }

    fn stop_signal(&self) -> StopSignal {
        (**self).stop_signal()
    }

    fn interrupt(&mut self) -> Result<()> {
        (**self).interrupt()
    }
}
