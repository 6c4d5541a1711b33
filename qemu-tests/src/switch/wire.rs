//! The thread that carries frames: one epoll loop over QEMU's datagram sockets and at most one tap device.
//!
//! A link is a pair of Unix datagram sockets, one path for each direction. One frame is one datagram.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::fabric::{Counters, Edit, Egress, Fabric, Port, PortConfig};
use super::frame::{self, MAX_FRAME};

/// Frames taken from one port before the others get their turn.
const BATCH: usize = 64;
/// Delayed frames held at once: one second of a busy 100 Mbit/s link. Further ones are dropped.
const MAX_DELAYED: usize = 8192;
/// Epoll's name for the stop event; ports are numbered from zero.
const STOP: u64 = u64::MAX;

/// What went wrong when a switch was set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket, tap device or epoll call failed.
    #[error("switch: cannot {action} {target}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn fail<E: Into<io::Error>>(action: &'static str, target: impl ToString) -> impl FnOnce(E) -> Error {
    let target = target.to_string();
    move |source| Error::Io { action, target, source: source.into() }
}

enum Link {
    Tap(SyncDevice),
    Socket { socket: UnixDatagram, peer: PathBuf },
}

impl Link {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tap(device) => device.recv(buffer),
            Self::Socket { socket, .. } => socket.recv(buffer),
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tap(device) => device.send(frame),
            Self::Socket { socket, peer } => socket.send_to(frame, peer),
        }
    }
}

/// A frame that waits for its latency. Ordered by time, then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    due: Instant,
    order: u64,
    port: Port,
    frame: Vec<u8>,
}

struct State {
    fabric: Fabric,
    links: Vec<Option<Link>>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    order: u64,
}

struct Shared {
    state: Mutex<State>,
    epoll: Epoll,
    stop: EventFd,
}

impl Shared {
    /// Lets the thread know when a link has frames. The link owns its descriptor for as long as it is in `links`, and
    /// closing it ends the watch.
    fn watch(&self, link: &Link, port: Port) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, port.0 as u64);
        let watched = match link {
            Link::Tap(device) => borrow(device, |fd| self.epoll.add(fd, event)),
            Link::Socket { socket, .. } => self.epoll.add(socket.as_fd(), event),
        };
        watched.map_err(fail("watch", "port"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters and tables usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running switch. Dropping it stops the thread and closes the links.
pub struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts a switch without ports. The seed decides which frames a lossy port loses.
    ///
    /// # Errors
    /// When the kernel refuses epoll, an eventfd or a thread.
    pub fn start(seed: u64) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail("create", "epoll"))?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(fail("create", "eventfd"))?;
        epoll
            .add(stop.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))
            .map_err(fail("watch", "eventfd"))?;
        let state =
            State { fabric: Fabric::new(seed), links: Vec::new(), delayed: BinaryHeap::new(), order: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), epoll, stop });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || run(&worker))
            .map_err(fail("start", "thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Adds a port whose other end is the tap device `name`, made now in the current network namespace.
    ///
    /// # Errors
    /// When the device cannot be made.
    pub fn add_tap(&self, name: &str, config: PortConfig) -> Result<Port, Error> {
        self.add(Link::Tap(tap(name)?), config)
    }

    /// Adds a port into which a device is plugged later, again and again.
    #[must_use]
    pub fn add_outlet(&self, config: PortConfig) -> Outlet {
        let mut state = self.shared.lock();
        let port = state.fabric.add(config);
        state.links.push(None);
        Outlet { shared: Arc::clone(&self.shared), port }
    }

    /// Adds a port: the switch receives at `local` (made now; an old socket there is removed) and sends to `peer`, which may
    /// come and go.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn add_socket(&self, local: &Path, peer: &Path, config: PortConfig) -> Result<Port, Error> {
        match std::fs::remove_file(local) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail("remove", local.display())(error));
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(local).map_err(fail("bind", local.display()))?;
        socket.set_nonblocking(true).map_err(fail("use", local.display()))?;
        self.add(Link::Socket { socket, peer: peer.to_owned() }, config)
    }

    fn add(&self, link: Link, config: PortConfig) -> Result<Port, Error> {
        let mut state = self.shared.lock();
        let port = state.fabric.add(config);
        self.shared.watch(&link, port)?;
        state.links.push(Some(link));
        Ok(port)
    }

    /// Changes a port's settings: cut, loss, latency, VLAN. Unknown ports are ignored.
    pub fn configure(&self, port: Port, change: impl FnOnce(&mut PortConfig)) {
        let mut state = self.shared.lock();
        if let Some(config) = state.fabric.config(port) {
            change(config);
        }
    }

    /// Cuts a link, or mends it. What was learnt at the port is forgotten.
    pub fn cut(&self, port: Port, cut: bool) {
        self.configure(port, |config| config.cut = cut);
        self.shared.lock().fabric.forget(port);
    }

    /// A port's counters.
    #[must_use]
    pub fn counters(&self, port: Port) -> Counters {
        self.shared.lock().fabric.counters(port)
    }
}

