//! For integration tests: a rack with a real controller and a real image, in hand.
//!
//! ```no_run
//! #[test]
//! fn a_node_enrols() {
//!     cairn_lab::scenario::run("a_node_enrols", "waiting.toml", |rack| {
//!         rack.power_on().unwrap();
//!     });
//! }
//! ```

use std::path::{Path, PathBuf};

use cairn_image::toolbox::Turn;

use crate::namespace;
use crate::prepare::{self, Prepared};
use crate::rack::{Options, Rack};
use crate::spec;

/// Runs `body` with the rack of `qemu-tests/racks/<file>`: the site runs, release and plan are with the controller, nodes are off.
/// `name` is the test's own full name; it also names the results folder, `target/lab/<rack>-<name>`, which is kept when the test
/// fails.
///
/// # Panics
/// When anything fails, as a test does.
pub fn run(name: &str, file: &str, body: impl FnOnce(&mut Rack)) {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut spec = spec::load(&home.join("racks").join(file)).unwrap_or_else(|error| panic!("{error}"));
    let address = spec.site.subnet.host(1);
    if !namespace::inside() {
        // Outside: prepare with the host's network; the test runs again inside. What is prepared is everybody's.
        let _turn = Turn::take().unwrap_or_else(|error| panic!("{error}"));
        let recipe = home.join("../image/recipes/base.toml");
        let recipe = spec.site.release.then_some(&*recipe);
        prepare::prepare(address, recipe, &spec.site.bundles, &|line| eprintln!("{line}"))
            .unwrap_or_else(|error| panic!("{error}"));
    }
    namespace::run_test_inside(name, || {
        let prepared = Prepared::locate(address).unwrap_or_else(|error| panic!("{error}"));
        let prepared = prepared.with_bundles(&spec.site.bundles);
        spec.name = format!("{}-{}", spec.name, name.replace("::", "-"));
        let out: PathBuf = home.join("../target/lab");
        let options = Options { out, image: prepared.image(), prepared: Some(prepared), accel: None };
        let mut rack = Rack::start(spec, &options).unwrap_or_else(|error| panic!("{error}"));
        rack.publish().unwrap_or_else(|error| panic!("{error}"));
        body(&mut rack);
        rack.stop();
        let work = rack.dirs().work();
        std::fs::remove_dir_all(&work).unwrap_or_else(|error| panic!("{}: {error}", work.display()));
    });
}
