//! `handover`: layers stacked, the agent's binary and unit carried over, PID 1 told to switch the root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_disk::generation::Store;
use cairn_disk::layer::{self, Depth, Layer, LayerError};
use cairn_disk::root::{self, RootPlan};
use cairn_protocol::console::Said;
use cairn_protocol::heartbeat::Severity;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::stage::Stage;

use super::disks;
use crate::control::Message;
use crate::engine::{Outcome, Trouble};
use crate::release::Release;
use crate::report::{read_json, write_json};
use crate::running::{self, Running};
use crate::worker::context::{Chosen, Context};

/// Where the new root is put together.
const NEW_ROOT: &str = "/newroot";
/// Its init.
const INIT: &str = "/sbin/init";
/// Modules of the stack.
const MODULES: [&str; 5] = ["loop", "dm-mod", "dm-verity", "erofs", "overlay"];
/// Boots in a row that did not become healthy after which every block of every layer is read before the next: damage in
/// what systemd needs to start leaves no agent to notice it.
const UNPROVEN: u32 = 2;
/// Where boots are counted, on STATE.
pub(crate) const BOOTS: &str = "unproven-boots.json";

/// The unit of the service, written for each boot: the agent belongs to the image, not to the base layer.
const UNIT: &str = "[Unit]
Description=Cairn Edge Agent
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/run/cairn/agent service
Restart=always
RestartSec=2
WatchdogSec=180
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
";

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    if context.options.hosted {
        return Outcome::Done;
    }
    let begun = crate::clock::since_boot();
    match hand_over(context, begun).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => Outcome::Wait(trouble),
    }
}

async fn hand_over(context: &mut Context, begun: Duration) -> Result<(), Trouble> {
    let again = |what: &str| {
        Trouble::waiting(format!("{what} is not there"), "it is looked for again").from(Stage::Devices)
    };
    let chosen = context.chosen.clone().ok_or_else(|| again("an installed generation"))?;
    let release = context.release.clone().ok_or_else(|| again("the verified release"))?;
    let accepted = context.assignment.clone().ok_or_else(|| again("the assignment"))?;
    if let Some(modules) = &mut context.modules {
        for name in MODULES {
            modules.request(name);
        }
    }
    let state = context.paths.state();
    let boots = count_boot(&state);
    let layers_dir = context.paths.data().join("layers");
    let layers = stack(&release, &layers_dir);
    let plan = RootPlan {
        at: PathBuf::from(NEW_ROOT),
        scratch: context.paths.in_run("etc"),
        layers: layers.iter().map(|layer| mount_point(context, layer)).collect(),
        stack: stack_name(&layers),
        state: state.clone(),
        data: context.paths.data(),
        persist_etc: persist_etc(&release),
        hostname: Some(accepted.assignment.node.to_string()),
    };
    let depth = if boots > UNPROVEN { Depth::Full } else { Depth::Quick };
    if depth == Depth::Full {
        let line = "the last boots did not become healthy: every block of every layer is read";
        context.tell(Stage::Handover, Severity::Warning, "layers-read", line);
    }
    let work = (layers.clone(), plan.clone());
    let in_container = context.container.is_some();
    let prepared = super::blocking(move || prepare(&work.0, &work.1, depth, in_container)).await?;
    match prepared {
        Ok(()) => {}
        Err(Failure::Layer(bad)) => return Err(damaged(context, &chosen, &bad.0, &bad.1)),
        Err(Failure::Disk(error)) => {
            let _ = root::dismantle(&plan);
            return Err(disks::trouble(&error));
        }
    }
    let running = tell_service(context, &chosen, &release);
    carry_agent(context)
        .and_then(|()| if in_container { crate::container::configure(Path::new("/run")) } else { Ok(()) })
        .map_err(|error| {
            Trouble::waiting(format!("the agent cannot be carried over: {error}"), "it is tried again")
        })?;
    if chosen.count {
        let store = Store::open(&state).map_err(|e| disks::trouble(&e))?;
        let left = store.count_try(&running.id).map_err(|e| disks::trouble(&e))?;
        context
            .console
            .note(Stage::Handover, format!("generation {} is on trial, {left} more boots", running.id));
    }
    nix::unistd::sync();
    context.report.finished(Stage::Handover, crate::clock::since_boot().saturating_sub(begun));
    context.console.say(Stage::Handover, Said::Done);
    context.control.send(&Message::Handover { root: NEW_ROOT.to_owned(), init: INIT.to_owned() });
    // PID 1 ends this process within seconds.
    tokio::time::sleep(Duration::from_secs(30)).await;
    Err(Trouble::waiting("the handover did not come", "see PID 1's lines above; it is tried again"))
}

enum Failure {
    Layer(Box<(LayerError, Layer)>),
    Disk(Box<cairn_disk::error::DiskError>),
}

