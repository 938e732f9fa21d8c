//! Sums over several GPUs by NCCL, each of them another process's or thread's.
//!
//! Its functions are looked up when a group of GPUs is made, so neither a program that trains on
//! one GPU nor the linker needs NCCL. Every GPU sends each other GPU the part of the vector that is
//! that one's to sum, adds up what it received in the order of [`pairwise`], and sends the sum to
//! all. As many bytes travel as in a ring, and the order of the sum does not depend on the paths
//! that NCCL finds.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use candle_core::{CudaDevice, Device, Tensor};
use libloading::os::unix::Library;

use super::buffer::{Input, finish};
use super::libraries::{self, MissingLibrary};
use super::rows;
use crate::pairwise::pairwise;

const LIBRARY: &str = "libnccl.so.2";
const PACKAGE: &str = "libnccl2";
const FLOAT32: c_int = 7;

/// Bytes of NCCL's unique id (`NCCL_UNIQUE_ID_BYTES`), by which a group is known.
const INVITATION: usize = 128;

#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([c_char; INVITATION]);

type Comm = *mut c_void;
type Status = c_int;

/// The functions of `nccl.h` that are used here.
struct Functions {
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> Status,
    abort: unsafe extern "C" fn(Comm) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, *mut c_void) -> Status,
    receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> Status,
    all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void) -> Status,
    /// Holds them.
    _library: Library,
}

/// Why GPUs cannot be made a group, or have ceased to be one.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    #[error(transparent)]
    Library(#[from] MissingLibrary),
    #[error("NCCL cannot {action}: {fault}")]
    Failed { action: &'static str, fault: String },
    #[error(transparent)]
    Tensors(#[from] candle_core::Error),
}

impl Functions {
    /// Those of NCCL, which is loaded once and never unloaded: making an id starts a thread of
    /// NCCL's that outlives the call.
    fn get() -> Result<&'static Self, MissingLibrary> {
        static LOADED: OnceLock<Functions> = OnceLock::new();
        match LOADED.get() {
            Some(functions) => Ok(functions),
            None => Self::load().map(|functions| LOADED.get_or_init(|| functions)),
        }
    }

    fn load() -> Result<Self, MissingLibrary> {
        let library = libraries::open(LIBRARY).map_err(|fault| MissingLibrary::Library {
            library: LIBRARY,
            package: PACKAGE,
            fault,
        })?;
        // SAFETY: the types are those of nccl.h, which keeps them over all versions 2.
        macro_rules! function {
            ($name:literal) => {
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| MissingLibrary::Function {
                    library: LIBRARY,
                    function: $name,
                })?
            };
        }
        Ok(Self {
            unique_id: function!("ncclGetUniqueId"),
            init_rank: function!("ncclCommInitRank"),
            abort: function!("ncclCommAbort"),
            error: function!("ncclGetErrorString"),
            group_start: function!("ncclGroupStart"),
            group_end: function!("ncclGroupEnd"),
            send: function!("ncclSend"),
            receive: function!("ncclRecv"),
            all_gather: function!("ncclAllGather"),
            _library: library,
        })
    }

    fn check(&self, action: &'static str, status: Status) -> Result<(), NcclError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: NCCL gives a text that stays, for any number.
        let text = unsafe { CStr::from_ptr((self.error)(status)) };
        Err(NcclError::Failed {
            action,
            fault: text.to_string_lossy().into_owned(),
        })
    }
}

/// What the first GPU of a new group sends to the others.
pub fn invite() -> Result<Vec<u8>, NcclError> {
    let functions = Functions::get()?;
    let mut id = UniqueId([0; INVITATION]);
    // SAFETY: NCCL writes as many bytes as its type has.
    functions.check("start", unsafe { (functions.unique_id)(&mut id) })?;
    Ok(id.0.iter().map(|&byte| byte as u8).collect())
}

/// A GPU's place in a group.
pub(crate) struct Group {
    functions: &'static Functions,
    comm: Comm,
    device: CudaDevice,
    rank: usize,
    size: usize,
}

// SAFETY: NCCL takes calls from any thread, one at a time, which `&mut` sees to.
unsafe impl Send for Group {}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GPU {} of {}", self.rank, self.size)
    }
}

