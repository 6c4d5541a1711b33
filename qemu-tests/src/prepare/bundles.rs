//! Bundles beside the release: built and signed only for racks that name them, into a repository of their own, so that the
//! racks without them publish no more than they need.

use std::path::{Path, PathBuf};

use cairn_image::layer::{recipe, stack};

use super::stamp::Stamp;
use super::{Call, Error, Prepared, Step, Tools, call, run_told};
use crate::dirs::fail;
use crate::spec::Bundle;

/// zstd's level for their chunks: a kubernetes layer has 800 MB, which the publisher's level would take ten minutes for.
const LEVEL: &str = "6";

/// Name of a set of bundles, for its repository's folder: the recipes and versions, not what is in them.
pub(super) fn key(bundles: &[Bundle]) -> String {
    let stamp = bundles.iter().fold(Stamp::new("bundles"), |stamp, bundle| {
        stamp.text(&bundle.recipe.to_string_lossy()).text(bundle.version.as_deref().unwrap_or_default())
    });
    stamp.digest()[..12].to_owned()
}

/// What a bundle is made of: its recipe, and all that the recipe names.
fn inputs(bundle: &Bundle, tools: &Tools) -> Result<Stamp, Error> {
    let path = &bundle.recipe;
    let mut stamp =
        Stamp::new("further bundle").text(LEVEL).text(bundle.version.as_deref().unwrap_or_default());
    stamp = stamp.file(path)?.file(&tools.cairnctl)?;
    let lock = path.with_extension("lock");
    if lock.exists() {
        stamp = stamp.file(&lock)?;
    }
    let text = std::fs::read_to_string(path).map_err(fail("read", path))?;
    if text.len() <= recipe::RECIPE_BYTES && stack::recipe::is_stack(&text) {
        // What is wrong with the recipe, its build says.
        let sources = stack::recipe::parse(&text).map(|recipe| {
            recipe.sources().into_iter().map(|source| path.with_file_name(source)).collect::<Vec<PathBuf>>()
        });
        for source in sources.unwrap_or_default() {
            stamp = stamp.tree(&source)?;
        }
    }
    Ok(stamp)
}

/// Builds what changed, and puts `prepared`'s repository together from the release's and the bundles. `release`: what the
/// release was made of.
pub(super) fn prepare(
    prepared: &Prepared,
    tools: &Tools,
    release: &Stamp,
    bundles: &[Bundle],
    say: &dyn Fn(&str),
) -> Result<(), Error> {
    let root = &prepared.root;
    let s = |path: &Path| path.to_string_lossy().into_owned();
    let mut all = release.clone();
    let mut built = Vec::new();
    for bundle in bundles {
        let name = format!("bundle-{}", key(std::slice::from_ref(bundle)));
        let out = root.join(&name);
        let made_of = inputs(bundle, tools)?;
        all = all.text(&made_of.digest());
        let told = |line: &str| say(&format!("{}: {line}", bundle.recipe.display()));
        let step = Step { root, name, say };
        step.run_with(
            &made_of,
            &[&out],
            || {
                let mut words = vec![
                    "bundle".to_owned(),
                    "build".to_owned(),
                    s(&bundle.recipe),
                    "--out".to_owned(),
                    s(&out),
                ];
                words.extend(["--level", LEVEL].map(str::to_owned));
                words.extend(
                    bundle
                        .version
                        .iter()
                        .flat_map(|version| ["--bundle-version".to_owned(), version.clone()]),
                );
                vec![Call { program: tools.cairnctl.clone(), words }]
            },
            &|call, log| run_told(&call.program, &call.words, log, &told),
        )?;
        built.push(out);
    }
    let (repo, keys) = (prepared.repository(), prepared.keys());
    let step = Step { root, name: format!("release-{}", key(bundles)), say };
    step.run(&all, &[&repo], || {
        let from = s(&root.join("repo"));
        let copy = Call {
            program: PathBuf::from("cp"),
            words: vec!["-a".to_owned(), "--reflink=auto".to_owned(), from, s(&repo)],
        };
        let add = |out: &PathBuf| {
            call(&tools.cairnctl, &["bundle", "add", &s(out), "--keys", &s(&keys), "--repo", &s(&repo)])
        };
        std::iter::once(copy).chain(built.iter().map(add)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_bundles_has_a_name_of_its_own() {
        let bundle = |recipe: &str, version: Option<&str>| Bundle {
            recipe: PathBuf::from(recipe),
            version: version.map(str::to_owned),
        };
        let one = [bundle("a.toml", None)];
        assert_eq!(key(&one), key(&one.clone()));
        let others = [
            vec![],
            vec![bundle("b.toml", None)],
            vec![bundle("a.toml", Some("1"))],
            vec![bundle("a.toml", None), bundle("b.toml", None)],
        ];
        for other in others {
            assert_ne!(key(&one), key(&other));
        }
    }

    #[test]
    fn whatever_the_recipe_names_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let recipe = file(
            "r/x.toml",
            "format = 1\n[bundle]\nname = \"kubernetes/x\"\nversion = \"1\"\n[layer]\nname = \"x\"\nstacks-on = \"any\"\n\
             [[layer.go]]\nmodule = \"m\"\npackage = \"x.org/y\"\npath = \"/y\"\n\
             [[layer.local]]\nsource = \"l\"\npath = \"/l\"\n",
        );
        let program = file("cairnctl", "");
        let tools = Tools {
            controller: program.clone(),
            cairnctl: program.clone(),
            image: program.clone(),
            agent: program,
        };
        let (deep, local) = (file("r/m/sub/y.go", "1"), file("r/l", "1"));
        let bundle = Bundle { recipe, version: None };
        let digest = || inputs(&bundle, &tools).unwrap().digest();
        let first = digest();
        assert_eq!(digest(), first);
        for path in [deep, local] {
            std::fs::write(&path, "2").unwrap();
            assert_ne!(digest(), first, "{}", path.display());
            std::fs::write(&path, "1").unwrap();
        }
        file("r/x.lock", "format = 1\n");
        assert_ne!(digest(), first);
    }
}
