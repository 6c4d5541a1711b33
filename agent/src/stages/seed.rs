//! The signed seed: taken from a stick, the ESP or an URL; believed only when it hangs on the image's pin.

use cairn_protocol::heartbeat::Severity;
use cairn_protocol::limits;
use cairn_protocol::seed;
use cairn_protocol::stage::Stage;

use crate::uplink;
use crate::worker::context::Context;

/// Takes `bytes` as a seed from `place`. A bad one is refused with one line and an event, and ignored.
pub(super) fn take(context: &mut Context, bytes: &[u8], place: &str) {
    let Some(pin) = context.pin() else { return };
    match seed::open(bytes, pin) {
        Ok((seed, _)) => {
            context.console.note(Stage::Network, format!("seed of site {} from {place}", seed.site));
            context.seed = Some(seed);
        }
        Err(error) => {
            let line = format!("the seed from {place} is ignored: {error}");
            context.console.say(
                Stage::Network,
                cairn_protocol::console::Said::Refused { code: "seed-forged".to_owned(), line: line.clone() },
            );
            context.spool.event(&context.clock, Stage::Network, Severity::Error, "seed-forged", &line);
        }
    }
}

/// Fetches the seed that the kernel's command line names, over plain HTTP: its signature is what counts.
pub(super) async fn from_url(context: &mut Context) {
    let Some(url) = context.cmdline.seed.clone() else { return };
    match uplink::plain_get(&url, "the seed", limits::SEED_BYTES).await {
        Ok(bytes) => take(context, &bytes, &url),
        Err(error) => context.console.note(Stage::Network, format!("no seed: {error}")),
    }
}
