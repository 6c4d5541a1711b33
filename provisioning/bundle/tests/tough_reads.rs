//! Another client, `tough`, reads our repository.
#![allow(clippy::unwrap_used)]

mod common;
mod release;

use tough::{ExpirationEnforcement, FilesystemTransport, RepositoryLoader, TargetName};

#[test]
fn tough_reads_our_repository_and_follows_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, path, manifest) = release::make(dir.path());
    // tough sets the digest before the whole path; the specification (6.2.1), python-tuf and we set it before the name.
    let digest = cairn_bundle::Sha256Digest::of(&manifest);
    let place = dir.path().join("targets").join(format!("{digest}.{path}"));
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    let ours = dir.path().join("targets").join(path.replace("manifest", &format!("{digest}.manifest")));
    std::fs::copy(ours, place).unwrap();
    let anchor = repository.root().unwrap();
    read(dir.path(), &anchor, &path, &manifest);
    release::rotate(&repository);
    assert_ne!(repository.root().unwrap(), anchor);
    read(dir.path(), &anchor, &path, &manifest);
}

fn read(dir: &std::path::Path, anchor: &[u8], path: &str, manifest: &[u8]) {
    let url = |part: &str| url::Url::from_directory_path(dir.join(part)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let loaded = RepositoryLoader::new(&anchor, url("metadata"), url("targets"))
            .transport(FilesystemTransport)
            .expiration_enforcement(ExpirationEnforcement::Safe)
            .load()
            .await
            .unwrap();
        let name = TargetName::new(path).unwrap();
        loaded.save_target(&name, out.path(), tough::Prefix::None).await.unwrap();
    });
    assert_eq!(std::fs::read(out.path().join(path)).unwrap(), manifest);
}
