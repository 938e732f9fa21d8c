//! What NVIDIA's driver reports of a GPU while it works: numbered faults, called Xid, some of which
//! mean that the GPU is broken and not the program on it. It tells on Linux only.

use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use tokio::sync::watch;

use super::faults::Faults;

/// After how long it is looked whether anybody still wants to know.
const WAIT: Duration = Duration::from_secs(2);

/// Faults after which a GPU has to be reset or replaced, as NVIDIA's "Xid Errors" lists them. Those
/// that a program can cause by itself, such as 13 and 31, are not among them.
const BROKEN: [(u64, &str); 9] = [
    (48, "memory lost bits that could not be corrected"),
    (62, "its internal controller halted"),
    (64, "a bad row of memory could not be replaced"),
    (74, "its link to another GPU failed"),
    (79, "it has fallen off the bus"),
    (95, "memory lost bits, and other programs are affected"),
    (119, "its system processor does not answer"),
    (120, "its system processor failed"),
    (140, "memory lost bits that could not be recovered"),
];

/// Follows the GPU of that UUID on a thread of its own, as long as somebody listens. Where the
/// driver does not tell, nothing ever appears.
pub fn follow(id: String) -> Faults {
    let (sender, faults) = watch::channel(None);
    std::thread::spawn(move || match listen(&id, &sender) {
        Ok(()) => {}
        Err(e) => tracing::debug!("the driver does not report faults of {id}: {e}"),
    });
    faults
}

fn listen(id: &str, sender: &watch::Sender<Option<String>>) -> Result<(), NvmlError> {
    let nvml = Nvml::init()?;
    let device = nvml.device_by_uuid(id)?;
    let set = nvml.create_event_set()?;
    let set = device
        .register_events(EventTypes::CRITICAL_XID_ERROR, set)
        .map_err(|e| e.error)?;
    while !sender.is_closed() {
        let fault = match set.wait(WAIT.as_millis() as u32) {
            Ok(event) => event.event_data.as_ref().and_then(meaning),
            Err(NvmlError::Timeout) => None,
            Err(NvmlError::GpuLost) => Some("it has fallen off the bus".to_owned()),
            Err(e) => return Err(e),
        };
        if let Some(fault) = fault {
            sender.send_replace(Some(format!(
                "the GPU is broken: {fault}; reset it or restart the machine"
            )));
            return Ok(());
        }
    }
    Ok(())
}

/// In words, where the GPU is to blame.
fn meaning(xid: &XidError) -> Option<String> {
    let XidError::Value(number) = xid else {
        return None;
    };
    let (_, words) = BROKEN.iter().find(|(broken, _)| broken == number)?;
    Some(format!("{words} (Xid {number})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_of_the_gpu_itself_count() {
        assert_eq!(
            meaning(&XidError::Value(79)).as_deref(),
            Some("it has fallen off the bus (Xid 79)")
        );
        for of_a_program in [13, 31, 43, 45, 94] {
            assert_eq!(meaning(&XidError::Value(of_a_program)), None);
        }
        assert_eq!(meaning(&XidError::Unknown), None);
    }
}