impl Group {
    /// Joins the group of `invitation`; waits until all `size` have.
    ///
    /// # Errors
    /// NCCL is missing, or the GPUs cannot reach each other.
    pub fn join(
        invitation: &[u8],
        rank: usize,
        size: usize,
        device: &Device,
    ) -> Result<Self, NcclError> {
        let functions = Functions::get()?;
        let failed = |fault| NcclError::Failed {
            action: "join",
            fault,
        };
        let Device::Cuda(device) = device else {
            return Err(failed(format!("{device:?} is no GPU")));
        };
        let invitation: [u8; INVITATION] = invitation
            .try_into()
            .map_err(|_| failed(format!("an invitation of {} bytes", invitation.len())))?;
        let id = UniqueId(invitation.map(|byte| byte as c_char));
        device.cuda_stream().context().bind_to_thread().w()?;
        let mut comm = std::ptr::null_mut();
        // SAFETY: the context of the GPU is this thread's, and NCCL writes a handle.
        functions.check("join", unsafe {
            (functions.init_rank)(&mut comm, size as c_int, id, rank as c_int)
        })?;
        Ok(Self {
            functions,
            comm,
            device: device.clone(),
            rank,
            size,
        })
    }

    /// The sum of everyone's `vector` [n], in `f32`, the same bits for everyone.
    ///
    /// It is queued on the GPU's stream: wait for that before this group is dropped, which aborts what
    /// is still queued.
    pub fn sum(&mut self, vector: &Tensor) -> Result<Tensor, NcclError> {
        let n = vector.elem_count();
        let each = n.div_ceil(self.size);
        let padded = rows::join(&[vector], each * self.size)?;
        let parts = self.exchange(&padded, each)?;
        let part = |i: usize| parts.narrow(0, i * each, each);
        let sum = pairwise(0..self.size, &mut { part }, &mut |a, b| rows::add(&a, &b))?;
        Ok(self.hand_round(&sum, each)?.narrow(0, 0, n)?)
    }

    /// Everyone's part of `each` elements for this GPU, in the order of ranks.
    fn exchange(&mut self, vector: &Tensor, each: usize) -> Result<Tensor, NcclError> {
        let (input, mut out) = (Input::of(vector)?, self.room(each * self.size)?);
        let slice = input.slice::<f32>()?;
        let stream = self.device.cuda_stream();
        let ((from, _read), (to, _written)) =
            (slice.device_ptr(&stream), out.device_ptr_mut(&stream));
        let f = self.functions;
        // SAFETY: both buffers hold `each` elements for every rank, and live until the stream has
        // come past this: they are freed on it.
        let queued = unsafe {
            f.check("group", (f.group_start)())?;
            let all = (0..self.size).try_for_each(|peer| {
                let at = (peer * each * size_of::<f32>()) as u64;
                let raw = stream.cu_stream().cast();
                let sent = (f.send)(
                    (from + at) as *const c_void,
                    each,
                    FLOAT32,
                    peer as c_int,
                    self.comm,
                    raw,
                );
                f.check("send", sent)?;
                f.check(
                    "receive",
                    (f.receive)(
                        (to + at) as *mut c_void,
                        each,
                        FLOAT32,
                        peer as c_int,
                        self.comm,
                        raw,
                    ),
                )
            });
            // What was begun is ended, whatever came in between.
            all.and(f.check("exchange", (f.group_end)()))
        };
        drop((_read, _written));
        queued?;
        Ok(finish(out, self.device.clone(), each * self.size)?)
    }

    /// Everyone's `part` of `each` elements, in the order of ranks.
    fn hand_round(&mut self, part: &Tensor, each: usize) -> Result<Tensor, NcclError> {
        let (input, mut out) = (Input::of(part)?, self.room(each * self.size)?);
        let slice = input.slice::<f32>()?;
        let stream = self.device.cuda_stream();
        let ((from, _read), (to, _written)) =
            (slice.device_ptr(&stream), out.device_ptr_mut(&stream));
        let raw = stream.cu_stream().cast();
        // SAFETY: as in `exchange`.
        let status = unsafe {
            (self.functions.all_gather)(
                from as *const c_void,
                to as *mut c_void,
                each,
                FLOAT32,
                self.comm,
                raw,
            )
        };
        drop((_read, _written));
        self.functions.check("hand round", status)?;
        Ok(finish(out, self.device.clone(), each * self.size)?)
    }

    fn room(&self, n: usize) -> Result<CudaSlice<f32>, NcclError> {
        // SAFETY: NCCL writes every number.
        Ok(unsafe { self.device.alloc::<f32>(n)? })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's own. Others may be gone, so nothing is waited for.
        unsafe { (self.functions.abort)(self.comm) };
    }
}
