//! What a device is like for those who feed it and keep tensors on it.

/// A device, beside its element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceProperties {
    /// Its tensors lie in host memory, where the program reads them in place: there is nothing to
    /// offload to.
    pub in_host_memory: bool,
    /// Its products read a table in the form that a file has it in; others want one element type.
    pub tables_as_stored: bool,
    /// Its work is queued: operations return before they are done.
    pub runs_behind: bool,
    /// Several threads may put weights on it at one time.
    pub loads_in_parallel: bool,
}
