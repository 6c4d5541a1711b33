//! What a stacked layer's recipe may say: what types cannot.

use std::collections::BTreeSet;

use super::super::recipe::{RecipeError, check_mode, check_path, is_word, rule};
use super::recipe::{Cargo, Debian, Go, Image, Parts, Recipe, Url};

/// Images in one recipe; the kubernetes bundle has seven.
const MAX_IMAGES: usize = 128;

pub(super) fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    if recipe.format != 1 {
        return Err(rule("format", format!("{} is not known; this program reads format 1", recipe.format)));
    }
    let layer = &recipe.layer;
    if cairn_protocol::ids::Name::new(&layer.name).is_err() {
        return Err(rule("layer.name", "takes 1 to 63 of a-z, 0-9 and -"));
    }
    // mkfs.erofs takes signed 64-bit seconds; this is the year 9999.
    if layer.epoch > 253_402_300_799 {
        return Err(rule("layer.epoch", "takes seconds since 1970, up to the year 9999"));
    }
    for path in layer.persist.etc.iter().chain(&layer.persist.var) {
        check_path("layer.persist", &format!("/{path}"))?;
    }
    parts("layer", &layer.parts())?;
    if let Some(index) = &recipe.images.index {
        check_path("images.index", index)?;
    }
    if recipe.images.facts.contains_key("images") {
        return Err(rule("images.facts", "\"images\" is the list itself"));
    }
    if recipe.image.len() > MAX_IMAGES {
        return Err(rule("image", format!("has {} entries, up to {MAX_IMAGES} fit", recipe.image.len())));
    }
    let (mut archives, mut references) = (BTreeSet::new(), BTreeSet::new());
    for one in &recipe.image {
        image(one)?;
        if !archives.insert(&one.archive) || !references.insert(&one.reference) {
            return Err(rule("image", format!("{} or {} is there twice", one.reference, one.archive)));
        }
    }
    Ok(())
}