fn borrow<T>(device: &impl AsFd, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    call(device.as_fd())
}

/// A tap device of this name in the current thread's network namespace. It goes when it is dropped.
///
/// # Errors
/// When the device cannot be made.
pub fn tap(name: &str) -> Result<SyncDevice, Error> {
    let device = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .packet_information(false)
        .build_sync()
        .map_err(fail("make tap device", name))?;
    device.set_nonblocking(true).map_err(fail("use tap device", name))?;
    Ok(device)
}

/// A port of the switch into which a tap device is plugged.
#[derive(Clone)]
pub struct Outlet {
    shared: Arc<Shared>,
    port: Port,
}

impl Outlet {
    /// The port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Plugs a device in, in place of one that is there.
    ///
    /// # Errors
    /// When the kernel does not let it be watched.
    pub fn plug(&self, device: SyncDevice) -> Result<(), Error> {
        self.replace(None);
        let link = Link::Tap(device);
        self.shared.watch(&link, self.port)?;
        self.replace(Some(link));
        Ok(())
    }

    /// Takes the device out, and with it out of its network namespace. What was learnt at the port is forgotten.
    pub fn unplug(&self) {
        self.replace(None);
    }

    fn replace(&self, link: Option<Link>) {
        let mut state = self.shared.lock();
        state.fabric.forget(self.port);
        if let Some(place) = state.links.get_mut(self.port.0) {
            *place = link;
        }
    }
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // The only failure is a full counter, which wakes the thread as well.
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch").field("stop", &self.shared.stop.as_raw_fd()).finish_non_exhaustive()
    }
}

fn run(shared: &Shared) {
    let mut events = [EpollEvent::empty(); 32];
    let mut buffers =
        Buffers { frame: vec![0; MAX_FRAME + 1], edited: Vec::with_capacity(MAX_FRAME), out: Vec::new() };
    loop {
        let timeout = shared.lock().next_due(Instant::now());
        let count = match shared.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(_) => return,
        };
        let mut state = shared.lock();
        for event in &events[..count] {
            if event.data() == STOP {
                return;
            }
            state.drain(Port(event.data() as usize), &mut buffers);
        }
        state.deliver_due(Instant::now());
    }
}

struct Buffers {
    frame: Vec<u8>,
    edited: Vec<u8>,
    out: Vec<Egress>,
}

impl State {
    fn next_due(&self, now: Instant) -> EpollTimeout {
        let Some(Reverse(first)) = self.delayed.peek() else { return EpollTimeout::NONE };
        let wait = first.due.saturating_duration_since(now);
        // Round up: waking a millisecond early would spin.
        let millis = u16::try_from(wait.as_millis() + u128::from(!wait.is_zero())).unwrap_or(u16::MAX);
        EpollTimeout::from(millis)
    }

    fn drain(&mut self, port: Port, buffers: &mut Buffers) {
        for _ in 0..BATCH {
            let Some(Some(link)) = self.links.get(port.0) else { return };
            let Ok(length) = link.receive(&mut buffers.frame) else { return };
            let now = Instant::now();
            let frame = &buffers.frame[..length];
            self.fabric.forward(frame, port, now, &mut buffers.out);
            for egress in &buffers.out {
                let bytes = match egress.edit {
                    Edit::Keep => frame,
                    Edit::Untag => {
                        frame::untag(frame, &mut buffers.edited);
                        &buffers.edited
                    }
                    Edit::Tag(vlan) => {
                        frame::tag(frame, vlan, &mut buffers.edited);
                        &buffers.edited
                    }
                };
                if egress.delay == Duration::ZERO {
                    send(&self.links, &mut self.fabric, egress.port, bytes);
                } else if self.delayed.len() < MAX_DELAYED {
                    self.order += 1;
                    self.delayed.push(Reverse(Delayed {
                        due: now + egress.delay,
                        order: self.order,
                        port: egress.port,
                        frame: bytes.to_vec(),
                    }));
                } else {
                    self.fabric.overrun(egress.port);
                }
            }
        }
    }

    fn deliver_due(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|Reverse(first)| first.due <= now) {
            if let Some(Reverse(delayed)) = self.delayed.pop() {
                send(&self.links, &mut self.fabric, delayed.port, &delayed.frame);
            }
        }
    }
}

/// A receiver that is full or switched off loses the frame, as on a real wire.
fn send(links: &[Option<Link>], fabric: &mut Fabric, port: Port, frame: &[u8]) {
    let Some(Some(link)) = links.get(port.0) else { return };
    if link.send(frame).is_err() {
        fabric.overrun(port);
    }
}