/// Checks, attaches and stacks the layers. What an earlier try of this boot attached is used.
fn prepare(layers: &[Layer], plan: &RootPlan, depth: Depth, in_container: bool) -> Result<(), Failure> {
    for (layer, at) in layers.iter().zip(&plan.layers) {
        let bad = |error| Failure::Layer(Box::new((error, layer.clone())));
        layer::check(layer, depth).map_err(bad)?;
        if cairn_disk::mounts::is_mount_point(at) {
            continue;
        }
        if in_container {
            layer::attach_plain(layer, at).map_err(bad)?;
        } else {
            layer::attach(layer, at).map_err(bad)?;
        }
    }
    let disk = |error| Failure::Disk(Box::new(error));
    root::dismantle(plan).map_err(disk)?;
    root::prepare(plan).map_err(disk).map(drop)
}

/// A layer whose bytes are wrong: a generation on trial fails; a good one is mended from the controller. The damaged file
/// becomes a begun download, so that only its damaged chunks are fetched.
fn damaged(context: &mut Context, chosen: &Chosen, error: &LayerError, layer: &Layer) -> Trouble {
    let Some(code) = error.code() else {
        return Trouble::waiting(error.to_string(), error.advice());
    };
    let partial = context.paths.data().join("partial");
    let _ = fs::create_dir_all(&partial);
    if let Some(stem) = layer.file.file_stem() {
        let _ = fs::rename(&layer.file, partial.join(format!("{}.part", stem.to_string_lossy())));
        let _ = fs::remove_file(&layer.tree);
    }
    let trouble = Trouble::refused(code, error.to_string(), error.advice());
    if chosen.count
        && let Ok(store) = Store::open(&context.paths.state())
    {
        let _ = store.fail(&chosen.stored.generation.id, &error.to_string());
        context.chosen = None;
        return trouble.from(Stage::Devices);
    }
    context.chosen = None;
    context.assignment = None;
    trouble.from(Stage::Network)
}

/// The layers of a release as cairn-disk wants them, the base first.
fn stack(release: &Release, dir: &Path) -> Vec<Layer> {
    let order = running::layers(release);
    let components: Vec<_> = release.bundles.iter().flat_map(|bundle| &bundle.manifest.components).collect();
    order
        .iter()
        .filter_map(|wanted| components.iter().find(|component| component.sha256 == wanted.sha256))
        .filter_map(|component| Layer::of_component(component, dir))
        .collect()
}

fn mount_point(context: &Context, layer: &Layer) -> PathBuf {
    context.paths.in_run("layers").join(&layer.name)
}

/// A name for this very stack.
fn stack_name(layers: &[Layer]) -> String {
    let roots: Vec<u8> = layers.iter().flat_map(|layer| layer.root_hash.0).collect();
    Sha256Digest::of(&roots).to_string()
}

fn persist_etc(release: &Release) -> Vec<String> {
    let components = release.bundles.iter().flat_map(|bundle| &bundle.manifest.components);
    components.filter_map(|c| c.layer.as_ref()).flat_map(|layer| layer.persist.etc.iter().cloned()).collect()
}

/// Counts boots that have not proven themselves; the service sets it back once it is healthy.
fn count_boot(state: &Path) -> u32 {
    let file = state.join(BOOTS);
    let boots = read_json::<u32>(&file).unwrap_or(0).saturating_add(1);
    let _ = crate::durable::write(&file, boots.to_string().as_bytes());
    boots
}

/// What the service has to know.
fn tell_service(context: &Context, chosen: &Chosen, release: &Release) -> Running {
    let own = context.settings().map(|settings| settings.image_version.clone()).unwrap_or_default();
    let stored =
        Store::open(&context.paths.state()).and_then(|store| store.list()).map(|listing| listing.stored);
    let id = &chosen.stored.generation.id;
    let has_fallback = stored.is_ok_and(|stored| {
        stored.iter().any(|one| {
            one.generation.id != *id && one.status.phase == cairn_protocol::generation::Phase::Committed
        })
    });
    let accepted = context.assignment.as_ref();
    let running = Running {
        id: id.clone(),
        uki: running::uki_of(release, &own),
        sequence: accepted.map_or(0, |accepted| accepted.assignment.sequence),
        layers: running::layers(release),
        on_trial: chosen.count,
        has_fallback,
        plan: accepted.map(|accepted| accepted.assignment.plan.clone()).unwrap_or_else(running::no_plan),
    };
    write_json(&context.paths.in_run(running::FILE_NAME), &running);
    running
}

/// The binary, its trust, and the unit that starts it.
fn carry_agent(context: &Context) -> std::io::Result<()> {
    let agent = context.paths.in_run("agent");
    let temporary = context.paths.in_run("agent.tmp");
    fs::copy("/proc/self/exe", &temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    fs::rename(&temporary, &agent)?;
    // The image's trust goes along: the base layer knows nothing of the controller.
    let (from, to) = (context.paths.trust(), context.paths.in_run("trust"));
    fs::create_dir_all(&to)?;
    // image.json comes last: where it is, all is there.
    for name in ["root.json", "ca.pin", "image.json"] {
        if from != to && from.join(name).exists() {
            fs::copy(from.join(name), to.join(name))?;
        }
    }
    let units = Path::new("/run/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(units.join("cairn-agent.service"), UNIT)?;
    let link = wants.join("cairn-agent.service");
    if fs::symlink_metadata(&link).is_err() {
        symlink("../cairn-agent.service", &link)?;
    }
    Ok(())
}
