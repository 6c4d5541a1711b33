//! A reinstall that was ordered while the node runs: kept on STATE (`reinstall.json`) by the service before it reboots,
//! so that the initramfs asks central instead of starting the installation at once.
//!
//! The mark wipes nothing: it only leads to the controller. The disk is made anew when a signed assignment has a larger
//! reinstall number than the disk. While central is away the installation is started again: a node that was told to
//! start over is better up than down.

use std::path::Path;
use std::time::Duration;

use cairn_protocol::plan::Timeouts;
use serde::{Deserialize, Serialize};

use crate::report::read_json;

/// Its name on STATE.
pub const FILE_NAME: &str = "reinstall.json";
/// Boots that one order may lead to the controller. More would be a node that reboots for ever because its initramfs
/// does not reach the controller that its service reaches; an order after that has another number.
pub const BOOTS: u8 = 3;
/// How long one boot asks before it starts what is installed: a switch port with spanning tree takes 30 s, a restart of
/// the controller a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// The mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The reinstall number of the assignment.
    pub reinstall: u64,
    /// Boots that have asked for it.
    pub boots: u8,
    /// Whether the next boot asks.
    pub pending: bool,
}

/// The mark on the STATE mounted at `state`; what cannot be read is none.
pub fn read(state: &Path) -> Option<Order> {
    read_json(&state.join(FILE_NAME))
}

/// Writes the mark, durably.
///
/// # Errors
/// The system's.
pub fn write(state: &Path, order: &Order) -> std::io::Result<()> {
    crate::durable::write(&state.join(FILE_NAME), &serde_json::to_vec(order)?)
}

/// For the service: the mark to write before the reboot for the reinstall number `ordered`; `None` when it led to nothing
/// often enough.
pub fn order(earlier: Option<&Order>, ordered: u64) -> Option<Order> {
    let boots = earlier.filter(|order| order.reinstall == ordered).map_or(0, |order| order.boots);
    (boots < BOOTS).then_some(Order { reinstall: ordered, boots, pending: true })
}

/// For the initramfs: the mark as this boot leaves it, when this boot asks central; `None` when it starts what is
/// installed, a disk of the reinstall number `installed`.
pub fn ask(order: Option<&Order>, installed: u64) -> Option<Order> {
    let order = order?;
    let asks = order.pending && order.reinstall > installed && order.boots < BOOTS;
    asks.then(|| Order { boots: order.boots + 1, ..order.clone() })
}

/// Whether a boot that asks since `begun` has asked long enough. Both are times since the kernel started.
pub fn is_over(begun: Duration, now: Duration, speed: Timeouts) -> bool {
    let patience = if speed == Timeouts::Slow { PATIENCE * 4 } else { PATIENCE };
    now.saturating_sub(begun) >= patience
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(reinstall: u64, boots: u8, pending: bool) -> Order {
        Order { reinstall, boots, pending }
    }

    #[test]
    fn which_boot_asks() {
        let cases = [
            // (mark, the disk's number, boots afterwards when it asks)
            (None, 0, None),
            (Some(mark(1, 0, true)), 0, Some(1)),
            (Some(mark(2, 1, true)), 0, Some(2)),
            (Some(mark(2, 2, true)), 1, Some(3)),
            // Asked often enough.
            (Some(mark(2, 3, true)), 1, None),
            (Some(mark(2, 255, true)), 1, None),
            // Asked in vain: what is installed runs until the service orders it again.
            (Some(mark(2, 1, false)), 1, None),
            // Done, or of an older disk.
            (Some(mark(1, 1, true)), 1, None),
            (Some(mark(1, 0, true)), 2, None),
        ];
        for (order, installed, boots) in cases {
            let asks = ask(order.as_ref(), installed);
            assert_eq!(asks.as_ref().map(|order| order.boots), boots, "{order:?} on {installed}");
            if let (Some(after), Some(before)) = (asks, order) {
                // A cut while it asks: the next boot asks as well.
                assert_eq!((after.reinstall, after.pending), (before.reinstall, true));
            }
        }
    }

    #[test]
    fn what_the_service_marks() {
        let cases = [
            (None, 1, Some(mark(1, 0, true))),
            (Some(mark(1, 1, false)), 1, Some(mark(1, 1, true))),
            (Some(mark(1, 3, false)), 1, None),
            (Some(mark(1, 3, true)), 1, None),
            // A new order begins anew.
            (Some(mark(1, 3, false)), 2, Some(mark(2, 0, true))),
        ];
        for (earlier, ordered, wanted) in cases {
            assert_eq!(order(earlier.as_ref(), ordered), wanted, "{earlier:?} ordered {ordered}");
        }
    }

    #[test]
    fn an_order_ends_even_when_no_boot_reaches_the_controller() {
        let (mut kept, mut boots) = (None, 0);
        while let Some(marked) = order(kept.as_ref(), 7) {
            let asking = ask(Some(&marked), 6).unwrap();
            boots += 1;
            kept = Some(Order { pending: false, ..asking });
        }
        assert_eq!(boots, BOOTS);
        assert_eq!(ask(kept.as_ref(), 6), None);
    }

    #[test]
    fn patience() {
        let s = Duration::from_secs;
        for (now, speed, over) in [
            (189, Timeouts::Fast, false),
            (190, Timeouts::Fast, true),
            (190, Timeouts::Auto, true),
            (190, Timeouts::Slow, false),
            (730, Timeouts::Slow, true),
            (0, Timeouts::Fast, false),
        ] {
            assert_eq!(is_over(s(10), s(now), speed), over, "{now} {speed:?}");
        }
    }

    #[test]
    fn the_mark_is_kept_and_damage_is_no_mark() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()), None);
        write(state.path(), &mark(3, 1, true)).unwrap();
        assert_eq!(read(state.path()), Some(mark(3, 1, true)));
        for bad in ["", "{", "{\"reinstall\":1}", "[]"] {
            std::fs::write(state.path().join(FILE_NAME), bad).unwrap();
            assert_eq!(read(state.path()), None, "{bad:?}");
        }
    }
}
