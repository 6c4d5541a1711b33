//! Packet sockets (packet(7)): DHCP and ARP have to be spoken before a link has an address.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void, socklen_t};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One instruction of a classic BPF filter: code, jump if true, jump if false, operand (linux/filter.h).
pub type Instruction = (u16, u8, u8, u32);

/// Filters longer than this are refused: ours have a dozen instructions, the kernel takes 4096 (BPF_MAXINSNS).
const FILTER_MAX: usize = 64;

/// A non-blocking packet socket on one link. The link header is the kernel's business (`SOCK_DGRAM`).
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    ifindex: c_int,
    ethertype: u16,
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer; a longer packet was cut.
    pub length: usize,
    /// Whether the packet was longer than the buffer.
    pub cut: bool,
    /// Whether the sender left the transport checksum to hardware that this packet never reached: it is then not
    /// filled in and must not be judged (`TP_STATUS_CSUMNOTREADY`).
    pub checksum_missing: bool,
}

impl PacketSocket {
    /// Opens a socket for packets of `ethertype` (linux/if_ether.h) on link `ifindex`. The filter is in place before
    /// the socket is bound, so that no packet gets around it.
    ///
    /// # Errors
    /// As socket(2), setsockopt(2) and bind(2); `InvalidInput` for a filter of more than 64 instructions.
    pub fn open(ifindex: u32, ethertype: u16, filter: &[Instruction]) -> io::Result<Self> {
        let ifindex = c_int::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
        if filter.is_empty() || filter.len() > FILTER_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers. Protocol 0 receives nothing until bind(2).
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: `raw` was just returned by socket(2) and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut program: Vec<_> =
            filter.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &(1 as c_int))?;
        let socket = Self { fd, ifindex, ethertype };
        let address = socket.address([0; 6]);
        // SAFETY: `address` is a sockaddr_ll and the length is its size.
        check(unsafe {
            libc::bind(raw, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as socklen_t)
        })?;
        Ok(socket)
    }

    /// Hands the socket to the current tokio runtime, which tells when there is something to receive.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by `self`, private and never replaced, so it is open and the same one for
        // as long as the `AsyncFd` holds `self`.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(io::Error::from)
    }

    fn address(&self, mac: [u8; 6]) -> libc::sockaddr_ll {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = self.ethertype.to_be();
        address.sll_ifindex = self.ifindex;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&mac);
        address
    }

    /// Sends `payload` to `mac`.
    ///
    /// # Errors
    /// As sendto(2); `ENETDOWN` when the link is down.
    pub fn send(&self, mac: [u8; 6], payload: &[u8]) -> io::Result<()> {
        let address = self.address(mac);
        // SAFETY: pointer and length of a live slice; `address` is a sockaddr_ll of the given size.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                libc::MSG_NOSIGNAL,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one packet into `buffer`, from the network header on.
    ///
    /// # Errors
    /// As recvmsg(2); `WouldBlock` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // Room for one tpacket_auxdata message; aligned for cmsghdr by the u64s.
        let mut control = [0_u64; 8];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() };
        // SAFETY: all zeros is a valid msghdr.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: `message` points to live buffers of the lengths it names.
        let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut checksum_missing = false;
        // SAFETY: the kernel filled `message`; CMSG_* stay inside msg_controllen.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            // SAFETY: `header` is a cmsghdr inside `control`, by CMSG_FIRSTHDR or CMSG_NXTHDR; its data is read
            // unaligned, after its length was checked.
            unsafe {
                let room = libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) as usize;
                if (*header).cmsg_level == libc::SOL_PACKET
                    && (*header).cmsg_type == libc::PACKET_AUXDATA
                    && (*header).cmsg_len as usize >= room
                {
                    let data = libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                    checksum_missing = data.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        Ok(Received { length, cut: message.msg_flags & libc::MSG_TRUNC != 0, checksum_missing })
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_option<T>(fd: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives across the call and the length is its size.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as socklen_t,
        )
    })?;
    Ok(())
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
