//! Telling systemd how the service is (sd_notify(3)): one datagram to `$NOTIFY_SOCKET`.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The notification socket of the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// Looks for `$NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    ///
    /// # Errors
    /// When the variable is set and cannot be used.
    pub fn from_env() -> io::Result<Option<Self>> {
        let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return Ok(None) };
        Self::new(&name).map(Some)
    }

    fn new(name: &str) -> io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok(Self { socket: UnixDatagram::unbound()?, address })
    }

    fn send(&self, state: &str) -> io::Result<()> {
        self.socket.send_to_addr(state.as_bytes(), &self.address).map(drop)
    }

    /// The service is up.
    ///
    /// # Errors
    /// As the socket's.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1")
    }

    /// The service is alive; within half of [`watchdog_interval`].
    ///
    /// # Errors
    /// As the socket's.
    pub fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    /// One line for `systemctl status`.
    ///
    /// # Errors
    /// As the socket's.
    pub fn status(&self, line: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", cairn_protocol::limits::clean_text(line)))
    }

    /// The service ends.
    ///
    /// # Errors
    /// As the socket's.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }
}

/// How often systemd wants a sign of life (`$WATCHDOG_USEC`, for `$WATCHDOG_PID` or any), if it does.
pub fn watchdog_interval() -> Option<Duration> {
    if let Ok(pid) = std::env::var("WATCHDOG_PID")
        && pid.parse() != Ok(std::process::id())
    {
        return None;
    }
    let micros = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(server: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn states_arrive_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("cairn-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (server, address) in [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))]
        {
            let notifier = Notifier::new(&address).unwrap();
            notifier.ready().unwrap();
            assert_eq!(received(&server), "READY=1");
            notifier.status("two\nlines").unwrap();
            assert_eq!(received(&server), "STATUS=two lines");
        }
    }
}
