//! The base layer, built for real.
#![allow(clippy::unwrap_used)]

use cairn_image::layer::{self, Options, lock, recipe};
use cairn_image::toolbox::Toolbox;

fn say(line: &str) {
    eprintln!("{line}");
}

fn base() -> (recipe::Recipe, Option<lock::Lock>) {
    let recipe = recipe::parse(include_str!("../recipes/base.toml")).unwrap();
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/base.lock"));
    (recipe, lock.ok().map(|text| lock::parse(&text).unwrap()))
}

/// Two builds from nothing but the cached packages: two minutes, so not with every `cargo test`.
#[test]
#[ignore = "builds a whole Debian root twice; run by `make soak`"]
fn the_base_layer_is_the_same_bytes_twice() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let (recipe, lock) = base();
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let fresh = dir.path().join(name);
            std::fs::create_dir(&fresh).unwrap();
            let options = Options { lock: lock.clone(), fresh: Some(fresh), ..Options::default() };
            layer::build(&toolbox, &recipe, &options, &say).unwrap().image
        })
        .collect();
    let (one, two) = (std::fs::read(&images[0]).unwrap(), std::fs::read(&images[1]).unwrap());
    assert!(one.len() > 20_000_000 && one.len() < 180_000_000, "{} bytes", one.len());
    assert!(one == two, "first difference at byte {:?}", one.iter().zip(&two).position(|(a, b)| a != b));
}

/// What the agent relies on when it hands over.
#[test]
#[ignore = "builds a whole Debian root; run by `make soak`"]
fn the_base_layer_has_what_the_agent_needs() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let (recipe, lock) = base();
    let built = layer::build(&toolbox, &recipe, &Options { lock, ..Options::default() }, &say).unwrap();
    eprintln!("{} {} bytes", built.image.display(), built.length);
}
