//! The kernel's log, watched for damaged layers from the start of the boot on.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::verity_watch::{BadBlock, parse_record};

/// A record of /dev/kmsg has at most this many bytes (kernel: PRINTKRB_RECORD_MAX with its escapes).
const RECORD: usize = 8192;

/// Starts to watch; each damaged block is told once. Without a kernel log the channel stays silent.
pub(super) fn watch() -> mpsc::Receiver<BadBlock> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        if let Err(error) = follow(&sender).await {
            tracing::warn!(%error, "the kernel's log is not watched");
        }
        // The receiver must not see an end: select would turn without a pause.
        std::future::pending::<()>().await;
        drop(sender);
    });
    receiver
}

async fn follow(sender: &mpsc::Sender<BadBlock>) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg")?;
    let file = AsyncFd::register_with_interest(file, Interest::READABLE)?;
    let mut seen = std::collections::HashSet::new();
    let mut buffer = vec![0; RECORD];
    loop {
        let mut ready = file.readable().await?;
        let read = ready.try_io(|file: &AsyncFd<File>| {
            let mut file: &File = file.get_ref();
            file.read(&mut buffer)
        });
        match read {
            Ok(Ok(length)) => {
                if let Some(bad) = parse_record(&buffer[..length])
                    && seen.len() < 100_000
                    && seen.insert(bad)
                {
                    let _ = sender.try_send(bad);
                }
            }
            // EPIPE: records were overwritten before they were read; the next read goes on.
            Ok(Err(error)) if error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
