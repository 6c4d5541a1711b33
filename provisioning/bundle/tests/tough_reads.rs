//! Another client, `tough`, reads our repository.
#![allow(clippy::unwrap_used)]

mod common;
mod release;

use tough::{ExpirationEnforcement, FilesystemTransport, RepositoryLoader, TargetName};

#[test]
fn tough_reads_our_repository_and_follows_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, path, manifest) = release::make(dir.path());
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
