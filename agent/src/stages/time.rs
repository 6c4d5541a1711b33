//! `time`: a signed time from the controller, before the first certificate's dates are judged.

use std::path::Path;
use std::sync::Arc;

use cairn_protocol::heartbeat::Severity;
use cairn_protocol::stage::Stage;

use crate::engine::{Outcome, Trouble};
use crate::report::read_json;
use crate::uplink::Uplink;
use crate::worker::context::Context;

/// A machine's clock that is off by more than this is worth a line: batteries die, and certificates of a day would be
/// judged wrongly by it.
const WORTH_A_LINE: u64 = 24 * 3600;

/// One controller has this part of a try's time limit (10 s): what hangs must not keep the node from the next one.
const SHARE: u32 = 3;

/// The last trusted time that was kept in `dir` (`time.json`); 0 where there is none.
pub fn last_time(dir: &Path) -> u64 {
    read_json(&dir.join("time.json")).unwrap_or(0)
}

/// Keeps the trusted time: the floor of the next boot.
pub(crate) fn keep_time(context: &Context) {
    // A machine's own clock may be years ahead: nothing below it would be believed ever after.
    if !context.clock.is_trusted() {
        return;
    }
    let now = context.clock.now().to_string();
    let _ = crate::durable::write(&context.paths.in_run("time.json"), now.as_bytes());
    if context.has_state() {
        let _ = crate::durable::write(&context.paths.state().join("time.json"), now.as_bytes());
    }
}

/// The controllers to try, best first: a seed's, the command line's, a lease's, the image's. The pin decides whether any
/// of them is believed.
fn controllers(context: &Context) -> Vec<String> {
    let seed = context.seed.iter().flat_map(|seed| seed.controllers.clone());
    let lease = context.network.iter().flat_map(|network| network.status().controllers);
    let image = context.settings().into_iter().flat_map(|settings| settings.controllers.clone());
    let mut list: Vec<String> = Vec::new();
    for url in seed.chain(context.cmdline.controllers.clone()).chain(image).chain(lease) {
        let url = url.trim_end_matches('/').to_owned();
        if !list.contains(&url) && list.len() < 16 {
            list.push(url);
        }
    }
    list
}

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    let pin = match &context.trust {
        Ok(trust) => trust.pin,
        Err(error) => {
            return Outcome::Wait(Trouble::waiting(error.clone(), "build the image with a trust directory"));
        }
    };
    let uplink = Arc::new(Uplink::new(controllers(context), pin, Arc::clone(&context.clock)));
    // Counted before the try: the walk may cut it off at its time limit.
    let first = context.searches;
    context.searches = context.searches.wrapping_add(1);
    let patience = crate::engine::time_limit(Stage::Time, context.speed()) / SHARE;
    match uplink.search(first, patience).await {
        Ok(time) => {
            if let Some(outcome) = believe(context, time) {
                return outcome;
            }
            uplink.judge_dates();
            super::network::reached(context);
            context.report.update(|facts| facts.controller = uplink.current());
            context.uplink = Some(uplink);
            keep_time(context);
            Outcome::Done
        }
        Err(error) => {
            super::network::take_turns(context).await;
            Outcome::Wait(super::trouble(&error))
        }
    }
}

/// Takes a signed time; refuses one below the floor.
fn believe(context: &mut Context, time: u64) -> Option<Outcome> {
    let floor = context.clock.floor();
    if time < floor {
        return Some(Outcome::Wait(Trouble::refused(
            "clock-unbelievable",
            format!("the controller says it is {}, this node has seen {} already", date(time), date(floor)),
            "set the controller's clock; the node tries again by itself",
        )));
    }
    let machine = context.clock.machine();
    context.clock.trust(time);
    if machine.abs_diff(time) > WORTH_A_LINE {
        let line = format!(
            "this machine's clock says {}, the signed time is {}: the signed time holds; look at the machine's battery",
            date(machine),
            date(time)
        );
        context.console.say(
            Stage::Time,
            cairn_protocol::console::Said::Refused {
                code: "clock-unbelievable".to_owned(),
                line: line.clone(),
            },
        );
        context.spool.event(&context.clock, Stage::Time, Severity::Warning, "clock-unbelievable", &line);
    }
    // The clock of a container is its host's.
    if !context.options.hosted
        && context.container.is_none()
        && machine.abs_diff(time) > 1
        && let Err(error) = cairn_sys::clock::set(time)
    {
        context.console.note(Stage::Time, error.to_string());
    }
    None
}

/// A time as people read it, UTC (days to civil: H. Hinnant's algorithm, chrono-compatible low-level date algorithms).
pub(crate) fn date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (unix_seconds % 86_400 / 3600, unix_seconds % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_people_read_them() {
        for (time, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_827_640, "2000-02-29 12:34 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (4_102_444_800, "2100-01-01 00:00 UTC"),
        ] {
            assert_eq!(date(time), text);
        }
    }
}