fn image(image: &Image) -> Result<(), RecipeError> {
    let at = format!("image {}", image.reference);
    let plain = |text: &str, more: &[u8]| {
        !text.is_empty()
            && !text.starts_with(['-', '.', '/'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let tag = image.reference.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    if !plain(&image.reference, b"-._/:")
        || !image.reference.contains('/')
        || tag.is_none_or(|tag| !plain(tag, b"-._"))
    {
        return Err(rule(at, "ref takes a full name with a tag, such as example.org/name:1.0"));
    }
    if !plain(&image.archive, b"-._") || !image.archive.ends_with(".tar") {
        return Err(rule(at, "archive takes a file name that ends in .tar"));
    }
    if image.entrypoint.is_empty() {
        return Err(rule(at, "entrypoint names the program that is started"));
    }
    let lines = image.entrypoint.iter().chain(&image.env);
    if lines.clone().any(|word| word.chars().any(char::is_control))
        || image.env.iter().any(|word| !word.contains('='))
    {
        return Err(rule(at, "entrypoint and env take words without control characters; env NAME=value"));
    }
    let number = |text: &str| text.parse::<u32>().is_ok();
    if let Some(user) = &image.user
        && !user.split_once(':').map_or(number(user), |(user, group)| number(user) && number(group))
    {
        return Err(rule(at, "user takes numbers: 65534 or 65534:65534"));
    }
    parts(&at, &image.parts())
}

fn parts(at: &str, parts: &Parts<'_>) -> Result<(), RecipeError> {
    for path in parts.directories {
        check_path(&format!("{at}: directories"), path)?;
    }
    for file in parts.files {
        check_path(&format!("{at}: file.path"), &file.path)?;
        check_mode(&file.path, &file.mode)?;
    }
    for link in parts.links {
        check_path(&format!("{at}: link.path"), &link.path)?;
        if link.target.is_empty() || link.target.chars().any(char::is_control) {
            return Err(rule(format!("target of {}", link.path), "is empty or has control characters"));
        }
    }
    parts.go.iter().try_for_each(|part| go(at, part))?;
    parts.cargo.iter().try_for_each(|part| cargo(at, part))?;
    parts.debian.map_or(Ok(()), |part| debian(at, part))?;
    parts.url.iter().try_for_each(|part| url(at, part))?;
    for part in parts.local {
        check_path(&format!("{at}: local.path"), &part.path)?;
        check_mode(&part.path, &part.mode)?;
        relative(&format!("{at}: local.source"), &part.source)?;
    }
    Ok(())
}

fn go(at: &str, go: &Go) -> Result<(), RecipeError> {
    check_path(&format!("{at}: go.path"), &go.path)?;
    relative(&format!("{at}: go.module"), &go.module)?;
    let plain = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/~+:=".contains(&b))
    };
    if !plain(&go.package) {
        return Err(rule(format!("{at}: go.package"), format!("{:?} is not a package path", go.package)));
    }
    // They become one word of the linker's flags each, which Go splits at spaces.
    if let Some((name, value)) =
        go.set.iter().find(|(name, value)| !plain(name) || name.contains('=') || !plain(value))
    {
        return Err(rule(
            format!("{at}: go.set"),
            format!("{name:?} = {value:?} takes a variable and a plain word"),
        ));
    }
    if let Some(tag) = go.tags.iter().find(|tag| !plain(tag)) {
        return Err(rule(format!("{at}: go.tags"), format!("{tag:?} is not a build tag")));
    }
    Ok(())
}

fn cargo(at: &str, cargo: &Cargo) -> Result<(), RecipeError> {
    check_path(&format!("{at}: cargo.path"), &cargo.path)?;
    relative(&format!("{at}: cargo.folder"), &cargo.folder)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if cargo.bin.is_empty() || cargo.bin.starts_with('-') || !cargo.bin.bytes().all(plain) {
        return Err(rule(format!("{at}: cargo.bin"), format!("{:?} is not a binary's name", cargo.bin)));
    }
    Ok(())
}

fn debian(at: &str, debian: &Debian) -> Result<(), RecipeError> {
    if !is_word(&debian.suite) {
        return Err(rule(format!("{at}: debian.suite"), "takes a Debian suite such as trixie"));
    }
    if debian.packages.is_empty() {
        return Err(rule(format!("{at}: debian.packages"), "is empty; leave the table out"));
    }
    if let Some(bad) = debian.packages.iter().find(|package| !is_word(package)) {
        return Err(rule(format!("{at}: debian.packages"), format!("{bad:?} is not a package name")));
    }
    debian.exclude.iter().try_for_each(|path| check_path(&format!("{at}: debian.exclude"), path))?;
    debian.beyond.as_ref().map_or(Ok(()), |path| relative(&format!("{at}: debian.beyond"), path))
}

fn url(at: &str, url: &Url) -> Result<(), RecipeError> {
    check_path(&format!("{at}: url.path"), &url.path)?;
    check_mode(&url.path, &url.mode)?;
    let schemes = ["https://", "http://", "file:///"];
    let good = schemes.iter().any(|scheme| url.url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if !good || !url.url.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(rule(
            format!("{at}: url.url"),
            format!("{:?} is not an http, https or file URL", url.url),
        ));
    }
    if url.sha256.len() != 64 || !url.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(rule(format!("{at}: url.sha256"), "takes 64 digits of 0-9 and a-f"));
    }
    url.member.as_ref().map_or(Ok(()), |path| relative(&format!("{at}: url.member"), path))
}

/// A path beside the recipe, or up and across.
fn relative(at: &str, path: &str) -> Result<(), RecipeError> {
    let plain = |c: char| c.is_ascii_graphic() && !"'\"`$&;|<>(){}\\!#~*?[]".contains(c);
    if path.is_empty() || path.starts_with(['/', '-']) || !path.chars().all(plain) {
        return Err(rule(at, format!("{path:?} is not a relative path of plain characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::super::recipe::{RECIPE_BYTES, RecipeError};
    use super::super::recipe::{is_stack, parse};

    const GOOD: &str = "format = 1\n[bundle]\nname = \"kubernetes/x\"\nversion = \"1\"\n\
                        [layer]\nname = \"x\"\nstacks-on = \"any\"\n";

    const IMAGE: &str =
        "[[image]]\nref = \"example.org/pause:3\"\narchive = \"pause.tar\"\nentrypoint = [\"/pause\"]\n";

    #[test]
    fn our_recipes_are_valid() {
        for text in
            [include_str!("../../../recipes/kubernetes.toml"), include_str!("../../../recipes/hello.toml")]
        {
            assert!(is_stack(text));
            let recipe = parse(text).unwrap();
            assert!(!recipe.image.is_empty());
        }
        assert!(!is_stack(include_str!("../../../recipes/base.toml")));
        assert!(!is_stack("no toml ["));
    }

    #[test]
    fn a_recipe_names_its_sources_once() {
        let recipe = parse(include_str!("../../../recipes/kubernetes.toml")).unwrap();
        let sources = recipe.sources();
        for source in ["../pause", "base.toml", "kubernetes/cni", "kubernetes/kubernetes"] {
            assert_eq!(sources.iter().filter(|found| **found == source).count(), 1, "{source}");
        }
    }

    #[test]
    fn the_list_of_images_has_a_place() {
        let at = |text: &str| parse(&format!("{GOOD}{text}")).unwrap().image_index();
        assert_eq!(at(""), "/usr/lib/cairn/images.d/x.json");
        assert_eq!(at("[images]\nindex = \"/usr/lib/y.json\"\n"), "/usr/lib/y.json");
    }

    #[test]
    fn what_a_recipe_may_not_say() {
        assert!(parse(&format!("{GOOD}{IMAGE}")).is_ok());
        let go = |line: &str| {
            format!("[[layer.go]]\nmodule = \"m\"\npackage = \"x.org/y\"\npath = \"/usr/bin/y\"\n{line}")
        };
        let url = |url: &str, sum: &str| {
            format!("[[layer.url]]\nurl = \"{url}\"\nsha256 = \"{sum}\"\npath = \"/x\"\n")
        };
        let sum = "ab".repeat(32);
        assert!(
            parse(&format!("{GOOD}{}{}", go("set = { \"a.b\" = \"v1\" }\n"), url("https://x.org/y", &sum)))
                .is_ok()
        );
        let cases: Vec<(String, &str)> = vec![
            ("mirror = \"http://x\"".to_owned(), "line 8"),
            ("epoch = 999999999999".to_owned(), "9999"),
            ("persist = { etc = [\"../shadow\"] }".to_owned(), "persist"),
            (go("cgo = true"), "line 12"),
            (go("set = { \"a.b\" = \"v1 -extld=/bin/sh\" }"), "plain word"),
            (go("tags = [\"a b\"]"), "build tag"),
            (go("").replace("\"m\"", "\"/m\""), "relative path"),
            (go("").replace("x.org/y", "-toolexec"), "package path"),
            (url("ftp://x/y", &sum), "URL"),
            (url("https://x/y z", &sum), "URL"),
            (url("https://x/y", "abc"), "64 digits"),
            ("[[layer.local]]\nsource = \"/etc/shadow\"\npath = \"/x\"".to_owned(), "relative path"),
            ("[[layer.cargo]]\nfolder = \"p\"\nbin = \"--help\"\npath = \"/x\"".to_owned(), "binary's name"),
            ("[layer.debian]\nsuite = \"trixie\"\npackages = []".to_owned(), "leave the table out"),
            ("[layer.debian]\nsuite = \"trixie\"\npackages = [\"../x\"]".to_owned(), "package name"),
            ("[images]\nfacts = { images = \"x\" }".to_owned(), "the list itself"),
            (IMAGE.replace(":3", ""), "with a tag"),
            (IMAGE.replace("pause.tar", "../pause.tar"), "file name"),
            (IMAGE.replace("[\"/pause\"]", "[]"), "entrypoint"),
            (format!("{IMAGE}user = \"nobody\""), "numbers"),
            (format!("{IMAGE}env = [\"A\"]"), "NAME=value"),
            (format!("{IMAGE}role = \"worker\""), "line"),
            (format!("{IMAGE}{IMAGE}"), "twice"),
        ];
        for (extra, expect) in cases {
            let error = parse(&format!("{GOOD}{extra}\n")).unwrap_err().to_string();
            assert!(error.contains(expect), "{extra}: {error}");
        }
        assert!(parse(&GOOD.replace("any", "none")).is_err());
        assert!(
            parse(&GOOD.replace("format = 1", "format = 2")).unwrap_err().to_string().contains("format 1")
        );
        assert_eq!(parse(&"#".repeat(RECIPE_BYTES + 1)), Err(RecipeError::TooLong(RECIPE_BYTES + 1)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}", at in 0_usize..200) {
            let _ = parse(&text);
            let _ = is_stack(&text);
            // Half a good recipe goes deeper than noise does.
            let _ = parse(&format!("{GOOD}{IMAGE}{text}"));
            let cut: String = format!("{GOOD}{IMAGE}").chars().take(at).collect();
            let _ = parse(&format!("{cut}{text}"));
        }
    }
}
